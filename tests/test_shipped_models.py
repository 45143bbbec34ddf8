"""What is claimed of the models in checkpoints/, measured again on the full data set."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.attacks import attack
from core.attacks.spec import pgd
from core.checkpoints import checkpoints_folder, list_models, load_card, load_model, verify
from core.data import open_image_set
from core.evaluation import exit_logits
from core.exits import ExitPolicy, decide, dynamic_agreement, run_dynamic
from core.experiment import attack_for
from core.metrics import operating_points
from core.models.costs import exit_costs, multiply_adds
from core.models.prepared import prepared
from core.training.recipe import load_recipe

ROOT = Path(__file__).parents[1]
EARLY_EXIT, STATIC = "cifar10-resnet56-early-exit", "cifar10-resnet56-static"
needs_static = pytest.mark.skipif(STATIC not in list_models(), reason=f"{STATIC} has not finished training")
SHARED = {str(load_card(name).shares): name for name in list_models() if load_card(name).shares}
# Final-exit accuracy; the README says what was wanted.
REACHED = {"resnet56": 0.90, "mobilenet": 0.90, "vgg16": 0.91}
TRAINED_WHOLE = [name for name in list_models() if load_card(name).shares is None]
PAIR = (EARLY_EXIT, pytest.param(STATIC, marks=needs_static))


def test_the_early_exit_model_ships() -> None:
    # Mutant: a repository without its weights.
    assert EARLY_EXIT in list_models()


@needs_static
def test_twins_are_trained_by_one_recipe_with_seeds_of_their_own() -> None:
    # Mutant: a twin trained longer, or from the same random start.
    early, static = (dict(load_card(name).recipe) for name in (EARLY_EXIT, STATIC))
    assert {field for field in early if early[field] != static[field]} == {"name", "exits", "seed"}


@pytest.mark.parametrize("name", list_models())
def test_card_matches_its_recipe_and_network(name: str) -> None:
    # Mutant: a card edited by hand, or a recipe changed after training.
    model, card = load_model(name)
    assert exit_costs(model, card.image_size) == pytest.approx(card.exit_costs, abs=1e-9)
    recipe = json.loads(load_recipe(name).training_key)
    assert recipe == {key: value for key, value in card.recipe.items() if key in recipe}
    assert [list(card.layer_multiply_adds), list(card.classifier_multiply_adds)] == list(
        multiply_adds(model, card.image_size)
    )
    assert torch.allclose(model.mean.flatten(), torch.tensor(card.mean), atol=1e-6)
    assert torch.allclose(model.std.flatten(), torch.tensor(card.std), atol=1e-6)


def test_all_weights_together_are_small() -> None:
    # Mutants: a backbone stored twice, or weights in 32 bits.
    assert sum(file.stat().st_size for file in checkpoints_folder().glob("*/*.safetensors")) <= 100_000_000


@pytest.mark.parametrize("name", TRAINED_WHOLE)
def test_final_exit_reaches_what_its_architecture_did(name: str) -> None:
    # Mutant: weights of an unfinished training. That the card tells the truth is the next test.
    card = load_card(name)
    assert card.test[-1].num_images == 9_980 and card.test[-1].value >= REACHED[card.architecture]


@pytest.mark.parametrize("name", [name for name in TRAINED_WHOLE if load_card(name).num_exits > 1])
def test_one_percent_of_accuracy_buys_half_of_the_cost(name: str) -> None:
    # Mutant: label smoothing, which leaves every exit unsure and every image late; a first exit that knows nothing.
    card = load_card(name)
    point = next(point for point in card.operating_points if point.name == "loses_1_percent")
    assert point.mean_cost <= 0.55
    assert point.accuracy > 0.99 * card.validation_accuracy[-1]
    assert card.test[0].value >= 0.60


@pytest.mark.slow
@pytest.mark.data("cifar10:test")
@pytest.mark.parametrize("name", list_models())
def test_card_agrees_with_a_new_measurement(name: str) -> None:
    # Mutant: any change of the network, the loading or the normalisation.
    assert verify(name, open_image_set(load_card(name).test_set)).agrees


@pytest.mark.parametrize(("static", "every_exit"), SHARED.items())
def test_final_exit_of_an_all_exits_model_is_the_static_one(static: str, every_exit: str) -> None:
    # Mutant: an all-exits model on weights of its own.
    images = open_image_set("cifar10:samples").pixels()
    with torch.no_grad():
        assert torch.equal(load_model(static)[0](images)[:, -1], load_model(every_exit)[0](images)[:, -1])


@pytest.mark.slow
@pytest.mark.data("cifar10:validation")
@pytest.mark.parametrize("name", [name for name in list_models() if load_card(name).num_exits > 1])
def test_operating_points_are_those_of_validation(name: str) -> None:
    # Mutants: points chosen on test images; a figure of validation typed into a card.
    model, card = load_model(name)
    images = open_image_set("cifar10:validation")
    logits = exit_logits(model, images)
    measured = operating_points(logits, images.labels, model.exit_costs)
    right = (logits.argmax(2) == images.labels[:, None]).double().mean(0)
    assert right.tolist() == pytest.approx(card.validation_accuracy, abs=2e-3)
    assert [point.name for point in measured] == [point.name for point in card.operating_points]
    for new, old in zip(measured, card.operating_points, strict=True):
        assert new.threshold == pytest.approx(old.threshold, abs=0.0101)
        assert new.accuracy == pytest.approx(old.accuracy, abs=2e-3)
        assert new.mean_cost == pytest.approx(old.mean_cost, abs=1e-2)


@pytest.mark.slow
@pytest.mark.data("cifar10:test")
@pytest.mark.parametrize("fallback", ["final", "most_confident"])
def test_running_dynamically_agrees_with_deciding_from_all_logits(fallback: str) -> None:
    # Mutant: features of images that left are kept, so later stages pair the wrong rows.
    model, _ = load_model(EARLY_EXIT)
    images = open_image_set("cifar10:test:0-511")
    policy = ExitPolicy(0.9, fallback)  # type: ignore[arg-type]
    logits = exit_logits(model, images)
    dynamic = run_dynamic(model, images.pixels(), policy)
    agreement = dynamic_agreement(dynamic, logits, policy)
    assert agreement.num_images == 512 and agreement.num_near <= 2 and agreement.num_different == 0
    assert len(dynamic.computed_exit.unique()) >= 4


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.data("cifar10:test")
@pytest.mark.parametrize("name", PAIR)
def test_pgd_at_the_taken_exit_leaves_under_two_percent_right(name: str) -> None:
    # Mutant: a gradient of the wrong exit, a step of the wrong sign, or a ball of the wrong size.
    model, card = load_model(name)
    images = open_image_set("cifar10:test").select(open_image_set("cifar10:test").indices[:1000].tolist())
    policy = ExitPolicy(0.9)
    spec = attack_for(card, pgd(8 / 255, step_size=2 / 255, num_steps=10))
    assert not spec.stop_when_fooled and not spec.random_start
    search = prepared(model)  # as the dashboard does
    result = attack(model, images.pixels(), images.labels, spec, policy, search=search, watch="nothing")
    right = decide(result.adversarial_logits, policy).prediction == images.labels
    assert len(right) == 1000 and right.double().mean() < 0.02


def test_command_line_lists_the_models_in_the_agreed_shape() -> None:
    # Mutant: a renamed field, or accuracies as text.
    output = subprocess.run(
        [sys.executable, "-m", "core", "models", "--json"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    rows = {row["name"]: row for row in json.loads(output)["models"]}
    early = rows[EARLY_EXIT]
    assert set(early) == {
        "name", "dataset", "architecture", "kind", "num_exits", "test_accuracy", "num_test_images", "exit_costs",
    }  # fmt: skip
    assert early["kind"] == "early-exit" and early["num_exits"] == len(early["test_accuracy"]) == 7
    assert early["exit_costs"][-1] == 1 and early["num_test_images"] == 9_980
