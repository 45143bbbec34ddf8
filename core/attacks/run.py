"""Runs an attack on any number of images and judges it by what is stored."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.attacks.early import early_loss, early_steps
from core.attacks.linf import sign_steps
from core.attacks.objectives import objective_loss
from core.attacks.spec import AttackSpec, EarlyAttack, LinfAttack
from core.attacks.steps import Step, observe
from core.attacks.success import SUCCESS_RULES, Case
from core.errors import Cancelled, ExitLensError
from core.exits import ExitPolicy
from core.metrics import Rate, rate_of
from core.models import ExitModel
from core.progress import CancelToken

BATCH_SIZE = 128


@dataclass(frozen=True)
class Method:
    """How the specs of one kind are carried out.

    Attributes:
        steps: From model, images, labels, spec, policy, clean logits and a callback per step to the adversarial
            images and ``num_steps`` records.
        loss: From logits, labels, spec and policy to the loss of each image.
    """

    steps: Callable[..., tuple[Tensor, list[Step]]]
    loss: Callable[..., Tensor]


METHODS: dict[type[AttackSpec], Method] = {
    LinfAttack: Method(sign_steps, objective_loss),
    EarlyAttack: Method(early_steps, early_loss),
}


@dataclass(frozen=True)
class AttackProgress:
    """How far an attack has come.

    Attributes:
        step: Steps done on the images at hand.
        num_steps: Steps of the attack, at most.
        num_done: Images of finished batches.
        num_images: All images.
        share: Part of the whole work done, in [0, 1].
        seconds: Since the start.
    """

    step: int
    num_steps: int
    num_done: int
    num_images: int
    share: float
    seconds: float

    @property
    def words(self) -> str:
        """The same for the screen."""
        return f"step {self.step} of {self.num_steps} · {self.num_images} images · {self.seconds:.1f} s"


@dataclass(frozen=True, eq=False)
class AttackResult:
    """Images before and after, and what every exit said on the way.

    Attributes:
        spec: The attack.
        made_at: The policy that it was made under.
        images: (N, 3, H, W) in [0, 1].
        labels: True classes, (N,).
        perturbations: (N, 3, H, W) float16; with the images they are the adversarial images.
        clean_logits: (N, K, C) float32 forward pass.
        adversarial_logits: (N, K, C) of the stored adversarial images: the truth.
        steps: ``num_steps + 1`` records, start first; the last is of the stored images.
        seconds: Wall-clock.
    """

    spec: AttackSpec
    made_at: ExitPolicy
    images: Tensor
    labels: Tensor
    perturbations: Tensor
    clean_logits: Tensor
    adversarial_logits: Tensor
    steps: tuple[Step, ...]
    seconds: float

    @property
    def adversarial(self) -> Tensor:
        """The adversarial images, (N, 3, H, W) in [0, 1]."""
        return apply_perturbations(self.images, self.perturbations)

    def case(self, policy: ExitPolicy) -> Case:
        """What success rules look at, under this or another policy."""
        return Case(self.clean_logits, self.adversarial_logits, self.labels, policy, self.spec.goal_class)

    def success_rate(self, policy: ExitPolicy) -> Rate:
        """Share of the attackable images on which the attack's own rule holds."""
        rule, case = SUCCESS_RULES[self.spec.success_rule], self.case(policy)
        return rate_of(rule.succeeded(case), rule.attackable(case))


def apply_perturbations(images: Tensor, perturbations: Tensor) -> Tensor:
    """The adversarial images that stored perturbations (N, 3, H, W) stand for, inside [0, 1]."""
    return (images + perturbations.to(images.dtype)).clamp(0, 1)


def store_perturbations(images: Tensor, adversarial: Tensor, epsilon: float) -> Tensor:
    """Perturbations as float16, rounded towards zero where rounding would leave the ball."""
    exact = (adversarial - images).clamp(-epsilon, epsilon)
    stored = exact.half()
    shorter = torch.nextafter(stored, torch.zeros_like(stored))
    return torch.where(stored.double().abs() > epsilon, shorter, stored)


