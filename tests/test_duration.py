"""What one image takes in the lab: multiply-adds, and milliseconds that were measured."""

import re

import pytest
from every_page import fresh_caches, settled, warm
from test_models_page import EARLY, zoo

from core.timing import ExitTimes, ExitTimingSpec

__all__ = ["fresh_caches", "zoo"]
pytestmark = pytest.mark.usefixtures("zoo")
PHRASE = re.compile(
    r"(\d+) % → \*\*(\d+) %\*\* of the multiply-adds · ([\d.]+) ms → \*\*([\d.]+) ms\*\* instead of ([\d.]+) ms"
)


def timed() -> ExitTimes:
    from ui import cache

    jobs = [job for job in cache.job_board().finished() if isinstance(job.spec, ExitTimingSpec)]
    assert len(jobs) == 1, "measured once"
    return jobs[0].result()


def test_the_lab_says_what_was_measured_at_the_exits_taken() -> None:
    # Mutants: a time computed from the multiply-adds; the exits exchanged; another model's times.
    test = warm("attack_lab", images="12-19", threshold="0.97")
    said = next(found for text in test.markdown if (found := PHRASE.search(text.value)))
    times = timed()
    assert times.spec.model == EARLY
    possible = {f"{times.milliseconds(index):.1f}" for index in range(4)}
    assert {said[3], said[4]} <= possible and said[5] == f"{times.milliseconds(3):.1f}"
    assert any("medians of 30 runs" in text.value and "thread" in text.value for text in test.caption)


def test_times_are_measured_once_and_move_with_the_exit_not_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: measured anew at every pass, so that a number changes by itself.
    test = warm("attack_lab", images="12-19", threshold="0.97")
    before = timed()
    settled(test.slider(key="threshold").set_value(0.0).run())
    assert timed() is before
    said = next(found for text in test.markdown if (found := PHRASE.search(text.value)))
    assert said[3] == said[4] == f"{before.milliseconds(0):.1f}", "at threshold 0 every image leaves at the first exit"


def test_a_static_model_has_costs_and_no_times() -> None:
    # Mutant: a job that times what cannot stop.
    from ui import cache

    test = warm("attack_lab", model="■ Toy static", images="0-3")
    assert not test.exception and not any("instead of" in text.value for text in test.markdown)
    assert any("of the multiply-adds" in text.value for text in test.markdown)
    assert not [job for job in cache.job_board().finished() if isinstance(job.spec, ExitTimingSpec)]
