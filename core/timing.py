"""Wall-clock of models that really stop: against a static network in one run, and of one image at each exit."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from core.data import ImageSet
from core.errors import ExitLensError
from core.exits import ExitPolicy, run_dynamic
from core.machine import device_of, machine_facts, wait_for
from core.models import ExitModel
from core.progress import CancelToken, Progress, end_if
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
    images = images.to(device_of(model))
    last, threads = static.num_exits - 1, torch.get_num_threads()
    sizes = sorted({1, len(images)})
    rows = []
    for number, size in enumerate(sizes):
        for repeat in range(num_repeats + 1):
            dynamic_seconds = seconds_of(lambda batch: run_dynamic(model, batch, spec.policy), images, size, cancel)
            static_seconds = seconds_of(lambda batch: static.run_until(batch, last), images, size, cancel)
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
def seconds_of(run: Callable[[Tensor], object], images: Tensor, batch_size: int, cancel: CancelToken | None) -> float:
    """Seconds that something takes for all images, so many at a time, where they are.

    Raises:
        Cancelled: Once ``cancel`` is set, which is looked at before each batch.
    """
    started = time.perf_counter()
    for batch in images.split(batch_size):
        end_if(cancel)
        run(batch)
    wait_for(images.device)
    return time.perf_counter() - started


EXIT_TIMES = TableSchema(
    "exit_times",
    "one exit: how long one image takes to leave there, from its pixels to the decision",
    {
        "exit_index": "whole",
        "seconds": "number",
        "low": "number",
        "high": "number",
        "num_runs": "whole",
        "threads": "whole",
    },
)
NUM_RUNS = 30


@dataclass(frozen=True)
class ExitTimingSpec:
    """Whose exits are timed; also the key under which the outcome is kept.

    Attributes:
        model: Any model that stops early.
        weights_sha256: Of its weights.
        image_set: Such as ``cifar10:samples``; its first images are used in turn.
    """

    model: str
    weights_sha256: str
    image_set: str


@dataclass(frozen=True, eq=False)
class ExitTimes:
    """How long one image takes to leave at each exit.

    Attributes:
        spec: What was asked.
        table: Schema ``EXIT_TIMES``: median of the runs, fastest and slowest.
        machine: Processor, threads and how idle threads wait.
    """

    spec: ExitTimingSpec
    table: pd.DataFrame
    machine: dict[str, str]

    def milliseconds(self, exit_index: int) -> float:
        """Median time of an image that leaves at an exit."""
        return 1000 * float(self.table.seconds.iloc[exit_index])


def time_exits(
    spec: ExitTimingSpec,
    model: ExitModel,
    image_set: ImageSet,
    *,
    num_runs: int = NUM_RUNS,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: CancelToken | None = None,
) -> ExitTimes:
    """Times one image at a time through the work of ``run_dynamic``, and notes when each exit has decided.

    An image that leaves at an exit needs what stands before that moment and nothing after it, so one run times all
    exits. A first run warms up and is not counted.

    Args:
        spec: What is asked.
        model: The model that the spec names.
        image_set: The whole image set that the spec names.
        num_runs: Counted runs.
        on_progress: Called after each run.
        cancel: Checked before each run.

    Raises:
        ExitLensError: If leaving early spares this model nothing.
        Cancelled: Once ``cancel`` is set.
    """
    if not model.stops_early:
        raise ExitLensError(f"{spec.model} computes all its exits always, so there is nothing to time at each.")
    images = image_set.select(image_set.indices[: min(num_runs, NUM_IMAGES)].tolist()).pixels().to(device_of(model))
    runs = []
    for run in range(num_runs + 1):
        end_if(cancel)
        place = run % len(images)
        runs.append(_seconds_to_exits(model, images[place : place + 1]))
        if on_progress:
            on_progress(Progress((run + 1) / (num_runs + 1), f"timing the exits, run {run} of {num_runs}"))
    counted = list(zip(*runs[1:], strict=True))
    rows = [
        (exit_index, statistics.median(each), min(each), max(each), num_runs, torch.get_num_threads())
        for exit_index, each in enumerate(counted)
    ]
    return ExitTimes(spec, EXIT_TIMES.check(pd.DataFrame(rows, columns=list(EXIT_TIMES.columns))), machine_facts())


@torch.no_grad()
def _seconds_to_exits(model: ExitModel, image: Tensor) -> list[float]:
    """When each exit has decided about one image, (1, 3, H, W): the steps of ``run_dynamic``."""
    started, passed = time.perf_counter(), []
    features = model.begin(image)
    for exit_index in range(model.num_exits):
        features = model.advance(features, exit_index)
        confidence, _ = model.classify(features, exit_index).softmax(dim=-1).max(dim=-1)
        confidence.item()
        passed.append(time.perf_counter() - started)
    return passed
