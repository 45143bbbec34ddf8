"""How long work reports how far it is, and how it is told to end."""

from dataclasses import dataclass
from typing import Protocol

from core.errors import Cancelled


class CancelToken(Protocol):
    """Anything that can say that the work is no longer wanted, such as ``threading.Event``."""

    def is_set(self) -> bool:
        """True once the work should end."""
        ...


def end_if(cancel: CancelToken | None) -> None:
    """Ends the work if that is wished.

    Raises:
        Cancelled: Once ``cancel`` is set.
    """
    if cancel and cancel.is_set():
        raise Cancelled


@dataclass(frozen=True)
class Progress:
    """How far some work has come.

    Attributes:
        share: Part of the whole work done, in [0, 1].
        words: What is being done, for the screen.
    """

    share: float
    words: str
