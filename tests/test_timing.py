"""Wall-clock: what is run, in what order, what is counted, and against what."""

import threading

import pytest
import torch
from torch import Tensor
from toys import toy_image_set, toy_model

from core import timing
from core.errors import Cancelled, ExitLensError
from core.exits import ExitPolicy, decide, run_dynamic
from core.machine import machine_facts, machine_words
from core.progress import Progress
from core.timing import EXIT_TIMES, WALL_CLOCK, ExitTimingSpec, TimingSpec, spreads, time_dynamic, time_exits

EARLY = toy_model(num_exits=3, dtype=torch.float32)
STATIC = toy_model(num_exits=1, dtype=torch.float32)
IMAGES = toy_image_set(6, split="test")
SPEC = TimingSpec("toy-early-exit", "abc", None, "", ExitPolicy(0.6), "toy:test")


class Watched:
    """A model that remembers what it was asked."""

    def __init__(self, inner: object) -> None:
        self.inner, self.calls = inner, []

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def begin(self, images: Tensor) -> Tensor:
        self.calls.append(("begin", len(images)))
        return self.inner.begin(images)

    def run_until(self, images: Tensor, exit_index: int) -> Tensor:
        self.calls.append(("until", len(images), exit_index))
        return self.inner.run_until(images, exit_index)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which every reading is one second later, and every second reading of a pair three."""
    readings = iter(range(10_000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(readings)) ** 2)


def test_each_repeat_runs_both_one_by_one_and_in_one_batch() -> None:
    # Mutant: all of one model first, so that a machine that slows down favours it; or single images left out.
    early, static = Watched(EARLY), Watched(STATIC)
    done = time_dynamic(SPEC, early, static, IMAGES, num_repeats=2)
    assert WALL_CLOCK.check(done.table)[["batch_size", "repeat"]].values.tolist() == [[1, 1], [1, 2], [6, 1], [6, 2]]
    assert (done.table.num_images == 6).all() and (done.table.threads == torch.get_num_threads()).all()
    assert [call for call in static.calls] == [("until", 1, 0)] * 18 + [("until", 6, 0)] * 3
    assert [size for _, size in early.calls] == [1] * 18 + [6] * 3 + [6]


def test_the_first_repeat_warms_up_and_is_not_counted(clock: None) -> None:
    # Mutant: the warm-up among the rows. The clock reads squares, so each measured span is longer than the last.
    done = time_dynamic(SPEC, EARLY, STATIC, IMAGES, num_repeats=1)
    # Readings 0..3 are the warm-up of single images, 4..7 its repeat, 8..11 and 12..15 those of the batch.
    assert done.table[["dynamic_seconds", "static_seconds"]].values.tolist() == [[9, 13], [25, 29]]
    assert done.table.ratio.tolist() == pytest.approx([9 / 13, 25 / 29])


def test_without_a_twin_its_own_layers_run_without_early_classifiers() -> None:
    # Mutant: all exits computed, which makes stopping early look better than it is.
    early = Watched(EARLY)
    time_dynamic(SPEC, early, None, IMAGES, num_repeats=1)
    assert ("until", 6, 2) in early.calls and ("until", 1, 2) in early.calls


def test_mean_cost_is_that_of_the_images_that_were_timed() -> None:
    # Mutant: the cost of all images of the set, or of the final exit.
    done = time_dynamic(SPEC, EARLY, STATIC, IMAGES, num_repeats=1)
    with torch.no_grad():
        decisions = decide(EARLY(IMAGES.pixels()), SPEC.policy)
    assert done.mean_cost == pytest.approx(decisions.costs(EARLY.exit_costs).mean().item())
    assert 0 < done.mean_cost < 1 and done.machine == machine_facts()


def test_spread_is_the_median_between_the_extremes() -> None:
    # Mutant: the mean, which one slow repeat moves.
    table = time_dynamic(SPEC, EARLY, STATIC, IMAGES, num_repeats=3).table
    table["ratio"] = [0.5, 0.9, 0.6, 0.4, 0.3, 2.0]
    assert [(each.batch_size, each.median, each.low, each.high, each.num_repeats) for each in spreads(table)] == [
        (1, 0.6, 0.5, 0.9, 3),
        (6, 0.4, 0.3, 2.0, 3),
    ]


def test_a_static_model_is_refused() -> None:
    # Mutant: a static model timed against itself.
    with pytest.raises(ExitLensError, match="one exit"):
        time_dynamic(SPEC, STATIC, None, IMAGES)


def test_cancel_ends_it_between_batches_and_progress_reaches_one() -> None:
    # Mutant: a token looked at once; shares counted per batch size.
    seen: list[Progress] = []
    time_dynamic(SPEC, EARLY, STATIC, IMAGES, num_repeats=1, on_progress=seen.append)
    assert [progress.share for progress in seen] == [0.25, 0.5, 0.75, 1.0]
    cancel = threading.Event()
    with pytest.raises(Cancelled):
        time_dynamic(SPEC, EARLY, STATIC, IMAGES, on_progress=lambda progress: cancel.set(), cancel=cancel)


def test_what_is_timed_decides_as_the_page_says() -> None:
    # Mutant: a policy that the timing ignores.
    seen = {}
    for threshold in (0.0, 1.0):
        done = time_dynamic(
            TimingSpec("t", "a", None, "", ExitPolicy(threshold), "toy:test"), EARLY, STATIC, IMAGES, num_repeats=1
        )
        seen[threshold] = done.mean_cost
        assert seen[threshold] == pytest.approx(
            run_dynamic(EARLY, IMAGES.pixels(), ExitPolicy(threshold)).costs(EARLY.exit_costs).mean().item()
        )
    assert seen[0.0] == pytest.approx(EARLY.exit_costs[0]) and seen[1.0] > seen[0.0]


# One image at each exit

EXITS_SPEC = ExitTimingSpec("toy-early-exit", "abc", "toy:test")


def test_an_exit_takes_what_stands_before_it_and_the_first_run_is_not_counted(clock: None) -> None:
    # Mutants: the time between exits instead of since the start; the warm-up counted; the mean, which one run moves.
    done = time_exits(EXITS_SPEC, EARLY, IMAGES, num_runs=3)
    # Four readings a run, squared: 0..3 the warm-up, then 4..7, 8..11 and 12..15.
    first, second, third = ([(start + k) ** 2 - start**2 for k in (1, 2, 3)] for start in (4, 8, 12))
    assert EXIT_TIMES.check(done.table)[["seconds", "low", "high"]].values.tolist() == [
        [second[k], first[k], third[k]] for k in range(3)
    ]
    assert done.table.num_runs.tolist() == [3, 3, 3] and done.milliseconds(1) == 1000 * second[1]
    assert done.machine == machine_facts()


def test_each_run_takes_one_image_through_every_stage_once() -> None:
    # Mutants: a batch instead of one image; every exit from the start again.
    watched = Watched(EARLY)
    time_exits(EXITS_SPEC, watched, IMAGES, num_runs=8)
    assert watched.calls == [("begin", 1)] * 9


def test_a_model_that_does_not_stop_early_has_no_times_of_its_exits() -> None:
    # Mutant: times of exits that spare nothing.
    whole = Watched(EARLY)
    whole.stops_early = False
    with pytest.raises(ExitLensError, match="computes all its exits always"):
        time_exits(EXITS_SPEC, whole, IMAGES)


def test_timing_the_exits_can_be_cancelled_and_says_how_far_it_is() -> None:
    # Mutant: a token looked at once.
    seen: list[Progress] = []
    time_exits(EXITS_SPEC, EARLY, IMAGES, num_runs=3, on_progress=seen.append)
    assert [progress.share for progress in seen] == [0.25, 0.5, 0.75, 1.0]
    cancel = threading.Event()
    with pytest.raises(Cancelled):
        time_exits(EXITS_SPEC, EARLY, IMAGES, on_progress=lambda progress: cancel.set(), cancel=cancel)


def test_machine_words_count_threads_and_cores() -> None:
    # Mutants: "1 threads"; facts left out.
    facts = {"instructions": "AVX2", "architecture": "x86_64", "cores": "2", "threads": "1", "omp_wait_policy": ""}
    assert machine_words(facts) == "cpu, 1 thread on 2 cores, default waiting, x86_64 AVX2"
    facts |= {"threads": "2", "omp_wait_policy": "PASSIVE"}
    assert machine_words(facts) == "cpu, 2 threads on 2 cores, passive waiting, x86_64 AVX2"
