"""Laws and arithmetic of the sign-step loop; each docstring names the mutant that turns its test red."""

import threading
from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from toys import linear_layers, linear_model, toy_images, toy_model

from core.attacks import PRESETS, AttackProgress, AttackResult, LinfAttack, attack
from core.attacks.linf import sign_steps
from core.attacks.objectives import objective_loss
from core.attacks.run import apply_perturbations, parts_of, store_perturbations
from core.attacks.steps import Step, observe
from core.attacks.success import SUCCESS_RULES, Case
from core.errors import Cancelled, ExitLensError
from core.exits import ExitPolicy, confidences, decide
from core.models.classifiers import ExitNetwork
from core.study.threads import limited_to

SURE_AT_70 = ExitPolicy(0.7)
EPSILON = 8 / 255
OBJECTIVES = {
    "taken": {"objective": "taken"},
    "final": {"objective": "final"},
    "mean": {"objective": "mean"},
    "exit 1": {"objective": "exit", "exit_index": 0},
}
TARGETED = {"untargeted": {}, "targeted": {"goal_class": 2}}


def hand_model(*weights: list[list[float]], biases: list[list[float]] | None = None) -> ExitNetwork:
    """A linear model on images of one pixel, three channels: one (C, 3) matrix of weights per exit."""
    model = linear_model(num_exits=len(weights), num_classes=len(weights[0]), image_size=1)
    for index, layer in enumerate(linear_layers(model)):
        layer.weight.copy_(torch.tensor(weights[index], dtype=torch.float64))
        layer.bias.copy_(torch.tensor(biases[index] if biases else [0.0] * len(weights[0]), dtype=torch.float64))
    return model


def pixel(*channels: float) -> Tensor:
    """One image of one pixel, (1, 3, 1, 1)."""
    return torch.tensor(channels, dtype=torch.float64).view(1, 3, 1, 1)


def adversarial_of(model: nn.Module, images: Tensor, labels: Tensor, spec: LinfAttack, **policy: object) -> Tensor:
    """Exact adversarial images, before they are stored."""
    return sign_steps(model, images, labels, spec, ExitPolicy(**{"threshold": 0.7, **policy}))[0]


def images_at_the_edges(num_images: int = 12) -> Tensor:
    """Random images in which a third of the pixels is black or white, so that [0, 1] binds as well."""
    images = toy_images(num_images)
    return torch.where(images < 1 / 6, 0.0, torch.where(images > 5 / 6, 1.0, images))


def labels_of(num_images: int, num_classes: int = 4) -> Tensor:
    return torch.arange(num_images) % num_classes


def mostly_right_labels(model: ExitNetwork, images: Tensor, policy: ExitPolicy = SURE_AT_70) -> Tensor:
    """The model's own answers, but for every fifth image the next class: there the model errs when clean."""
    answers = decide(model(images), policy).prediction
    return torch.where(torch.arange(len(images)) % 5 == 4, (answers + 1) % model.num_classes, answers)


def observed(logits: Tensor, labels: Tensor, spec: LinfAttack, policy: ExitPolicy) -> Step:
    """The record of one step of a sign-step attack."""
    return observe(logits, labels, objective_loss(logits, labels, spec, policy), policy)


