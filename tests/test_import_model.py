"""Networks from elsewhere: the toy model, written as somebody else would, must be the toy model once imported."""

import copy
import dataclasses
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from toys import TOY_CLASSES, answered_image_set, toy_card, toy_image_set, toy_images, toy_model, write_hub_parquet

from core.__main__ import main
from core.attribution import attribute
from core.attribution_spec import METHODS, AttributionSpec
from core.belief import measure_belief
from core.checkpoints import (
    CARD_FILE,
    FOLDER_VARIABLE,
    LoadedModel,
    ModelCard,
    list_models,
    load_model,
    pack_weights,
    save_model,
    verify,
)
from core.data import DATA_ROOT_VARIABLE, open_image_set
from core.errors import ExitLensError
from core.exits import ExitPolicy, decide, dynamic_agreement, run_dynamic
from core.experiment import twin_of
from core.foreign import TRUST_VARIABLE
from core.importing.model import ImportedModel, import_model
from core.metrics import operating_points
from core.models.classifiers import ExitNetwork
from core.models.costs import exit_costs, multiply_adds

ROOT = Path(__file__).parents[1]
SHIPPED = "cifar10-resnet56-early-exit"
CARD = {"name": "mine", "dataset": "toy", "mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.5]}
LAYERS = {"exit_layers": ["blocks.0", "blocks.1", "blocks.3"]}
COSTS = {"exit_costs": [0.25, 0.5, 1.0]}

FACTORIES = '''
"""The toy model's layers, put together in other ways."""
import threading

import torch
from toys import TOY_CLASSES, toy_model
from torch import nn


class Base(nn.Module):
    def __init__(self, num_exits=3):
        super().__init__()
        parts = toy_model(num_exits=num_exits, dtype=torch.float32, seed=99)
        self.stem, self.blocks, self.tail = parts.backbone.stem, parts.backbone.blocks, parts.backbone.tail
        self.exits = parts.exits

    def answers(self, images):
        features, logits = self.stem(images), []
        for index, block in enumerate(self.blocks):
            features = block(features)
            if index < len(self.exits):
                logits.append(self.exits[index](features))
        return [*logits, self.tail(features)]

    def forward(self, images):
        return self.answers(images)


class Normalising(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.zeros(3, 1, 1), persistent=False)

    def forward(self, images):
        return self.answers(images - self.shift)


class Drawing(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("shift", 0.1 * torch.randn(3, 1, 1), persistent=False)

    def forward(self, images):
        return self.answers(images - self.shift)


class Freezing(Base):
    def train(self, mode=True):
        super().train(False)


class Versioned(Base):
    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *others):
        if local_metadata.get("version") != 2:
            raise ValueError(f"version should be 2 instead of {local_metadata.get('version')}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)


class Refusing(Base):
    def load_state_dict(self, state):
        return super().load_state_dict(state)


class Bufferless(Base):
    def __init__(self):
        super().__init__()
        for module in list(self.modules()):
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    del module._parameters[name]
                    module.register_buffer(name, parameter.data)


class Spectral(Base):
    def __init__(self):
        super().__init__()
        self.tail_of_it = nn.Parameter(torch.polar(torch.ones(1, 4), torch.tensor([[0.0, 0.5, 1.0, 1.5]])))
        self._parameters = dict(reversed(self._parameters.items()))

    def forward(self, images):
        first, second, final = self.answers(images)
        return [first, second, (final * self.tail_of_it).imag + final]


class Joined(Base):
    def forward(self, images):
        return torch.stack(self.answers(images), dim=1)


class One(Base):
    def __init__(self):
        super().__init__(num_exits=1)

    def forward(self, images):
        return self.answers(images)[0]


class OneStaged(One):
    def begin(self, images):
        return self.stem(images)

    def advance(self, features, exit_index):
        for block in self.blocks:
            features = block(features)
        return features

    def classify(self, features, exit_index):
        return self.tail(features)


class Staged(Joined):
    ends = (0, 1, 3)

    def begin(self, images):
        return self.stem(images)

    def advance(self, features, exit_index):
        for block in self.blocks[(0, 1, 2)[exit_index] : self.ends[exit_index] + 1]:
            features = block(features)
        return features

    def classify(self, features, exit_index):
        return (*self.exits, self.tail)[exit_index](features)


class Narrow(Joined):
    def forward(self, images):
        return super().forward(images).bfloat16()


class Doubling(Staged):
    def forward(self, images):
        return super().forward(images).double()

    def classify(self, features, exit_index):
        return super().classify(features, exit_index).double()


class Shuffled(Base):
    def forward(self, images):
        return [logits.flip(1) for logits in self.answers(images)]


class Broken(Staged):
    def classify(self, features, exit_index):
        return super().classify(features, exit_index) + 0.1 * exit_index


class Overwriting(Staged):
    def answers(self, images):
        features = self.begin(images)
        logits = []
        for exit_index in range(3):
            features = self.advance(features, exit_index)
            logits.append(self.classify(features, exit_index))
        return logits

    def classify(self, features, exit_index):
        features.data.mul_(1.5)
        return super().classify(features, exit_index)


class Locked(Staged):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Branching(Base):
    def forward(self, images):
        return self.answers(images if images.sum() > 0 else -images)


class Cascade(Base):
    def forward(self, images):
        first, second, final = self.answers(images)
        return first, first + second, final


class Dropping(Base):
    def forward(self, images):
        return [nn.functional.dropout(logits, 0.5, training=True) for logits in self.answers(images)]


class Blind(Base):
    @torch.no_grad()
    def forward(self, images):
        return self.answers(images)


class Words(Base):
    def forward(self, images):
        return {"logits": self.answers(images)}


class Flat(Base):
    def forward(self, images):
        return self.answers(images)[0].flatten()


class Uneven(Base):
    def forward(self, images):
        first, *others = self.answers(images)
        return [first[:, :2], *others]


class Wide(Base):
    def forward(self, images):
        return [torch.cat([logits, logits], 1) for logits in self.answers(images)]


class Infinite(Base):
    def forward(self, images):
        return [logits / 0 for logits in self.answers(images)]


class Adding(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, images):
        return self.scale * images.mean((2, 3))[:, [0, 1, 2, 0]]


class Failing(Base):
    def forward(self, images):
        raise KeyError("no such image")


def raises():
    raise RuntimeError("out of cheese\\nsecond line")


def leaves():
    raise SystemExit(3)


def a_number():
    return 7


not_a_function = 7
'''


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_registry: None) -> Path:
    """Toy images, no model, nothing trusted, and a file of factories."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "checkpoints"))
    monkeypatch.setenv(TRUST_VARIABLE, str(tmp_path / "factories.txt"))
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path / "data"))
    images, training = answered_image_set(original()), toy_image_set(40)
    folder = tmp_path / "data/toy"
    write_hub_parquet(folder / "test.parquet", images.images, images.labels.tolist(), class_names=TOY_CLASSES)
    write_hub_parquet(folder / "train.parquet", training.images, training.labels.tolist(), class_names=TOY_CLASSES)
    (tmp_path / "theirs.py").write_text(FACTORIES)
    return tmp_path


def original(num_exits: int = 3) -> ExitNetwork:
    """The toy model, which every import below should turn out to be."""
    return toy_model(num_exits=num_exits, dtype=torch.float32)


def their_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The toy model's weights under the names that the factories give them."""
    return {
        key.removeprefix("backbone."): tensor.clone()
        for key, tensor in model.state_dict().items()
        if key not in ("mean", "std")
    }


