"""The deployed Early Attack: what the policy answers becomes wrong and sure, while the final exit stays right."""

from collections.abc import Callable

import torch
from torch import Tensor

from core.attacks.early_spec import EarlyAttack
from core.attacks.linf import project, unit_mean
from core.attacks.steps import Step, observe, with_rows
from core.exits import ExitDecisions, ExitPolicy, decide
from core.models import ExitModel

FINAL_MARGIN = 1.0
TRIED_FIRST = (1 / 2, 1 / 4, 3 / 4, 1 / 8, 3 / 8, 5 / 8, 7 / 8)


def exits_to_try(num_exits: int, spec: EarlyAttack) -> list[int]:
    """The early exits that an attack goes through in turn, 0-based: the middle one first, then halfway out, and so on.

    Exits in the middle give way most often: the first ones answer before much can be done to them, and what
    moves the last ones moves the final exit too.
    """
    if spec.exit_index is not None:
        return [spec.exit_index]
    spread = [int(part * (num_exits - 2)) for part in TRIED_FIRST]
    return list(dict.fromkeys([*spread, *range(num_exits - 1)]))[: spec.num_tries]


def early_loss(
    logits: Tensor, labels: Tensor, spec: EarlyAttack, policy: ExitPolicy, through: Tensor | None = None
) -> Tensor:
    """What the attack climbs: how sure the attacked exit is of a wrong class, less what the final exit lacks.

    Two terms, both at most 0. The first is the log-probability of the best wrong class (or of the goal class) at
    the attacked exit, over what is enough: halfway between the threshold and 1; 1 under a policy that does not go by
    confidence. The second is the final exit's margin for the true class (largest logit of another class subtracted)
    where it falls short of ``FINAL_MARGIN``.

    Args:
        logits: Of the current images, (N, K, C).
        labels: True classes, (N,).
        spec: The attack.
        policy: Decides which exit answers.
        through: The exit that each image is attacked through, (N,); the one of ``exits_to_try`` at which the
            loss is highest if missing.

    Returns:
        (N,) losses; 0 where nothing is left to do.
    """
    if through is None:
        tried = exits_to_try(logits.shape[1], spec)
        losses = [early_loss(logits, labels, spec, policy, torch.full_like(labels, index)) for index in tried]
        return torch.stack(losses).amax(dim=0)
    # An exit that answers earlier must give way first: nobody would see a later one.
    attacked = torch.minimum(through, decide(logits.detach(), policy).answered_exit)
    rows = torch.arange(len(logits), device=logits.device)
    surely = logits[rows, attacked].log_softmax(dim=-1)
    sure = _best_wrong(surely, labels) if spec.goal_class is None else surely[:, spec.goal_class]
    enough = torch.log(torch.tensor((1 + _needed(policy)) / 2, dtype=logits.dtype, device=logits.device))
    return (sure - enough).clamp(max=0) + (_margin(logits, labels) - FINAL_MARGIN).clamp(max=0)


def early_steps(
    model: ExitModel,
    images: Tensor,
    labels: Tensor,
    spec: EarlyAttack,
    policy: ExitPolicy,
    clean_logits: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Tensor, list[Step]]:
    """Runs the attack on one batch: through one exit after the other, each on the images that have held out so far.

    Args:
        model: Any model with an early exit, frozen and in eval mode; only read.
        images: (N, 3, H, W) in [0, 1], float32 or float64.
        labels: True classes, (N,).
        spec: What to do.
        policy: What is deployed.
        clean_logits: Not needed.
        on_step: Called after each step with its number, from 1 to ``spec.passes(K)`` at most; may raise to end
            the attack.

    Returns:
        The adversarial images and the records of the start and of every step but the last through the exit that
        gave way (where none did, the first tried): ``num_steps`` of them.

    Source: the aim, early exits broken and the final one kept, is the Early Attack of Haque & Yang, ICCV-W 2023.
    Departures: the exit that answers under the policy has to be wrong and sure, not every early exit; the true
    label instead of the model's own clean answer; the ball of L-infinity and sign steps with momentum from the
    image on, instead of Adam with a penalty on distance; margins on logits at the final exit.
    """
    adversarial, steps = images.clone(), list[Step]()
    open_rows, done = torch.arange(len(images), device=images.device), 0
    for exit_index in exits_to_try(model.num_exits, spec):

        def count(step: int, before: int = done) -> None:
            if on_step:
                on_step(before + step)

        through = torch.full_like(labels[open_rows], exit_index)
        found, fell, records = _steps_through(model, images[open_rows], labels[open_rows], spec, policy, through, count)
        if not steps:
            adversarial, steps = found, records
        else:
            adversarial[open_rows[fell]] = found[fell]
            steps = [
                with_rows(kept, open_rows[fell], record, fell) for kept, record in zip(steps, records, strict=True)
            ]
        open_rows, done = open_rows[~fell], done + spec.num_steps
        if not len(open_rows):
            break
    return adversarial, steps


