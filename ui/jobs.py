"""Long work in the background: one worker, a short queue, progress, cancel, results kept by spec."""

import atexit
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from core.attacks.run import AttackProgress
from core.errors import Cancelled, ExitLensError
from core.progress import Progress, end_if

MAX_WAITING = 8
MAX_KEPT = 32
LAST_WAIT_SECONDS = 5.0

Result = TypeVar("Result")
AnyProgress = AttackProgress | Progress
Work = Callable[..., Result]  # takes on_progress and cancel by name


class Visitor:
    """Somebody who asks for jobs, such as a session; once it is gone, it waits for none."""


ANYBODY = Visitor()
Who = Callable[[], Visitor]


def anybody() -> Visitor:
    """Takes all who ask for one and the same."""
    return ANYBODY


@dataclass(eq=False)
class Job(Generic[Result]):
    """One piece of work under way or done, shared by all who ask for it.

    Attributes:
        spec: What was asked, a frozen spec; also the key of its result.
        who: Says who is asking now.
        cancel: Set it to end the work at the next step, for everybody.
        progress: The latest, None before the first step.
        future: Of the worker.
        asked_by: All who asked for it and are still there.
        left_by: Those of them who cancelled it since.
    """

    spec: Any
    who: Who = anybody
    cancel: threading.Event = field(default_factory=threading.Event)
    progress: AnyProgress | None = None
    future: "Future[Result] | None" = None
    asked_by: "weakref.WeakSet[Visitor]" = field(default_factory=weakref.WeakSet)
    left_by: "weakref.WeakSet[Visitor]" = field(default_factory=weakref.WeakSet)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def has_ended(self) -> bool:
        """True once there is a result, an error or a cancellation."""
        return self.future is not None and self.future.done()

    @property
    def was_left(self) -> bool:
        """True for one who cancelled it while others wait for it."""
        return self.who() in self.left_by and not self.cancel.is_set()

    @property
    def is_over(self) -> bool:
        """True once it has ended, or for the one who asks."""
        return self.has_ended or self.was_left

    @property
    def was_cancelled(self) -> bool:
        """True once it is over without a result because the one who asks, or the last who waited, wished so."""
        if self.was_left:
            return True
        if self.future is None or not self.future.done():
            return False
        return self.future.cancelled() or isinstance(self.future.exception(), Cancelled)

    @property
    def has_result(self) -> bool:
        """True once ``result`` gives one, or raises what is a defect and no news for users."""
        return self.is_over and not self.was_cancelled and not self.failure

    @property
    def failure(self) -> str:
        """Why it failed, in words for users; empty where it did not, or where the reason is none of theirs."""
        if self.future is None or not self.future.done() or self.future.cancelled():
            return ""
        error = self.future.exception()
        return str(error) if isinstance(error, ExitLensError) else ""

    @property
    def is_abandoned(self) -> bool:
        """True once nobody waits for it any more, whether they cancelled it or are gone; it then ends for good."""
        with self._lock:
            return self._end_if_abandoned()

    def _end_if_abandoned(self) -> bool:
        if set(self.asked_by) <= set(self.left_by):
            self.cancel.set()
        return self.cancel.is_set()

    @property
    def is_wanted(self) -> bool:
        """False once it failed or was told to end: whoever asks again needs a new job."""
        if self.future is None or not self.future.done():
            return not self.cancel.is_set()
        return not self.future.cancelled() and self.future.exception() is None

    def join(self) -> bool:
        """Counts the one who asks among those who wait for it; False where it can only come to nothing."""
        with self._lock:
            if not self.is_wanted:
                return False
            self.asked_by.add(self.who())
            self.left_by.discard(self.who())
            return True

    def leave(self) -> None:
        """Cancels it for the one who asks; the work ends once nobody else waits for it."""
        with self._lock:
            self.left_by.add(self.who())
            self._end_if_abandoned()

    def wait(self, seconds: float) -> bool:
        """Waits for the end at most so long; False where it takes longer."""
        assert self.future is not None
        wait([self.future], timeout=seconds)
        return self.is_over

    def result(self) -> Result:
        """The result of a finished job.

        Raises:
            ExitLensError: The one that ended the work.
        """
        assert self.future is not None
        return self.future.result()


Queue = SimpleQueue[tuple[Job[Any], Work[Any]] | None]  # nothing more comes after None