def imported(
    project: Path, factory: str = "Base", *, num_exits: int = 3, state: Any = None, **card: Any
) -> ImportedModel:
    """Imports a class of ``FACTORIES`` with the toy model's weights; a field of None is left out of the card file."""
    weights, card_file = project / "weights.pt", project / "card.json"
    torch.save(their_state(original(num_exits)) if state is None else state, weights)
    card_file.write_text(json.dumps({key: value for key, value in (CARD | card).items() if value is not None}))
    return import_model(f"{project / 'theirs.py'}:{factory}", weights, card_file)


def refused(*words: object, **more: Any) -> str:
    """The one sentence or two by which an import is refused; nothing is left behind."""
    with pytest.raises(ExitLensError) as caught:
        imported(*words, **more)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert list_models() == []
    return str(caught.value)


def check_same_model(model: LoadedModel, reference: ExitNetwork) -> None:
    images = toy_images(5, dtype=torch.float32)
    logits = reference(images)
    torch.testing.assert_close(model(images), logits, rtol=0, atol=1e-6)
    for exit_index in range(model.num_exits):
        torch.testing.assert_close(model.run_until(images, exit_index), logits[:, exit_index], rtol=0, atol=1e-6)


# What an import is


@pytest.mark.parametrize(("factory", "card"), [("Base", LAYERS), ("Staged", {}), ("Staged", LAYERS)])
def test_import_that_stops_early_has_the_logits_costs_and_accuracy_of_the_original(
    factory, card, project: Path
) -> None:
    # Mutant: normalisation left out or done twice, costs of the whole pass for every exit, a constant accuracy.
    made, reference = imported(project, factory, **card), original()
    model, read = load_model("mine")
    assert read == dataclasses.replace(made.card, recipe={}) and model.stops_early and read.stops_early
    check_same_model(model, reference)
    assert read.exit_costs == model.exit_costs == pytest.approx(reference.exit_costs, abs=1e-12)
    counted = multiply_adds(reference, 8)
    assert (read.layer_multiply_adds, read.classifier_multiply_adds) == tuple(map(tuple, counted))
    images = open_image_set("toy:test")
    assert read.test == toy_card(reference, "x", images).test and read.test_set == "toy:test"
    validation = open_image_set("toy:validation")
    logits = reference(validation.pixels())
    assert read.operating_points == operating_points(logits, validation.labels, reference.exit_costs)
    assert read.validation_accuracy == tuple(
        (logits[:, index].argmax(-1) == validation.labels).double().mean().item() for index in range(3)
    )
    assert (read.kind, read.num_classes, read.class_names, read.image_size) == ("early-exit", 4, TOY_CLASSES, 8)
    assert read.num_parameters == sum(parameter.numel() for parameter in reference.parameters())
    assert (read.label, verify("mine", images).agrees) == ("mine early-exit", True)
    assert not any(parameter.requires_grad for parameter in model.parameters()) and not model.training


