"""Prepared models: the same function computed faster; each docstring names the mutant that turns its test red."""

import copy
import gc
import operator
import threading
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import record_inputs, settle, toy_images, toy_model

from core.attacks import LinfAttack, attack
from core.attacks.success import SUCCESS_RULES
from core.checkpoints import list_models, load_model
from core.data import open_image_set
from core.errors import ExitLensError
from core.exits import ExitPolicy, decide
from core.machine import search_precision
from core.models import ARCHITECTURES, ExitModel, build_model
from core.models.classifiers import ExitNetwork
from core.models.fusing import fuse
from core.models.imported import ImportedNetwork
from core.models.prepared import _PREPARED, prepare, prepared
from core.models.tracing import ThreadTracer


@cache
def network(architecture: str) -> ExitNetwork:
    """One of the project's networks with random weights whose batch norms have seen images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(architecture, "cifar10", ARCHITECTURES[architecture].exit_positions)
        model.requires_grad_(False)
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_()
    images = toy_images(4, image_size=32, dtype=torch.float32)
    return settle(model, images)


def norms(model: ExitModel) -> list[nn.Module]:
    assert isinstance(model, nn.Module)
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def gradient(model: ExitModel, images: Tensor) -> Tensor:
    at = images.clone().requires_grad_(True)
    labels = torch.arange(len(images)) % model.num_classes
    loss = sum(F.cross_entropy(logits, labels, reduction="sum") for logits in model(at).unbind(dim=1))
    return torch.autograd.grad(loss, at)[0]


@torch.no_grad()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_folded_logits_are_the_logits(architecture):
    """Mutant: a norm folded without its mean, its epsilon or its bias, into another convolution, or left out."""
    model, images = copy.deepcopy(network(architecture)).double(), toy_images(3, image_size=32, seed=5)
    ready, expected = prepared(model), model(images)
    assert norms(model) and not norms(ready)
    assert ready.precision == "float64"
    assert (ready(images) - expected).abs().max() < 1e-9 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("name", list_models())
def test_folded_logits_of_shipped_models_are_their_float32_logits(name):
    """Mutant: as above, on weights that were trained."""
    model, card = load_model(name)
    images = open_image_set(f"{card.dataset}:samples").pixels()
    assert (prepared(model, "float32")(images) - model(images)).abs().max() < 1e-4


def test_gradients_of_a_prepared_model_are_those_of_the_model():
    """Mutant: a prepared copy whose classifiers pool otherwise, or whose exits have no gradient."""
    model, images = toy_model(num_exits=4), toy_images(5)
    ready = prepared(model)
    assert ready.precision == "float64"
    torch.testing.assert_close(gradient(ready, images), gradient(model, images), rtol=1e-9, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_stages_and_run_until_of_a_prepared_model_give_its_logits(precision):
    """Mutant: a cast that only the whole pass goes through."""
    model, images = network("vgg16"), toy_images(3, image_size=32, dtype=torch.float32)
    ready = prepared(model, precision)
    logits, features = ready(images), ready.begin(images)
    assert logits.dtype == torch.float32
    for exit_index in range(model.num_exits):
        features = ready.advance(features, exit_index)
        assert torch.equal(ready.classify(features, exit_index), logits[:, exit_index])
        assert torch.equal(ready.run_until(images, exit_index), logits[:, exit_index])
    assert (ready.num_exits, ready.num_classes, ready.exit_layers, ready.exit_costs, ready.stops_early) == (
        model.num_exits,
        model.num_classes,
        model.exit_layers,
        model.exit_costs,
        True,
    )


def test_run_until_of_a_prepared_model_stops():
    """Mutant: all blocks run and the others' logits thrown away."""
    ready = prepared(toy_model(num_exits=4))
    inputs = record_inputs(ready.network)
    ready.run_until(toy_images(2), 1)
    assert {name for name, seen in inputs.items() if seen} == {"stem", "block 0", "block 1", "exit 1"}


