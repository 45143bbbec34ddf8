"""FGSM, PGD and MI-FGSM equal torchattacks and Foolbox, pixel by pixel in float64.

Peers know one (N, C) tensor, so each attacks one exit of a model. Step sizes are always spelled out and nobody
starts at random. A sign is arbitrary where what it is taken of is almost 0: such pixels are found by walking the
peer's own steps again, and left out. Over several steps one flipped sign would change every later gradient, so
there no pixel may be left out at all.
"""

from collections.abc import Callable
from functools import cache

import foolbox
import pytest
import torch
import torch.nn.functional as F
import torchattacks
from torch import Tensor, nn
from toys import settle, toy_images, toy_model

from core.attacks import PRESETS, LinfAttack
from core.attacks.linf import sign_steps
from core.exits import ExitPolicy
from core.models import ARCHITECTURES, build_model
from core.models.classifiers import ExitNetwork

EPSILON, STEP_SIZE, NUM_STEPS, GOAL_CLASS = 8 / 255, 2 / 255, 5, 2
EQUAL = 1e-6
# Relative to the image's largest: float64 leaves errors of about 1e-13 after 56 layers.
TINY = 1e-9

SPECS = {
    "fgsm": PRESETS["fgsm"](EPSILON),
    "pgd": PRESETS["pgd"](EPSILON, step_size=STEP_SIZE, num_steps=NUM_STEPS),
    "mi-fgsm": PRESETS["mi-fgsm"](EPSILON, step_size=STEP_SIZE, num_steps=NUM_STEPS, decay=1.0),
    "mi-fgsm, decay 0.5": PRESETS["mi-fgsm"](EPSILON, step_size=STEP_SIZE, num_steps=NUM_STEPS, decay=0.5),
}

# Model: its objective here, and the exit that the peer attacks.
CASES = {
    "toy static": ({"objective": "taken"}, 0),
    "toy early-exit": ({"objective": "final"}, 2),
    "toy early-exit, exit 1": ({"objective": "exit", "exit_index": 0}, 0),
    "resnet56 static": ({"objective": "final"}, 0),
    "resnet56 early-exit": ({"objective": "final"}, 6),
}


class AtExit(nn.Module):
    """One exit of an exit model, as peers want it; keeps every batch that it was asked about."""

    def __init__(self, model: ExitNetwork, exit_index: int) -> None:
        super().__init__()
        self.model, self.exit_index, self.asked = model, exit_index, []

    def forward(self, images: Tensor) -> Tensor:
        self.asked.append(images.detach().clone())
        return self.model.run_until(images, self.exit_index)


@cache
def model_and_images(name: str) -> tuple[ExitNetwork, Tensor]:
    """A float64 model with random weights, and images with black and white pixels, so that both bounds bind."""
    if name.startswith("toy"):
        model, images = toy_model(num_exits=1 if "static" in name else 3), toy_images(8)
    else:
        positions = ARCHITECTURES["resnet56"].exit_positions if "early" in name else ()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = build_model("resnet56", "cifar10", positions).double().requires_grad_(False)
        images = toy_images(2, image_size=32)
        settle(model, images)
    return model, torch.where(images < 0.1, 0.0, torch.where(images > 0.9, 1.0, images))


def by_torchattacks(classifier: AtExit, images: Tensor, classes: Tensor, spec: LinfAttack) -> Tensor:
    if spec.name == "fgsm":
        peer = torchattacks.FGSM(classifier, eps=spec.epsilon)
    elif spec.name == "pgd":
        peer = torchattacks.PGD(classifier, spec.epsilon, spec.step_size, spec.num_steps, random_start=False)
    else:
        peer = torchattacks.MIFGSM(classifier, spec.epsilon, spec.step_size, spec.num_steps, spec.decay)
    if spec.goal_class is not None:
        peer.set_mode_targeted_by_label(quiet=True)
    return peer(images, classes)