@pytest.mark.parametrize(("factory", "card"), [("Base", LAYERS), ("Staged", {})])
def test_stopping_at_an_exit_computes_no_more_than_the_original_does(factory, card, project: Path) -> None:
    # Mutant: ``run_until`` that takes a column of the full pass, or pieces that start from the images again.
    imported(project, factory, **card)
    model, reference = load_model("mine")[0], original()
    layers, classifiers = multiply_adds(reference, 8)
    for exit_index in range(3):
        with FlopCounterMode(display=False) as counter:
            model.run_until(toy_images(1, dtype=torch.float32), exit_index)
        assert counter.get_total_flops() // 2 == sum(layers[: exit_index + 1]) + classifiers[exit_index]


@pytest.mark.parametrize("fallback", ["final", "most_confident"])
@pytest.mark.parametrize(("factory", "card"), [("Base", LAYERS), ("Staged", {}), ("Joined", COSTS)])
def test_running_an_import_dynamically_agrees_with_all_its_logits(factory, card, fallback, project: Path) -> None:
    # Mutant: features of the wrong stage, or of images that have left.
    imported(project, factory, **card)
    model, images, policy = load_model("mine")[0], toy_images(64, dtype=torch.float32), ExitPolicy(0.6, fallback)
    dynamic = run_dynamic(model, images, policy)
    agreement = dynamic_agreement(dynamic, model(images), policy)
    assert (agreement.num_different, agreement.num_images) == (0, 64)
    assert len(dynamic.computed_exit.unique()) == 3


def test_network_that_cannot_be_cut_says_so_and_keeps_the_costs_that_it_was_given(project: Path) -> None:
    # Mutant: ``stops_early`` always true, or costs counted over full passes.
    made = imported(project, "Joined", **COSTS)
    model, card = load_model("mine")
    check_same_model(model, original())
    assert not model.stops_early and not card.stops_early
    assert (card.exit_costs, model.exit_costs, card.exit_layers) == ((0.25, 0.5, 1.0), (0.25, 0.5, 1.0), ())
    total = sum(map(sum, multiply_adds(original(), 8)))
    assert (card.layer_multiply_adds, card.classifier_multiply_adds) == ((total, 0, 0), (0, 0, 0))
    assert any("cannot stop early" in note for note in made.notes)


@pytest.mark.parametrize("layers", [{}, {"exit_layers": ["blocks.3"]}])
def test_network_of_one_answer_is_a_static_model(layers, project: Path) -> None:
    # Mutant: a static network asked for layers or costs, or one given operating points.
    imported(project, "One", num_exits=1, **layers)
    model, card = load_model("mine")
    check_same_model(model, original(1))
    assert (card.kind, card.exit_costs, card.operating_points, card.stops_early) == ("static", (1.0,), (), True)
    assert model.exit_layers == tuple(f"network.{layer}" for layer in layers.get("exit_layers", ()))


def test_exit_layers_are_names_that_the_loaded_model_has(project: Path) -> None:
    # Mutant: the owner's names kept without the adapter's prefix: attribution would not find the layers.
    imported(project, **LAYERS)
    model, card = load_model("mine")
    assert card.exit_layers == model.exit_layers
    for layer, block in zip(card.exit_layers, (0, 1, 3), strict=True):
        assert model.get_submodule(layer) is model.network.blocks[block]


def test_classes_in_another_order_are_put_into_the_official_one(project: Path) -> None:
    # Mutant: the order ignored, applied the wrong way round, or left out of the stages.
    turned = [*TOY_CLASSES[1:], TOY_CLASSES[0]]
    rolled = their_state(original())
    for key in ("tail.3", "exits.0.linear", "exits.1.linear"):
        for part in ("weight", "bias"):
            rolled[f"{key}.{part}"] = rolled[f"{key}.{part}"].roll(-1, 0)
    imported(project, state=rolled, class_names=turned, **LAYERS)
    model, card = load_model("mine")
    check_same_model(model, original())
    assert card.class_names == TOY_CLASSES


