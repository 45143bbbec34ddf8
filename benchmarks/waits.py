"""One kind of wait, measured some times against what is promised of it."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.results import write_result
from core.machine import machine_facts


@dataclass(frozen=True)
class Wait:
    """One kind of wait.

    Attributes:
        name: What the viewer waits for.
        limit_seconds: What is promised of the median.
        seconds: Of each repeat.
    """

    name: str
    limit_seconds: float
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the repeats, in seconds."""
        return statistics.median(self.seconds)


def write_waits(waits: Sequence[Wait], result: Path) -> Path:
    """Writes waits and the facts of this machine as JSON."""
    facts = {"machine": machine_facts(), "waits": [asdict(wait) | {"median": wait.median} for wait in waits]}
    write_result(result, facts)
    return result
