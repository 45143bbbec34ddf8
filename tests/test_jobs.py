"""Background jobs: shared by spec, queued up to a limit, cancelled, repeated and forgotten."""

import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.attacks.run import AttackProgress
from core.attacks.spec import pgd
from core.errors import Cancelled, ExitLensError
from core.exits import ExitPolicy
from core.experiment import ExperimentSpec
from ui import jobs
from ui.jobs import Job, JobBoard, Visitor

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 20
PROGRESS = AttackProgress(step=1, num_steps=2, num_done=0, num_images=3, share=0.5, seconds=0.1)


def spec(number: int) -> ExperimentSpec:
    return ExperimentSpec(f"toy:test:{number}", ("toy-early-exit",), ("toy-early-exit",), pgd(), ExitPolicy())


@pytest.fixture
def board() -> JobBoard:
    return JobBoard()


class Gate:
    """Work that waits until it is let through, or until it is cancelled as attacks are."""

    def __init__(self) -> None:
        self.opened, self.entered = threading.Event(), threading.Event()

    def __call__(self, on_progress: Callable[[AttackProgress], None], cancel: threading.Event) -> object:
        on_progress(PROGRESS)
        self.entered.set()
        for _ in range(100 * PATIENCE_SECONDS):
            if cancel.is_set():
                raise Cancelled
            if self.opened.wait(0.01):
                return "through the gate"
        raise TimeoutError


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


def returns(value: object) -> Callable[..., object]:
    return lambda on_progress, cancel: value


def fails(on_progress: object, cancel: object) -> None:
    raise ExitLensError("No such luck.")


def ended(job: Job) -> Job:
    assert job.future is not None
    job.future.exception(timeout=PATIENCE_SECONDS)
    return job


def test_two_who_ask_the_same_share_one_job(board: JobBoard, gate: Gate) -> None:
    # Mutant: a job per call; or one job for all specs.
    first = board.start(spec(1), gate)
    assert board.start(spec(1), fails) is first
    assert board.find(spec(1)) is first and board.find(spec(2)) is None
    assert board.start(spec(2), returns(2)) is not first


def test_result_and_latest_progress_are_kept(board: JobBoard, gate: Gate) -> None:
    # Mutant: progress not remembered, or a finished job run again.
    job = board.start(spec(1), gate)
    assert gate.entered.wait(PATIENCE_SECONDS)
    assert job.progress is PROGRESS and not job.is_over and not job.was_cancelled
    gate.opened.set()
    assert ended(job).is_over
    assert board.start(spec(1), fails) is job
    assert job.result() == "through the gate" and not job.was_cancelled


