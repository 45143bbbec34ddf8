"""Long work in the background: one worker, a short queue, progress, cancel, results kept by spec."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from core.attacks.run import AttackProgress
from core.errors import Cancelled, ExitLensError
from core.progress import Progress

MAX_WAITING = 8
MAX_KEPT = 32

Result = TypeVar("Result")
AnyProgress = AttackProgress | Progress
Work = Callable[[Callable[[AnyProgress], None], threading.Event], Result]


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

    def result(self) -> Result:
        """The result of a finished job.

        Raises:
            ExitLensError: The one that ended the work.
        """
        assert self.future is not None
        return self.future.result()


class JobBoard:
    """The jobs of all sessions. Two sessions that ask for the same thing share one job."""

    def __init__(self) -> None:
        """Starts with no jobs."""
        self._lock = threading.Lock()
        self._jobs: OrderedDict[Hashable, Job[Any]] = OrderedDict()
        # Torch already spreads one job over all cores: a second worker would slow both.
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="job")

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
            job: Job[Result] = Job(spec)
            job.future = self._pool.submit(self._run, job, work)
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

    @staticmethod
    def _run(job: Job[Result], work: Work[Result]) -> Result:
        if job.cancel.is_set():
            raise Cancelled

        def remember(progress: AnyProgress) -> None:
            job.progress = progress

        return work(remember, job.cancel)