KINDS = [
    ("Base", LAYERS, 3),
    ("Staged", {}, 3),
    ("Joined", COSTS, 3),
    ("One", {"exit_layers": ["blocks.3"]}, 1),
    ("One", {}, 1),
    ("OneStaged", {}, 1),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("factory", "card", "num_exits"), KINDS)
def test_maps_of_an_import_are_the_originals_or_there_is_a_reason(factory, card, num_exits, method, project) -> None:
    # Mutant: pieces that a deep copy still shares with the loaded model, a column of other images, ReLUs of the pieces
    # passed over, the pixels taken for the layer that feeds an exit, or no layer known where stages lead to one exit.
    imported(project, factory, num_exits=num_exits, **card)
    model, images = load_model("mine")[0], toy_images(2, dtype=torch.float32)
    spec = AttributionSpec(method=method, num_steps=4, num_samples=2, explained="chosen", class_index=1)
    if "grad_cam" in method and (factory == "Joined" or (factory == "One" and not card)):
        with pytest.raises(ExitLensError, match=r"Nothing says which layers .* import the model with exit_layers"):
            attribute(model, images, spec)
        return
    made, expected = attribute(model, images, spec), attribute(original(num_exits), images, spec)
    torch.testing.assert_close(made.values, expected.values, rtol=1e-3, atol=1e-5)
    assert made.values.any()
    check_same_model(model, original(num_exits))


@pytest.mark.parametrize(
    ("factory", "card"),
    [("Freezing", LAYERS), ("Versioned", LAYERS), ("Bufferless", LAYERS), ("Doubling", {}), ("Narrow", COSTS)],
)
def test_networks_of_unusual_build_are_imported(factory, card, project: Path) -> None:
    # Mutants: ``eval`` chained though ``train`` returns nothing; versions of layers lost; the width of images taken
    # from parameters alone; logits handed on in the width that they came in.
    imported(project, factory, **card)
    model, images = load_model("mine")[0], toy_images(64, dtype=torch.float32)
    torch.testing.assert_close(model(images), original()(images), rtol=0, atol=0.02 if factory == "Narrow" else 1e-6)
    assert model(images).dtype == torch.float32
    policy = ExitPolicy(0.6)
    assert dynamic_agreement(run_dynamic(model, images, policy), model(images), policy).num_different == 0
    assert verify("mine", open_image_set("toy:test")).agrees


def test_complex_weights_are_kept_whole(project: Path) -> None:
    # Mutants: imaginary parts dropped when weights are packed; images made complex to count multiply-adds.
    state = their_state(original()) | {"tail_of_it": torch.polar(torch.ones(1, 4), torch.tensor([[0.1, 0.2, 0.3, 3]]))}
    imported(project, "Spectral", state=state, **COSTS)
    model, images = load_model("mine")[0], toy_images(5, dtype=torch.float32)
    torch.testing.assert_close(model.network.tail_of_it.data, state["tail_of_it"])
    final = original()(images)[:, -1]
    torch.testing.assert_close(model(images)[:, -1], final * (1 + state["tail_of_it"].imag))


def test_what_is_not_stored_with_the_weights_is_not_measured(project: Path) -> None:
    # Mutant: the card of the network in memory, which nobody can load again.
    assert "gives other logits" in refused(project, "Drawing", **LAYERS)


def test_network_that_refuses_its_weights_is_one_sentence(project: Path) -> None:
    # Mutant: the TypeError of a ``load_state_dict`` of its own let through.
    assert "Filling the network failed (TypeError" in refused(project, "Refusing", **LAYERS)


def test_weights_of_another_kind_of_number_are_refused(project: Path) -> None:
    # Mutant: quantised integers cast to weights.
    state = {
        key: tensor.to(torch.int8) if tensor.ndim > 1 else tensor for key, tensor in their_state(original()).items()
    }
    assert "is of torch.int8, where the network has torch.float32" in refused(project, state=state, **LAYERS)


def test_a_disk_that_fills_up_leaves_no_half_of_a_model(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: a folder without a card, which the next try finds "there already".
    write = Path.write_bytes

    def fails(path: Path, content: bytes) -> int:
        if path.name.startswith("card"):
            write(path, content[:9])
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fails)
    assert "No space left" in refused(project, **LAYERS)
    monkeypatch.undo()
    assert not (project / "checkpoints/mine").exists()


def test_constants_of_an_import_move_with_it(project: Path) -> None:
    # Mutant: pieces that are no part of the module, whose constants stay where they were traced.
    imported(project, "Normalising", **LAYERS)
    model, images = load_model("mine")[0], toy_images(2, dtype=torch.float32)
    check_same_model(model, original())
    moved = copy.deepcopy(model).to("meta")
    for exit_index in range(3):
        assert moved.run_until(images.to("meta"), exit_index).shape == (2, 4)


