"""Recipes, the loss over exits, augmentation, and a loop that can be killed without a trace."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load as load_tensors
from torch import Tensor
from toys import TOY_SIZE, toy_card, toy_image_set, toy_model

from core.checkpoints import load_card, load_model, pack_weights, save_model
from core.errors import ExitLensError
from core.evaluation import exit_logits
from core.models import build_model
from core.models.classifiers import ExitNetwork
from core.training import loop
from core.training.finish import finish
from core.training.loop import Epoch, exit_loss_weights, train
from core.training.recipe import RECIPES, Recipe, load_recipe

SHIPPED = sorted(file.stem for file in RECIPES.glob("*.toml"))


def resnet_recipe(**changes: object) -> Recipe:
    fields = {"name": "tested", "dataset": "cifar10", "architecture": "resnet56", "exits": "standard"}
    return Recipe(**(fields | {"num_epochs": 10, "peak_learning_rate": 0.1, "seed": 0} | changes))


def toy_recipe(**changes: object) -> Recipe:
    """Three epochs of the toy network with three early exits; needs the fixture ``toy_registry``."""
    toy = {"dataset": "toy", "architecture": "toy", "num_epochs": 3, "batch_size": 16, "crop_padding": 1, "seed": 5}
    return resnet_recipe(**(toy | changes))


# Recipes


def test_recipes_ship() -> None:
    # Mutant: an empty folder, and every test below that is parametrised over it passes.
    assert {"cifar10-resnet56-static", "cifar10-resnet56-early-exit"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipe_is_named_as_its_file_and_builds_its_model(name: str) -> None:
    # Mutant: a copied recipe that keeps the other's name overwrites the other's model.
    recipe = load_recipe(name)
    assert recipe.name == name
    model = build_model(recipe.architecture, recipe.dataset, recipe.exit_positions)
    assert model.num_exits == len(recipe.exit_positions) + 1


@pytest.mark.parametrize("static_name", [name for name in SHIPPED if name.endswith("-static")])
def test_twin_recipes_differ_in_name_exits_and_seed_only(static_name: str) -> None:
    # Mutant: one epoch more for one twin: their difference would no longer be the exits.
    static, early = load_recipe(static_name), load_recipe(static_name.replace("-static", "-early-exit"))
    fields = {field.name for field in dataclasses.fields(Recipe)}
    assert {name for name in fields if getattr(static, name) != getattr(early, name)} == {"name", "exits", "seed"}
    assert (static.exits, early.exits) == ("none", "standard")


@pytest.mark.parametrize("name", [name for name in SHIPPED if "-seed-" in name])
def test_recipes_of_another_seed_differ_in_name_and_seed_only(name: str) -> None:
    # Mutants: an epoch more for one seed; a name that tells another seed than the recipe has.
    first, seed = name.split("-seed-")
    usual, other = load_recipe(first), load_recipe(name)
    assert other == dataclasses.replace(usual, name=name, seed=int(seed)) and other.seed != usual.seed


TOML = """
name = "mine"
dataset = "cifar10"
architecture = "resnet56"
exits = [3, 7]
num_epochs = 2
peak_learning_rate = 0.1
seed = 1
"""


def test_recipe_is_read_from_any_path(tmp_path: Path) -> None:
    # Mutant: shipped recipes only; or a list of blocks not understood.
    file = tmp_path / "mine.toml"
    file.write_text(TOML)
    assert load_recipe(str(file)).exit_positions == (3, 7)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("seed = 1", "seed = 1\nepochs = 3", "epochs"),
        ("num_epochs = 2", 'num_epochs = "many"', "num_epochs"),
        ("num_epochs = 2", "num_epochs = 2.5", "num_epochs"),
        ("num_epochs = 2", "num_epochs = 0", "num_epochs"),
        ("num_epochs = 2", "", "num_epochs"),
        ("seed = 1", "", "seed"),
        ("seed = 1", "seed = 1\nbatch_size = 1", "batch_size"),
        ("seed = 1", "seed = 1\nmomentum = 1.0", "momentum"),
        ("seed = 1", "seed = 1\nweight_decay = -1e-4", "weight_decay"),
        ("seed = 1", "seed = 1\nwarmup_share = 20", "warmup_share"),
        ("seed = 1", "seed = 1\ncrop_padding = 32", "crop_padding"),
        ("seed = 1", 'seed = 1\nstorage = "int8"', "storage"),
        ("0.1", "0", "peak_learning_rate"),
        ("0.1", "nan", "peak_learning_rate"),
        ("[3, 7]", '"some"', "exits"),
        ("[3, 7]", '["three"]', "exits"),
        ("[3, 7]", "[3, 7]\nexit_weights = [0.5]", "weighs 1 exits but has 2"),
        ('"mine"', '"../mine"', "'../mine'"),
        ('"mine"', '""', "folder"),
        ('"cifar10"', '"mnist"', "mnist"),
        ('"resnet56"', '"alexnet"', "alexnet"),
        ("seed = 1", "seed = ", "not valid TOML"),
    ],
)
def test_recipe_with_a_wrong_field_is_refused_by_the_fields_name(
    tmp_path: Path, old: str, new: str, named: str
) -> None:
    # Mutant: unknown fields ignored: `epochs = 3` would train for the wrong number of epochs.
    file = tmp_path / "mine.toml"
    assert old in TOML
    file.write_text(TOML.replace(old, new))
    with pytest.raises(ExitLensError) as raised:
        load_recipe(str(file))
    assert named in str(raised.value) and str(file) in str(raised.value)


def test_missing_recipe_is_refused_with_the_shipped_ones() -> None:
    # Mutant: FileNotFoundError.
    with pytest.raises(ExitLensError, match=r"no-such-recipe.*cifar10-resnet56-static"):
        load_recipe("no-such-recipe")


# The loss over exits


def test_exit_weights_grow_to_their_maximum_at_hand_worked_epochs() -> None:
    # Mutant: weights constant, divided by E - 1, or never capped. tau_k(e) = min(m_k, 0.01 + e * m_k / E).
    recipe = resnet_recipe(num_epochs=10)
    worked = {
        0: [0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 1],
        1: [0.025, 0.04, 0.055, 0.07, 0.085, 0.1, 1],
        5: [0.085, 0.16, 0.235, 0.31, 0.385, 0.46, 1],
        9: [0.145, 0.28, 0.415, 0.55, 0.685, 0.82, 1],
    }
    for epoch, weights in worked.items():
        torch.testing.assert_close(exit_loss_weights(recipe, epoch), torch.tensor(weights))
    # 0.01 + 99 / 100 * 0.15 = 0.1585 is cut to 0.15; 0.01 + 0.99 * 0.9 = 0.901 to 0.9.
    last = exit_loss_weights(resnet_recipe(num_epochs=100), 99)
    torch.testing.assert_close(last, torch.tensor([0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1]))


def test_exit_weights_belong_to_exit_numbers() -> None:
    # Mutant: weights by position of the block; five exits take the first five maxima, as MobileNet does.
    weights = exit_loss_weights(resnet_recipe(exits=(2, 4, 6, 8, 11)), 5)
    torch.testing.assert_close(weights, torch.tensor([0.085, 0.16, 0.235, 0.31, 0.385, 1]))
    assert exit_loss_weights(resnet_recipe(exits="none"), 5).tolist() == [1]


def test_loss_is_the_weighted_sum_of_each_exits_mean_cross_entropy() -> None:
    # Mutant: labels repeated in the wrong order, a sum over images, or weights normalised to 1.
    logits = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    labels, weights = torch.tensor([0, 3, 1, 1, 2]), torch.tensor([0.2, 0.7, 1])
    by_hand = sum(weights[index] * F.cross_entropy(logits[:, index], labels) for index in range(3))
    torch.testing.assert_close(loop._loss(logits, labels, weights), by_hand)


def test_learning_rate_rises_to_the_peak_and_falls_to_zero() -> None:
    # Mutant: no warm-up, or a cosine that ends above zero.
    recipe = resnet_recipe(peak_learning_rate=0.4, warmup_share=0.2)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    worked = {0.0: 0.04, 0.1: 0.22, 0.2: 0.4, 0.6: 0.2, 1.0: 0.0}
    for progress, rate in worked.items():
        loop._set_learning_rate(optimizer, recipe, progress)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, abs=1e-7)


def test_weight_decay_spares_biases_norms_and_mixes() -> None:
    # Mutant: one group for all parameters.
    model = build_model("resnet56", "cifar10", (3,))
    groups = loop._optimizer(model, resnet_recipe()).param_groups
    decay_of = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        spared = name.endswith((".bias", ".mix")) or ".norm" in name or parameter.ndim == 1
        assert decay_of[id(parameter)] == (0 if spared else 5e-4), name


# Augmentation


def augmented(images: Tensor, padding: int, copies: int) -> Tensor:
    """Many augmentations of one (3, H, W) image of bytes, as bytes again."""
    side = images.shape[-1]
    padded = F.pad(images[None].float(), (padding,) * 4, mode="reflect").byte().permute(0, 2, 3, 1).contiguous()
    rows = torch.zeros(copies, dtype=torch.long)
    batch = loop._augmented(padded, rows, side, torch.Generator().manual_seed(0))
    assert batch.shape == (copies, 3, side, side) and batch.min() >= 0 and batch.max() <= 1
    return (batch * 255).round().byte()


def test_augmentation_without_padding_is_the_image_or_its_mirror_about_half_the_time() -> None:
    # Mutant: no flips, upside-down flips, or flips of single channels.
    image = toy_image_set(1).images[0]
    batch = augmented(image, padding=0, copies=2000)
    same = (batch == image).flatten(1).all(1)
    mirrored = (batch == image.flip(-1)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    # Binomial(2000, 1/2): five standard deviations are 112.
    assert abs(int(mirrored.sum()) - 1000) < 112


def test_augmentation_is_a_crop_of_the_padded_image_and_every_crop_occurs() -> None:
    # Mutant: rows and columns shifted together, an off-by-one that never reaches the last crop, zero padding.
    image = torch.arange(3 * 16, dtype=torch.uint8).view(3, 4, 4)
    padded = F.pad(image[None].float(), (1,) * 4, mode="reflect")[0].byte()
    crops = [padded[:, top : top + 4, left : left + 4] for top in range(3) for left in range(3)]
    every = torch.stack([*crops, *(crop.flip(-1) for crop in crops)])
    batch = augmented(image, padding=1, copies=1800)
    matches = (batch[:, None] == every).flatten(2).all(2)
    assert matches.any(1).all()
    # About 100 of each of the 18; five standard deviations are 49.
    assert (matches.sum(0) - 100).abs().max() < 49


def test_each_row_of_a_batch_is_augmented_from_its_own_image() -> None:
    # Mutant: rows ignored or sorted, so that images part from their labels.
    images = toy_image_set(6).images
    padded = images.permute(0, 2, 3, 1).contiguous()
    rows = torch.tensor([4, 0, 5])
    batch = (loop._augmented(padded, rows, TOY_SIZE, torch.Generator().manual_seed(1)) * 255).round().byte()
    for image, row in zip(batch, rows, strict=True):
        assert torch.equal(image, images[row]) or torch.equal(image, images[row].flip(-1))


# The loop


class Killed(Exception):
    """Stands for a process that ends here."""


def trained(recipe: Recipe, folder: Path, *, kill_after_step: tuple[int, int] | None = None) -> dict[str, Tensor]:
    """Weights after a run on 64 toy images; killed in the middle of an epoch when asked, then started again."""
    training, validation = toy_image_set(64), toy_image_set(16, split="validation", seed=1)
    finished = 0

    def count(epoch: Epoch) -> None:
        nonlocal finished
        finished = epoch.number

    def kill(step: int, num_steps: int) -> None:
        if (finished, step) == kill_after_step:
            raise Killed

    if kill_after_step:
        with pytest.raises(Killed):
            train(recipe, training, validation, state_folder=folder, compiled=False, on_step=kill, on_epoch=count)
        assert finished == kill_after_step[0]
    model, _ = train(recipe, training, validation, state_folder=folder, compiled=False)
    assert not model.training
    return model.state_dict()


@pytest.mark.usefixtures("toy_registry")
@pytest.mark.parametrize("exits", ["standard", "none"])
@pytest.mark.parametrize("kill_after_step", [(0, 2), (1, 1), (2, 3), (1, 4)])
def test_run_that_was_killed_ends_with_the_weights_of_an_unbroken_one(
    tmp_path: Path, exits: str, kill_after_step: tuple[int, int]
) -> None:
    # Mutant: momentum not saved, batch norms not saved, no fresh seed per epoch (the toy has dropout), state saved
    # before the epoch's last step, or a generator that goes on from where the process happened to be.
    recipe = toy_recipe(exits=exits)
    unbroken = trained(recipe, tmp_path / "unbroken")
    torch.rand(7)  # another process would not have this global random state
    resumed = trained(recipe, tmp_path / "resumed", kill_after_step=kill_after_step)
    assert unbroken.keys() == resumed.keys()
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


@pytest.mark.usefixtures("toy_registry")
def test_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    # Mutant: start over, or one epoch more on each call.
    recipe, images = toy_recipe(), toy_image_set(64)
    model, seconds = train(recipe, images, images, state_folder=tmp_path, compiled=False)
    epochs: list[Epoch] = []
    again, same_seconds = train(recipe, images, images, state_folder=tmp_path, compiled=False, on_epoch=epochs.append)
    assert epochs == [] and same_seconds == seconds > 0
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.usefixtures("toy_registry")
def test_another_seed_draws_other_first_weights(tmp_path: Path) -> None:
    # Mutant: one seed for the weights of all recipes: twins "trained independently" would start as copies.
    # The learning rate is so small that the first weights are also the last.
    one, other = (
        trained(toy_recipe(seed=seed, name=f"seed{seed}", num_epochs=1, peak_learning_rate=1e-9), tmp_path)
        for seed in (1, 2)
    )
    for name in ("backbone.stem.0.weight", "backbone.tail.3.weight", "exits.0.linear.weight"):
        assert (one[name] - other[name]).norm() > 0.1 * one[name].norm()


@pytest.mark.usefixtures("toy_registry")
def test_every_epoch_and_every_seed_goes_through_the_images_in_another_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutant: the epoch left out of the seed: every epoch would show the same crops in the same order.
    batches: list[list[int]] = []
    draw = loop._augmented

    def recording(padded: Tensor, rows: Tensor, side: int, generator: torch.Generator) -> Tensor:
        batches.append(rows.tolist())
        return draw(padded, rows, side, generator)

    monkeypatch.setattr(loop, "_augmented", recording)
    for seed in (1, 2):
        trained(toy_recipe(seed=seed, name=f"seed{seed}"), tmp_path)
    orders = [tuple(order) for order in torch.tensor(batches).view(6, 64).tolist()]
    assert len(set(orders)) == 6
    assert all(sorted(order) == list(range(64)) for order in orders)


@pytest.mark.usefixtures("toy_registry")
@pytest.mark.parametrize("change", [{"seed": 6}, {"num_epochs": 4}, {"weight_decay": 0.0}, {"exits": (1,)}])
def test_state_of_another_recipe_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    # Mutant: states found by name only: a changed recipe would go on from weights it did not make.
    trained(toy_recipe(), tmp_path)
    with pytest.raises(ExitLensError, match="made by another recipe") as raised:
        trained(toy_recipe(**change), tmp_path)
    assert str(tmp_path / "tested" / "state.pt") in str(raised.value)


@pytest.mark.usefixtures("toy_registry")
def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    # Mutant: torch's own error, which names no file and no way out.
    recipe = toy_recipe()
    file = tmp_path / recipe.name / "state.pt"
    file.parent.mkdir()
    file.write_bytes(b"half of a state")
    with pytest.raises(ExitLensError, match="is damaged") as raised:
        train(recipe, toy_image_set(64), toy_image_set(8), state_folder=tmp_path, compiled=False)
    assert str(file) in str(raised.value)


@pytest.mark.usefixtures("toy_registry")
def test_storage_and_calibration_may_change_after_training(tmp_path: Path) -> None:
    # Mutant: every field in the training key: hours of training thrown away for a file format.
    weights = trained(toy_recipe(), tmp_path)
    again = trained(toy_recipe(storage="float32", calibrate=True), tmp_path)
    assert all(torch.equal(weights[name], again[name]) for name in weights)


@pytest.mark.usefixtures("toy_registry")
def test_fewer_images_than_a_batch_are_refused(tmp_path: Path) -> None:
    # Mutant: zero steps per epoch and a division by zero.
    few = toy_image_set(15)
    with pytest.raises(ExitLensError, match="15 images are fewer than one batch of 16"):
        train(toy_recipe(), few, few, state_folder=tmp_path, compiled=False)


@pytest.mark.usefixtures("toy_registry")
def test_epochs_report_steps_and_validation_accuracy_of_every_exit(tmp_path: Path) -> None:
    # Mutant: training accuracy reported, or that of the final exit for all.
    training, validation = toy_image_set(72), toy_image_set(16, split="validation", seed=1)
    epochs: list[Epoch] = []
    steps: list[tuple[int, int]] = []
    model, seconds = train(
        toy_recipe(),
        training,
        validation,
        state_folder=tmp_path,
        compiled=False,
        on_step=lambda step, num_steps: steps.append((step, num_steps)),
        on_epoch=epochs.append,
    )
    assert [(epoch.number, epoch.num_epochs) for epoch in epochs] == [(1, 3), (2, 3), (3, 3)]
    assert steps == [(step, 4) for _ in range(3) for step in (1, 2, 3, 4)]  # 72 images, the odd 8 left out
    assert seconds == pytest.approx(sum(epoch.seconds for epoch in epochs))
    right = exit_logits(model, validation).argmax(-1) == validation.labels[:, None]
    assert epochs[-1].validation_accuracy == pytest.approx(right.double().mean(0).tolist())


def learning_recipe(**changes: object) -> Recipe:
    """Long enough for the toy, from first weights of which none of its four channels dies on the way."""
    return toy_recipe(**({"num_epochs": 16, "batch_size": 32, "peak_learning_rate": 0.05, "seed": 2} | changes))


@pytest.mark.usefixtures("toy_registry")
def test_training_learns_at_every_exit(tmp_path: Path) -> None:
    # Mutant: no optimizer step, labels shuffled against images, or an exit whose loss has no weight. Chance is 0.25.
    recipe = learning_recipe()
    training, validation = toy_image_set(256), toy_image_set(100, split="validation", seed=1)
    epochs: list[Epoch] = []
    train(recipe, training, validation, state_folder=tmp_path, compiled=False, on_epoch=epochs.append)
    assert min(epochs[-1].validation_accuracy) > 0.9
    assert epochs[-1].mean_loss < epochs[0].mean_loss / 2


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler: apt-get install g++")
@pytest.mark.usefixtures("toy_registry")
def test_compiled_training_learns_into_the_model_it_returns(tmp_path: Path) -> None:
    # Mutant: the compiled network trains a copy of the model.
    recipe = learning_recipe()
    training, validation = toy_image_set(256), toy_image_set(100, split="validation", seed=1)
    model, _ = train(recipe, training, validation, state_folder=tmp_path, compiled=True)
    right = exit_logits(model, validation).argmax(-1) == validation.labels[:, None]
    assert right.double().mean(0).min() > 0.9


# Exits on a frozen backbone


@pytest.fixture
def finished_static(toy_registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExitNetwork:
    """The static toy model ``toy-static``, saved in 16 bit where models lie; returned as it is loaded."""
    monkeypatch.setenv("EXITLENS_CHECKPOINTS", str(tmp_path / "checkpoints"))
    model = toy_model(num_exits=1, dtype=torch.float32)
    save_model(pack_weights(model, "float16"), toy_card(model, "toy-static", toy_image_set(12), storage="float16"))
    return load_model("toy-static")[0]


def all_exits_recipe(**changes: object) -> Recipe:
    asked = {"name": "toy-all-exits", "exits": "all", "backbone_of": "toy-static", "peak_learning_rate": 0.01}
    return learning_recipe(**(asked | changes))


def test_exits_after_every_block_are_one_fewer_than_the_blocks() -> None:
    # Mutant: a classifier after the last block too, where the final exit already stands.
    for architecture, num_exits in (("resnet56", 27), ("mobilenet", 13), ("vgg16", 13)):
        recipe = resnet_recipe(architecture=architecture, exits="all", backbone_of="any")
        assert recipe.exit_positions == tuple(range(num_exits - 1))
        assert build_model(architecture, "cifar10", recipe.exit_positions).num_exits == num_exits


def test_frozen_backbone_stays_as_it_is_and_every_exit_on_it_learns(
    finished_static: ExitNetwork, tmp_path: Path
) -> None:
    # Mutant: batch norms that go on learning, a backbone in the optimizer, or exits that do not learn.
    training, validation = toy_image_set(256), toy_image_set(100, split="validation", seed=1)
    epochs: list[Epoch] = []
    recipe = all_exits_recipe()
    model, _ = train(recipe, training, validation, state_folder=tmp_path, compiled=False, on_epoch=epochs.append)
    before = finished_static.backbone.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())
    assert min(epochs[-1].validation_accuracy[:-1]) > 0.6 > epochs[0].validation_accuracy[-1]
    assert epochs[-1].mean_loss < epochs[0].mean_loss / 2
    assert exit_loss_weights(recipe, 3).tolist() == [1, 1, 1, 0]


def test_model_on_a_shared_backbone_stores_its_exits_only_and_ends_as_its_owner(
    finished_static: ExitNetwork, tmp_path: Path
) -> None:
    # Mutant: the backbone stored again, rounded again, or drawn afresh on loading.
    training, validation = toy_image_set(64), toy_image_set(16, split="validation", seed=1)
    recipe = all_exits_recipe(num_epochs=1)
    model, seconds = train(recipe, training, validation, state_folder=tmp_path, compiled=False)
    payload, card = finish(recipe, model, seconds, validation, toy_image_set(12, split="test", seed=2))
    assert {name.split(".")[0] for name in load_tensors(payload)} == {"mean", "std", "exits"}
    assert (card.shares, card.shared_sha256) == ("toy-static", load_card("toy-static").weights_sha256)
    save_model(payload, card)
    loaded, _ = load_model("toy-all-exits")
    images = toy_image_set(12).pixels()
    assert torch.equal(loaded(images)[:, -1], finished_static(images)[:, -1])
    assert torch.equal(loaded(images), model(images))


def test_model_whose_shared_backbone_was_trained_again_is_refused(finished_static: ExitNetwork, tmp_path: Path) -> None:
    # Mutant: no look at the owner's hash: exits would read features they have never seen.
    training = toy_image_set(64)
    recipe = all_exits_recipe(num_epochs=1)
    model, seconds = train(recipe, training, training, state_folder=tmp_path, compiled=False)
    save_model(*finish(recipe, model, seconds, training, toy_image_set(12, split="test", seed=2)))
    other = toy_model(num_exits=1, dtype=torch.float32, seed=9)
    save_model(pack_weights(other, "float32"), toy_card(other, "toy-static", toy_image_set(12)))
    with pytest.raises(
        ExitLensError, match=r"toy-all-exits stands on the weights of toy-static.*Train its exits again"
    ):
        load_model("toy-all-exits")
    # Mutant: the state of the old training gone on with, to no epoch at all and a card that says the new weights.
    with pytest.raises(ExitLensError, match="or on other weights of toy-static"):
        train(recipe, training, training, state_folder=tmp_path, compiled=False)


@pytest.mark.usefixtures("toy_registry")
def test_a_borrowed_final_exit_is_not_calibrated() -> None:
    # Mutant: a temperature put into the owner's tail, which this model does not store.
    with pytest.raises(ExitLensError, match="is not its own to change"):
        all_exits_recipe(calibrate=True)


def test_backbone_of_another_architecture_or_of_no_model_is_refused(finished_static: ExitNetwork) -> None:
    # Mutant: torch's list of keys that do not fit.
    model = build_model("resnet56", "cifar10", (3,))
    with pytest.raises(ExitLensError, match="needs a backbone of resnet56 on cifar10; toy-static is toy on toy"):
        loop.take_backbone(model, resnet_recipe(exits=(3,), backbone_of="toy-static"))
    with pytest.raises(ExitLensError, match="no model 'gone'"):
        loop.take_backbone(model, resnet_recipe(exits=(3,), backbone_of="gone"))


def test_a_backbone_is_taken_from_the_model_that_stores_it() -> None:
    # Mutant: hours of training for weights that name an owner whose file holds no backbone.
    model = build_model("resnet56", "cifar10", (3,))
    with pytest.raises(ExitLensError, match="Write backbone_of = 'cifar10-resnet56-static'"):
        loop.take_backbone(model, resnet_recipe(exits=(3,), backbone_of="cifar10-resnet56-all-exits"))
