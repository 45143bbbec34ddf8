"""Studies come to the same however they were run: unbroken, killed and resumed, by one process or by many."""

import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from toy_study import (
    EARLY,
    STATIC,
    STUDY,
    files_of,
    peak_memory,
    run_as_process,
    run_toys,
    write_small_cifar_models,
)

from core.checkpoints import CARD_FILE, load_card
from core.errors import ExitLensError
from core.study import parts, workers
from core.study.cells import study_cells
from core.study.runner import StudyProgress, run_study
from core.study.spec import parse_study
from core.study.store import DECISIONS_FILE, read_study
from core.study.work import Task, do_cell

ROOT = Path(__file__).parents[1]


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Iterator[multiprocessing.context.ForkServerContext]:
    """Makes processes that have everything imported already, so that many can be killed in a short time."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toy_study"])
    yield context


def parts_in(folder: Path) -> list[Path]:
    return sorted((folder / "parts").rglob("*.parquet"))


def wait_until(condition, seconds: float = 120.0) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


# Kill and resume


def test_a_run_killed_at_random_moments_and_resumed_comes_to_the_same(
    tmp_path: Path, variables: dict[str, str], forked: multiprocessing.context.ForkServerContext
) -> None:
    # Mutants: parts written in place; a half-written part taken for a whole one; tables written before the last
    # cell kept; a cell's outcome that depends on what was done before it in the same process.
    text = STUDY.replace("images_per_cell = 5", "images_per_cell = 1\nnum_images = 8")
    run_toys(tmp_path / "unbroken", text)
    number, moments = len(parts_in(tmp_path / "unbroken")), random.Random(0)
    for _ in range(8):
        process = forked.Process(target=run_as_process, args=(variables, tmp_path / "killed", text))
        there = len(parts_in(tmp_path / "killed")) + moments.randint(0, number // 10)
        process.start()
        wait_until(lambda there=there: len(parts_in(tmp_path / "killed")) > there)
        time.sleep(moments.uniform(0, 0.03))
        process.kill()
        process.join()
    assert len(parts_in(tmp_path / "killed")) < number, "no kill came in the middle"
    run_toys(tmp_path / "killed", text)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "unbroken")


def test_a_part_cut_short_or_of_another_key_is_done_again(tmp_path: Path, variables: dict[str, str]) -> None:
    # Mutant: a part skipped because a file of its name is there.
    run_toys(tmp_path / "study")
    before = files_of(tmp_path / "study")
    answers = [path for path in parts_in(tmp_path / "study") if path.parent.name == parts.ANSWERS]
    answers[0].write_bytes(answers[0].read_bytes()[:-20])
    answers[1].write_bytes(answers[2].read_bytes())
    answers[3].unlink()
    run_toys(tmp_path / "study")
    assert files_of(tmp_path / "study") == before


def test_what_is_done_is_not_done_again(tmp_path: Path, variables: dict[str, str], monkeypatch) -> None:
    # Mutants: everything computed anew; perturbations made again because a target was added.
    made: list[str] = []

    def counted(task: Task) -> object:
        made.append("attack" if task.cell.attack and not task.made else "show")
        return do_cell(task)

    monkeypatch.setattr(workers, "do_cell", counted)
    one_target = STUDY.replace('targets = ["toy-*"]', 'targets = ["static"]')
    study = run_toys(tmp_path / "study", one_target)
    assert made.count("attack") == len(study.cells) - 3  # 12 images in cells of 5: three clean cells
    made.clear()
    run_toys(tmp_path / "study", one_target)
    assert made == []
    wider = run_toys(tmp_path / "study")
    assert made and "attack" not in made
    assert files_of(tmp_path / "study")[DECISIONS_FILE] == _fresh(tmp_path)[DECISIONS_FILE]
    assert wider.is_complete


def _fresh(tmp_path: Path) -> dict[str, bytes]:
    run_toys(tmp_path / "fresh")
    return files_of(tmp_path / "fresh")


def test_another_card_makes_other_cells(tmp_path: Path, variables: dict[str, str]) -> None:
    # Mutant: a key without the weights: a model trained again would keep the old one's results.
    spec = parse_study(STUDY, "test")
    cards = {name: load_card(name) for name in (EARLY, STATIC)}
    cells = study_cells(spec, cards, {"toy:test": range(12)})
    again = study_cells(
        spec, cards | {STATIC: replace(cards[STATIC], weights_sha256="0" * 64)}, {"toy:test": range(12)}
    )
    assert len({cell.key for cell in cells}) == len(cells) == len(again)
    assert not {cell.key for cell in cells} & {cell.key for cell in again}
    kept = {cell.made_key for cell in cells if cell.source == EARLY}
    assert kept == {cell.made_key for cell in again if cell.source == EARLY}  # made on a model that stayed


def test_weights_that_changed_under_a_plan_are_refused(tmp_path: Path, variables: dict[str, str]) -> None:
    # Mutant: a worker that takes whatever checkpoint it finds.
    cards = {name: load_card(name) for name in (EARLY, STATIC)}
    cell = study_cells(parse_study(STUDY, "test"), cards, {"toy:test": range(12)})[0]
    planned = replace(cell, hashes=tuple((name, "0" * 16) for name, _ in cell.hashes))
    with pytest.raises(ExitLensError, match="not the one that the study was planned with"):
        do_cell(Task(planned))


# Stopping and progress


def test_cancelled_study_finishes_the_cell_at_hand_and_says_what_is_done(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    # Mutants: the cell at hand thrown away; a new one begun; an unfinished study called complete.
    cancel, seen = threading.Event(), list[StudyProgress]()

    def on_progress(progress: StudyProgress) -> None:
        seen.append(progress)
        if progress.num_done == 4:
            cancel.set()

    spec = parse_study(STUDY, "test")
    study = run_study(spec, STUDY, tmp_path / "study", workers.here, on_progress=on_progress, cancel=cancel)
    assert study == read_study(tmp_path / "study")
    assert study.num_done == 4 and not study.is_complete
    assert [progress.num_done for progress in seen] == [0, 1, 2, 3, 4]
    assert [progress.seconds_left is None for progress in seen] == [True, True, False, False, False]
    shares = [progress.share for progress in seen]
    assert shares == sorted(shares) and shares[0] == 0 and 0 < shares[-1] < 1
    assert "4 of 21 cells, about" in seen[-1].words
    rows = pq.read_table(tmp_path / "study" / DECISIONS_FILE, columns=["cell"]).num_rows
    assert rows == 3 * 5 * 2 * 2  # cells with an attack, images, targets, policies
    assert run_toys(tmp_path / "study").is_complete


def test_two_runs_do_not_work_in_one_folder(tmp_path: Path, variables: dict[str, str]) -> None:
    # Mutant: no lock, and a lock that outlives its run.
    inside: list[str] = []

    def on_progress(progress: StudyProgress) -> None:
        if not inside:
            with pytest.raises(ExitLensError, match="Another run is at work") as refused:
                run_toys(tmp_path / "study")
            inside.append(str(refused.value))

    spec = parse_study(STUDY, "test")
    run_study(spec, STUDY, tmp_path / "study", workers.here, on_progress=on_progress, cancel=threading.Event())
    assert inside and run_toys(tmp_path / "study").is_complete


def test_a_study_that_attacks_nothing_says_so(tmp_path: Path, variables: dict[str, str]) -> None:
    # Mutant: empty tables for a study whose models are not there.
    with pytest.raises(ExitLensError, match="attacks nothing here"):
        run_toys(tmp_path / "study", STUDY.replace('sources = ["toy-*"]', 'sources = ["all-exits"]'))
    with pytest.raises(ExitLensError, match="nobody"):
        run_toys(tmp_path / "study", STUDY.replace('sources = ["toy-*"]', 'sources = ["nobody"]'))
    with pytest.raises(ExitLensError, match="holds 12 images"):
        run_toys(tmp_path / "study", STUDY.replace('images = ["toy:test"]', 'images = ["toy:test"]\nnum_images = 13'))


def test_images_that_no_model_knows_are_left_out(tmp_path: Path, variables: dict[str, str]) -> None:
    # Mutant: a clean cell shown to nobody, on which every run ends.
    text = STUDY.replace('images = ["toy:test"]', 'images = ["toy:test", "cifar10:samples"]')
    assert text != STUDY
    study = run_toys(tmp_path, text)
    assert study.is_complete and len(study.cells) == len(run_toys(tmp_path / "without").cells)


def test_a_disk_that_fills_up_under_a_table_is_one_sentence(
    tmp_path: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutant: the OSError of pyarrow let through, or half a table left behind.
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter", full)  # of tables; parts are written by another way
    with pytest.raises(ExitLensError, match=r"No space left on device.*what is done stays"):
        run_toys(tmp_path)
    assert not list(tmp_path.glob(".partial*"))


def test_a_damaged_card_is_left_out(tmp_path: Path, variables: dict[str, str]) -> None:
    # Mutant: one bad card ends every study.
    other = tmp_path / "checkpoints" / "damaged"
    other.mkdir()
    (other / CARD_FILE).write_text("{}")
    assert {model.name for model in run_toys(tmp_path / "study").models} == {EARLY, STATIC}


# Processes


def study_command(out: Path, *words: str) -> list[str]:
    return [sys.executable, str(ROOT / "tests/toy_study.py"), "study", "run", "toys.toml", "--out", str(out), *words]


@pytest.fixture
def project(tmp_path: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run the program in."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toys.toml").write_text(STUDY)
    run_toys(tmp_path / "unbroken")
    return tmp_path


def children_of(process_id: int) -> set[int]:
    listed = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    return {int(child) for child in listed}


def workers_of(process_id: int) -> list[int]:
    children = children_of(process_id)
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.slow
def test_spawned_workers_come_to_the_same_and_a_killed_one_is_made_up_for(project: Path) -> None:
    # Mutants: results that depend on the process; a pool that breaks with its worker; a cell lost with it.
    process = subprocess.Popen(study_command(project / "study", "--workers", "2"), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(parts_in(project / "study")) > 3)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert files_of(project / "study") == files_of(project / "unbroken")


@pytest.mark.slow
def test_a_killed_run_leaves_no_worker_behind_and_goes_on(project: Path) -> None:
    # Mutants: workers that wait for ever for a parent that is gone; a lock that stays.
    process = subprocess.Popen(study_command(project / "study", "--workers", "2"), stderr=subprocess.DEVNULL)
    wait_until(lambda: len(parts_in(project / "study")) > 3)
    children = children_of(process.pid)
    process.kill()
    process.wait()
    wait_until(lambda: not any(is_alive(child) for child in children), seconds=20)
    run = subprocess.run(study_command(project / "study", "--workers", "2"), check=True, capture_output=True, text=True)
    assert "21 of 21 cells are done" in run.stdout
    assert files_of(project / "study") == files_of(project / "unbroken")


def is_alive(process_id: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["a worker is being imported", "cells are done"])
def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(project: Path, moment: str) -> None:
    # Mutants: a stack trace; workers that take the signal too and lose their cells, or that cannot ignore it yet.
    process = subprocess.Popen(
        study_command(project / "study", "--workers", "2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    cells_first = moment == "cells are done"
    wait_until(lambda: len(parts_in(project / "study")) > 3 if cells_first else bool(workers_of(process.pid)))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in errors and "Finishing the cells at hand" in errors
    done = int(re.match(r"(\d+) of 21 cells are done", out)[1])  # type: ignore[index]
    assert (done > 0 or not cells_first) and done < 21 and read_study(project / "study").num_done == done
    subprocess.run(study_command(project / "study"), check=True, capture_output=True)
    assert files_of(project / "study") == files_of(project / "unbroken")


# Size


SIZE_STUDY = """
name = "size"
title = "Size"
question = "Does memory grow?"
images = ["cifar10:test"]
sources = ["small-early-exit"]
targets = ["small-*"]

[[attacks]]
preset = "fgsm"
"""


@pytest.mark.slow
@pytest.mark.data("cifar10:test")
@pytest.mark.timeout(1200)
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, toy_registry: None) -> None:
    # Mutant: anything that is collected until the end. Toy networks on real images, so that nothing else is large.
    variables = write_small_cifar_models(tmp_path)
    peaks = {}
    for num_images in (1000, 8000):
        text = f"{SIZE_STUDY}".replace(
            'images = ["cifar10:test"]', f'images = ["cifar10:test"]\nnum_images = {num_images}'
        )
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peaks[num_images] = pool.apply(peak_memory, (variables, tmp_path / str(num_images), text))
        assert read_study(tmp_path / str(num_images)).is_complete
    assert peaks[8000] <= 1.1 * peaks[1000], peaks