def by_foolbox(classifier: AtExit, images: Tensor, classes: Tensor, spec: LinfAttack) -> Tensor:
    model = foolbox.PyTorchModel(classifier, bounds=(0, 1), device="cpu")
    if spec.name == "fgsm":
        peer = foolbox.attacks.LinfFastGradientAttack(random_start=False)
    else:
        peer = foolbox.attacks.LinfPGD(abs_stepsize=spec.step_size, steps=spec.num_steps, random_start=False)
    criteria = foolbox.criteria.Misclassification, foolbox.criteria.TargetedMisclassification
    criterion = criteria[spec.goal_class is not None](classes)
    return peer(model, images, criterion, epsilons=spec.epsilon)[0]


def is_arbitrary(classifier: AtExit, classes: Tensor, spec: LinfAttack) -> Tensor:
    """Where what a step's sign is taken of was tiny at any step of the peer, (N, 3, H, W)."""
    arbitrary = torch.zeros_like(classifier.asked[0], dtype=torch.bool)
    momentum = torch.zeros_like(classifier.asked[0])
    for asked in classifier.asked[: spec.num_steps]:
        at = asked.clone().requires_grad_(True)
        loss = F.cross_entropy(classifier.model.run_until(at, classifier.exit_index), classes, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, at)
        momentum = spec.decay * momentum + gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
        arbitrary |= momentum.abs() < TINY * momentum.abs().amax(dim=(1, 2, 3), keepdim=True)
    return arbitrary


def assert_equals_peer(
    case: str, spec: LinfAttack, by_peer: Callable[[AtExit, Tensor, Tensor, LinfAttack], Tensor]
) -> None:
    model, images = model_and_images(case)
    aim, exit_index = CASES[case]
    labels = torch.arange(len(images)) % model.num_classes
    classes = labels if spec.goal_class is None else torch.full_like(labels, spec.goal_class)
    spec = LinfAttack(**{**vars(spec), **aim})
    classifier = AtExit(model, exit_index).eval()  # else torchattacks puts the model in training mode afterwards
    theirs = by_peer(classifier, images, classes, spec)
    ours, _ = sign_steps(model, images, labels, spec, ExitPolicy())
    assert theirs.dtype == ours.dtype == torch.float64

    arbitrary = is_arbitrary(classifier, classes, spec)
    assert torch.equal(classifier.asked[0], images)
    assert arbitrary.double().mean() < 0.01
    assert spec.num_steps == 1 or not arbitrary.any()
    assert (ours - theirs).abs()[~arbitrary].max() < EQUAL
    # Nothing stood still: most free pixels moved, and the budget was used up.
    moved = (theirs - images).abs()[(images > EPSILON) & (images < 1 - EPSILON)]
    assert (moved > STEP_SIZE / 2).double().mean() > 0.5
    assert moved.max().item() == pytest.approx(EPSILON)


@pytest.mark.parametrize("goal_class", [None, GOAL_CLASS], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("toy")])
def test_equals_torchattacks(case, spec, goal_class):
    """Mutant: no projection, momentum of signs or of plain gradients, another exit's loss, a step against the sign."""
    assert_equals_peer(case, LinfAttack(**{**vars(spec), "goal_class": goal_class}), by_torchattacks)


@pytest.mark.parametrize(
    ("name", "goal_class"),
    [
        ("fgsm", None),
        ("pgd", None),
        ("mi-fgsm", None),
        pytest.param("mi-fgsm, decay 0.5", None, marks=pytest.mark.slow),
        pytest.param("pgd", GOAL_CLASS, marks=pytest.mark.slow),
        pytest.param("mi-fgsm", GOAL_CLASS, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("resnet56")])
def test_equals_torchattacks_on_resnet56(case, name, goal_class):
    """Mutant: as above."""
    assert_equals_peer(case, LinfAttack(**{**vars(SPECS[name]), "goal_class": goal_class}), by_torchattacks)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("name", "goal_class"),
    [("fgsm", None), ("pgd", None), ("pgd", GOAL_CLASS)],  # Foolbox has no targeted FGSM.
    ids=["fgsm", "pgd", "pgd targeted"],
)
def test_equals_foolbox(name, goal_class, case):
    """Mutant: as above; Foolbox clips to the ball first and to [0, 1] second, in other words than torchattacks."""
    assert_equals_peer(case, LinfAttack(**{**vars(SPECS[name]), "goal_class": goal_class}), by_foolbox)