def gradient_of(model: ExitNetwork, images: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Gradient of a loss of the logits with respect to the images, taken without the library."""
    images = images.clone().requires_grad_(True)
    return torch.autograd.grad(loss(model(images)), images)[0]


# ----------------------------------------------------------------------------------------------------------------
# Budgets


@pytest.mark.parametrize("random_start", [False, True], ids=["plain", "random start"])
@pytest.mark.parametrize("preset", PRESETS)
def test_images_stay_in_the_ball_and_in_the_pixel_range_when_both_bind(preset, random_start):
    """Mutant: either ``clamp`` of ``sign_steps`` dropped, or the two swapped with the ball around ``current``."""
    images, labels = images_at_the_edges(), labels_of(12)
    spec = PRESETS[preset](EPSILON, random_start=random_start)
    assert spec.num_steps * spec.step_size >= spec.epsilon
    adversarial = adversarial_of(toy_model(), images, labels, spec)
    perturbation = adversarial - images
    assert perturbation.abs().max() <= EPSILON + 1e-12
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    # Both bounds really bind: many free pixels end on the sphere, and black or white ones are held back.
    free = (images > EPSILON) & (images < 1 - EPSILON)
    assert (perturbation[free].abs() > EPSILON - 1e-9).double().mean() > 0.3
    assert (adversarial[~free] == images[~free]).double().mean() > 0.25


def test_epsilon_of_zero_returns_the_input_exactly():
    """Mutant: the projection onto the ball dropped, or done only where there is no random start."""
    images, labels = images_at_the_edges(), labels_of(12)
    for name, numbers in (("fgsm", {}), ("pgd", {"num_steps": 4}), ("mi-fgsm", {"num_steps": 4})):
        spec = PRESETS[name](0.0, random_start=True, **numbers)
        assert torch.equal(adversarial_of(toy_model(), images, labels, spec), images)
        result = attack(toy_model(), images, labels, spec, SURE_AT_70)
        assert torch.equal(result.adversarial, images)
        assert torch.equal(result.adversarial_logits, result.clean_logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(
    epsilon=st.sampled_from([1e-6, *(n / 255 for n in (0.25, 0.5, 1, 2, 3, 4, 8, 16)), 0.1, 0.3, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_stored_perturbations_never_leave_the_ball_nor_the_pixel_range(dtype, epsilon, seed):
    """Mutant: ``exact.half()`` returned as it is (see the next test), or no ``clamp`` in ``apply_perturbations``."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, 4, 4, generator=generator, dtype=dtype)
    wanted = images + epsilon * torch.sign(torch.rand(images.shape, generator=generator, dtype=dtype) - 0.3)
    stored = store_perturbations(images, wanted, epsilon)
    assert stored.dtype == torch.float16
    assert stored.double().abs().max() <= epsilon
    adversarial = apply_perturbations(images, stored)
    assert adversarial.dtype == dtype
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    # Not merely small: each is the nearest 16-bit number inside the ball, 11 bits or one 2**-24 away at most.
    lost = ((wanted - images).clamp(-epsilon, epsilon).double() - stored.double()).abs()
    assert (lost <= epsilon * 2**-10 + 2**-24).all()


def test_plain_rounding_of_common_budgets_would_leave_the_ball():
    """Mutant: budgets of the test above that 16-bit numbers hold exactly, so that it could not fail."""
    budgets = torch.tensor([n / 255 for n in (0.25, 0.5, 1, 2, 4, 8, 16)] + [0.1, 0.3], dtype=torch.float64)
    assert (budgets.half().double() > budgets).any()


# ----------------------------------------------------------------------------------------------------------------
# How the presets relate


@pytest.mark.parametrize("fields_", TARGETED.values(), ids=TARGETED)
@pytest.mark.parametrize("aim", OBJECTIVES.values(), ids=OBJECTIVES)
def test_pgd_of_one_full_size_step_is_fgsm_and_follows_the_sign_of_the_gradient(aim, fields_):
    """Mutant: FGSM's step not its epsilon, ``-`` for ``+``, or the gradient instead of its sign."""
    model, images, labels = toy_model(), images_at_the_edges(), labels_of(12)
    fgsm = PRESETS["fgsm"](EPSILON, **aim, **fields_)
    pgd = PRESETS["pgd"](EPSILON, step_size=EPSILON, num_steps=1, **aim, **fields_)
    classes = torch.full_like(labels, 2) if fields_ else labels

    def loss(logits: Tensor) -> Tensor:
        per_exit = torch.stack(
            [F.cross_entropy(exit_logits, classes, reduction="none") for exit_logits in logits.unbind(1)], 1
        )
        if aim["objective"] == "mean":
            return per_exit.mean(dim=1).sum()
        taken = decide(logits.detach(), SURE_AT_70).answered_exit
        exits = {"taken": taken, "final": torch.full_like(taken, 2), "exit": torch.zeros_like(taken)}[aim["objective"]]
        return per_exit[torch.arange(12), exits].sum()

    direction = gradient_of(model, images, loss).sign() * (-1 if fields_ else 1)
    expected = (images + EPSILON * direction).clamp(0, 1)
    assert (adversarial_of(model, images, labels, fgsm) - expected).abs().max() < 1e-12
    assert (adversarial_of(model, images, labels, pgd) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("random_start", [False, True], ids=["plain", "random start"])
def test_mi_fgsm_without_decay_is_pgd(random_start):
    """Mutant: ``spec.decay`` dropped from the momentum (every attack accumulates), or 0 in its place (none does)."""
    model, images, labels = toy_model(), toy_images(12), labels_of(12)
    pgd, without_decay, with_decay = (
        adversarial_of(model, images, labels, spec)
        for spec in (
            PRESETS["pgd"](EPSILON, random_start=random_start),
            PRESETS["mi-fgsm"](EPSILON, decay=0.0, random_start=random_start),
            PRESETS["mi-fgsm"](EPSILON, random_start=random_start),
        )
    )
    assert torch.equal(pgd, without_decay)
    assert not torch.equal(pgd, with_decay)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0, 3.0])
def test_mi_fgsm_of_one_full_step_is_fgsm_at_any_decay(decay):
    """Mutant: momentum that does not start at zero, or a first gradient scaled by 1 - decay."""
    model, images, labels = toy_model(), toy_images(12), labels_of(12)
    spec = PRESETS["mi-fgsm"](EPSILON, step_size=EPSILON, num_steps=1, decay=decay)
    fgsm = adversarial_of(model, images, labels, PRESETS["fgsm"](EPSILON))
    assert torch.equal(adversarial_of(model, images, labels, spec), fgsm)


# ----------------------------------------------------------------------------------------------------------------
# Arithmetic by hand
#
# An image is x = (x0, x1, x2), its logits z = (x1, x2, 4 x0 - x2 - 1.1), its class y = 0.
# At x = (.5, .5, .5): z = (.5, .5, .4), p = (.344253, .344253, .311493), so the gradient
# W^T (p - y) = (4 p2, p0 - 1, p1 - p2) = (1.245973, -.655747, .032760).
# One step of .1 later x = (.6, .4, .6), z = (.4, .6, .7), p = (.280013, .342009, .377978) and the gradient
# (1.511913, -.719987, -.035969): the third channel has turned.

HAND_WEIGHTS = [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [4.0, 0.0, -1.0]]
HAND_BIASES = [[0.0, 0.0, -1.1]]


def hand_attack(**fields_: object) -> list[float]:
    spec = LinfAttack(**{"step_size": 0.1, "epsilon": 0.2, "num_steps": 2, **fields_})
    model = hand_model(HAND_WEIGHTS, biases=HAND_BIASES)
    return adversarial_of(model, pixel(0.5, 0.5, 0.5), torch.tensor([0]), spec).flatten().tolist()


def test_one_step_on_a_linear_model_equals_the_numbers_worked_out_by_hand():
    """Mutant: the loop returns its input, descends, or steps by epsilon instead of ``step_size``."""
    assert hand_attack(num_steps=1) == pytest.approx([0.6, 0.4, 0.6], abs=1e-12)
    assert hand_attack(num_steps=1, step_size=0.2) == pytest.approx([0.7, 0.3, 0.7], abs=1e-12)


def test_two_steps_on_a_linear_model_equal_the_numbers_worked_out_by_hand():
    """Mutant: the gradient taken at the clean image at every step (the third channel would not turn back)."""
    assert hand_attack() == pytest.approx([0.7, 0.3, 0.5], abs=1e-12)


