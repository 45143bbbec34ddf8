"""What the dashboard promises of its waits, against what `python -m core bench app` measured last."""

import json
from pathlib import Path

from benchmarks.app import RESULT

ARCHITECTURE = Path(__file__).parents[1] / "docs" / "architecture.md"
# Waits that miss their limit, and by what factor they may; docs/architecture.md says so.
MISSES = {"threshold change in the attack lab": 1.2, "threshold change on Confidence": 1.2}


def test_every_wait_keeps_its_limit_but_those_that_are_said_to_miss_it() -> None:
    # Mutants: a wait measured anew beyond its limit, and committed; a limit moved to where the wait is; a miss unsaid.
    waits = {wait["name"]: wait for wait in json.loads(RESULT.read_text(encoding="utf-8"))["waits"]}
    over = {name: wait["median"] / wait["limit_seconds"] for name, wait in waits.items()}
    assert {name for name, factor in over.items() if factor > 1} == set(MISSES), over
    assert all(over[name] <= factor for name, factor in MISSES.items()), over
    limits = {"threshold": 0.3, "filter change in the attack lab": 0.3, "filter change in a gallery": 1, "PGD-10": 1.5}
    limits |= {"warm page change": 1, "first interactive page": 8, "live result": 8}
    for words, limit in limits.items():
        named = [wait["limit_seconds"] for name, wait in waits.items() if name.startswith(words)]
        assert named and set(named) == {limit}, words
    said = ARCHITECTURE.read_text(encoding="utf-8")
    assert all(f"{waits[name]['median']:.2f} s" in said for name in MISSES)