def test_private_copy_of_an_import_owns_its_pieces(project: Path) -> None:
    # Mutant: pieces that a deep copy still shares with the loaded model.
    imported(project, **LAYERS)
    model, images = load_model("mine")[0], toy_images(2, dtype=torch.float32)
    private = copy.deepcopy(model)
    private.network.stem[0].weight.zero_()
    check_same_model(model, original())
    assert not torch.allclose(private.run_until(images, 0), model.run_until(images, 0))


@pytest.mark.parametrize(("factory", "card", "num_exits"), KINDS)
def test_belief_in_the_maps_of_an_import(factory, card, num_exits, project: Path) -> None:
    # Mutant: classifiers looked for by this project's names of modules.
    imported(project, factory, num_exits=num_exits, **card)
    model, images = load_model("mine")[0], toy_images(2, dtype=torch.float32)
    measured = measure_belief(model, images, attribute(model, images, AttributionSpec()))
    reference = original(num_exits)
    expected = measure_belief(reference, images, attribute(reference, images, AttributionSpec()))
    for field in ("infidelity", "sensitivity"):
        torch.testing.assert_close(getattr(measured, field), getattr(expected, field), rtol=1e-2, atol=1e-3)
    assert torch.isfinite(measured.all_redrawn).all()
    # Where nothing leads from exit to exit, their classifiers are not known either.
    is_known = factory not in ("Joined", "One")
    assert torch.isfinite(measured.classifier_redrawn).all() == is_known


def test_imports_of_one_label_are_twins_of_each_other_and_of_no_model_of_the_project(project: Path) -> None:
    # Mutant: the architecture of every import being the same word.
    save_model(pack_weights(original(1), "float32"), toy_card(original(1), "toy-static", open_image_set("toy:test")))
    early = imported(project, label="Theirs", **LAYERS).card
    static = imported(project, "One", num_exits=1, name="mine-static", label="Theirs").card
    other = imported(project, "One", num_exits=1, name="alone").card
    cards = [load_model(name)[1] for name in list_models()]
    assert (twin_of(early, cards), twin_of(static, cards), twin_of(other, cards)) == (static, early, None)
    assert static.label == "Theirs static"


# Weights


def test_weights_are_renamed_and_looked_up_where_the_card_file_says(project: Path) -> None:
    # Mutant: only the first rule applied, rules applied to a part of the keys, or ``state_key`` ignored.
    state = {f"module.{key.replace('blocks', 'layers')}": tensor for key, tensor in their_state(original()).items()}
    content = {"epoch": 3, "model": state}
    imported(project, state=content, state_key="model", rename=[["^module\\.", ""], ["^layers", "blocks"]], **LAYERS)
    check_same_model(load_model("mine")[0], original())


def test_weights_come_from_safetensors_too(project: Path) -> None:
    # Mutant: every file given to torch.
    state = their_state(original())
    save_file(state, project / "weights.safetensors")
    (project / "card.toml").write_text(
        'name = "toml"\ndataset = "toy"\nmean = [0.5, 0.4, 0.3]\nstd = [0.25, 0.2, 0.5]\nexit_costs = [0.1, 0.2, 1.0]\n'
    )
    import_model(f"{project / 'theirs.py'}:Base", project / "weights.safetensors", project / "card.toml")
    check_same_model(load_model("toml")[0], original())


def without(key: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in their_state(original()).items() if name != key}


class Custom:
    """Something that only running a pickle could bring back."""