def test_projection_of_two_steps_equals_the_numbers_worked_out_by_hand():
    """Mutant: the ball drawn around ``current`` instead of ``images``, or no ball."""
    assert hand_attack(epsilon=0.15) == pytest.approx([0.65, 0.35, 0.5], abs=1e-12)


# Divided by its mean absolute value the first gradient is (1.932260, -1.016935, .050804), the second
# (2, -.952419, -.047581). The third channel's momentum after two steps is decay * .050804 - .047581: positive from
# a decay of .9366 on. Plain gradients (.032760 - .035969) would turn it at decay 1, signs (1 - 1) would stop it.
@pytest.mark.parametrize(("decay", "third"), [(0.0, 0.5), (0.9, 0.5), (0.95, 0.7), (1.0, 0.7)])
def test_two_momentum_steps_equal_the_numbers_worked_out_by_hand(decay, third):
    """Mutant: gradients not divided by their mean absolute value, signs accumulated, or 1 - decay on the new one."""
    assert hand_attack(decay=decay) == pytest.approx([0.7, 0.3, third], abs=1e-12)


@pytest.mark.parametrize("goal_class", [None, 1])
def test_linear_softmax_has_the_closed_form_for_one_step_and_for_two(goal_class):
    """Mutant: ``return loss`` whatever the goal, or ``classes = labels`` for a targeted attack."""
    model, images, labels = linear_model(num_exits=1), toy_images(16, image_size=2), labels_of(16, 3)
    layer, epsilon, size = linear_layers(model)[0], 0.1, 0.07

    def ascent(at: Tensor) -> Tensor:
        softmax = (at.flatten(1) @ layer.weight.T + layer.bias).softmax(dim=1)
        error = softmax - F.one_hot(labels if goal_class is None else torch.full_like(labels, goal_class), 3)
        return (error @ layer.weight).view_as(at).sign() * (1 if goal_class is None else -1)

    once = (images + size * ascent(images)).clamp(0, 1)
    twice = once + size * ascent(once)
    twice = torch.minimum(torch.maximum(twice, images - epsilon), images + epsilon).clamp(0, 1)
    for num_steps, expected in ((1, once), (2, twice)):
        spec = LinfAttack(epsilon=epsilon, step_size=size, num_steps=num_steps, goal_class=goal_class)
        assert (adversarial_of(model, images, labels, spec) - expected).abs().max() < 1e-12


# ----------------------------------------------------------------------------------------------------------------
# Objectives


