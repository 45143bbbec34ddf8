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
from core.progress import Progress

MAX_WAITING = 8
MAX_KEPT = 32
LAST_WAIT_SECONDS = 5.0

Result = TypeVar("Result")
AnyProgress = AttackProgress | Progress
Work = Callable[..., Result]  # takes on_progress and cancel by name


@dataclass(eq=False)
class Job(Generic[Result]):
    """One piece of work under way or done.

    Attributes:
        spec: What was asked, a frozen spec; also the key of its result.
        cancel: Set it to end the work at the next step.
        progress: The latest, None before the first step.
        future: Of the worker.
    """

    spec: Any
    cancel: threading.Event = field(default_factory=threading.Event)
    progress: AnyProgress | None = None
    future: "Future[Result] | None" = None

    @property
    def is_over(self) -> bool:
        """True once there is a result, an error or a cancellation."""
        return self.future is not None and self.future.done()

    @property
    def was_cancelled(self) -> bool:
        """True once the work ended without a result because somebody wished so."""
        if self.future is None or not self.future.done():
            return False
        return self.future.cancelled() or isinstance(self.future.exception(), Cancelled)

    @property
    def is_wanted(self) -> bool:
        """False once it failed or was told to end: whoever asks again needs a new job."""
        if self.future is None or not self.future.done():
            return not self.cancel.is_set()
        return not self.future.cancelled() and self.future.exception() is None

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

    def __init__(self) -> None:
        """Starts with no jobs."""
        self._lock = threading.Lock()
        self._jobs: OrderedDict[Hashable, Job[Any]] = OrderedDict()
        self._queue: Queue = SimpleQueue()
        # Torch already spreads one job over all cores: a second worker would slow both. A pool of Python's would do
        # whatever still waits before the process may end; this one is told to end and given a moment for it.
        threading.Thread(target=_work, args=(self._queue,), name="jobs", daemon=True).start()
        weakref.finalize(self, self._queue.put, None)
        _BOARDS.add(self)

    def find(self, spec: Hashable) -> Job[Any] | None:
        """The job of a spec, if it is still known."""
        with self._lock:
            return self._jobs.get(spec)

    def forget(self, spec: Hashable) -> None:
        """Lets go of a job that is over, so that the next who asks gets a new one."""
        with self._lock:
            if spec in self._jobs and self._jobs[spec].is_over:
                del self._jobs[spec]

    def start(self, spec: Hashable, work: Work[Result]) -> Job[Result]:
        """The job of a spec: the known one unless it is being cancelled, was cancelled or failed, else a new one.

        Raises:
            ExitLensError: If too many jobs wait already.
        """
        with self._lock:
            known = self._jobs.get(spec)
            if known and known.is_wanted:
                if known.is_over:  # the order of the others is that of the queue
                    self._jobs.move_to_end(spec)
                return known
            if sum(not job.is_over for job in self._jobs.values()) >= MAX_WAITING:
                raise ExitLensError(f"{MAX_WAITING} jobs are waiting already. Try again in a moment, or cancel one.")
            job: Job[Result] = Job(spec, future=Future())
            self._queue.put((job, work))
            self._jobs[spec] = job
            self._jobs.move_to_end(spec)
            for old in [known for known in self._jobs if self._jobs[known].is_over][: -MAX_KEPT or None]:
                del self._jobs[old]
            return job

    def finished(self) -> list[Job[Any]]:
        """All jobs that ended with a result, the oldest first."""
        with self._lock:
            return [job for job in self._jobs.values() if job.is_over and job.is_wanted]

    def is_idle(self) -> bool:
        """Whether no job waits or runs."""
        with self._lock:
            return all(job.is_over for job in self._jobs.values())

    def position(self, job: Job[Any]) -> int:
        """How many jobs are still to end before this one can start."""
        with self._lock:
            unfinished = [other for other in self._jobs.values() if not other.is_over]
        return unfinished.index(job) if job in unfinished else 0

    def stop(self) -> None:
        """Cancels every job and waits a moment for the one under way: the process is about to end."""
        with self._lock:
            unfinished = [job for job in self._jobs.values() if not job.is_over]
        for job in unfinished:
            job.cancel.set()
        wait([job.future for job in unfinished if job.future], timeout=LAST_WAIT_SECONDS)


_BOARDS: "weakref.WeakSet[JobBoard]" = weakref.WeakSet()


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


def _done(job: Job[Result], work: Work[Result]) -> Result:
    if job.cancel.is_set():
        raise Cancelled

    def remember(progress: AnyProgress) -> None:
        job.progress = progress

    return work(on_progress=remember, cancel=job.cancel)
