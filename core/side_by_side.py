"""Several pieces of work at once, each in a thread of its own."""

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from core.errors import Cancelled
from core.progress import CancelToken

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


def side_by_side(
    work: Callable[[Key, CancelToken], Result], keys: Sequence[Key], cancel: CancelToken | None = None
) -> dict[Key, Result]:
    """Does a piece of work for every key at once; the first that fails ends the others.

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
    done: dict[Key, Future[Result]] = {key: Future() for key in keys}

    def run(key: Key) -> None:
        try:
            done[key].set_result(work(key, token))
        except Exception as error:  # noqa: BLE001 - raised again below, in the thread that waits
            if not isinstance(error, Cancelled):
                failed.append(error)
            token.failed.set()
            done[key].set_exception(error)

    # No pool: Python does not end before the threads of a pool have done all that they still have to do.
    for key in keys[1:]:
        threading.Thread(target=run, args=(key,), name=f"beside-{key}", daemon=True).start()
    for key in keys[:1]:
        run(key)
    for future in done.values():
        future.exception()
    if failed:
        raise failed[0]
    return {key: future.result() for key, future in done.items()}


class _Token:
    """Set once the whole is cancelled, or a part of it has failed."""

    def __init__(self, cancel: CancelToken | None) -> None:
        self._cancel, self.failed = cancel, threading.Event()

    def is_set(self) -> bool:
        return self.failed.is_set() or (self._cancel is not None and self._cancel.is_set())