def test_attack_on_the_exit_taken_looks_it_up_again_at_every_step():
    """Mutant: the exit taken by the clean image attacked to the end, or the final exit always."""
    # Exit 1 sees the first channel only, the final exit the second: p(class 0) is sigmoid(4 x). At 0.5 that is
    # .881, at .4 it is .832: at a threshold of .85 one step of .1 sends the image on to the final exit.
    model = hand_model([[4.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    image, label, policy = pixel(0.5, 0.5, 0.5), torch.tensor([0]), {"threshold": 0.85}

    def run(**aim: object) -> list[float]:
        spec = LinfAttack(epsilon=0.2, step_size=0.1, num_steps=2, **aim)
        return adversarial_of(model, image, label, spec, **policy).flatten().tolist()

    assert run() == pytest.approx([0.4, 0.4, 0.5])
    assert run(objective="exit", exit_index=0) == pytest.approx([0.3, 0.5, 0.5])
    assert run(objective="final") == pytest.approx([0.5, 0.3, 0.5])
    assert run(objective="mean") == pytest.approx([0.3, 0.3, 0.5])
    steps = attack(model, image, label, LinfAttack(epsilon=0.2, step_size=0.1, num_steps=2), ExitPolicy(0.85)).steps
    assert [step.exit_taken.item() for step in steps] == [0, 1, 1]


@pytest.mark.parametrize(("fallback", "expected"), [("final", [0.4, 0.2, 0.5]), ("most_confident", [0.3, 0.3, 0.5])])
def test_attack_on_the_exit_taken_follows_the_fallback(fallback, expected):
    """Mutant: ``computed_exit`` instead of ``answered_exit`` in ``objective_loss``."""
    # As above, but the final exit is less sure (x = .3: .769) than exit 1 is after one step (.832).
    model = hand_model([[4.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    spec = LinfAttack(epsilon=0.2, step_size=0.1, num_steps=2)
    image = adversarial_of(model, pixel(0.5, 0.3, 0.5), torch.tensor([0]), spec, threshold=0.85, fallback=fallback)
    assert image.flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("goal_class", [None, 1])
@pytest.mark.parametrize(
    ("aim", "shares"),
    [
        ({"objective": "exit", "exit_index": 0}, (1, 0, 0)),
        ({"objective": "exit", "exit_index": 1}, (0, 1, 0)),
        ({"objective": "exit", "exit_index": 2}, (0, 0, 1)),
        ({"objective": "final"}, (0, 0, 1)),
        ({"objective": "mean"}, (1 / 3, 1 / 3, 1 / 3)),
    ],
)
def test_loss_and_gradient_of_an_objective_equal_those_by_hand(aim, shares, goal_class):
    """Mutant: another exit's loss, the mean over images, the sum of exits for their mean, or the sign kept."""
    model, images, labels = linear_model(num_exits=3), toy_images(10, image_size=2), labels_of(10, 3)
    classes = labels if goal_class is None else torch.full_like(labels, goal_class)
    way = 1 if goal_class is None else -1
    loss, gradient = torch.zeros(10, dtype=torch.float64), torch.zeros(10, 12, dtype=torch.float64)
    for layer, share in zip(linear_layers(model), shares, strict=True):
        logits = images.flatten(1) @ layer.weight.T + layer.bias
        loss += way * share * (logits.exp().sum(dim=1).log() - logits[torch.arange(10), classes])
        gradient += way * share * (logits.softmax(dim=1) - F.one_hot(classes, 3)) @ layer.weight
    spec = LinfAttack(epsilon=0.05, step_size=0.05, num_steps=1, goal_class=goal_class, **aim)
    adversarial, steps = sign_steps(model, images, labels, spec, SURE_AT_70)
    assert steps[0].loss.tolist() == pytest.approx(loss.tolist(), abs=1e-12)
    expected = (images + 0.05 * gradient.sign().view_as(images)).clamp(0, 1)
    assert (adversarial - expected).abs().max() < 1e-12


def test_each_objective_ends_somewhere_else():
    """Mutant: an objective that is silently another one."""
    model, images, labels = toy_model(), toy_images(12), labels_of(12)
    ends = [adversarial_of(model, images, labels, LinfAttack(**aim)) for aim in OBJECTIVES.values()]
    assert all(not torch.equal(one, other) for index, one in enumerate(ends) for other in ends[:index])


# ----------------------------------------------------------------------------------------------------------------
# Zero gradients


@pytest.mark.parametrize("preset", PRESETS)
def test_a_zero_gradient_gives_the_image_back_and_not_nan(preset):
    """Mutant: a sign that is +1 where there is no gradient, as in ``where(momentum >= 0, 1, -1)``."""
    model, images, labels = linear_model(), toy_images(5, image_size=2), labels_of(5, 3)
    for layer in linear_layers(model):
        layer.weight.zero_()
    assert torch.equal(adversarial_of(model, images, labels, PRESETS[preset]()), images)
    result = attack(model, images, labels, PRESETS[preset](), SURE_AT_70)
    assert torch.equal(result.adversarial, images)
    assert all(torch.isfinite(step.loss).all() for step in result.steps)


class DeafToBlack(nn.Module):
    """Any model, but the logits of a black image do not depend on its pixels."""

    def __init__(self, model: ExitNetwork) -> None:
        super().__init__()
        self.model, self.num_exits, self.num_classes = model, model.num_exits, model.num_classes

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images * (images.detach().amax(dim=(1, 2, 3), keepdim=True) > 0))


def test_an_image_without_gradient_does_not_stop_the_others():
    """Mutant: one size for the whole batch, or a batch given up where one gradient is zero."""
    model, images, labels = toy_model(), toy_images(4), labels_of(4)
    images[1] = 0
    spec = PRESETS["mi-fgsm"]()
    adversarial = adversarial_of(DeafToBlack(model), images, labels, spec)
    assert torch.equal(adversarial[1], images[1])
    for row in (0, 2, 3):
        alone = adversarial_of(model, images[[row]], labels[[row]], spec)
        assert torch.equal(adversarial[[row]], alone)


class FlatFrom(nn.Module):
    """Class 1 grows with the first channel up to an edge and not beyond."""

    num_exits, num_classes = 1, 2

    def __init__(self, edge: float) -> None:
        super().__init__()
        self.edge = edge

    def forward(self, images: Tensor) -> Tensor:
        grows = images[:, 0, 0, 0].clamp(max=self.edge)
        return torch.stack([torch.zeros_like(grows), grows], dim=1)[:, None]


@pytest.mark.parametrize(("decay", "first"), [(0.0, 0.6), (1.0, 0.7)])
def test_momentum_carries_an_image_over_a_flat_place_and_plain_steps_stay(decay, first):
    """Mutant: a zero gradient resets the momentum, ends the attack, or is divided by its size of 0.

    The quotient is NaN, whose sign torch takes to be 0: the image would silently stop for good.
    """
    spec = LinfAttack(epsilon=0.2, step_size=0.1, num_steps=2, decay=decay)
    adversarial = adversarial_of(FlatFrom(0.55), pixel(0.5, 0.5, 0.5), torch.tensor([0]), spec)
    assert adversarial.flatten().tolist() == pytest.approx([first, 0.5, 0.5])


# ----------------------------------------------------------------------------------------------------------------
# Batches, order, random starts


@pytest.mark.parametrize("random_start", [False, True], ids=["plain", "random start"])
@pytest.mark.parametrize("preset", PRESETS)
def test_batch_size_and_order_change_nothing(preset, random_start):
    """Mutant: one generator for all starts, momentum divided by the mean over the batch, or the last batch dropped."""
    model, images, labels = toy_model(), toy_images(11), labels_of(11)
    spec = PRESETS[preset](random_start=random_start)
    whole = attack(model, images, labels, spec, SURE_AT_70)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    for size in (1, 3, 10):
        part = attack(model, images, labels, spec, SURE_AT_70, batch_size=size)
        shuffled = attack(model, images[order], labels[order], spec, SURE_AT_70, batch_size=size)
        _assert_same(part, whole, torch.arange(11))
        _assert_same(shuffled, whole, order)


def _assert_same(result: AttackResult, whole: AttackResult, rows: Tensor) -> None:
    assert torch.equal(result.perturbations, whole.perturbations[rows])
    assert torch.allclose(result.clean_logits, whole.clean_logits[rows], rtol=0, atol=1e-12)
    assert torch.allclose(result.adversarial_logits, whole.adversarial_logits[rows], rtol=0, atol=1e-12)
    for step, whole_step in zip(result.steps, whole.steps, strict=True):
        for field in fields(Step):
            one, other = getattr(step, field.name), getattr(whole_step, field.name)[rows]
            assert torch.allclose(one, other, rtol=0, atol=1e-12), field.name


def _starts(images: Tensor, seed: int, epsilon: float = EPSILON) -> Tensor:
    """Where attacks start: one step of no length."""
    spec = LinfAttack(epsilon=epsilon, step_size=0.0, num_steps=1, random_start=True, seed=seed)
    return adversarial_of(toy_model(), images, labels_of(len(images)), spec)


def test_seed_of_the_spec_and_nothing_else_chooses_the_random_start():
    """Mutant: the seed shifted into bits that torch's generator ignores, or global randomness used."""
    images = toy_images(4)
    state = torch.get_rng_state()
    first = _starts(images, 0)
    torch.manual_seed(1)
    assert torch.equal(first, _starts(images, 0))
    torch.set_rng_state(state)
    for seed in (1, 2, 2**31 - 1):
        # Uniform starts differ at almost every pixel, and their noise is not correlated.
        noise = torch.stack([(start - images).flatten() for start in (first, _starts(images, seed))])
        assert torch.corrcoef(noise)[0, 1].abs() < 0.2


def test_random_start_is_uniform_in_the_ball_and_own_to_each_image():
    """Mutant: a start on the corners of the ball, one noise for all images, or one side of the ball only."""
    images = toy_images(16) * 0.8 + 0.1
    noise = (_starts(images, 0) - images) / EPSILON
    assert noise.abs().max() <= 1 + 1e-9
    assert noise.mean().item() == pytest.approx(0, abs=0.05)
    assert noise.var().item() == pytest.approx(1 / 3, abs=0.03)
    # Between two images the noise is not correlated.
    assert (torch.corrcoef(noise.flatten(1)) - torch.eye(16)).abs().max() < 0.4


# ----------------------------------------------------------------------------------------------------------------
# Nothing is changed


def _hooks(model: nn.Module) -> int:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, name)) for module in model.modules() for name in names) + sum(
        len(parameter._backward_hooks or {}) for parameter in model.parameters()
    )


@pytest.mark.parametrize("outcome", ["finished", "cancelled"])
def test_model_buffers_flags_mode_images_and_labels_are_left_as_they_were(outcome):
    """Mutant: ``loss.sum().backward()``, ``model.train()``, ``requires_grad_(False)`` on the model, or no ``clone``."""
    model, images, labels = toy_model(), toy_images(4), labels_of(4)
    parameters = dict(model.named_parameters())
    parameters["backbone.tail.3.weight"].requires_grad_(True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    attributes = [set(vars(module)) for module in model.modules()]
    old_images, old_labels, cancel = images.clone(), labels.clone(), threading.Event()
    if outcome == "cancelled":
        cancel.set()
        with pytest.raises(Cancelled):
            attack(model, images, labels, LinfAttack(random_start=True), SURE_AT_70, cancel=cancel)
    else:
        for spec in (LinfAttack(), LinfAttack(stop_when_fooled=True, decay=1.0)):
            attack(model, images, labels, spec, SURE_AT_70, cancel=cancel)
            sign_steps(model, images, labels, spec, SURE_AT_70)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name for name, value in parameters.items() if value.requires_grad} == {"backbone.tail.3.weight"}
    assert all(parameter.grad is None for parameter in parameters.values())
    assert [module.training for module in model.modules()] == modes
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert _hooks(model) == 0
    assert torch.equal(images, old_images)
    assert torch.equal(labels, old_labels)
    assert not images.requires_grad


# ----------------------------------------------------------------------------------------------------------------
# Targets and verdicts


@pytest.mark.parametrize("policy", [ExitPolicy(0.7), ExitPolicy(0.9, "most_confident")], ids=str)
def test_targeted_success_means_that_the_policy_answers_the_goal_and_its_loss_fell(policy):
    """Mutant: the loss to the goal climbed, or a targeted attack judged by ``misclassified_taken``."""
    model, images = toy_model(), toy_images(24)
    labels = mostly_right_labels(model, images, policy)
    result = attack(model, images, labels, LinfAttack(goal_class=2, objective="mean"), policy)
    answers = decide(model(result.adversarial), policy).prediction
    attackable = (decide(model(images), policy).prediction == labels) & (labels != 2)
    rate = result.success_rate(policy)
    assert rate.num_images == int(attackable.sum()) > 0
    assert rate.num_hits == int((answers == 2)[attackable].sum()) > 0

    def loss_to_goal(at: Tensor) -> Tensor:
        return -model(at).log_softmax(dim=-1)[..., 2].mean(dim=1)

    assert (loss_to_goal(result.adversarial) < loss_to_goal(images)).all()
    assert result.steps[-1].loss.tolist() == pytest.approx((-loss_to_goal(result.adversarial)).tolist(), abs=1e-12)


def test_an_untargeted_attack_raises_the_loss_of_every_image():
    """Mutant: the loop descends, or returns its input."""
    model, images, labels = toy_model(), toy_images(24), labels_of(24)
    for aim in ({"objective": "final"}, {"objective": "mean"}):
        steps = attack(model, images, labels, LinfAttack(**aim), SURE_AT_70).steps
        assert (steps[-1].loss > steps[0].loss).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fields_", [*TARGETED.values(), {"objective": "final"}], ids=[*TARGETED, "final"])
def test_success_predicted_again_from_what_is_stored_is_the_success_reported(fields_, dtype):
    """Mutant: verdicts from the exact adversarial images instead of the stored float16 perturbations."""
    model = toy_model(dtype=dtype)
    images = toy_images(24, dtype=dtype)
    labels = mostly_right_labels(model, images)
    result = attack(model, images, labels, LinfAttack(**fields_), SURE_AT_70)
    adversarial = (result.images + result.perturbations.to(dtype)).clamp(0, 1)
    clean, again = model(images), model(adversarial)
    assert result.perturbations.dtype == torch.float16
    assert torch.equal(result.adversarial, adversarial)
    assert torch.equal(result.clean_logits, clean)
    assert torch.equal(result.adversarial_logits, again)
    rule = SUCCESS_RULES[result.spec.success_rule]
    case = Case(clean, again, labels, SURE_AT_70, result.spec.goal_class)
    rate = result.success_rate(SURE_AT_70)
    assert rate.num_images == int(rule.attackable(case).sum()) > 0
    assert rate.num_hits == int((rule.succeeded(case) & rule.attackable(case)).sum()) > 0
    # What is stored differs from what was searched, so this test can fail.
    exact = adversarial_of(model, images, labels, result.spec)
    assert not torch.equal(exact, adversarial)
    assert (exact - adversarial).abs().max() < EPSILON * 2**-10


def test_result_keeps_images_labels_spec_and_policy():
    """Mutant: results in another order than the images, or ``made_at`` left at the default policy."""
    images, labels, spec, policy = toy_images(5), labels_of(5), LinfAttack(num_steps=2), ExitPolicy(0.55)
    result = attack(toy_model(), images, labels, spec, policy, batch_size=2)
    assert torch.equal(result.images, images)
    assert torch.equal(result.labels, labels)
    assert (result.spec, result.made_at) == (spec, policy)
    assert result.seconds > 0


# ----------------------------------------------------------------------------------------------------------------
# The record of the steps


@pytest.mark.parametrize("fields_", [{}, {"goal_class": 2, "decay": 1.0}, {"objective": "mean"}], ids=str)
def test_record_holds_the_clean_image_every_step_and_the_stored_result(fields_):
    """Mutant: the record shifted by one step, the start left out, or the last entry of the unstored images."""
    model, images, labels = toy_model(), toy_images(7), labels_of(7)
    spec = LinfAttack(num_steps=4, **fields_)
    result = attack(model, images, labels, spec, SURE_AT_70, batch_size=3)
    assert len(result.steps) == spec.num_steps + 1
    at_step = [images]
    at_step += [adversarial_of(model, images, labels, LinfAttack(num_steps=n, **fields_)) for n in (1, 2, 3)]
    at_step += [result.adversarial]
    for step, at in zip(result.steps, at_step, strict=True):
        expected = observed(model(at), labels, spec, SURE_AT_70)
        for field in fields(Step):
            one, other = getattr(step, field.name), getattr(expected, field.name)
            assert torch.allclose(one, other, rtol=0, atol=1e-12), field.name


def test_one_record_says_what_every_exit_says():
    """Mutant: the true class's probability read at the predicted class, or exits and images swapped."""
    logits, labels = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0)).double(), labels_of(5)
    step = observed(logits, labels, LinfAttack(objective="final"), ExitPolicy(0.6))
    shares = logits.exp() / logits.exp().sum(dim=2, keepdim=True)
    for image in range(5):
        for exit_index in range(3):
            share = shares[image, exit_index]
            assert step.predicted[image, exit_index] == share.argmax()
            assert step.confidence[image, exit_index].item() == pytest.approx(share.max().item())
            assert step.true_probability[image, exit_index].item() == pytest.approx(share[labels[image]].item())
        sure = [index for index in (0, 1) if shares[image, index].max() >= 0.6]
        assert step.exit_taken[image] == (sure[0] if sure else 2)
        assert step.loss[image].item() == pytest.approx(-shares[image, 2, labels[image]].log().item())


