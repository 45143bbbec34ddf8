"""How many threads a piece of work computes with: float sums move with it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def limited_to(num_threads: int) -> Iterator[None]:
    """Computes with so many threads, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