@torch.no_grad()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sixteen_bits_are_close_and_keep_the_smallest_perturbation(architecture):
    """Mutant: pixels cast to 16 bits before the first convolution, where 0.25/255 is nothing."""
    model, images = network(architecture), toy_images(4, image_size=32, dtype=torch.float32).clamp(0.6, 1)
    ready = prepared(model, "bfloat16")
    widths = {parameter.dtype for parameter in ready.parameters()}
    assert (ready.precision, widths) == ("bfloat16", {torch.float32, torch.bfloat16})
    logits = ready(images)
    assert logits.dtype == torch.float32
    # At the first exit: with random weights, roundings grow from block to block.
    expected = model(images)[:, 0]
    assert 0 < (logits[:, 0] - expected).abs().max() < 0.1 * expected.abs().max()
    moved = (images - 0.25 / 255 * torch.randn_like(images).sign()).clamp(0, 1)
    first = ready.network.backbone.stem if any(True for _ in ready.network.backbone.stem.parameters()) else None
    before, after = (
        ready.begin(at) if first else ready.network.backbone.blocks[0](ready.begin(at)) for at in (images, moved)
    )
    assert (before != after).double().mean() > 0.9 * (before > 0).double().mean()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fused_layers_say_the_same_with_and_without_a_gradient(architecture):
    """Mutant: a fused layer without ReLU, bias, stride or shortcut. In 32 bits: every processor has them."""
    ready = prepare(network(architecture), "float32")
    fuse(ready.backbone)
    assert any(type(module).__name__.startswith("_Fused") for module in ready.modules())
    images = toy_images(3, image_size=32, dtype=torch.float32)
    with torch.no_grad():
        fused = ready(images)
    plain = ready(images.requires_grad_(True))
    assert (fused - plain).abs().max() < 1e-4 * plain.abs().max()
    # Ten times what 32 bits round with these weights: seeds and processors differ by 6e-4 at the most.
    expected = network(architecture)(images)
    assert (plain - expected).abs().max() < 5e-3 * expected.abs().max()


def test_a_model_is_prepared_once_and_left_as_it_was():
    """Mutant: prepared anew at every call, or the model's own layers folded."""
    model = toy_model(num_exits=3, dtype=torch.float32)
    before, modules = copy.deepcopy(model.state_dict()), [type(module) for module in model.modules()]
    ready = prepared(model, "float32")
    assert prepared(model, "float32") is ready
    assert prepared(model, "bfloat16") is not ready
    assert prepared(toy_model(num_exits=3, dtype=torch.float32), "float32") is not ready
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert [type(module) for module in model.modules()] == modules
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    assert not ready.training and not any(parameter.requires_grad for parameter in ready.parameters())


def test_a_model_that_is_let_go_takes_its_prepared_copy_with_it():
    """Mutant: a copy that holds the model, so that neither is ever freed."""
    gc.collect()
    model = toy_model(num_exits=2, dtype=torch.float32)
    prepared(model)
    count = len(_PREPARED)
    del model
    gc.collect()
    assert len(_PREPARED) == count - 1


class Foreign(nn.Module):
    """A network of two exits; ``reads_twice``: a convolution that is also read past its norm."""

    def __init__(self, reads_twice: bool = False, branches: bool = False) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.later = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.one, self.two = nn.Linear(4, 3), nn.Linear(4, 3)
        self.reads_twice, self.branches = reads_twice, branches
        for norm in (self.norm, self.later):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)

    def forward(self, images: Tensor) -> list[Tensor]:
        if self.branches and images.sum() > 1e9:
            images = images / 2
        start = self.first(images)
        middle = F.relu(self.norm(start))
        end = F.relu(self.later(self.second(middle)) + (start if self.reads_twice else 0))
        return [self.one(middle.mean((2, 3))), self.two(end.mean((2, 3)))]


def foreign(*, layers: tuple[str, ...] = (), **build: bool) -> ImportedNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        inner = Foreign(**build).eval()
    place = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "exit_layers": layers}
    made = ImportedNetwork(inner, num_exits=2, num_classes=3, image_size=8, **place)
    return made.eval().requires_grad_(False)


@torch.no_grad()
@pytest.mark.parametrize(
    ("layers", "build", "left"),
    [
        ((), {}, 0),
        (("norm", "later"), {}, 0),
        ((), {"reads_twice": True}, 1),
        ((), {"branches": True}, 2),
    ],
    ids=["whole", "cut at its norms", "a convolution read twice", "cannot be traced"],
)
def test_imported_networks_are_folded_where_that_is_sure(layers, build, left):
    """Mutant: a norm folded although the convolution is read past it; pieces of a cut network that keep old layers."""
    model, images = foreign(layers=layers, **build), toy_images(4, dtype=torch.float32)
    ready = prepared(model, "bfloat16")
    assert ready.precision == "float32"
    torch.testing.assert_close(ready(images), model(images), rtol=0, atol=1e-5)
    torch.testing.assert_close(ready.run_until(images, 1), model(images)[:, 1], rtol=0, atol=1e-5)
    assert len(norms(ready)) == left