def attack(
    model: ExitModel,
    images: Tensor,
    labels: Tensor,
    spec: AttackSpec,
    policy: ExitPolicy,
    *,
    batch_size: int = BATCH_SIZE,
    on_progress: Callable[[AttackProgress], None] | None = None,
    cancel: CancelToken | None = None,
) -> AttackResult:
    """Attacks images and judges the outcome from the stored (float16) perturbations.

    Args:
        model: Any exit model, frozen and in eval mode; only read.
        images: (N, 3, H, W) in [0, 1].
        labels: True classes, (N,).
        spec: The attack.
        policy: In force while attacking.
        batch_size: Images at a time; does not change the result beyond float rounding.
        on_progress: Called after each step.
        cancel: Checked after each step.

    Returns:
        The result for all images, in their order.

    Raises:
        ExitLensError: If images or labels do not fit, or the spec does not fit the model.
        Cancelled: Once ``cancel`` is set.
    """
    _check_input(images, labels, model.num_classes)
    if batch_size < 1:
        raise ExitLensError(f"The batch size is {batch_size}; one image or more is needed.")
    spec.check_model(model.num_exits, model.num_classes)
    started, method = time.perf_counter(), METHODS[type(spec)]
    num_images = len(images)
    parts: list[tuple[Tensor, Tensor, Tensor, list[Step]]] = []
    for first in range(0, num_images, batch_size):
        batch, batch_labels = images[first : first + batch_size], labels[first : first + batch_size]

        def on_step(step: int, done: int = first, count: int = len(batch)) -> None:
            share = (done + count * step / spec.num_passes) / num_images
            if on_progress:
                seconds = time.perf_counter() - started
                on_progress(AttackProgress(step, spec.num_passes, done, num_images, share, seconds))
            if cancel and cancel.is_set():
                raise Cancelled

        with torch.no_grad():
            clean_logits = model(batch)
        adversarial, steps = method.steps(model, batch, batch_labels, spec, policy, clean_logits, on_step)
        perturbations = store_perturbations(batch, adversarial, spec.epsilon)
        with torch.no_grad():
            logits = model(apply_perturbations(batch, perturbations))
        steps.append(observe(logits, batch_labels, method.loss(logits, batch_labels, spec, policy), policy))
        parts.append((perturbations, clean_logits, logits, steps))
    all_perturbations, all_clean, all_adversarial, step_lists = zip(*parts, strict=True)
    return AttackResult(
        spec=spec,
        made_at=policy,
        images=images,
        labels=labels,
        perturbations=torch.cat(all_perturbations),
        clean_logits=torch.cat(all_clean),
        adversarial_logits=torch.cat(all_adversarial),
        steps=tuple(_joined(list(records)) for records in zip(*step_lists, strict=True)),
        seconds=time.perf_counter() - started,
    )


def _joined(records: list[Step]) -> Step:
    return Step(
        loss=torch.cat([record.loss for record in records]),
        predicted=torch.cat([record.predicted for record in records]),
        confidence=torch.cat([record.confidence for record in records]),
        true_probability=torch.cat([record.true_probability for record in records]),
        exit_taken=torch.cat([record.exit_taken for record in records]),
    )


def _check_input(images: Tensor, labels: Tensor, num_classes: int) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ExitLensError(f"Images have shape {tuple(images.shape)}; one or more of (3, height, width) are needed.")
    if images.dtype not in (torch.float32, torch.float64) or not (images.min() >= 0 and images.max() <= 1):
        raise ExitLensError("Image pixels must be 32-bit or 64-bit floating-point numbers between 0 and 1.")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise ExitLensError(
            f"{len(images)} images came with labels of shape {tuple(labels.shape)} and type {labels.dtype}; "
            "one 64-bit whole number each is needed."
        )
    if not (labels.min() >= 0 and labels.max() < num_classes):
        raise ExitLensError(
            f"Labels run from {int(labels.min())} to {int(labels.max())}; this model has {num_classes} classes."
        )
