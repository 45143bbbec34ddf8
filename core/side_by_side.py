"""Several pieces of work at once, each in a thread of its own that computes with its share of the threads.

Torch's own way, all threads at every layer, pays for work that is large: with threads that sleep while they wait
(``core/__init__.py`` says why) each layer wakes the others first, which can take longer than the layer itself.
"""

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

import torch

from core.errors import Cancelled
from core.progress import CancelToken

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")
_STARTING = threading.Lock()


def side_by_side(
    work: Callable[[Key, CancelToken], Result], keys: Sequence[Key], cancel: CancelToken | None = None
) -> dict[Key, Result]:
    """Does a piece of work for every key at once; the first that fails ends the others.

    Of one key alone, the work is done in the calling thread with all its threads.

    Args:
        work: Takes a key and a token, at which it ends by ``Cancelled``.
        keys: Each once.
        cancel: Ends all of them.

    Returns:
        What came of each, in the order of ``keys``.

    Raises:
        Cancelled: Once ``cancel`` is set.
        Exception: Whatever the work raised that failed first.
    """
    token, failed = _Token(cancel), []
    if len(keys) == 1:
        return {keys[0]: work(keys[0], token)}
    share, ready = max(1, num_threads() // max(1, len(keys))), threading.Semaphore(0)
    done: dict[Key, Future[Result]] = {key: Future() for key in keys}

    def run(key: Key) -> None:
        torch.get_num_threads()  # a thread's first question would otherwise take over the number of new threads
        torch.set_num_threads(share)
        ready.release()
        try:
            done[key].set_result(work(key, token))
        except Exception as error:  # noqa: BLE001 - raised again below, in the thread that waits
            if not isinstance(error, Cancelled):
                failed.append(error)
            token.failed.set()
            done[key].set_exception(error)

    try:
        # No pool: Python does not end before the threads of a pool have done all that they still have to do.
        with _new_threads_as_before():
            for key in keys:
                threading.Thread(target=run, args=(key,), name=f"beside-{key}", daemon=True).start()
            for _ in keys:
                ready.acquire()
        for future in done.values():
            future.exception()
    finally:
        token.failed.set()  # where Ctrl-C ended the waiting
    if failed:
        raise failed[0]
    return {key: future.result() for key, future in done.items()}


def num_threads() -> int:
    """Threads that work of the calling thread is shared out among."""
    with _STARTING:
        return torch.get_num_threads()


@contextmanager
def _new_threads_as_before() -> Iterator[None]:
    """Undoes what threads that set their own number of threads do to all threads to come.

    To torch a thread's own number is also that of every thread which has none yet; who reads it meanwhile, to share
    work out or to put it back, would go on with a part of the processor for good.
    """
    with _STARTING:
        before = _in_a_new_thread(torch.get_num_threads)
        try:
            yield
        finally:
            _in_a_new_thread(lambda: torch.set_num_threads(before))


def _in_a_new_thread(call: Callable[[], Result]) -> Result:
    answer: Future[Result] = Future()
    thread = threading.Thread(target=lambda: answer.set_result(call()))
    thread.start()
    thread.join()
    return answer.result()


class _Token:
    """Set once the whole is cancelled, or a part of it has failed."""

    def __init__(self, cancel: CancelToken | None) -> None:
        self._cancel, self.failed = cancel, threading.Event()

    def is_set(self) -> bool:
        return self.failed.is_set() or (self._cancel is not None and self._cancel.is_set())
