"""The sign-step loop: FGSM, PGD and MI-FGSM are presets of it."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from core.attacks.objectives import objective_loss
from core.attacks.spec import LinfAttack
from core.attacks.steps import Step, observe
from core.attacks.success import SUCCESS_RULES, Case
from core.exits import ExitPolicy
from core.models import ExitModel


def sign_steps(
    model: ExitModel,
    images: Tensor,
    labels: Tensor,
    spec: LinfAttack,
    policy: ExitPolicy,
    clean_logits: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Tensor, list[Step]]:
    """Runs the attack on one batch.

    Each step goes ``step_size`` along the sign of the (accumulated) gradient, then back into the ball and
    into [0, 1]. The model is only read: gradients are taken with respect to the images alone.

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
    current = _start(images, spec)
    momentum = torch.zeros_like(images)
    steps: list[Step] = []
    rule = SUCCESS_RULES[spec.success_rule]
    if spec.stop_when_fooled and clean_logits is None:
        with torch.no_grad():
            clean_logits = model(images)
    for number in range(1, spec.num_steps + 1):
        current.requires_grad_(True)
        logits = model(current)
        loss = objective_loss(logits, labels, spec, policy)
        (gradient,) = torch.autograd.grad(loss.sum(), current)
        logits, current = logits.detach(), current.detach()
        steps.append(observe(logits, labels, loss.detach(), policy))
        momentum = spec.decay * momentum + unit_mean(gradient)
        moved = project(current + spec.step_size * momentum.sign(), images, spec.epsilon)
        if spec.stop_when_fooled:
            assert clean_logits is not None
            fooled = rule.succeeded(Case(clean_logits, logits, labels, policy, spec.goal_class))
            moved = torch.where(fooled[:, None, None, None], current, moved)
        current = moved
        if on_step:
            on_step(number)
    return current, steps


def unit_mean(gradient: Tensor) -> Tensor:
    """Each image's gradient over its mean absolute value; a gradient of nought stays as it is."""
    size = gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
    return gradient / torch.where(size > 0, size, 1)


def project(moved: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """The nearest images that lie inside the ball around ``images`` and inside [0, 1]."""
    return (images + (moved - images).clamp(-epsilon, epsilon)).clamp(0, 1)


def images_at_step(
    model: ExitModel, images: Tensor, labels: Tensor, spec: LinfAttack, policy: ExitPolicy, step: int
) -> Tensor:
    """What the images look like after some steps of the attack, (N, 3, H, W): the attack made again up to there.

    Args:
        model: As in ``sign_steps``, as are the next four.
        images: (N, 3, H, W) in [0, 1].
        labels: (N,).
        spec: The attack.
        policy: In force.
        step: From 0, the start, to ``spec.num_steps``.
    """
    if not step:
        return _start(images, spec)
    return sign_steps(model, images, labels, replace(spec, num_steps=step), policy)[0]


def _start(images: Tensor, spec: LinfAttack) -> Tensor:
    if not spec.random_start:
        return images.clone()
    noise = torch.stack(list(_noise_of_each(images, spec.seed)))
    return (images + spec.epsilon * noise).clamp(0, 1)


def _noise_of_each(images: Tensor, seed: int) -> Iterator[Tensor]:
    # Seeded by the image's own bytes, so that neither batch size nor order changes a start. The checksum takes
    # the seed in, for torch's generator reads the lowest 32 bits only.
    for image in images:
        content = (image * 255).round().byte().cpu().numpy().tobytes()
        generator = torch.Generator().manual_seed(zlib.crc32(content, seed))
        noise = torch.rand(image.shape, generator=generator, dtype=torch.float64) * 2 - 1
        yield noise.to(dtype=image.dtype, device=image.device)