def test_with_a_random_start_the_record_begins_at_the_start():
    """Mutant: the clean image recorded as step 0 although the attack began elsewhere."""
    model, images, labels = toy_model(), toy_images(4), labels_of(4)
    result = attack(model, images, labels, LinfAttack(random_start=True), SURE_AT_70)
    start = observed(model(_starts(images, 0)), labels, result.spec, SURE_AT_70)
    assert torch.allclose(result.steps[0].confidence, start.confidence, rtol=0, atol=1e-12)
    assert not torch.allclose(result.steps[0].confidence, confidences(result.clean_logits))


@pytest.mark.parametrize("fields_", [{}, {"decay": 1.0}, {"goal_class": 2}, {"objective": "final"}], ids=str)
def test_stop_when_fooled_keeps_the_first_success_and_changes_nothing_for_the_others(fields_):
    """Mutant: frozen one step late, thawed again, the whole batch stopped, or success judged at the clean image."""
    model, images = toy_model(), toy_images(24)
    labels = mostly_right_labels(model, images)
    numbers = {"step_size": 0.5 / 255, "num_steps": 8, **fields_}
    path = [images]
    path += [adversarial_of(model, images, labels, LinfAttack(**{**numbers, "num_steps": n})) for n in range(1, 9)]
    spec = LinfAttack(stop_when_fooled=True, **numbers)
    rule = SUCCESS_RULES[spec.success_rule]
    fooled = torch.stack(
        [rule.succeeded(Case(model(images), model(at), labels, SURE_AT_70, spec.goal_class)) for at in path[:-1]]
    )
    # The step at which each image first succeeds; those that never do run to the end.
    first = torch.where(fooled.any(dim=0), fooled.int().argmax(dim=0), spec.num_steps)
    assert {0, spec.num_steps} < set(first.tolist())
    expected = torch.stack([path[step][image] for image, step in enumerate(first.tolist())])
    assert torch.equal(adversarial_of(model, images, labels, spec), expected)
    result = attack(model, images, labels, spec, SURE_AT_70, batch_size=5)
    assert torch.equal(result.perturbations, store_perturbations(images, expected, spec.epsilon))
    assert not torch.equal(expected, path[-1])


