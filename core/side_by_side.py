"""Several pieces of work at once, each in a thread of its own that computes with its share of the threads.

Torch's own way, all threads at every layer, pays for work that is large: with threads that sleep while they wait
(``core/__init__.py`` says why) each layer wakes the others first, which can take longer than the layer itself.
"""

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import TypeVar

import torch

from core.errors import Cancelled
from core.progress import CancelToken

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


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
    num_threads = torch.get_num_threads()
    done: dict[Key, Future[Result]] = {key: Future() for key in keys}

    def run(key: Key) -> None:
        torch.set_num_threads(max(1, num_threads // len(keys)))
        try:
            done[key].set_result(work(key, token))
        except Exception as error:  # noqa: BLE001 - raised again below, in the thread that waits
            if not isinstance(error, Cancelled):
                failed.append(error)
            token.failed.set()
            done[key].set_exception(error)

    try:
        # No pool: Python does not end before the threads of a pool have done all that they still have to do.
        for key in keys:
            threading.Thread(target=run, args=(key,), name=f"beside-{key}", daemon=True).start()
        for future in done.values():
            future.exception()
    finally:
        token.failed.set()  # where Ctrl-C ended the waiting
        torch.set_num_threads(num_threads)  # a thread's own number is also that of threads to come
    if failed:
        raise failed[0]
    return {key: future.result() for key, future in done.items()}


class _Token:
    """Set once the whole is cancelled, or a part of it has failed."""

    def __init__(self, cancel: CancelToken | None) -> None:
        self._cancel, self.failed = cancel, threading.Event()

    def is_set(self) -> bool:
        return self.failed.is_set() or (self._cancel is not None and self._cancel.is_set())
