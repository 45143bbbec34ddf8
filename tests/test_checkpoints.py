"""Models on disk: what comes back, what is refused, what a finished card says, and the shipped cards themselves."""

import copy
import dataclasses
import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load as load_tensors
from torch import Tensor
from toys import TOY_CLASSES, answered_image_set, toy_card, toy_image_set, toy_images, toy_model

from core.checkpoints import (
    CARD_FILE,
    FOLDER_VARIABLE,
    ROUNDING,
    WEIGHTS_FILE,
    ModelCard,
    accuracies,
    list_models,
    load_card,
    load_model,
    pack_weights,
    save_model,
    unpack_weights,
    verify,
)
from core.errors import ExitLensError
from core.evaluation import exit_logits
from core.models.classifiers import ExitNetwork
from core.models.costs import exit_costs, multiply_adds
from core.training import finish as finishing
from core.training.finish import finish, fit_temperature
from core.training.recipe import Recipe

SHIPPED = Path(__file__).parents[1] / "checkpoints"
POINT = {
    "name": "loses_1_percent", "threshold": 0.9, "accuracy": 0.9, "mean_cost": 0.5, "exit_shares": [0.5, 0.25, 0.25],
    "num_images": 12,
}  # fmt: skip
NAME = "toy-early-exit"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_registry: None) -> Path:
    """An empty folder of models."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


def float_model(num_exits: int = 3, seed: int = 0) -> ExitNetwork:
    return toy_model(num_exits=num_exits, dtype=torch.float32, seed=seed)


def saved(name: str = NAME, *, num_exits: int = 3, seed: int = 0, **changes: object) -> tuple[ExitNetwork, ModelCard]:
    model = float_model(num_exits, seed)
    card = toy_card(model, name, answered_image_set(model), **changes)
    save_model(pack_weights(model, card.storage), card)
    return model, card


def doctor(path: Path, **fields: object) -> None:
    """Overwrites fields of a card; None removes one."""
    card = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in (card | fields).items() if value is not None}))


# Round trip


def test_float32_storage_brings_back_the_very_weights_and_card() -> None:
    # Mutant: storage that always narrows, or a card that loses a field.
    model, card = saved()
    loaded, read = load_model(NAME)
    assert read == card
    assert loaded.exit_costs == model.exit_costs
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    images = toy_images(3, dtype=torch.float32)
    assert torch.equal(loaded(images), model(images))


def test_float16_storage_narrows_weight_matrices_only() -> None:
    # Mutant: ``in narrow`` dropped: norms, biases and normalisation lose digits too.
    model, _ = saved(storage="float16")
    matrices = {key for key, parameter in model.named_parameters() if parameter.ndim > 1}
    stored = load_tensors(pack_weights(model, "float16"))
    assert {key for key, tensor in stored.items() if tensor.dtype == torch.float16} == matrices
    loaded = load_model(NAME)[0].state_dict()
    for key, tensor in model.state_dict().items():
        assert loaded[key].dtype == tensor.dtype  # float32 again, counters whole
        assert torch.equal(loaded[key], tensor.half().float() if key in matrices else tensor), key


def test_loaded_model_is_frozen_and_in_eval_mode() -> None:
    # Mutant: ``.eval()`` or ``requires_grad_(False)`` dropped.
    saved()
    model, _ = load_model(NAME)
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_saving_leaves_two_files_and_models_are_listed_by_name(folder: Path) -> None:
    # Mutant: partial files left behind, a folder without a card listed, or no order.
    saved("b")
    saved("a")
    (folder / "no-card").mkdir()
    assert list_models() == ["a", "b"]
    assert sorted(file.name for file in (folder / "a").iterdir()) == [CARD_FILE, WEIGHTS_FILE]


# What is refused


def corrected(folder: Path, payload: bytes) -> None:
    """Writes other weights and makes the card agree with their hash."""
    (folder / NAME / WEIGHTS_FILE).write_bytes(payload)
    doctor(folder / NAME / CARD_FILE, weights_sha256=hashlib.sha256(payload).hexdigest())


def flip_a_byte(folder: Path) -> None:
    file = folder / NAME / WEIGHTS_FILE
    payload = bytearray(file.read_bytes())
    payload[-5] ^= 1
    file.write_bytes(payload)


def truncate(folder: Path) -> None:
    file = folder / NAME / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:-10])


def truncate_and_correct(folder: Path) -> None:
    corrected(folder, (folder / NAME / WEIGHTS_FILE).read_bytes()[:-10])


def put_foreign_weights(folder: Path) -> None:
    (folder / NAME / WEIGHTS_FILE).write_bytes(pack_weights(float_model(seed=9), "float32"))


def put_weights_of_other_keys(folder: Path) -> None:
    corrected(folder, pack_weights(float_model(num_exits=2), "float32"))


def remove_weights(folder: Path) -> None:
    (folder / NAME / WEIGHTS_FILE).unlink()


@pytest.mark.parametrize(
    "damage",
    [flip_a_byte, truncate, truncate_and_correct, put_foreign_weights, put_weights_of_other_keys, remove_weights],
)
def test_weights_that_are_not_the_cards_are_refused_by_file_name(damage, folder: Path) -> None:
    # Mutant: the hash not compared, ``strict=False``, or an error of another library let through.
    saved()
    damage(folder)
    with pytest.raises(ExitLensError) as caught:
        load_model(NAME)
    assert str(folder / NAME / WEIGHTS_FILE) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"exit_costs": None}, "exit_costs"),
        ({"kind": "dynamic"}, "kind"),
        ({"name": "another"}, "another"),
        ({"test": []}, "3 exits"),
        ({"exit_costs": [0.5, 1.0]}, "3 exits"),
        ({"architecture": "resnet9000"}, "resnet9000"),
        ({"dataset": "mnist"}, "mnist"),
        ({"exit_costs": [5, -1, 1]}, "exit_costs that rise"),
        ({"exit_costs": [float("nan")] * 3}, "exit_costs"),
        ({"exit_costs": [0.2, 0.3, 0.4]}, "exit_costs that rise"),
        ({"kind": "static"}, "a kind that fits 3 exits"),
        (
            {"test": [{"num_hits": 3, "num_images": 12, "value": 1.7, "low": 0, "high": 1}] * 3},
            "test accuracies in [0, 1]",
        ),
        (
            {"test": [{"num_hits": 0, "num_images": 0, "value": 0, "low": 0, "high": 1}] * 3},
            "test accuracies in [0, 1]",
        ),
        ({"validation_accuracy": [0.5, 0.5, 7]}, "validation_accuracy"),
        ({"operating_points": [POINT | {"threshold": 7}]}, "operating points"),
        ({"operating_points": [POINT | {"exit_shares": [1.0]}]}, "operating points"),
        ({"layer_multiply_adds": [1]}, "multiply-adds of 3 exits"),
        ({"class_names": ["red"] * 4}, "class_names that differ"),
    ],
)
def test_card_that_is_not_whole_or_not_its_own_is_refused_by_file_name(fields, named, folder: Path) -> None:
    # Mutant: a default for a missing field, the name not compared, or an IndexError for exits without accuracy.
    saved()
    doctor(folder / NAME / CARD_FILE, **fields)
    with pytest.raises(ExitLensError) as caught:
        load_card(NAME)
    assert str(folder / NAME / CARD_FILE) in str(caught.value)
    assert named in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_card_that_is_not_json_of_a_card_is_refused_by_file_name(content: bytes, folder: Path) -> None:
    # Mutant: ``json.loads`` outside the try.
    saved()
    (folder / NAME / CARD_FILE).write_bytes(content)
    with pytest.raises(ExitLensError, match=CARD_FILE):
        load_card(NAME)


def test_card_of_more_classes_than_the_network_is_refused(folder: Path) -> None:
    # Mutant: classes not compared: a page would name classes that do not exist.
    saved()
    doctor(folder / NAME / CARD_FILE, class_names=[*TOY_CLASSES, "white"])
    with pytest.raises(ExitLensError, match=CARD_FILE):
        load_model(NAME)


@pytest.mark.parametrize("name", ["nobody", "", "../toys", "x" * 300])
def test_unknown_model_is_refused_with_the_known_ones(name: str) -> None:
    # Mutant: the list left out, or an OSError for a name that no file can have.
    saved("known-one")
    with pytest.raises(ExitLensError, match="Models here: known-one"):
        load_model(name)


# Verify


def test_verify_agrees_with_a_true_card() -> None:
    # Mutant: verify that compares with another exit or other labels.
    model, card = saved()
    outcome = verify(NAME, answered_image_set(model))
    assert outcome.measured == outcome.card == card.test
    assert outcome.agrees


@pytest.mark.parametrize(("change", "agrees"), [(0.8 * ROUNDING, True), (1.5 * ROUNDING, False), (-0.1, False)])
def test_verify_differs_where_one_exit_was_changed_by_more_than_the_rounding(change, agrees, folder: Path) -> None:
    # Mutant: ``all`` turned into ``any``, a tolerance of 0 or of a percent, or verify that measures nothing.
    model, card = saved()
    shares = [dataclasses.asdict(share) for share in card.test]
    shares[1]["value"] += change
    doctor(folder / NAME / CARD_FILE, test=shares)
    assert verify(NAME, answered_image_set(model)).agrees is agrees


@pytest.mark.parametrize("fault", ["another set", "fewer images"])
def test_verify_on_other_images_than_the_cards_is_refused(fault: str) -> None:
    # Mutant: the check dropped: 4 images would be compared with 12.
    model, _ = saved()
    images = answered_image_set(model)
    other = images.select(range(4)) if fault == "fewer images" else toy_image_set(12, split="validation")
    with pytest.raises(ExitLensError, match=r"12 images of toy:test; (4|12) images of toy:(test|validation)"):
        verify(NAME, other)


# Finished models


def finished(
    *, num_exits: int = 4, calibrate: bool = False, storage: str = "float16"
) -> tuple[ExitNetwork, bytes, ModelCard]:
    """The model before finishing, its file and its card."""
    model = float_model(num_exits)
    recipe = Recipe(
        name=NAME,
        dataset="toy",
        architecture="toy",
        exits="standard" if num_exits > 1 else "none",
        num_epochs=1,
        peak_learning_rate=0.1,
        seed=7,
        crop_padding=1,
        calibrate=calibrate,
        storage=storage,
    )
    before = copy.deepcopy(model)
    validation, test = toy_image_set(40, split="validation", seed=1), toy_image_set(12, split="test", seed=2)
    payload, card = finish(recipe, model, 12.34, validation, test)
    return before, payload, card


def unpacked(payload: bytes, num_exits: int = 4) -> ExitNetwork:
    model = float_model(num_exits, seed=99)
    unpack_weights(model, payload)
    return model


def test_finished_card_says_all_and_survives_its_file() -> None:
    # Mutant: any field filled with a constant, or a hash of other bytes.
    model, payload, card = finished()
    assert (card.name, card.dataset, card.architecture, card.kind) == (NAME, "toy", "toy", "early-exit")
    assert (card.exit_positions, card.exit_layers) == ((0, 1, 2), model.exit_layers)
    assert card.exit_costs == exit_costs(model, model.image_size)
    assert (card.layer_multiply_adds, card.classifier_multiply_adds) == tuple(map(tuple, multiply_adds(model, 8)))
    assert (card.shares, card.shared_sha256) == (None, None)
    assert card.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (card.num_classes, card.class_names, card.image_size) == (4, TOY_CLASSES, 8)
    assert (card.mean, card.std) == ((0.5, 0.4, 0.3), (0.25, 0.2, 0.5))
    assert (card.storage, card.seed, card.recipe["seed"], card.training_seconds) == ("float16", 7, 7, 12.3)
    assert card.weights_sha256 == hashlib.sha256(payload).hexdigest()
    assert (card.test_set, card.test[0].num_images) == ("toy:test", 12)
    assert {"python", "torch", "numpy"} <= set(card.versions)
    assert {"cores", "threads"} <= set(card.machine)
    save_model(payload, card)
    as_read = dataclasses.replace(card, recipe=json.loads(json.dumps(card.recipe)))
    assert load_model(NAME)[1] == as_read


@pytest.mark.usefixtures("toy_registry")
@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("toy-early-exit", "Toy early-exit"),
        ("toy-toy-early-exit-seed-2", "Toy early-exit, seed 2"),
        ("toy-toy-all-exits", "Toy early-exit, all exits"),
        ("mine", "Toy early-exit, mine"),
    ],
)
def test_labels_tell_models_of_one_kind_apart(name: str, label: str) -> None:
    # Mutant: architecture and kind alone: links carry labels, so two seeds would be one model.
    assert dataclasses.replace(finished()[2], name=name).label == label


def test_accuracies_on_the_card_are_those_of_the_stored_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: ``unpack_weights`` dropped from finish: the card would tell the accuracy of weights nobody can load.
    def negated(model: ExitNetwork, storage: str, **_: object) -> bytes:
        other = copy.deepcopy(model)
        other.backbone.tail[-1].weight.neg_()
        return pack_weights(other, storage)

    monkeypatch.setattr(finishing, "pack_weights", negated)
    before, payload, card = finished()
    validation, test = toy_image_set(40, split="validation", seed=1), toy_image_set(12, split="test", seed=2)
    stored = unpacked(payload)
    assert card.test == accuracies(exit_logits(stored, test), test.labels)
    measured = accuracies(exit_logits(stored, validation), validation.labels)
    assert card.validation_accuracy == tuple(share.value for share in measured)
    unrounded = accuracies(exit_logits(before, validation), validation.labels)
    assert card.validation_accuracy[-1] != unrounded[-1].value


def test_only_early_exit_models_have_operating_points() -> None:
    # Mutant: points for a static model, which has no threshold to choose; or none for any.
    assert {point.name for point in finished()[2].operating_points} >= {"loses_1_percent", "threshold_0.90"}
    static = finished(num_exits=1)[2]
    assert (static.kind, static.operating_points, static.num_exits) == ("static", (), 1)


def negative_log_likelihoods(logits: Tensor, labels: Tensor) -> list[float]:
    return [F.cross_entropy(logits[:, index], labels).item() for index in range(logits.shape[1])]


def test_calibration_keeps_every_label_and_lowers_the_loss_of_every_exit_on_validation() -> None:
    # Mutant: multiplied instead of divided, only the weight divided, or one exit left out.
    before, payload, card = finished(calibrate=True, storage="float32")
    validation = toy_image_set(40, split="validation", seed=1)
    old, new = exit_logits(before, validation), exit_logits(unpacked(payload), validation)
    assert torch.equal(old.argmax(-1), new.argmax(-1))
    temperatures = torch.tensor(card.temperatures)
    assert len(temperatures) == 4 and ((temperatures - 1).abs() > 0.05).all()
    torch.testing.assert_close(new, old / temperatures[:, None], rtol=1e-4, atol=1e-4)
    for was, now in zip(
        negative_log_likelihoods(old, validation.labels),
        negative_log_likelihoods(new, validation.labels),
        strict=True,
    ):
        assert now < was


def test_without_calibration_no_temperature_is_fitted() -> None:
    # Mutant: always calibrated.
    before, payload, card = finished(storage="float32")
    assert card.temperatures == ()
    images = toy_images(3, dtype=torch.float32)
    assert torch.equal(unpacked(payload)(images), before(images))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_fitted_temperature_is_the_one_that_makes_confidence_true(temperature: float) -> None:
    # Mutant: the inverse returned. Logit gap T ln 3 and 3 of 4 right: softmax(logits / T) says just 3/4.
    logits = torch.tensor([temperature * math.log(3), 0.0], dtype=torch.float64).repeat(4, 1)
    labels = torch.tensor([0, 0, 0, 1])
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=1e-3)


# Shipped models


@pytest.mark.parametrize("name", list_models(SHIPPED))
def test_shipped_model_loads_and_its_costs_are_those_counted_again(name: str) -> None:
    # Mutant: a typed-in cost, or weights that are not the card's.
    model, card = load_model(name, SHIPPED)
    assert card.exit_costs == pytest.approx(exit_costs(model, card.image_size), abs=1e-12)
    assert (card.exit_layers, card.num_classes, card.image_size) == (
        model.exit_layers,
        model.num_classes,
        model.image_size,
    )
    assert card.num_parameters == sum(parameter.numel() for parameter in model.parameters())