def test_of_stopped_attacks_on_each_exit_one_that_fooled_is_kept():
    """Mutant: the largest loss kept, which is that of an attack that never fooled the image and so never stopped."""
    model, images = toy_model(), toy_images(40)
    labels = mostly_right_labels(model, images)
    numbers = {"epsilon": 4 / 255, "step_size": 0.5 / 255, "num_steps": 10, "stop_when_fooled": True}
    rule = SUCCESS_RULES["misclassified_taken"]

    def fools(**aim):
        found = adversarial_of(model, images, labels, LinfAttack(**numbers, **aim))
        return rule.succeeded(Case(model(images), model(found), labels, SURE_AT_70))

    on_one = torch.stack([fools(objective="exit", exit_index=index) for index in range(model.num_exits)])
    assert torch.equal(fools(objective="max-average"), on_one.any(dim=0))
    assert on_one.any(dim=0).sum() > 0 and (on_one.any(dim=0) & ~on_one.all(dim=0)).any()


def test_a_search_that_stops_is_exact():
    """Mutant: an image left alone for good because 16 bits call it fooled."""
    assert LinfAttack(stop_when_fooled=True).search_precision == "float32"
    assert LinfAttack().search_precision is None


# ----------------------------------------------------------------------------------------------------------------
# Progress and cancel


