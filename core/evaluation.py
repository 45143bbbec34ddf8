"""What every exit of a model says of a whole image set, batch by batch."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.data import ImageSet
from core.exits import ExitDecisions, ExitPolicy, confidences, decide_from_confidences
from core.machine import device_of, enough_memory
from core.models import ExitModel
from core.progress import CancelToken, Progress, end_if

BATCH_SIZE = 250


@torch.no_grad()
def logits_of(model: ExitModel, images: Tensor, batch_size: int = BATCH_SIZE) -> Tensor:
    """Logits of all exits, (N, K, C): the reference forward pass, made where the model is.

    Args:
        model: Any exit model in eval mode.
        images: (N, 3, H, W) in [0, 1]; the logits come back to where they are.
        batch_size: Images at a time; moves float32 logits by about 2e-6.
    """
    device = device_of(model)
    with enough_memory(device):
        return torch.cat([model(batch.to(device)).to(images.device) for batch in images.split(batch_size)])


def exit_logits(
    model: ExitModel,
    image_set: ImageSet,
    batch_size: int = BATCH_SIZE,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: CancelToken | None = None,
) -> Tensor:
    """Logits of all exits on every image of a set, (N, K, C) float32, as ``logits_of`` gives them.

    Args:
        model: Any exit model in eval mode.
        image_set: The images.
        batch_size: Images at a time; moves float32 logits by about 2e-6.
        on_progress: Called after each batch.
        cancel: Checked before each batch.

    Raises:
        Cancelled: Once ``cancel`` is set.
    """
    parts: list[Tensor] = []
    num_done, num_images = 0, len(image_set)
    for batch in image_set.images.split(batch_size):
        end_if(cancel)
        parts.append(logits_of(model, batch.float() / 255))
        num_done += len(batch)
        if on_progress:
            on_progress(Progress(num_done / num_images, f"{num_done:,} of {num_images:,} images"))
    return torch.cat(parts)


@dataclass(frozen=True)
class EvaluationSpec:
    """Which images are shown to which model; also the key under which the outcome is cached.

    Attributes:
        model: Name of the model.
        weights_sha256: Of its weights: a retrained model is another one.
        image_set: Such as ``cifar10:test``.
        num_images: The first so many of it, in official order.
    """

    model: str
    weights_sha256: str
    image_set: str
    num_images: int


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What every exit says of some images: enough for accuracy, cost and calibration under any policy.

    Attributes:
        spec: What was asked.
        labels: (N,) true classes.
        confidence: (N, K) confidence of every exit.
        predicted: (N, K) class predicted by every exit.
        seconds: Wall-clock of the forward passes.
    """

    spec: EvaluationSpec
    labels: Tensor
    confidence: Tensor
    predicted: Tensor
    seconds: float

    @property
    def right(self) -> Tensor:
        """(N, K), True where an exit is right."""
        return self.predicted == self.labels[:, None]

    def decide(self, policy: ExitPolicy) -> ExitDecisions:
        """What a policy makes of it; no network runs."""
        return decide_from_confidences(self.confidence, self.predicted, policy)


def evaluate(
    spec: EvaluationSpec,
    model: ExitModel,
    image_set: ImageSet,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: CancelToken | None = None,
) -> Evaluation:
    """Shows the first images of a set to a model.

    Args:
        spec: What is asked.
        model: The model that the spec names.
        image_set: The whole image set that the spec names.
        on_progress: Called after each batch.
        cancel: Checked before each batch.

    Raises:
        Cancelled: Once ``cancel`` is set.
    """
    images = image_set.select(image_set.indices[: spec.num_images].tolist())
    started = time.perf_counter()
    logits = exit_logits(model, images, on_progress=on_progress, cancel=cancel)
    seconds = time.perf_counter() - started
    return Evaluation(spec, images.labels, confidences(logits), logits.argmax(dim=-1), seconds)
