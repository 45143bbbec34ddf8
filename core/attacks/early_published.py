"""The Early Attack as published: Adam in tanh space, from anywhere, every early exit off the clean final answer."""

from collections.abc import Callable

import torch
from torch import Tensor

from core.attacks.early_spec import PublishedEarlyAttack
from core.attacks.linf import project
from core.attacks.steps import Step, observe, with_rows
from core.attacks.success import SUCCESS_RULES, Case
from core.exits import ExitPolicy
from core.models import ExitModel
from core.seeding import uniform_noise

STD = (0.229, 0.224, 0.225)
BETAS, TINY = (0.9, 0.999), 1e-8
EDGE = 1 - 1e-6  # tanh reaches black and white at infinity only


def published_loss(logits: Tensor, answers: Tensor, spec: PublishedEarlyAttack) -> Tensor:
    """What the attack lowers, apart from the distance: the early exits' hold on an answer, less the final one's.

    With p_k the probabilities of exit k and c the answer: keep A = sum over j != c of relu(p_K[c] - p_K[j]), break
    B = sum over k < K of p_k[c], and the loss is weight * (B - alpha * A). With ``logits`` instead, both are margins
    of c over the best other class: the final one's where it is below 1, the early ones' where they are above -1.

    Args:
        logits: Of the current images, (N, K, C).
        answers: The model's own clean final answers, (N,).
        spec: The attack.

    Returns:
        (N,) losses.
    """
    index = answers[:, None, None].expand(-1, logits.shape[1], 1)
    if spec.loss == "logits":
        best_other = logits.scatter(2, index, -torch.inf).amax(dim=-1)
        margins = logits.gather(2, index)[..., 0] - best_other
        keep, broken = margins[:, -1].clamp(max=1), margins[:, :-1].clamp(min=-1).sum(dim=1)
    else:
        probabilities = logits.softmax(dim=-1)
        own = probabilities.gather(2, index)[..., 0]
        keep = (own[:, -1:] - probabilities[:, -1]).relu().sum(dim=1)  # the class itself adds nothing
        broken = own[:, :-1].sum(dim=1)
    return spec.weight * (broken - spec.alpha * keep)


def published_steps(
    model: ExitModel,
    images: Tensor,
    labels: Tensor,
    spec: PublishedEarlyAttack,
    policy: ExitPolicy,
    clean_logits: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Tensor, list[Step]]:
    """Runs the attack on one batch; images that have stopped are computed no further.

    Args:
        model: Any model with an early exit, frozen and in eval mode; only read.
        images: (N, 3, H, W) in [0, 1], float32 or float64.
        labels: True classes, (N,): for the record alone.
        spec: What to do.
        policy: For the record alone.
        clean_logits: Of the images, (N, K, C); computed if missing. Their final answers are what is kept.
        on_step: Called after each step with its number, from 1; may raise to end the attack.

    Returns:
        The adversarial images and the records of the start and of every step but the last, ``num_steps`` of them,
        with the loss less its distance term. An image ends where it first succeeds after ``num_forced`` steps,
        otherwise where the last step leads.

    Source: Haque & Yang, ICCV-W 2023, Early Attack: loss + sum of (change / std)^2, Adam on w with the image
    (tanh(w) + 1) / 2, w uniform in (0, 1) at the start. Departures: all rival classes are compared; batches
    instead of single images; starts are drawn from each image's own bytes.
    """
    if clean_logits is None:
        with torch.no_grad():
            clean_logits = model(images)
    answers, std = clean_logits[:, -1].argmax(dim=-1), images.new_tensor(STD).view(1, 3, 1, 1)
    hidden = _inside(_start(images, spec), images, spec)
    first, second = torch.zeros_like(images), torch.zeros_like(images)
    moving, rule, steps = (
        torch.arange(len(images), device=images.device),
        SUCCESS_RULES[spec.success_rule],
        list[Step](),
    )
    for number in range(spec.num_steps):
        at = hidden[moving].requires_grad_(True)
        moved = _shown(at)
        logits = model(moved)
        loss = published_loss(logits, answers[moving], spec)
        distance = ((moved - images[moving]) / std).square().sum(dim=(1, 2, 3))
        (gradient,) = torch.autograd.grad((loss + distance).sum(), at)
        logits = logits.detach()
        record = observe(logits, labels[moving], loss.detach(), policy)
        steps.append(with_rows(steps[-1], moving, record, slice(None)) if steps else record)
        if number > spec.num_forced:
            case = Case(clean_logits[moving], logits, labels[moving], policy)
            going = ~rule.succeeded(case)
            moving, gradient = moving[going], gradient[going]
        first[moving] = BETAS[0] * first[moving] + (1 - BETAS[0]) * gradient
        second[moving] = BETAS[1] * second[moving] + (1 - BETAS[1]) * gradient.square()
        mean, square = first[moving] / (1 - BETAS[0] ** (number + 1)), second[moving] / (1 - BETAS[1] ** (number + 1))
        hidden[moving] = _inside(
            hidden[moving] - spec.learning_rate * mean / (square.sqrt() + TINY), images[moving], spec
        )
        if on_step:
            on_step(number + 1)
        if not len(moving):
            steps += [steps[-1]] * (spec.num_steps - len(steps))
            break
    return _shown(hidden), steps


def _start(images: Tensor, spec: PublishedEarlyAttack) -> Tensor:
    if spec.start == "image":
        return _hidden(images)
    return (uniform_noise(images, spec.seed) + 1) / 2


def _shown(hidden: Tensor) -> Tensor:
    return (hidden.tanh() + 1) / 2


def _hidden(images: Tensor) -> Tensor:
    return ((2 * images - 1) * EDGE).atanh()


def _inside(hidden: Tensor, images: Tensor, spec: PublishedEarlyAttack) -> Tensor:
    return _hidden(project(_shown(hidden), images, spec.epsilon)) if spec.is_bounded else hidden