class Counted(nn.Module):
    """Counts the calls of a model."""

    def __init__(self, model: ExitNetwork) -> None:
        super().__init__()
        self.model, self.num_calls = model, 0
        self.num_exits, self.num_classes = model.num_exits, model.num_classes

    def forward(self, images: Tensor) -> Tensor:
        self.num_calls += 1
        return self.model(images)


def test_cancel_ends_the_attack_within_one_step():
    """Mutant: the token looked at once per batch, or the result so far returned."""
    cancel, model, seen = threading.Event(), Counted(toy_model()), []

    def on_progress(progress: AttackProgress) -> None:
        seen.append(progress.step)
        if len(seen) == 7:
            cancel.set()

    with limited_to(1), pytest.raises(Cancelled):
        attack(
            model,
            toy_images(9),
            labels_of(9),
            LinfAttack(num_steps=5),
            SURE_AT_70,
            batch_size=3,
            on_progress=on_progress,
            cancel=cancel,
        )
    # Five steps of the first batch, two of the second, and nothing after them.
    assert seen == [1, 2, 3, 4, 5, 1, 2]
    assert model.num_calls == (1 + 5 + 1) + (1 + 2)


def test_images_shared_out_among_threads_come_back_in_their_order_and_the_same(monkeypatch):
    """Mutants: parts mixed up or cut short; a part left to the next thread; a thread that keeps all threads."""
    seen: dict[str, set[int]] = {}  # by name: the number of a thread that has ended is given to the next one

    class Watched(Counted):
        def forward(self, images: Tensor) -> Tensor:
            name = threading.current_thread().name
            seen.setdefault(name, set()).update([len(images), -torch.get_num_threads()])
            return super().forward(images)

    monkeypatch.setattr("core.attacks.run.MIN_PIXELS", 1)  # toy images are not worth it
    model, images = toy_model(), toy_images(14)
    spec, before = LinfAttack(num_steps=3, random_start=True), torch.get_num_threads()
    with limited_to(1):
        alone = attack(model, images, labels_of(14), spec, SURE_AT_70, watch="every exit")
    with limited_to(3):
        shared = attack(Watched(model), images, labels_of(14), spec, SURE_AT_70, watch="every exit", batch_size=9)
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before
    assert threading.current_thread().name not in seen and len(seen) == 3
    assert sorted(max(sizes) for sizes in seen.values()) == [3, 3, 3] and all(-1 in sizes for sizes in seen.values())
    assert torch.equal(shared.perturbations, alone.perturbations)
    torch.testing.assert_close(shared.adversarial_logits, alone.adversarial_logits)
    torch.testing.assert_close(shared.steps[1].confidence, alone.steps[1].confidence)


def test_a_token_set_beforehand_costs_one_step_at_most():
    """Mutant: the token looked at after the last step only."""
    cancel, model = threading.Event(), Counted(toy_model())
    cancel.set()
    with pytest.raises(Cancelled):
        attack(model, toy_images(4), labels_of(4), LinfAttack(num_steps=50), SURE_AT_70, cancel=cancel)
    assert model.num_calls <= 2


def test_progress_rises_step_by_step_to_one():
    """Mutant: shares counted per batch, or the last and smaller batch counted as a full one."""
    seen: list[AttackProgress] = []
    attack(
        toy_model(),
        toy_images(7),
        labels_of(7),
        LinfAttack(num_steps=4),
        SURE_AT_70,
        batch_size=3,
        on_progress=seen.append,
    )
    by_hand = [(done * 4 + count * step) / 28 for done, count in ((0, 3), (3, 3), (6, 1)) for step in (1, 2, 3, 4)]
    assert [progress.share for progress in seen] == pytest.approx(by_hand)
    assert seen[-1].share == 1
    assert all(one.share < other.share and one.seconds <= other.seconds for one, other in pairwise(seen))
    assert [progress.step for progress in seen] == [1, 2, 3, 4] * 3
    assert [progress.num_done for progress in seen] == [0] * 4 + [3] * 4 + [6] * 4
    assert {(progress.num_steps, progress.num_images) for progress in seen} == {(4, 7)}


# ----------------------------------------------------------------------------------------------------------------
# Specs and their errors


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": -0.01},
        {"epsilon": 1.01},
        {"epsilon": float("nan")},
        {"step_size": -0.01},
        {"step_size": 2.0},
        {"decay": -0.1},
        {"decay": 10.5},
        {"num_steps": 0},
        {"num_steps": 1001},
        {"seed": -1},
        {"seed": 2**31},
        {"objective": "last"},
        {"objective": "exit"},
        {"objective": "final", "exit_index": 0},
        {"exit_index": 0},
        {"objective": "exit", "exit_index": -1},
        {"goal_class": -1},
        {"name": "fgsm", "step_size": 8 / 255, "num_steps": 2},
        {"name": "fgsm", "step_size": 2 / 255, "num_steps": 1},
        {"name": "fgsm", "step_size": 8 / 255, "num_steps": 1, "decay": 1.0},
    ],
    ids=str,
)
def test_a_spec_that_makes_no_sense_is_refused_when_made(wrong):
    """Mutant: any check of ``LinfAttack.__post_init__`` dropped; NaN passes a check written as ``value < low``."""
    with pytest.raises(ExitLensError):
        LinfAttack(**wrong)


@pytest.mark.parametrize("wrong", [{"objective": "exit", "exit_index": 3}, {"goal_class": 4}], ids=str)
def test_a_spec_that_does_not_fit_the_model_is_refused(wrong):
    """Mutant: ``check_model`` not called, or off by one."""
    last = {name: value - 1 if isinstance(value, int) else value for name, value in wrong.items()}
    attack(toy_model(), toy_images(1), labels_of(1), LinfAttack(num_steps=1, **last), SURE_AT_70)
    with pytest.raises(ExitLensError, match="this model has"):
        attack(toy_model(), toy_images(1), labels_of(1), LinfAttack(**wrong), SURE_AT_70)