class JobBoard:
    """The jobs of all sessions. Two sessions that ask for the same thing share one job."""

    def __init__(self, who: Who = anybody) -> None:
        """Starts with no jobs.

        Args:
            who: Says which visitor is asking now; if missing, all are one.
        """
        self._who = who
        self._lock = threading.Lock()
        self._jobs: OrderedDict[Hashable, Job[Any]] = OrderedDict()
        self._queue: Queue = SimpleQueue()
        # One job already uses all cores: a second worker would slow both. A pool of Python's would do
        # whatever still waits before the process may end; this one is told to end and given a moment for it.
        threading.Thread(target=_work, args=(self._queue,), name="jobs", daemon=True).start()
        weakref.finalize(self, self._queue.put, None)
        _BOARDS.add(self)

    def find(self, spec: Hashable) -> Job[Any] | None:
        """The job of a spec, if it is still known; the one who asks waits for it, and its result is kept the longer.

        What failed or was cancelled is known to those alone who asked for it.
        """
        with self._lock:
            job = self._jobs.get(spec)
            if job is None or not (job.was_left or job.join() or self._who() in job.asked_by):
                return None
            if job.has_ended:  # the order of the others is that of the queue
                self._jobs.move_to_end(spec)
            return job

    def forget(self, spec: Hashable) -> None:
        """Lets go of a job that is over, so that the next who asks gets a new one."""
        with self._lock:
            if spec in self._jobs and self._jobs[spec].has_ended:
                del self._jobs[spec]

    def start(self, spec: Hashable, work: Work[Result]) -> Job[Result]:
        """The job of a spec: the known one unless it is being cancelled, was cancelled or failed, else a new one.

        Raises:
            ExitLensError: If too many jobs wait already.
        """
        with self._lock:
            known = self._jobs.get(spec)
            if known and known.join():
                if known.has_ended:  # the order of the others is that of the queue
                    self._jobs.move_to_end(spec)
                return known
            if sum(not job.has_ended for job in self._jobs.values()) >= MAX_WAITING:
                raise ExitLensError(f"{MAX_WAITING} jobs are waiting already. Try again in a moment, or cancel one.")
            job: Job[Result] = Job(spec, self._who, future=Future())
            job.join()
            self._queue.put((job, work))
            self._jobs[spec] = job
            self._jobs.move_to_end(spec)
            for old in [known for known in self._jobs if self._jobs[known].has_ended][: -MAX_KEPT or None]:
                del self._jobs[old]
            return job

    def finished(self) -> list[Job[Any]]:
        """All jobs that ended with a result, the oldest first."""
        with self._lock:
            return [job for job in self._jobs.values() if job.has_ended and job.is_wanted]

    def is_idle(self) -> bool:
        """Whether no job waits or runs."""
        with self._lock:
            return all(job.has_ended for job in self._jobs.values())

    def position(self, job: Job[Any]) -> int:
        """How many jobs are still to end before this one can start."""
        with self._lock:
            unfinished = [other for other in self._jobs.values() if not other.has_ended]
        return unfinished.index(job) if job in unfinished else 0

    def stop(self) -> None:
        """Cancels every job and waits a moment for the one under way: the process is about to end."""
        with self._lock:
            unfinished = [job for job in self._jobs.values() if not job.has_ended]
        for job in unfinished:
            job.cancel.set()
        wait([job.future for job in unfinished if job.future], timeout=LAST_WAIT_SECONDS)


_BOARDS: "weakref.WeakSet[JobBoard]" = weakref.WeakSet()


def jobs_before(job: Job[Any]) -> int:
    """How many jobs are still to end before this one can start, on whichever board it is."""
    return sum(board.position(job) for board in list(_BOARDS))


@atexit.register
def _stop_all() -> None:
    for board in list(_BOARDS):
        board.stop()


def _work(queue: Queue) -> None:
    """What the worker of a board does. It knows the queue alone, so that a board nobody has any more takes it along."""
    while (asked := queue.get()) is not None:
        job, work = asked
        assert job.future is not None
        try:
            job.future.set_result(_done(job, work))
        except BaseException as error:  # noqa: BLE001, whatever ended it, those who wait for it are told
            job.future.set_exception(error)
        del asked, job, work


@dataclass(frozen=True)
class _Abandoned:
    """The cancel token of a job: set once it was cancelled, or nobody is left who waits for it."""

    job: Job[Any]

    def is_set(self) -> bool:
        return self.job.is_abandoned


def _done(job: Job[Result], work: Work[Result]) -> Result:
    end_if(cancel := _Abandoned(job))

    def remember(progress: AnyProgress) -> None:
        job.progress = progress

    return work(on_progress=remember, cancel=cancel)
