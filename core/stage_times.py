"""How much of the saving that the times of its stages allow a model reaches when it really stops."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.exits import ExitDecisions, ExitPolicy, run_dynamic
from core.machine import device_of, wait_for
from core.models import ExitModel
from core.progress import CancelToken, Progress, end_if
from core.timing import NUM_REPEATS, seconds_of


@dataclass(frozen=True)
class StageTimes:
    """What really stopping spares, beside what the times of the stages allow.

    Attributes:
        num_images: Images.
        batch_size: Images at a time.
        threshold: Of the policy.
        stage_seconds: Of the layers from exit to exit with the exit's classifier, K of them, on whole batches.
        reached: Share of the images that reach each stage, K of them, from 1 downwards.
        all_exits_seconds: Of one pass through all exits.
        final_exit_seconds: Of one pass to the final exit without the early classifiers.
        dynamic_seconds: Of ``run_dynamic``.
    """

    num_images: int
    batch_size: int
    threshold: float
    stage_seconds: tuple[float, ...]
    reached: tuple[float, ...]
    all_exits_seconds: float
    final_exit_seconds: float
    dynamic_seconds: float

    @property
    def full_seconds(self) -> float:
        """Of the fastest full pass."""
        return min(self.all_exits_seconds, self.final_exit_seconds)

    @property
    def allowed_saving(self) -> float:
        """Share of the fastest full pass that is spared if every stage takes as long as its images' part of a batch."""
        needed = sum(share * seconds for share, seconds in zip(self.reached, self.stage_seconds, strict=True))
        return 1 - needed / self.full_seconds

    @property
    def saving(self) -> float:
        """Share of the fastest full pass that ``run_dynamic`` spares."""
        return 1 - self.dynamic_seconds / self.full_seconds

    @property
    def share_of_allowed(self) -> float:
        """How much of the allowed saving is reached; NaN where nothing can be spared."""
        return self.saving / self.allowed_saving if self.allowed_saving > 0 else math.nan


@torch.no_grad()
def time_stages(
    model: ExitModel,
    images: Tensor,
    policy: ExitPolicy,
    *,
    batch_size: int = 256,
    num_repeats: int = NUM_REPEATS,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: CancelToken | None = None,
) -> StageTimes:
    """Times ``run_dynamic``, full passes and each stage by itself, in turn.

    Args:
        model: Any exit model that stops early, in the precision that is asked about.
        images: (N, 3, H, W) in [0, 1].
        policy: In force.
        batch_size: Images at a time.
        num_repeats: Counted repeats, of which each time is the median; one before warms up.
        on_progress: Called after each repeat.
        cancel: Looked at before each batch.

    Raises:
        Cancelled: Once ``cancel`` is set.
    """
    last, images = model.num_exits - 1, images.to(device_of(model))

    def stopping(images: Tensor) -> ExitDecisions:
        return run_dynamic(model, images, policy, batch_size=batch_size, cancel=cancel)

    computed = stopping(images).computed_exit
    reached = tuple(float((computed >= exit_index).double().mean()) for exit_index in range(model.num_exits))
    taken: list[tuple[float, ...]] = []
    for repeat in range(num_repeats + 1):
        whole = (
            seconds_of(stopping, images, len(images), cancel),
            seconds_of(model, images, batch_size, cancel),
            seconds_of(lambda batch: model.run_until(batch, last), images, batch_size, cancel),
        )
        taken.append((*whole, *_stage_seconds(model, images, batch_size, cancel)))
        if on_progress:
            on_progress(Progress((repeat + 1) / (num_repeats + 1), f"repeat {repeat} of {num_repeats}"))
    dynamic, all_exits, final_exit, *stages = (statistics.median(times) for times in zip(*taken[1:], strict=True))
    return StageTimes(len(images), batch_size, policy.threshold, tuple(stages), reached, all_exits, final_exit, dynamic)


def _stage_seconds(model: ExitModel, images: Tensor, batch_size: int, cancel: CancelToken | None) -> list[float]:
    """Seconds of each stage with its classifier over all batches; what comes before the first is part of it."""
    seconds = [0.0] * model.num_exits
    for batch in images.split(batch_size):
        end_if(cancel)
        features = batch
        for exit_index in range(model.num_exits):
            started = time.perf_counter()
            if exit_index == 0:
                features = model.begin(features)
            features = model.advance(features, exit_index)
            model.classify(features, exit_index)
            wait_for(batch.device)
            seconds[exit_index] += time.perf_counter() - started
    return seconds