@pytest.mark.parametrize(
    ("state", "card", "named"),
    [
        (without("tail.3.bias"), {}, "missing keys: 1, the first 'tail.3.bias'.* rename"),
        (without("x") | {"a.b": torch.ones(1)}, {}, "unknown keys: 1, the first 'a.b'.* rename"),
        (without("x") | {"tail.3.bias": torch.ones(7)}, {}, r"tail\.3\.bias"),
        ({"custom": Custom()}, {}, "without running what is pickled"),
        (toy_model(), {}, "without running what is pickled"),
        ({1: torch.ones(1)}, {}, "no state dict: it holds 1"),
        ({"model": without("x"), "epoch": 1}, {}, "no state dict: it holds model, epoch.*state_key"),
        (without("x"), {"state_key": "model"}, "no 'model'"),
        (torch.ones(1), {}, "holds a Tensor"),
        (without("x"), {"rename": [["(", ""]]}, "no regular expression"),
        (without("x"), {"rename": [["stem", "\\9"]]}, "no regular expression"),
        (without("x"), {"rename": [["blocks.[12]", "blocks.1"]]}, "two keys into 'blocks.1"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(state, card, named: str, project: Path) -> None:
    # Mutant: ``strict=False`` alone, ``weights_only`` dropped, or a later key silently winning.
    assert re.search(named, refused(project, state=state, **LAYERS, **card))


def test_weights_files_that_cannot_be_read_are_refused_by_name(project: Path) -> None:
    # Mutant: the exception of torch or safetensors let through.
    card_file = project / "card.json"
    card_file.write_text(json.dumps(CARD | LAYERS))
    for name, content in (("none.pt", None), ("empty.pt", b""), ("text.pt", b"hello"), ("x.safetensors", b"{}")):
        if content is not None:
            (project / name).write_bytes(content)
        with pytest.raises(ExitLensError, match=re.escape(name)):
            import_model(f"{project / 'theirs.py'}:Base", project / name, card_file)


# Factories and outputs


@pytest.mark.parametrize(
    ("factory", "named"),
    [
        ("theirs.py:nobody", "does not define 'nobody'"),
        ("theirs.py:not_a_function", "type int and no function under the name 'not_a_function'"),
        ("theirs.py:a_number", "returned an object of type int"),
        ("theirs.py:raises", r"RuntimeError: out of cheese\)"),
        ("theirs.py:leaves", "SystemExit: 3"),
        ("nowhere.py:build", "no file .*nowhere.py"),
        ("wrong.py:build", "Importing .*wrong.py failed .SyntaxError"),
        ("no.such.package:build", "Importing no.such.package failed .ModuleNotFoundError"),
        ("torch:nobody", "torch does not define 'nobody'"),
        ("theirs.py", "Cannot read the factory"),
        ("a/b:build", "neither a module nor a .py file"),
        ("theirs.py:1", "Cannot read the factory"),
    ],
)
def test_factory_that_gives_no_network_is_one_sentence(factory, named, project: Path, monkeypatch) -> None:
    # Mutant: an exception of the owner's code let through, or its traceback's later lines shown.
    monkeypatch.chdir(project)
    (project / "wrong.py").write_text("def build(:\n")
    card_file = project / "card.json"
    card_file.write_text(json.dumps(CARD | LAYERS))
    torch.save(their_state(original()), project / "weights.pt")
    with pytest.raises(ExitLensError, match=named) as caught:
        import_model(factory, project / "weights.pt", card_file)
    assert "\n" not in str(caught.value) and list_models() == []


@pytest.mark.parametrize(
    ("factory", "card", "named"),
    [
        ("Words", COSTS, "returned a dict; .*list or tuple of"),
        ("Flat", COSTS, r"returned a tensor of shape \(16,\)"),
        ("Uneven", COSTS, r"a list of \(4, 2\), \(4, 4\), \(4, 4\)"),
        ("Wide", COSTS, "knows 8 classes; toy has 4"),
        ("Infinite", COSTS, "not finite"),
        ("Failing", COSTS, "8x8 failed .KeyError"),
        ("Dropping", COSTS, "alone than when it is one of a batch"),
        ("Blind", COSTS, "no gradient"),
        ("Broken", {}, "Stopping at exit 2 gives other logits"),
        ("Overwriting", {}, "Running to exit 2 alone gives other logits .*Leave out layers that work in place"),
        ("Locked", {}, "Copying the network failed .TypeError.*Keep what cannot be copied"),
        ("Staged", COSTS, "costs are counted. Leave out exit_costs"),
        ("Base", {}, "nothing says what each costs"),
        ("Base", {"exit_costs": [0.5, 1.0]}, "exit_costs has 2 numbers"),
        ("Base", {"exit_layers": ["blocks.0"]}, "exit_layers names 1 layers; the network returns 3 exits"),
        (
            "Base",
            {"exit_layers": ["blocks.0", "blocks.1", "blocks.9"]},
            "no layer 'blocks.9'. Its outermost layers are stem",
        ),
        ("Base", {"exit_layers": ["blocks.1", "blocks.0", "blocks.3"]}, "in the order of the exits"),
        ("Base", {"exit_layers": ["stem", "blocks.1", "blocks.3"]}, r"'blocks.0.0' runs after 'stem', for exit 1"),
        ("Base", {"exit_layers": ["blocks", "blocks.1", "blocks.3"]}, "'blocks' runs 0 times"),
        ("Joined", LAYERS, "returns a list or tuple of 3"),
        ("Branching", LAYERS, "Tracing the network failed .*give exit_costs"),
        ("Cascade", LAYERS, "Exit 2 does not depend on the exit_layers before it alone"),
    ],
)
def test_network_that_behaves_otherwise_is_refused_with_what_is_allowed(factory, card, named, project: Path) -> None:
    # Mutant: any one check dropped.
    assert re.search(named, refused(project, factory, **card))


def test_network_without_a_product_has_no_cost_and_is_refused(project: Path) -> None:
    # Mutant: a division by no multiply-adds at all.
    assert "cost cannot be counted" in refused(project, "Adding", state={"scale": torch.ones(4)})


# Card files


@pytest.mark.parametrize(
    ("card", "named"),
    [
        ({"mean": None}, "mean"),
        ({"colour": 1}, "unknown fields colour; known are name"),
        ({"dataset": "mnist"}, "'mnist' is unknown"),
        ({"name": "../elsewhere"}, "name of letters"),
        ({"mean": [125.3, 123.0, 113.9]}, r"mean in \[0, 1\]"),
        ({"mean": [0.5, 0.5]}, "mean"),
        ({"std": [0.0, 0.1, 0.1]}, r"std in \(0, 1\]"),
        ({"std": "wide"}, "std"),
        ({"label": "ResNet-56"}, "none of this project's architectures"),
        ({"exit_costs": [0.5, 0.4, 1.0]}, "exit_costs that rise"),
        ({"exit_costs": [0.1, 0.2, 0.9]}, "end at 1"),
        ({"exit_costs": [0.1, 0.2, 1.0], **LAYERS}, "either exit_layers"),
        ({"class_names": ["red", "green"]}, "class_names has 2 names; toy has 4 classes"),
        ({"class_names": ["red", "green", "blue", "pink"]}, "'pink' is none"),
        ({"class_names": ["red", "green", "blue", "blue"]}, "one stands there twice"),
    ],
)
def test_card_file_that_is_not_right_is_refused_by_field(card: dict[str, Any], named: str, project: Path) -> None:
    # Mutant: a default for a missing field, an unknown one ignored, or a range not checked.
    assert re.search(named, refused(project, **(LAYERS if "exit_costs" not in card else {}) | card))


@pytest.mark.parametrize(
    ("name", "content"), [("c.toml", b"name = "), ("c.json", b"{"), ("c.json", b"[]"), ("c.toml", b"\xff")]
)
def test_card_file_that_is_no_toml_or_json_is_refused_by_name(name: str, content: bytes, project: Path) -> None:
    # Mutant: the parser's exception let through.
    (project / name).write_bytes(content)
    with pytest.raises(ExitLensError, match=name):
        import_model("torch:nobody", project / "none.pt", project / name)


def test_names_and_labels_that_are_taken_are_refused(project: Path) -> None:
    # Mutant: the earlier model overwritten, or two models under one label, which no link could tell apart.
    imported(project, **LAYERS)
    with pytest.raises(ExitLensError, match="is there already"):
        imported(project, **LAYERS)
    with pytest.raises(ExitLensError, match="mine is shown as 'mine early-exit' already"):
        imported(project, name="other", label="mine", **LAYERS)
    assert list_models() == ["mine"]


# Code that nobody asked for


def test_factory_of_a_card_from_elsewhere_is_not_run(project: Path) -> None:
    # Mutant: whatever code a card names imported as soon as it is loaded.
    imported(project, **LAYERS)
    trap = project / "trap.py"
    trap.write_text(f"open({str(project / 'sprung')!r}, 'w')\n" + FACTORIES)
    file = project / "checkpoints/mine" / CARD_FILE
    card = json.loads(file.read_text())
    card["imported"]["factory"] = f"{trap}:Base"
    file.write_text(json.dumps(card))
    with pytest.raises(ExitLensError, match=r"never imported here and so is not run.*import-model"):
        load_model("mine")
    assert not (project / "sprung").exists()


def test_refused_import_is_not_trusted(project: Path) -> None:
    # Mutant: a factory remembered before its import has succeeded.
    refused(project, "Blind", **COSTS)
    assert not (project / "factories.txt").exists()


# The command line


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs ``python -m core WORDS`` in this process: status, output, errors."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["core", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def test_imported_model_is_listed_verified_and_attacked_like_any_other(command, project: Path) -> None:
    # Mutant: an import that only its own module can load.
    torch.save(their_state(original()), project / "weights.pt")
    (project / "card.json").write_text(json.dumps(CARD | LAYERS))
    options = ["--weights", str(project / "weights.pt"), "--card", str(project / "card.json")]
    status, out, _ = command("import-model", f"{project / 'theirs.py'}:Base", *options)
    assert status == 0 and "mine early-exit, 3 exits" in out and "75.0 %  (n = 12, toy:test)" in out
    assert "trained on toy:validation" in out
    (row,) = json.loads(command("models", "--json")[1])["models"]
    assert (row["name"], row["kind"], row["num_exits"]) == ("mine", "early-exit", 3)
    assert json.loads(command("verify", "--json")[1])["models"][0]["agrees"]
    words = [
        "--model",
        "mine",
        "--images",
        "toy:test",
        "--threshold",
        "0.6",
        "--steps",
        "3",
        "--out",
        str(project / "out"),
    ]
    summary = json.loads(command("attack", *words, "--json")[1])
    images, model = open_image_set("toy:test"), original()
    right = decide(model(images.pixels()), ExitPolicy(0.6)).prediction == images.labels
    assert summary["clean_accuracy"]["num_hits"] == int(right.sum()) > summary["adversarial_accuracy"]["num_hits"]
    status, _, err = command("import-model", f"{project / 'theirs.py'}:Base", *options)
    assert status == 2 and err.startswith("error: ") and "there already" in err


def test_list_of_models_says_which_cannot_stop_early(command, project: Path) -> None:
    # Mutant: the sentence for every model, or for none.
    imported(project, **LAYERS)
    imported(project, "Joined", name="whole", **COSTS)
    lines = command("models")[1].split("whole: 3 exits")
    assert "cannot stop early" not in lines[0] and "cannot stop early" in lines[1]


def test_model_whose_code_is_gone_is_named_and_hides_no_other(command, project: Path) -> None:
    # Mutant: the ImportError let through, or ``verify`` ending at the first model that fails.
    imported(project, **LAYERS)
    save_model(pack_weights(original(), "float32"), toy_card(original(), "toy-early-exit", open_image_set("toy:test")))
    (project / "theirs.py").unlink()
    status, out, err = command("verify", "--json")
    assert status == 1 and [row["name"] for row in json.loads(out)["models"]] == ["toy-early-exit"]
    assert "error: mine: Importing" in err and "Traceback" not in err
    status, _, err = command("verify", "mine", "--json")
    assert status == 2 and err.startswith("error: Importing") and err.count("\n") == 1
    assert command("models")[0] == 0


# A network of torchvision, by the example that the docs print


@pytest.fixture
def documented(project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The files of docs/import-model.md with freshly drawn weights; returns its command."""
    pytest.importorskip("torchvision")
    text = (ROOT / "docs/import-model.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```(python|toml|)\n(.*?)```", text, flags=re.DOTALL))
    monkeypatch.chdir(project)
    Path("my_model.py").write_text(blocks["python"])
    Path("my_model.toml").write_text(blocks["toml"])
    scope: dict[str, Any] = {"__name__": "my_model"}
    exec(compile(blocks["python"], "my_model.py", "exec"), scope)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = scope["build"]().state_dict()
    torch.save({"model": {f"module.{key}": tensor for key, tensor in state.items()}}, "my_model.pt")
    return blocks[""].strip()


def test_documented_example_imports_a_torchvision_network(documented: str, command, project: Path) -> None:
    # Mutant: docs that name a field, an option or a layer which is not there; samples passed off as test images.
    python, flag, module, *words = shlex.split(documented)
    assert (python, flag, module) == ("python", "-m", "core")
    status, out, err = command(*words)
    assert status == 0, err
    assert "bundled samples only" in out and "no operating points" in out
    model, card = load_model("my-shufflenet")
    assert (card.label, card.num_exits, card.test_set, card.test[0].num_images) == (
        "ShuffleNet early-exit", 3, "cifar10:samples", 20,
    )  # fmt: skip
    assert (card.validation_accuracy, card.operating_points) == ((), ())
    assert card.exit_costs == exit_costs(model, 32) and 0 < card.exit_costs[0] < card.exit_costs[1] < 1
    (row,) = json.loads(command("verify", "--json")[1])["models"]
    assert row["agrees"] and row["image_set"] == "cifar10:samples"
    samples = open_image_set("cifar10:samples")
    for method in METHODS:
        spec = AttributionSpec(method=method, num_steps=2, num_samples=2, stride=4)
        assert attribute(model, samples.pixels()[:1], spec).values.flatten(2).any(dim=2).all() or "grad_cam" in method


def test_docs_name_every_field_of_the_card_file() -> None:
    # Mutant: a field added, renamed or removed without the docs.
    from core.importing.card_file import CardFile

    text = (ROOT / "docs/import-model.md").read_text(encoding="utf-8")
    table = text[text.index("## The card file") : text.index("## What its card says")]
    named = [
        word
        for line in table.splitlines()
        if line.startswith("| `")
        for word in re.findall(r"`(\w+)`", line.split("|")[1])
    ]
    assert sorted(named) == sorted(CardFile.__dataclass_fields__)


def test_card_of_an_import_comes_back_from_its_file(project: Path) -> None:
    # Mutant: ``imported`` lost on the way to JSON and back, so that the registry is asked for the architecture.
    card: ModelCard = imported(project, **LAYERS).card
    assert load_model("mine")[1].imported == card.imported
    assert card.imported and card.imported.factory == f"{project / 'theirs.py'}:Base"
