"""Where cells are done: in this process, in spawned ones, or on Ray. All three do the very same cells."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

from core.checkpoints import FOLDER_VARIABLE
from core.data import DATA_ROOT_VARIABLE
from core.errors import ExitLensError
from core.machine import DEVICE_VARIABLE
from core.progress import CancelToken
from core.study.surrogate_training import Trained, Training, train_surrogate
from core.study.work import Done, Task, do_cell

Job = Task | Training
Outcome = Done | Trained
# Takes jobs and a cancel token; yields what is done, in any order. Once cancelled it starts no other job, and
# yields those that were under way.
Workers = Callable[[Iterable[Job], CancelToken], Iterator[Outcome]]

MAX_DEATHS = 3
logger = logging.getLogger(__name__)


def _function(job: Job) -> Callable[[Any], Outcome]:
    """What does a job."""
    return do_cell if isinstance(job, Task) else train_surrogate


def here(tasks: Iterable[Job], cancel: CancelToken) -> Iterator[Outcome]:
    """One job after the other, in this process."""
    for task in tasks:
        if cancel.is_set():
            return
        yield _function(task)(task)


def spawned(num_workers: int) -> Workers:
    """Processes on this machine; the cells of one that dies are done again."""

    def work(tasks: Iterable[Job], cancel: CancelToken) -> Iterator[Outcome]:
        waiting, deaths = iter(tasks), 0
        undone: list[Job] = []
        while True:
            with ProcessPoolExecutor(
                num_workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent
            ) as pool:
                running: dict[Future[Outcome], Job] = {}
                try:
                    while True:
                        while len(running) < num_workers and not cancel.is_set():
                            undone = undone or list(islice(waiting, 1))
                            if not undone:
                                break
                            with _ctrl_c_held_back():
                                future = pool.submit(_function(undone[-1]), undone[-1])
                            running[future] = undone.pop()
                        if not running:
                            return
                        for future in wait(running, return_when=FIRST_COMPLETED).done:
                            done = future.result()
                            del running[future]
                            deaths = 0
                            yield done
                except BrokenProcessPool as error:
                    undone += running.values()
                    deaths += 1
                    if deaths == MAX_DEATHS:
                        raise ExitLensError(
                            f"Workers ended {deaths} times in a row, out of memory perhaps. Start the study again "
                            "with fewer --workers: what is done stays."
                        ) from error
            if cancel.is_set():
                return
            logger.warning("A worker ended; its cell is done again.")

    return work


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """A worker spawned meanwhile is deaf to Ctrl-C from its first moment, long before it can ignore it itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """Leaves Ctrl-C to the parent, and ends as soon as it is gone: a killed run leaves no worker behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()
    assert parent

    def watch() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def on_ray(address: str, num_threads: int, num_gpus: float = 0) -> Workers:
    """Ray's workers: ``local`` starts a Ray on this machine's loopback, anything else is the address of one.

    Every machine of a cluster needs this project, its checkpoints and the data root at the same paths. Results come
    back to this process, which alone writes.

    Args:
        address: See above.
        num_threads: CPUs that a job takes.
        num_gpus: GPUs that a job takes, 0.5 for two jobs on one; each job then sees its own alone.
    """

    def work(tasks: Iterable[Job], cancel: CancelToken) -> Iterator[Outcome]:
        ray = _ray()
        _start(ray, address)
        try:
            made_remote = ray.remote(num_cpus=num_threads, num_gpus=num_gpus, max_retries=MAX_DEATHS)
            functions: tuple[Callable[[Any], Outcome], ...] = (do_cell, train_surrogate)
            remote = {function: made_remote(function) for function in functions}
            waiting = iter(tasks)
            running: set[Any] = set()
            while True:
                # As many as there is room for: what Ray has not begun cannot be kept from beginning.
                room = _room(ray.cluster_resources(), num_threads, num_gpus)
                while len(running) < room and not cancel.is_set():
                    task = next(waiting, None)
                    if task is None:
                        break
                    running.add(remote[_function(task)].remote(task))
                if not running:
                    return
                finished, _ = ray.wait(list(running), num_returns=1)
                for reference in finished:
                    running.remove(reference)
                    yield _result(ray, reference)
        finally:
            ray.shutdown()

    return work


def _room(there: Mapping[str, float], num_threads: int, num_gpus: float) -> int:
    """How many jobs a cluster has room for at once, one at least where it has what a job takes.

    Raises:
        ExitLensError: If it has no GPU that a job could take.
    """
    jobs = int(there.get("CPU", 1)) // num_threads
    if num_gpus:
        jobs = min(max(1, jobs), int(there.get("GPU", 0) / num_gpus))
        if not jobs:
            raise ExitLensError(
                f"Each cell is to take {num_gpus:g} GPUs, but Ray knows of {there.get('GPU', 0):g} here. Ask for fewer "
                "with --gpus, or leave it out."
            )
    return max(1, jobs)


def _ray() -> Any:
    # Read when Ray is imported: no reports to its makers, and a local one that stays on loopback.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError as error:
        raise ExitLensError("Ray is not installed. Run `pip install -r requirements-ray.txt`.") from error
    return ray


def _start(ray: Any, address: str) -> None:
    root = str(Path(__file__).parents[2])
    passed_on = (FOLDER_VARIABLE, DATA_ROOT_VARIABLE, DEVICE_VARIABLE, "OMP_WAIT_POLICY")
    variables = {name: os.environ[name] for name in passed_on if name in os.environ}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {**variables, "PYTHONPATH": root}},
            **({"include_dashboard": False} if address == "local" else {}),
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ExitLensError(
            f"No Ray answers at {address!r} ({error}). Give the address of a running one, or `--ray local`."
        ) from error


def _result(ray: Any, reference: Any) -> Outcome:
    try:
        done: Outcome = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, ExitLensError) else error from None
    except ray.exceptions.WorkerCrashedError as error:
        raise ExitLensError(
            f"A cell ended its worker {MAX_DEATHS + 1} times, out of memory perhaps. Give Ray fewer CPUs a machine: "
            "what is done stays."
        ) from error
    return done
