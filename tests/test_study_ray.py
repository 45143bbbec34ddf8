"""Ray comes to the same as this process: with real models, where a worker dies, and where surrogates are trained."""

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from toy_study import STUDY, comparable, files_of

from core.checkpoints import list_models
from core.errors import ExitLensError
from core.study import workers
from core.study.runner import StudyProgress, run_study
from core.study.spec import parse_study

ATTACKS = (
    STUDY.replace("toy:test", "cifar10:samples")
    .replace("num_steps = 3", "num_steps = 1")
    .replace("toy-*", "cifar10-resnet56-early-exit")
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ray_comes_to_the_same_as_this_process_even_where_a_worker_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutants: cells computed otherwise there; a dead worker's cell lost. A real local Ray on the real models.
    ray = pytest.importorskip("ray")
    spec = replace(parse_study(ATTACKS, "test"), num_images=10)
    run_study(spec, ATTACKS, tmp_path / "here", workers.here, cancel=threading.Event())
    killed: list[int] = []

    def kill_a_worker(progress: StudyProgress) -> None:
        if progress.num_done == 2 and not killed:
            at_work = [child for child in _descendants(os.getpid()) if b"ray::do_cell" in _command_line(child)]
            os.kill(at_work[0], signal.SIGKILL)
            killed.append(at_work[0])

    place = workers.on_ray("local", spec.num_threads)
    run_study(spec, ATTACKS, tmp_path / "ray", place, on_progress=kill_a_worker, cancel=threading.Event())
    assert killed and not ray.is_initialized()
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "here")


def test_a_cluster_has_room_for_as_many_cells_as_it_has_cpus_and_gpus_for() -> None:
    # Mutants: more cells than GPUs; a cluster without any waited for in vain.
    assert [workers._room({"CPU": 8, "GPU": 2}, 2, gpus) for gpus in (0, 1, 0.5, 2)] == [4, 2, 4, 1]
    assert workers._room({"CPU": 1}, 2, 0) == 1
    with pytest.raises(ExitLensError, match="Ray knows of 0 here"):
        workers._room({"CPU": 8}, 1, 1)


def _descendants(process_id: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{process_id}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found |= {child} | _descendants(child)
    return found


def _command_line(process_id: int) -> bytes:
    try:
        return Path(f"/proc/{process_id}/cmdline").read_bytes()
    except OSError:
        return b""


def test_an_address_where_no_ray_answers_is_one_sentence(tmp_path: Path, variables: dict[str, str]) -> None:
    # Mutant: Ray's own stack trace. Without Ray, how to install it.
    spec = parse_study(STUDY, "test")
    with pytest.raises(ExitLensError, match=r"No Ray answers|requirements-ray\.txt"):
        run_study(spec, STUDY, tmp_path / "x", workers.on_ray("nowhere:x", 1), cancel=threading.Event())


SURROGATES = """
name = "black-box"
title = "Ray"
question = "Does it come to the same?"
images = ["cifar10:samples"]
num_images = 4
sources = ["surrogates"]
targets = ["cifar10-resnet56-static"]

[[surrogates]]
name = "learned"
kind = ["static", "early-exit"]
target = "cifar10-resnet56-static"
num_images = 4
num_epochs = 1

[[attacks]]
preset = "fgsm"
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.data("cifar10:validation")
@pytest.mark.skipif("cifar10-resnet56-static" not in list_models(), reason="checkpoints/ lacks the target")
def test_ray_trains_the_same_and_its_workers_have_the_surrogates(tmp_path: Path) -> None:
    # Mutants: workers that look for surrogates among their checkpoints; a training that only this process can do.
    pytest.importorskip("ray")
    spec = parse_study(SURROGATES, "test")
    run_study(spec, SURROGATES, tmp_path / "here", workers.here, cancel=threading.Event())
    run_study(spec, SURROGATES, tmp_path / "ray", workers.on_ray("local", 1), cancel=threading.Event())
    assert comparable(tmp_path / "ray") == comparable(tmp_path / "here")