@pytest.mark.parametrize(
    ("says", "capabilities", "expected"),
    [
        ("", {"amx_bf16": True}, "bfloat16"),
        ("auto", {"avx512_bf16": True}, "bfloat16"),
        ("", {"avx512_f": True, "amx_tile": True}, "float32"),
        ("float32", {"amx_bf16": True}, "float32"),
        ("BFloat16", {}, "bfloat16"),
    ],
)
def test_search_is_as_wide_as_the_processor_says(says, capabilities, expected, monkeypatch):
    """Mutant: 16 bits assumed, or the user's wish ignored."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setenv("EXITLENS_PRECISION", says)
    assert search_precision(torch.device("cpu")) == expected
    assert prepared(toy_model(dtype=torch.float32)).precision == expected


def test_an_unknown_precision_is_refused(monkeypatch):
    """Mutant: a misspelt wish that goes by unseen."""
    monkeypatch.setenv("EXITLENS_PRECISION", "float8")
    with pytest.raises(ExitLensError, match=r"EXITLENS_PRECISION is 'float8'.*float32, bfloat16 or auto"):
        search_precision(torch.device("cpu"))


def test_what_is_found_with_another_model_is_judged_by_the_model():
    """Mutant: clean or adversarial logits taken from the model that searched, or the search made with the model."""
    model, other = toy_model(dtype=torch.float32), toy_model(dtype=torch.float32, seed=9)
    images, labels = toy_images(6, dtype=torch.float32), torch.arange(6) % 4
    spec, policy = LinfAttack(num_steps=3, objective="final"), ExitPolicy(0.7)
    result = attack(model, images, labels, spec, policy, search=prepared(other, "float32"), watch="every exit")
    torch.testing.assert_close(result.clean_logits, model(images))
    torch.testing.assert_close(result.adversarial_logits, model(result.adversarial))
    theirs = attack(other, images, labels, spec, policy)
    assert (result.perturbations == theirs.perturbations).double().mean() > 0.99
    assert not torch.equal(result.perturbations, attack(model, images, labels, spec, policy).perturbations)
    # The way there is what the searching model said of it; the end is what the model says.
    torch.testing.assert_close(result.steps[0].loss, theirs.steps[0].loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.steps[-1].confidence, model(result.adversarial).softmax(dim=-1).amax(dim=-1))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_result_says_how_wide_its_search_was(precision):
    """Mutant: float32 written whatever searched."""
    model, images = toy_model(dtype=torch.float32), toy_images(2, dtype=torch.float32)
    result = attack(
        model, images, torch.tensor([0, 1]), LinfAttack(num_steps=1), ExitPolicy(), search=prepared(model, precision)
    )
    assert result.precision == precision
    assert attack(model, images, torch.tensor([0, 1]), LinfAttack(num_steps=1), ExitPolicy()).precision == "float32"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.data("cifar10:test")
@pytest.mark.parametrize("objective", ["final", "taken"])
def test_prepared_search_finds_the_same_verdicts_where_an_attack_succeeds_half_the_time(objective):
    """Mutant: steps cut short on the way, or a gradient of another exit: fewer images fall, or others do."""
    model, card = load_model("cifar10-resnet56-early-exit")
    # Of 256 images the mean cost moves by 0.007 by chance, in 16 bits from one kind of processor to the next.
    images = open_image_set("cifar10:test:0-1023")
    spec = LinfAttack(epsilon=0.5 / 255, step_size=0.125 / 255, objective=objective)
    wrong, costs = [], []
    # In 16 bits where a search would be made so here: without the processor's own they take minutes.
    precisions = sorted({"float32", search_precision(torch.device("cpu"))})
    for search in (None, *(prepared(model, precision) for precision in precisions)):
        result = attack(model, images.pixels(), images.labels, spec, ExitPolicy(0.9), search=search, watch="nothing")
        assert 0.3 < result.success_rate(ExitPolicy(0.9)).value < 0.8
        wrong.append(SUCCESS_RULES[spec.success_rule].succeeded(result.case(ExitPolicy(0.9))))
        costs.append(decide(result.adversarial_logits, ExitPolicy(0.9)).costs(card.exit_costs).mean().item())
    for number in range(1, len(wrong)):
        assert (wrong[0] == wrong[number]).double().mean() >= 0.98
        assert costs[number] == pytest.approx(costs[0], abs=0.01)


def test_a_trace_leaves_what_other_threads_run_alone() -> None:
    # Mutant: torch's own tracer, which takes every thread's modules for parts of the network that it traces.
    other, images = toy_model(), toy_images(2)
    expected, found = other(images), []

    class Interrupted(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            thread = threading.Thread(target=lambda: found.append(other(images)))
            thread.start()
            thread.join()
            return features + 1

    graph = ThreadTracer().trace(Interrupted())
    assert len(graph.find_nodes(op="call_function", target=operator.add)) == 1
    assert torch.equal(found[0], expected)