IMAGES, LABELS = toy_images(2), labels_of(2)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        pytest.param(IMAGES[0], LABELS, "Images have shape", id="three dimensions"),
        pytest.param(IMAGES[:0], LABELS[:0], "Images have shape", id="no images"),
        pytest.param(IMAGES[:, :1], LABELS, "Images have shape", id="one channel"),
        pytest.param((IMAGES * 255).byte(), LABELS, "pixels", id="bytes"),
        pytest.param(IMAGES.half(), LABELS, "pixels", id="16 bits"),
        pytest.param(IMAGES - 0.5, LABELS, "pixels", id="below 0"),
        pytest.param(IMAGES * 255, LABELS, "pixels", id="above 1"),
        pytest.param(IMAGES * float("nan"), LABELS, "pixels", id="NaN"),
        pytest.param(IMAGES, LABELS[:1], "labels of shape", id="too few labels"),
        pytest.param(IMAGES, LABELS[:, None], "labels of shape", id="labels in a column"),
        pytest.param(IMAGES, LABELS.double(), "labels of shape", id="labels not whole numbers"),
        pytest.param(IMAGES, LABELS - 1, "Labels run", id="label -1"),
        pytest.param(IMAGES, LABELS + 3, "Labels run", id="label beyond the classes"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(images, labels, message):
    """Mutant: the matching check of ``_check_input`` dropped; NaN passes one written as ``min < 0 or max > 1``."""
    with pytest.raises(ExitLensError, match=message):
        attack(toy_model(), images, labels, LinfAttack(), SURE_AT_70)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_no_images_is_refused(batch_size):
    """Mutant: the check dropped; ``range`` would raise an error that no screen shows."""
    with pytest.raises(ExitLensError, match="batch size"):
        attack(toy_model(), IMAGES, LABELS, LinfAttack(), SURE_AT_70, batch_size=batch_size)


def test_a_model_that_returns_nan_is_an_error_and_not_a_result():
    """Mutant: the check for finite logits dropped from ``decide``; NaN would count as an answer."""
    model = toy_model()
    model.backbone.tail[-1].bias.fill_(float("nan"))
    with pytest.raises(ExitLensError, match="not finite"):
        attack(model, IMAGES, LABELS, LinfAttack(), SURE_AT_70)


def test_presets_are_the_published_numbers():
    """Mutant: any default changed, or a preset that ignores what it is given."""
    fgsm, pgd, mi_fgsm = (PRESETS[name](4 / 255) for name in ("fgsm", "pgd", "mi-fgsm"))
    assert fgsm == LinfAttack(name="fgsm", epsilon=4 / 255, step_size=4 / 255, num_steps=1)
    assert pgd == LinfAttack(name="pgd", epsilon=4 / 255, step_size=2 / 255, num_steps=10, decay=0.0)
    assert mi_fgsm == LinfAttack(name="mi-fgsm", epsilon=4 / 255, step_size=2 / 255, num_steps=10, decay=1.0)
    assert PRESETS["pgd"]() == LinfAttack(epsilon=8 / 255, objective="taken", random_start=False)
    assert PRESETS["mi-fgsm"](decay=0.5, goal_class=1).decay == 0.5
    assert {name: preset().name for name, preset in PRESETS.items()} == {name: name for name in PRESETS}


@pytest.mark.parametrize(
    ("fields_", "depends"),
    [
        ({}, True),
        ({"objective": "final"}, False),
        ({"objective": "mean"}, False),
        ({"objective": "exit", "exit_index": 0}, False),
        ({"objective": "mean", "stop_when_fooled": True}, True),
    ],
)
def test_another_threshold_makes_other_images_only_where_the_spec_says_so(fields_, depends):
    """Mutant: ``stop_when_fooled`` or ``taken`` forgotten in ``depends_on_policy``."""
    model, images, labels = toy_model(), toy_images(24), labels_of(24)
    spec = LinfAttack(**fields_)
    low, high = (attack(model, images, labels, spec, ExitPolicy(threshold)).perturbations for threshold in (0.4, 0.95))
    assert spec.depends_on_policy is depends
    assert torch.equal(low, high) is not depends


def test_label_says_the_whole_spec_in_words():
    """Mutant: a field left out of the label, or an exit counted from 0."""
    assert LinfAttack().label == "PGD 8/255, 10 steps of 2/255, at the exit taken"
    assert PRESETS["fgsm"](objective="final").label == "FGSM 8/255, at the final exit"
    label = PRESETS["mi-fgsm"](
        0.5 / 255,
        step_size=0.1 / 255,
        objective="exit",
        exit_index=1,
        goal_class=3,
        random_start=True,
        stop_when_fooled=True,
    ).label
    assert label == (
        "MI-FGSM 0.5/255, 10 steps of 0.1/255, at exit 2, decay 1, random start, goal class 3, stopped when fooled"
    )


@pytest.mark.parametrize(
    ("num_images", "size", "num_threads", "sizes"),
    [(8, 32, 2, [4, 4]), (7, 32, 2, [7]), (3, 64, 4, [1, 1, 1]), (9, 64, 2, [4, 5]), (200, 8, 1, [200])],
)  # fmt: skip
def test_parts_are_even_and_worth_a_thread(num_images, size, num_threads, sizes):
    """Mutants: a part that is empty, left out or doubled; a thread for a handful of pixels; more parts than threads."""
    images, device = torch.zeros(num_images, 3, size, size), torch.device("cpu")
    with limited_to(num_threads):
        parts = parts_of(images, device, None)
        assert [len(part) for part in parts] == sizes
        assert [row for part in parts for row in part] == list(range(num_images))
        assert parts_of(images, torch.device("cuda"), None) == [range(num_images)]