def _steps_through(
    model: ExitModel,
    images: Tensor,
    labels: Tensor,
    spec: EarlyAttack,
    policy: ExitPolicy,
    through: Tensor,
    on_step: Callable[[int], None],
) -> tuple[Tensor, Tensor, list[Step]]:
    """Attacks through one exit: the images of the best success (the last ones without), whether one was seen, records.

    An image whose loss is 0 has come to rest: its gradient is 0 for good, so it is computed no further.
    """
    current, best = images.clone(), images.clone()
    best_slack = torch.full(labels.shape, -1.0, dtype=images.dtype, device=images.device)
    momentum = torch.zeros_like(images)
    moving = torch.arange(len(images), device=images.device)
    steps: list[Step] = []
    for number in range(spec.num_steps + 1):
        at = current[moving].requires_grad_(True)
        with torch.set_grad_enabled(number < spec.num_steps):
            logits = model(at)
            loss = early_loss(logits, labels[moving], spec, policy, through[moving])
        decisions = decide(logits.detach(), policy)
        slack = _slack(logits.detach(), decisions, labels[moving], spec, policy)
        better = slack > best_slack[moving]
        best[moving[better]], best_slack[moving[better]] = current[moving[better]], slack[better]
        if number == spec.num_steps:
            break
        record = observe(logits.detach(), labels[moving], loss.detach(), policy)
        steps.append(with_rows(steps[-1], moving, record, slice(None)) if steps else record)
        (gradient,) = torch.autograd.grad(loss.sum(), at)
        momentum[moving] = spec.decay * momentum[moving] + unit_mean(gradient)
        restless = loss.detach() < 0
        moving = moving[restless]
        step = spec.step_size * momentum[moving].sign()
        current[moving] = project(current[moving] + step, images[moving], spec.epsilon)
        on_step(number + 1)
        if not len(moving):
            steps += [steps[-1]] * (spec.num_steps - len(steps))
            break
    fell = best_slack >= 0
    return torch.where(fell[:, None, None, None], best, current), fell, steps


def _slack(logits: Tensor, decisions: ExitDecisions, labels: Tensor, spec: EarlyAttack, policy: ExitPolicy) -> Tensor:
    """By how much an image has succeeded: the nearer of losing its sure wrong answer or its final exit; else -1."""
    sure = torch.log(decisions.confidence / max(_needed(policy), 1e-9))
    slack = torch.minimum(sure, _margin(logits, labels)).clamp(min=0)
    wanted = decisions.prediction != labels if spec.goal_class is None else decisions.prediction == spec.goal_class
    succeeded = wanted & (logits[:, -1].argmax(dim=-1) == labels)
    return torch.where(succeeded, slack, -1.0)


def _needed(policy: ExitPolicy) -> float:
    """The confidence that is enough to leave; no confidence is known to be where the policy goes by another score."""
    return policy.threshold if policy.score == "confidence" else 1.0


def _best_wrong(values: Tensor, labels: Tensor) -> Tensor:
    """The largest of (N, C) values apart from that of the label, (N,)."""
    return values.scatter(1, labels[:, None], -torch.inf).amax(dim=-1)


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much the final exit prefers the true class, (N,)."""
    final = logits[:, -1]
    return final.gather(1, labels[:, None])[:, 0] - _best_wrong(final, labels)
