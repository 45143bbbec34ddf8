"""Wall-clock of an early-exit model that really stops, against a static network, in one run."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from core.data import ImageSet
from core.errors import Cancelled, ExitLensError
from core.exits import ExitPolicy, run_dynamic
from core.machine import machine_facts
from core.models import ExitModel
from core.progress import CancelToken, Progress
from core.tables import TableSchema

NUM_IMAGES = 64
NUM_REPEATS = 5
WALL_CLOCK = TableSchema(
    "wall_clock",
    "one repeat at one batch size: all images through both networks, one after the other",
    {
        "batch_size": "whole",
        "repeat": "whole",
        "num_images": "whole",
        "dynamic_seconds": "number",
        "static_seconds": "number",
        "ratio": "number",
        "threads": "whole",
    },
)


@dataclass(frozen=True)
class TimingSpec:
    """What is timed; also the key under which the outcome is kept.

    Attributes:
        model: An early-exit model.
        weights_sha256: Of its weights.
        twin: The static model; None: the model's own network without its early exits.
        twin_sha256: Of the twin's weights; empty without a twin.
        policy: In force in the early-exit model.
        image_set: Such as ``cifar10:test``; its first ``NUM_IMAGES`` images are used.
    """

    model: str
    weights_sha256: str
    twin: str | None
    twin_sha256: str
    policy: ExitPolicy
    image_set: str


@dataclass(frozen=True, eq=False)
class Timing:
    """What came of it.

    Attributes:
        spec: What was asked.
        table: Schema ``WALL_CLOCK``.
        mean_cost: Mean cost fraction of these very images.
        machine: Processor, threads and how idle threads wait.
    """

    spec: TimingSpec
    table: pd.DataFrame
    mean_cost: float
    machine: dict[str, str]


@dataclass(frozen=True)
class Spread:
    """Time of the early-exit model over that of the static network.

    Attributes:
        batch_size: Images at a time.
        median: Over the repeats.
        low: Smallest repeat.
        high: Largest repeat.
        num_repeats: Repeats.
    """

    batch_size: int
    median: float
    low: float
    high: float
    num_repeats: int


def spreads(table: pd.DataFrame) -> list[Spread]:
    """The ratio at every batch size of a table of schema ``WALL_CLOCK``."""
    return [
        Spread(int(str(size)), statistics.median(rows.ratio), rows.ratio.min(), rows.ratio.max(), len(rows))
        for size, rows in table.groupby("batch_size")
    ]


def time_dynamic(
    spec: TimingSpec,
    model: ExitModel,
    twin: ExitModel | None,
    image_set: ImageSet,
    *,
    num_repeats: int = NUM_REPEATS,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: CancelToken | None = None,
) -> Timing:
    """Times ``run_dynamic`` against a static forward pass, image by image and in one batch.

    Each repeat runs both, so that a machine that slows down meanwhile slows both. A first repeat warms up and is
    not counted.

    Args:
        spec: What is asked.
        model: The early-exit model.
        twin: The static model; None runs the model's own layers without its early classifiers, which are the same
            multiply-adds.
        image_set: The whole image set that the spec names.
        num_repeats: Counted repeats.
        on_progress: Called after each repeat.
        cancel: Checked before each batch.

    Raises:
        ExitLensError: If the model is static.
        Cancelled: Once ``cancel`` is set.
    """
    if model.num_exits == 1:
        raise ExitLensError(f"{spec.model} has one exit, so it cannot stop early. Choose an early-exit model.")
    static, images = twin or model, image_set.select(image_set.indices[:NUM_IMAGES].tolist()).pixels()
    last, threads = static.num_exits - 1, torch.get_num_threads()
    sizes = sorted({1, len(images)})
    rows = []
    for number, size in enumerate(sizes):
        for repeat in range(num_repeats + 1):
            dynamic_seconds = _seconds(lambda batch: run_dynamic(model, batch, spec.policy), images, size, cancel)
            static_seconds = _seconds(lambda batch: static.run_until(batch, last), images, size, cancel)
            if repeat:
                ratio = dynamic_seconds / static_seconds
                rows.append((size, repeat, len(images), dynamic_seconds, static_seconds, ratio, threads))
            if on_progress:
                share = (number + (repeat + 1) / (num_repeats + 1)) / len(sizes)
                on_progress(Progress(share, f"batches of {size}, repeat {repeat} of {num_repeats}"))
    table = WALL_CLOCK.check(pd.DataFrame(rows, columns=list(WALL_CLOCK.columns)))
    mean_cost = run_dynamic(model, images, spec.policy).costs(model.exit_costs).mean().item()
    return Timing(spec, table, mean_cost, machine_facts())


@torch.no_grad()
def _seconds(run: Callable[[Tensor], object], images: Tensor, batch_size: int, cancel: CancelToken | None) -> float:
    started = time.perf_counter()
    for batch in images.split(batch_size):
        if cancel and cancel.is_set():
            raise Cancelled
        run(batch)
    return time.perf_counter() - started
