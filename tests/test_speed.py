"""The page about speed, how much of the possible saving stopping early reaches, and the bench on toys."""

import json
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import record_inputs, toy_image_set, toy_images, toy_model

from benchmarks import attacks as bench
from benchmarks import contenders, spared
from benchmarks.peers import peers_here
from benchmarks.speed_page import PAGE, speed_page
from core import bench as commands
from core.errors import Cancelled, ExitLensError
from core.exits import ExitPolicy, decide
from core.progress import Progress
from core.stage_times import StageTimes, time_stages

POLICY = ExitPolicy(0.6)
GROUPS = ("rows", "warm_up", "agreement", "ratios", "dynamic")


@pytest.mark.skipif(not bench.RESULT.is_file(), reason="nothing was measured yet")
def test_the_page_holds_what_was_measured():
    """Mutant: a number typed into the page, or a result measured anew without its page."""
    assert PAGE.read_text(encoding="utf-8") == speed_page(json.loads(bench.RESULT.read_text(encoding="utf-8")))


@pytest.mark.skipif(not bench.RESULT.is_file(), reason="nothing was measured yet")
def test_what_was_measured_is_equal_success_with_machine_facts():
    """Mutant: rows of attacks that do not succeed equally often, or a machine that nobody knows."""
    measured = json.loads(bench.RESULT.read_text(encoding="utf-8"))
    assert {"cores", "threads", "omp_wait_policy", "instructions", "search_precision"} <= set(measured["machine"])
    for size in {row["batch_size"] for row in measured["rows"]}:
        successes = [row["success"] for row in measured["rows"] if row["batch_size"] == size]
        assert max(successes) - min(successes) <= contenders.EQUAL_SUCCESS
    assert {row["section"] for group in GROUPS for row in measured[group]} == set(bench.SECTIONS)
    assert {row["model"] for row in measured["rows"]} >= {"as loaded", "float32", "fast"}


def test_savings_by_hand():
    """Mutant: shares and times swapped, the slower full pass for comparison, or stages counted in full."""
    times = StageTimes(
        num_images=10,
        batch_size=5,
        threshold=0.9,
        stage_seconds=(1.0, 2.0, 3.0),
        reached=(1.0, 0.5, 0.2),
        all_exits_seconds=6.0,
        final_exit_seconds=5.0,
        dynamic_seconds=3.0,
    )
    assert times.full_seconds == 5.0
    assert times.allowed_saving == pytest.approx(1 - (1.0 + 1.0 + 0.6) / 5.0)
    assert times.saving == pytest.approx(0.4)
    assert times.share_of_allowed == pytest.approx(0.4 / 0.48)


def test_every_stage_is_timed_on_whole_batches_and_reached_by_those_that_stay(monkeypatch):
    """Mutant: stages timed on the images that are left, or the share that leaves taken for the share that stays."""
    model, images = toy_model(num_exits=3), toy_images(30)
    inputs = record_inputs(model)
    seen: list[Progress] = []
    times = time_stages(model, images, POLICY, batch_size=16, num_repeats=2, on_progress=seen.append)
    computed = decide(model(images), POLICY).computed_exit
    assert times.reached == pytest.approx([float((computed >= index).double().mean()) for index in range(3)])
    assert (times.num_images, times.batch_size, times.threshold) == (30, 16, 0.6)
    assert len(times.stage_seconds) == 3 and all(seconds > 0 for seconds in times.stage_seconds)
    # Three repeats, each a dynamic pass, two full ones and one stage by stage; and one to know who reaches what.
    passes = [len(batch) for batch in inputs["block 0"]]
    assert passes.count(16) == passes.count(14) == 1 + 3 * 4
    assert [progress.share for progress in seen] == pytest.approx([1 / 3, 2 / 3, 1])


def test_cancel_ends_the_timing_of_stages():
    """Mutant: a token that nobody looks at."""

    class Set:
        def is_set(self) -> bool:
            return True

    with pytest.raises(Cancelled):
        time_stages(toy_model(num_exits=3), toy_images(4), POLICY, cancel=Set())


class ToyCard:
    name, weights_sha256 = "toy", "0" * 64


@pytest.fixture
def toy_bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Path]:
    """A bench on toys: every radius is such that all contenders turn every image; where its files go."""
    model = toy_model(num_exits=3, dtype=torch.float32)
    for parameter in (*model.exits.parameters(), *model.backbone.tail.parameters()):
        parameter.mul_(0.5)

    def some_images(count: int) -> Any:
        images = toy_image_set(count)
        return replace(images, labels=model(images.pixels())[:, -1].argmax(dim=-1))

    monkeypatch.setattr(bench, "load_model", lambda name: (model, ToyCard()))
    monkeypatch.setattr(bench, "some_images", some_images)
    monkeypatch.setattr(bench, "SPEC", replace(bench.SPEC, epsilon=0.5, step_size=0.1))
    monkeypatch.setattr(bench, "NUM_DYNAMIC", 300)
    monkeypatch.setattr(contenders, "EQUAL_SUCCESS", 0.1)
    return {"file": tmp_path / "attacks.json", "page": tmp_path / "speed.md"}


