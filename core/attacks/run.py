"""Runs an attack on any number of images and judges it by what is stored."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from core.attacks.aimed import Watch, aimed, fill_records
from core.attacks.common import Norm
from core.attacks.corruption import answer_loss, corruption_steps
from core.attacks.early import early_loss, early_steps
from core.attacks.early_published import published_loss, published_steps
from core.attacks.l2 import project_l2
from core.attacks.linf import sign_steps, start_of
from core.attacks.objectives import objective_loss
from core.attacks.slowdown import slowdown_loss, slowdown_steps
from core.attacks.spec import (
    AttackSpec,
    CorruptionAttack,
    EarlyAttack,
    L2Attack,
    LinfAttack,
    PublishedEarlyAttack,
    SlowdownAttack,
    StepAttack,
    UniversalAttack,
    WorstCaseAttack,
)
from core.attacks.steps import Step, Steps, observe, seen_in_full
from core.attacks.success import SUCCESS_RULES, Case
from core.attacks.universal import fitted_steps, universal_loss
from core.attacks.worst_case import worst_case_steps
from core.errors import ExitLensError
from core.exits import ExitPolicy
from core.machine import device_of, enough_memory
from core.metrics import Rate, rate_of
from core.models import ExitModel
from core.models.prepared import PreparedModel
from core.progress import CancelToken, end_if
from core.side_by_side import num_threads, side_by_side

BATCH_SIZE = 128
MIN_PIXELS = 4 * 32 * 32  # of images that are worth a thread of their own; on smaller ones threads wait for Python
FIT_SHARE = 0.9  # of the work of an attack that is fitted beforehand


@dataclass(frozen=True)
class Method:
    """How the specs of one kind are carried out.

    Attributes:
        steps: What attacks one batch.
        loss: From a case and the spec to the loss of each adversarial image.
        fit: Where something is fitted before the first batch: from model, first batch, spec, policy and a callback
            per step to the ``steps``, which then are not given.
    """

    steps: Steps | None
    loss: Callable[[Case, Any], Tensor]
    fit: Callable[..., Steps] | None = None


def _by_labels(loss: Callable[..., Tensor]) -> Callable[[Case, Any], Tensor]:
    """The loss of a case from one of logits, labels, spec and policy."""
    return lambda case, spec: loss(case.adversarial_logits, case.labels, spec, case.policy)


def _by_own_answers(case: Case, spec: PublishedEarlyAttack) -> Tensor:
    return published_loss(case.adversarial_logits, case.clean_logits[:, -1].argmax(dim=-1), spec)


METHODS: dict[type[AttackSpec], Method] = {
    LinfAttack: Method(sign_steps, _by_labels(objective_loss)),
    L2Attack: Method(sign_steps, _by_labels(objective_loss)),
    EarlyAttack: Method(early_steps, _by_labels(early_loss)),
    PublishedEarlyAttack: Method(published_steps, _by_own_answers),
    SlowdownAttack: Method(slowdown_steps, _by_labels(slowdown_loss)),
    UniversalAttack: Method(None, _by_labels(universal_loss), fitted_steps),
    WorstCaseAttack: Method(worst_case_steps, _by_labels(answer_loss)),
    CorruptionAttack: Method(corruption_steps, _by_labels(answer_loss)),
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
        steps: Records, ``num_steps + 1`` of an attack by steps: the start first, the stored images last. That one
            alone where nothing was watched on the way. What exits say of clean and of stored images is float32's
            answer, in between that of the search.
        seconds: Wall-clock.
        precision: Number format of the gradients; every verdict is float32.
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
    precision: str = "float32"

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


def store_perturbations(images: Tensor, adversarial: Tensor, epsilon: float, norm: Norm = "linf") -> Tensor:
    """Perturbations as float16, rounded towards zero where rounding would leave the ball."""
    if norm == "l2":
        exact = project_l2(adversarial - images, epsilon)
        stored = exact.half()
        longer = stored.double().abs() > exact.double().abs()
        return torch.where(longer, torch.nextafter(stored, torch.zeros_like(stored)), stored)
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
    search: PreparedModel | None = None,
    watch: Watch = "computed exits",
    batch_size: int = BATCH_SIZE,
    on_progress: Callable[[AttackProgress], None] | None = None,
    cancel: CancelToken | None = None,
) -> AttackResult:
    """Attacks images and judges the outcome from the stored (float16) perturbations.

    Args:
        model: Any exit model, frozen and in eval mode; only read.
        images: (N, 3, H, W) in [0, 1]; batches go to where the model is, results come back to where these are.
        labels: True classes, (N,).
        spec: The attack.
        policy: In force while attacking.
        search: The same model prepared for gradients; without it the model itself is searched with. What is found is
            judged by the model in any case.
        watch: What the records of the steps hold, and so what has to be computed; see ``core.attacks.aimed``.
        batch_size: Images at a time, over all threads; does not change the result beyond float rounding.
        on_progress: Called after each step.
        cancel: Checked after each step.

    Returns:
        The result for all images, in their order.

    Raises:
        ExitLensError: If images or labels do not fit, or the spec does not fit the model.
        Cancelled: Once ``cancel`` is set.
    """
    check_input(images, labels, model.num_classes)
    if batch_size < 1:
        raise ExitLensError(f"The batch size is {batch_size}; one image or more is needed.")
    spec.check_model(model.num_exits, model.num_classes)
    started, method = time.perf_counter(), METHODS[type(spec)]
    searched, applied = aimed(search or model, spec, policy, watch)
    num_images, num_passes = len(images), spec.passes(model.num_exits)
    device = device_of(model)
    parts = parts_of(images, device, search)
    at_once = -(-batch_size // len(parts))
    report = _Report(started, num_images, num_passes, parts, FIT_SHARE if method.fit else 0.0, on_progress)

    def on_fit(step: int) -> None:
        report.fit(step)
        end_if(cancel)

    with enough_memory(device):
        fitted = method.fit(searched, images[:batch_size].to(device), spec, policy, on_fit) if method.fit else None
    run = fitted or method.steps
    assert run is not None

    def one_batch(first: int, part: range, token: CancelToken) -> _Batch:
        rows = slice(first, min(first + at_once, part.stop))
        batch, batch_labels = (of[rows].to(device) for of in (images, labels))

        def on_step(step: int) -> None:
            report.step(step, part, first - part.start, len(batch))
            end_if(token)

        with torch.no_grad():
            clean_logits = model(batch)
        adversarial, steps = run(searched, batch, batch_labels, applied, policy, clean_logits, on_step)
        steps = [] if watch == "nothing" else [fill_records(step, model.num_exits, policy) for step in steps]
        if steps and spec.starts_at_image:
            steps[0] = seen_in_full(steps[0], clean_logits, batch_labels, policy)
        perturbations = store_perturbations(batch, adversarial, spec.epsilon, spec.norm)
        with torch.no_grad():
            logits = model(apply_perturbations(batch, perturbations))
        case = Case(clean_logits, logits, batch_labels, policy, spec.goal_class)
        steps.append(observe(logits, batch_labels, method.loss(case, spec), policy))
        return perturbations, clean_logits, logits, steps

    def one_part(part: range, token: CancelToken) -> list[_Batch]:
        return [one_batch(first, part, token) for first in part[::at_once]]

    with enough_memory(device):
        batches = [batch for made in side_by_side(one_part, parts, cancel).values() for batch in made]
    all_perturbations, all_clean, all_adversarial, step_lists = zip(*batches, strict=True)
    return AttackResult(
        spec=spec,
        made_at=policy,
        images=images,
        labels=labels,
        perturbations=torch.cat(all_perturbations).to(images.device),
        clean_logits=torch.cat(all_clean).to(images.device),
        adversarial_logits=torch.cat(all_adversarial).to(images.device),
        steps=tuple(_joined(records, images.device) for records in zip(*step_lists, strict=True)),
        seconds=time.perf_counter() - started,
        precision=search.precision if search else str(images.dtype).removeprefix("torch."),
    )


_Batch = tuple[Tensor, Tensor, Tensor, list[Step]]  # perturbations, clean logits, logits and records of one batch


def parts_of(images: Tensor, device: torch.device, search: PreparedModel | None) -> list[range]:
    """The images, shared out evenly among the threads of a processor; all of them together elsewhere.

    Args:
        images: (N, 3, H, W).
        device: Of the model.
        search: The model prepared for gradients, if there is one.

    Returns:
        Rows of the images: one part for each thread, or a single one.
    """
    num_images = len(images)
    is_compiled = search is not None and search.is_compiled  # anew for every number of images
    num_parts = min(num_threads(), num_images, num_images * images[0, 0].numel() // MIN_PIXELS)
    if device.type != "cpu" or is_compiled or num_parts < 2:
        return [range(num_images)]
    ends = [num_images * number // num_parts for number in range(num_parts + 1)]
    return [range(first, last) for first, last in pairwise(ends)]


class _Report:
    """Says how far an attack has come: as far as the slowest of the parts that are attacked side by side."""

    def __init__(
        self,
        started: float,
        num_images: int,
        num_passes: int,
        parts: Sequence[range],
        fit_share: float,
        on_progress: Callable[[AttackProgress], None] | None,
    ) -> None:
        self._started, self._num_images, self._num_passes = started, num_images, num_passes
        self._fit_share, self._on_progress = fit_share, on_progress
        self._lock = threading.Lock()
        self._finished = dict.fromkeys(parts, 0)
        self._share = dict.fromkeys(parts, 0.0)

    def fit(self, step: int) -> None:
        """After a step of what is fitted beforehand."""
        self._say(step, self._fit_share * step / self._num_passes)

    def step(self, step: int, part: range, num_finished: int, num_images: int) -> None:
        """After a step on some images of a part, so many others of which are finished."""
        with self._lock:
            said = min(self._share.values())
            self._finished[part] = num_finished
            self._share[part] = (num_finished + num_images * step / self._num_passes) / len(part)
            share = min(self._share.values())
            if share > said:
                self._say(step, self._fit_share + (1 - self._fit_share) * share)

    def _say(self, step: int, share: float) -> None:
        if self._on_progress:
            num_done, seconds = sum(self._finished.values()), time.perf_counter() - self._started
            self._on_progress(AttackProgress(step, self._num_passes, num_done, self._num_images, share, seconds))


def images_at_step(
    model: ExitModel, images: Tensor, labels: Tensor, spec: AttackSpec, policy: ExitPolicy, step: int
) -> Tensor:
    """What the images look like after some steps of the attack, (N, 3, H, W): the attack made again up to there.

    Args:
        model: As in ``attack``, as are the next four.
        images: (N, 3, H, W) in [0, 1].
        labels: (N,).
        spec: An attack that can be replayed.
        policy: In force.
        step: From 0, the start, to ``spec.num_steps``.
    """
    assert isinstance(spec, StepAttack | SlowdownAttack) and spec.can_be_replayed
    if not step:
        return start_of(images, spec)
    run = METHODS[type(spec)].steps
    assert run is not None
    there = (of.to(device_of(model)) for of in (images, labels))
    return run(model, *there, replace(spec, num_steps=step), policy)[0].to(images.device)


def _joined(records: Sequence[Step], device: torch.device) -> Step:
    """The records of all batches as one, brought to where the images are."""
    columns = [torch.cat([getattr(record, field.name) for record in records]) for field in fields(Step)]
    return Step(*(column.to(device) for column in columns))


def check_input(images: Tensor, labels: Tensor, num_classes: int) -> None:
    """Checks that there are images and labels that an attack can work on.

    Args:
        images: (N, 3, H, W) in [0, 1], one or more.
        labels: (N,), below ``num_classes``.
        num_classes: Of the model.

    Raises:
        ExitLensError: If something does not fit.
    """
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