def test_one_job_too_many_is_refused_and_leaves_the_queue_as_it_was(
    board: JobBoard, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutant: no limit, one off, or the limit applied to those who join a known job.
    monkeypatch.setattr(jobs, "MAX_WAITING", 3)
    queue = [board.start(spec(1), gate), *(board.start(spec(number), returns(number)) for number in (2, 3))]
    with pytest.raises(ExitLensError, match="3 jobs are waiting already"):
        board.start(spec(4), returns(4))
    assert board.find(spec(4)) is None
    assert board.start(spec(3), fails) is queue[2]
    gate.opened.set()
    ended(queue[2])
    assert ended(board.start(spec(4), returns(4))).result() == 4


def test_position_counts_those_ahead_and_no_one_moves_back_when_asked_for_again(board: JobBoard, gate: Gate) -> None:
    # Mutant: a waiting job put at the end of the order whenever another session asks for it.
    queue = [board.start(spec(1), gate), *(board.start(spec(number), returns(number)) for number in (2, 3))]
    board.start(spec(1), gate)
    board.start(spec(2), fails)
    assert [board.position(job) for job in queue] == [0, 1, 2]
    gate.opened.set()
    ended(queue[2])
    assert [board.position(job) for job in queue] == [0, 0, 0]


def test_job_cancelled_before_its_turn_never_starts(board: JobBoard, gate: Gate) -> None:
    # Mutant: the token looked at inside the work only, after the models have been called.
    board.start(spec(1), gate)
    called = threading.Event()
    job = board.start(spec(2), lambda on_progress, cancel: called.set())
    job.cancel.set()
    gate.opened.set()
    assert ended(job).was_cancelled
    assert not called.is_set()


def test_job_cancelled_in_the_middle_ends_without_a_result(board: JobBoard, gate: Gate) -> None:
    # Mutant: a token that the work does not get, or any failure taken for a cancellation.
    job = board.start(spec(1), gate)
    assert gate.entered.wait(PATIENCE_SECONDS)
    job.cancel.set()
    assert ended(job).is_over and job.was_cancelled
    with pytest.raises(Cancelled):
        job.result()
    assert not ended(board.start(spec(2), fails)).was_cancelled


def test_cancelled_job_can_be_started_again_even_before_it_has_ended(board: JobBoard, gate: Gate) -> None:
    # Mutant: whoever asks again while the cancelled job still waits gets that one, which can only come to nothing.
    board.start(spec(1), gate)
    doomed = board.start(spec(2), returns("old"))
    doomed.cancel.set()
    again = board.start(spec(2), returns("new"))
    assert again is not doomed and board.find(spec(2)) is again
    gate.opened.set()
    assert ended(again).result() == "new"
    assert ended(doomed).was_cancelled


def test_cancel_after_the_end_keeps_the_result(board: JobBoard) -> None:
    # Mutant: the token alone decides, and a finished result is made again.
    job = ended(board.start(spec(1), returns("done")))
    job.cancel.set()
    assert board.start(spec(1), fails) is job and not job.was_cancelled


def test_failed_job_raises_its_error_and_can_be_started_again(board: JobBoard) -> None:
    # Mutant: a failure kept for good.
    job = ended(board.start(spec(1), fails))
    with pytest.raises(ExitLensError, match="No such luck"):
        job.result()
    again = board.start(spec(1), returns("done"))
    assert again is not job
    assert ended(again).result() == "done"


def test_results_asked_for_longest_ago_are_dropped_first(
    board: JobBoard, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutant: the newest dropped, unfinished ones dropped, or all kept; or a result not renewed by being asked for.
    monkeypatch.setattr(jobs, "MAX_KEPT", 2)
    for number in (1, 2):
        ended(board.start(spec(number), returns(number)))
    board.start(spec(1), fails)  # asked for again: now 2 is the oldest
    ended(board.start(spec(3), returns(3)))
    running = board.start(spec(4), gate)
    waiting = board.start(spec(5), returns(5))
    assert board.find(spec(2)) is None
    for number in (1, 3):
        job = board.find(spec(number))
        assert job is not None and job.result() == number
    assert board.find(spec(4)) is running and board.find(spec(5)) is waiting


def test_cancelling_leaves_a_job_to_those_who_still_wait_for_it(gate: Gate) -> None:
    # Mutants: one's Cancel is everybody's; a job that nobody waits for any more and that goes on; one who cancelled
    # and is shown the result all the same, or cannot ask again.
    visitors = first, second, third = Visitor(), Visitor(), Visitor()
    asking = [first]
    board = JobBoard(lambda: asking[0])
    job = board.start(spec(1), gate)
    asking[0] = second
    assert board.find(spec(1)) is job, "who finds it waits for it"
    job.leave()
    assert job.is_over and job.was_cancelled and not job.cancel.is_set()
    asking[0] = first
    assert not job.is_over and not job.was_cancelled
    asking[0] = second
    assert board.start(spec(1), fails) is job and not job.is_over
    for asking[0] in (second, first):
        job.leave()
    assert job.cancel.is_set() and ended(job).was_cancelled
    assert [each for asking[0] in visitors if (each := board.find(spec(1)))] == [job, job]
    asking[0] = third
    assert board.find(spec(1)) is None, "it never asked"


def test_visitor_that_is_gone_keeps_no_job_going(gate: Gate) -> None:
    # Mutant: a closed tab counts for ever among those who wait, so that nobody can cancel.
    gone, stays = Visitor(), Visitor()
    asking = [gone]
    board = JobBoard(lambda: asking[0])
    job = board.start(spec(1), gate)
    asking[0] = stays
    assert board.find(spec(1)) is job
    del gone
    gc.collect()
    job.leave()
    assert job.cancel.is_set()


def test_work_ends_once_all_who_waited_are_gone(gate: Gate) -> None:
    # Mutants: work for a closed tab done to its end while others wait behind it; queued work of theirs begun.
    asking = [Visitor()]
    board = JobBoard(lambda: asking[0])
    job, waiting = board.start(spec(1), gate), board.start(spec(2), fails)
    assert gate.entered.wait(PATIENCE_SECONDS)
    asking[0] = Visitor()
    later = board.start(spec(3), returns(3))
    gc.collect()
    assert ended(later).result() == 3
    assert job.has_ended and waiting.has_ended
    for number in (1, 2):
        assert board.find(spec(number)) is None
        assert ended(board.start(spec(number), returns(number))).result() == number


def test_work_goes_on_for_one_who_stays_when_another_leaves_and_a_third_is_gone(gate: Gate) -> None:
    # Mutant: work ended as soon as anybody is gone, or left it.
    stays, leaves, gone = Visitor(), Visitor(), Visitor()
    asking = [gone]
    board = JobBoard(lambda: asking[0])
    job = board.start(spec(1), gate)
    for asking[0] in (leaves, stays):
        assert board.find(spec(1)) is job
    asking[0] = leaves
    job.leave()
    del gone
    gc.collect()
    assert not job.is_abandoned
    gate.opened.set()
    asking[0] = stays
    assert ended(job).result() == "through the gate"


def test_place_in_the_queue_is_that_of_the_jobs_own_board(board: JobBoard, gate: Gate) -> None:
    # Mutant: the common board asked, which knows nothing of jobs for maps: they seem to run while they wait.
    board.start(spec(1), gate)
    second, alone = board.start(spec(2), returns(2)), JobBoard().start(spec(1), returns(1))
    assert (jobs.jobs_before(second), jobs.jobs_before(ended(alone))) == (1, 0)


def test_what_failed_says_why_in_words_for_users(board: JobBoard) -> None:
    # Mutants: the reason of a defect on screen; nothing said of one that users can act on.
    def short_of_memory(**_: object) -> None:
        raise ExitLensError("Not enough memory.")

    def defect(**_: object) -> None:
        raise KeyError("where")

    found = [ended(board.start(number, work)) for number, work in enumerate((short_of_memory, defect, returns(1)))]
    assert [job.failure for job in found] == ["Not enough memory.", "", ""]


def test_result_that_is_looked_at_outlives_those_that_are_not(board: JobBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: a look that renews nothing, so that what others did meanwhile pushes it off.
    monkeypatch.setattr(jobs, "MAX_KEPT", 2)
    for number in (1, 2):
        ended(board.start(spec(number), returns(number)))
    assert board.find(spec(1))
    for number in (3, 4):
        ended(board.start(spec(number), returns(number)))
        assert board.find(spec(1))


QUIT_MID_RUN = """
import time
from core.errors import Cancelled
from ui.jobs import JobBoard

def long_work(on_progress, cancel):
    for _ in range(600):
        time.sleep(0.1)
        if cancel.is_set():
            print("ended", flush=True)
            raise Cancelled

board = JobBoard()
first = board.start(1, long_work)
board.start(2, long_work)
time.sleep(0.3)
"""


def test_process_that_quits_mid_run_waits_for_no_job() -> None:
    # Mutants: a pool that first does whatever is queued, so that Ctrl-C seems to hang; work cut off unasked.
    run = subprocess.run([sys.executable, "-c", QUIT_MID_RUN], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert (run.returncode, run.stdout, run.stderr) == (0, "ended\n", "")


def test_board_that_nobody_has_any_more_takes_its_worker_along() -> None:
    # Mutant: a worker that holds its board, and so its results, for ever.
    before, board = set(threading.enumerate()), JobBoard()
    (worker,) = (thread for thread in set(threading.enumerate()) - before if thread.name == "jobs")
    assert ended(board.start(spec(1), returns(1))).result() == 1 and worker.is_alive()
    del board
    gc.collect()
    worker.join(20)
    assert not worker.is_alive(), "the worker still waits"
