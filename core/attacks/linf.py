"""The loop of the step attacks: FGSM, PGD and MI-FGSM are presets of it, in L-infinity and in L2."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from core.attacks.l2 import project_into_l2, start_in_l2, unit_l2
from core.attacks.objectives import objective_loss
from core.attacks.slowdown_spec import SlowdownAttack
from core.attacks.spec import StepAttack
from core.attacks.steps import Step, observe, with_rows
from core.attacks.success import SUCCESS_RULES, Case
from core.exits import ExitPolicy
from core.models import ExitModel
from core.seeding import uniform_noise


def sign_steps(
    model: ExitModel,
    images: Tensor,
    labels: Tensor,
    spec: StepAttack,
    policy: ExitPolicy,
    clean_logits: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Tensor, list[Step]]:
    """Runs the attack on one batch.

    Each step goes ``step_size`` along the sign of the (accumulated) gradient (``l2``: along the gradient itself),
    then back into the ball and into [0, 1]. The model is only read: gradients are taken with respect to the images
    alone.

    Args:
        model: Any exit model, frozen and in eval mode.
        images: (N, 3, H, W) in [0, 1], float32 or float64.
        labels: True classes, (N,).
        spec: What to do.
        policy: For the objective ``taken``, for ``stop_when_fooled`` and for the record.
        clean_logits: Of the images, (N, K, C); needed by ``stop_when_fooled`` and computed if missing.
        on_step: Called after each step with its number, from 1; may raise to end the attack.

    Returns:
        The adversarial images, exact in the dtype of ``images``, and the records of the start and of every
        step but the last, ``num_steps`` of them: the caller judges the end.

    Source: Goodfellow et al. 2015; Madry et al. 2018; Dong et al. 2018 (gradients divided by their mean
    absolute value per image). Departure: an image whose gradient is zero goes on where its momentum
    leads; 0 / 0 would make that momentum NaN, and the image would stop for good.
    """
    if spec.objective == "max-average":
        return _worst_for_all_exits(model, images, labels, spec, policy, clean_logits, on_step)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return objective_loss(logits, labels, spec, policy)

    return walk(model, images, labels, spec, policy, loss, loss, clean_logits, on_step)


def _worst_for_all_exits(
    model: ExitModel,
    images: Tensor,
    labels: Tensor,
    spec: StepAttack,
    policy: ExitPolicy,
    clean_logits: Tensor | None,
    on_step: Callable[[int], None] | None,
) -> tuple[Tensor, list[Step]]:
    """One attack on each exit; of these, for each image, the one with the largest loss summed over exits.

    Of attacks that stop, one that has succeeded comes before all that have not, however small it left the loss.

    Source: Hu et al., Triple Wins, ICLR 2020, section 3, max-average attack.
    """

    def summed(logits: Tensor, labels: Tensor) -> Tensor:
        return objective_loss(logits, labels, spec, policy)

    best, steps, rule = images, list[Step](), SUCCESS_RULES[spec.success_rule]
    has_fooled = torch.zeros(labels.shape, dtype=torch.bool, device=images.device)
    if spec.stop_when_fooled and clean_logits is None:
        with torch.no_grad():
            clean_logits = model(images)
    worst = torch.full(labels.shape, -torch.inf, dtype=images.dtype, device=images.device)
    for exit_index in range(model.num_exits):

        def count(step: int, before: int = exit_index * spec.num_steps) -> None:
            if on_step:
                on_step(before + step)

        def at_exit(logits: Tensor, labels: Tensor, index: int = exit_index) -> Tensor:
            return objective_loss(logits, labels, replace(spec, objective="exit", exit_index=index), policy)

        found, records = walk(model, images, labels, spec, policy, at_exit, summed, clean_logits, count)
        with torch.no_grad():
            logits = model(found)
            loss = summed(logits, labels)
        worse = loss > worst
        if spec.stop_when_fooled:
            assert clean_logits is not None
            fools = rule.succeeded(Case(clean_logits, logits, labels, policy, spec.goal_class))
            worse = (fools & ~has_fooled) | (worse & (fools == has_fooled))
            has_fooled |= fools
        rows = worse.nonzero()[:, 0]
        best = torch.where(worse[:, None, None, None], found, best)
        worst = torch.where(worse, loss, worst)
        steps = [with_rows(kept, rows, new, rows) for kept, new in zip(steps or records, records, strict=True)]
    return best, steps


def walk(
    model: ExitModel,
    images: Tensor,
    labels: Tensor,
    spec: StepAttack | SlowdownAttack,
    policy: ExitPolicy,
    climbed: Callable[[Tensor, Tensor], Tensor],
    recorded: Callable[[Tensor, Tensor], Tensor],
    clean_logits: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Tensor, list[Step]]:
    """The loop itself: steps up the gradient of any loss; images that have stopped are computed no further.

    Args:
        model: As in ``sign_steps``, as are the next four.
        images: (N, 3, H, W) in [0, 1].
        labels: (N,).
        spec: Its ball, steps and start.
        policy: In force.
        climbed: From logits (N, K, C) and labels (N,) to the loss of each image, (N,).
        recorded: The same, for the record.
        clean_logits: As in ``sign_steps``.
        on_step: As in ``sign_steps``.
    """
    current = start_of(images, spec)
    momentum = torch.zeros_like(images)
    steps: list[Step] = []
    rule = SUCCESS_RULES[spec.success_rule]
    if spec.stop_when_fooled and clean_logits is None:
        with torch.no_grad():
            clean_logits = model(images)
    moving = torch.arange(len(images), device=images.device)
    for number in range(1, spec.num_steps + 1):
        whole = len(moving) == len(images)
        at = (current if whole else current[moving]).requires_grad_(True)
        logits = model(at)
        loss = climbed(logits, labels[moving])
        (gradient,) = torch.autograd.grad(loss.sum(), at)
        logits, at = logits.detach(), at.detach()
        seen = loss.detach() if recorded is climbed else recorded(logits, labels[moving])
        record = observe(logits, labels[moving], seen, policy)
        steps.append(record if whole else with_rows(steps[-1], moving, record, slice(None)))
        momentum = spec.decay * momentum + unit_mean(gradient)
        moved = _step(at, momentum, images[moving], spec)
        if spec.stop_when_fooled:
            assert clean_logits is not None
            fooled = rule.succeeded(Case(clean_logits[moving], logits, labels[moving], policy, spec.goal_class))
            moving, moved, momentum = moving[~fooled], moved[~fooled], momentum[~fooled]
        current = moved if len(moving) == len(images) else current.detach().index_copy(0, moving, moved)
        if on_step:
            on_step(number)
        if not len(moving):
            steps += steps[-1:] * (spec.num_steps - number)
            break
    return current, steps


def unit_mean(gradient: Tensor) -> Tensor:
    """Each image's gradient over its mean absolute value; a gradient of nought stays as it is."""
    size = gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
    return gradient / torch.where(size > 0, size, 1)


def project(moved: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """The nearest images that lie inside the ball around ``images`` and inside [0, 1]."""
    return (images + (moved - images).clamp(-epsilon, epsilon)).clamp(0, 1)


def _step(current: Tensor, momentum: Tensor, images: Tensor, spec: StepAttack | SlowdownAttack) -> Tensor:
    if spec.norm == "l2":
        return project_into_l2(current + spec.step_size * unit_l2(momentum), images, spec.epsilon)
    return project(current + spec.step_size * momentum.sign(), images, spec.epsilon)


def start_of(images: Tensor, spec: StepAttack | SlowdownAttack) -> Tensor:
    """Where the attack begins, (N, 3, H, W): at the images, or at a place drawn for each."""
    if not spec.random_start:
        return images.clone()
    if spec.norm == "l2":
        return start_in_l2(images, spec.start_radius, spec.seed)
    return (images + spec.start_radius * uniform_noise(images, spec.seed)).clamp(0, 1)
