"""How long work reports how far it is, and how it is told to end."""

from dataclasses import dataclass
from typing import Protocol


class CancelToken(Protocol):
    """Anything that can say that the work is no longer wanted, such as ``threading.Event``."""

    def is_set(self) -> bool:
        """True once the work should end."""
        ...


@dataclass(frozen=True)
class Progress:
    """How far some work has come.

    Attributes:
        share: Part of the whole work done, in [0, 1].
        words: What is being done, for the screen.
    """

    share: float
    words: str