@pytest.mark.slow
def test_every_section_is_measured_written_and_shown(toy_bench: dict[str, Path]) -> None:
    """Mutant: a section whose numbers go nowhere, a contender or a form left out, or a page without a table."""
    said: list[str] = []
    whole = bench.measure_attacks(
        bench.Bench("toy", with_compile=False, num_rounds=1, on_progress=said.append),
        **toy_bench,
        on_written=said.append,
    )
    assert whole == json.loads(toy_bench["file"].read_text(encoding="utf-8"))
    assert {row["section"] for group in GROUPS for row in whole[group]} == set(bench.SECTIONS)
    assert {"cores", "threads", "omp_wait_policy", "instructions", "search_precision", "torch"} <= set(whole["machine"])
    here = {(name, kind) for name in peers_here() for kind in ("as loaded", "fast")}
    assert {"torchattacks", "Foolbox"} <= set(peers_here()) == set(whole["peers"])
    for size in bench.BATCHES:
        rows = [row for row in whole["rows"] if row["batch_size"] == size]
        assert {(row["contender"], row["model"]) for row in rows} == here | {
            ("ours, float32", "float32"),
            ("ours", "fast"),
        }
        medians = {(row["contender"], row["model"]): row["median"] for row in rows}
        for row in rows:
            for field, kind in (("times_fastest_peer", "as loaded"), ("times_fastest_peer_here", row["model"])):
                peers = [value for key, value in medians.items() if key[1] == kind and not key[0].startswith("ours")]
                expected = pytest.approx(min(peers) / row["median"], rel=0.05) if peers else None
                assert row[field] == expected
            assert row["times_floor"] > 0 and row["peak_megabytes"] >= 0
    assert {row["what"].split(",")[0] for row in whole["ratios"]} == {
        "FGSM at 8 radii", "exit 1", "stopped when fooled",
    }  # fmt: skip
    assert all(
        row["times"] == pytest.approx(row["slow_milliseconds"] / row["quick_milliseconds"], rel=0.5)
        for row in whole["ratios"]
    )
    assert {(row["contender"], row["model"]) for row in whole["agreement"]} >= {
        (name, "as loaded") for name in peers_here()
    }
    page = toy_bench["page"].read_text(encoding="utf-8")
    assert page == speed_page(whole) and len(re.findall("^## ", page, re.MULTILINE)) == len(bench.BATCHES) + 4
    assert any("9 of 9" in words for words in said) and any(re.fullmatch(r"dynamic: \d+ s", words) for words in said)


def test_one_section_leaves_the_others_unless_something_else_is_measured(
    toy_bench: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: a result of two machines or models, or a section measured anew that is there twice."""
    one = bench.Bench("toy", with_compile=False, num_rounds=1)
    bench.measure_attacks(one, ["batch-8"], **toy_bench, on_written=len)
    assert "dynamic" not in toy_bench["page"].read_text(encoding="utf-8").lower().split("## ")[-1]
    first = bench.measure_attacks(one, ["exit-1"], **toy_bench, on_written=len)
    again = bench.measure_attacks(one, ["exit-1"], **toy_bench, on_written=len)
    assert first["rows"] == again["rows"] != [] and len(first["ratios"]) == len(again["ratios"]) == 3
    monkeypatch.setattr(ToyCard, "weights_sha256", "1" * 64)
    assert "rows" not in bench.measure_attacks(one, ["exit-1"], **toy_bench, on_written=len)
    bench.measure_attacks(one, ["exit-1"], **toy_bench, on_written=len)
    with pytest.raises(ExitLensError, match=r"no section 'batch-2'.*batch-1"):
        bench.measure_attacks(one, ["batch-2"], **toy_bench)


def test_contenders_that_do_not_succeed_equally_often_are_refused(
    toy_bench: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: success written down and not looked at."""

    def lazy(*_: object) -> Any:
        return lambda images, labels, spec: images

    monkeypatch.setattr(contenders, "peers_here", lambda: peers_here() | {"lazy": lazy})
    with pytest.raises(ExitLensError, match="do not succeed equally often"):
        bench.measure_attacks(bench.Bench("toy", with_compile=False), ["batch-8"], **toy_bench)
    assert not toy_bench["file"].exists()


def test_memory_is_what_a_run_needs_on_top() -> None:
    """Mutant: all memory there is, memory at the end, or what an earlier run left behind taken for free."""
    for _ in range(2):
        made, peak = contenders._peak_megabytes(hungry, torch.device("cpu"))
        assert made == 3 and 60 < peak < 120
    assert threading.active_count() < 20


def hungry() -> Any:
    import time

    held = [torch.ones(2**18) for _ in range(64)]  # 64 MiB in pieces small enough to come from the heap
    time.sleep(0.05)
    return torch.tensor(len(held) - 61)


def test_when_a_cost_has_paid_by_hand() -> None:
    """Mutant: seconds and images swapped, or a cost that pays where nothing is spared."""
    assert contenders._pays_after(10.0, 0.5, 0.25) == 40
    assert contenders._pays_after(10.0, 0.5, 0.5) is contenders._pays_after(None, 2.0, 1.0) is None
    assert contenders._pays_after(10.0, 0.5, None) is None


def test_help_of_the_command_names_every_section() -> None:
    """Mutant: a section that nobody can ask for."""
    only = commands.attacks.__annotations__["only"].__metadata__[0]
    assert all(name in only.help for name in bench.SECTIONS)
    assert len(spared.SWEPT) == 8
