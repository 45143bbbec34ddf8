"""Work side by side: really at once, ended together; each comment names the mutant that turns its test red."""

import threading

import pytest
import torch

from core.errors import Cancelled, ExitLensError
from core.progress import CancelToken
from core.side_by_side import num_threads, side_by_side
from core.study.threads import limited_to

WAIT = 20


def test_all_is_done_at_once_and_comes_back_in_order() -> None:
    # Mutant: one after the other: nobody would ever meet at the barrier.
    barrier = threading.Barrier(3)

    def work(key: int, token: CancelToken) -> int:
        barrier.wait(WAIT)
        return 10 * key

    assert list(side_by_side(work, (3, 1, 2)).items()) == [(3, 30), (1, 10), (2, 20)]
    assert side_by_side(work, ()) == {}


@pytest.mark.parametrize("failing", ["first", "second"])
def test_the_first_that_fails_ends_the_others_and_is_what_is_said(failing: str) -> None:
    # Mutants: the others run to their end; their Cancelled is raised in the place of what went wrong.
    def work(key: str, token: CancelToken) -> None:
        if key == failing:
            raise ExitLensError("no such exit")
        for _ in range(100 * WAIT):
            if token.is_set():
                raise Cancelled
            threading.Event().wait(0.01)

    with pytest.raises(ExitLensError, match="no such exit"):
        side_by_side(work, ("first", "second"))


def test_a_wish_to_end_reaches_all() -> None:
    # Mutant: the token of the caller not looked at.
    cancel, ended = threading.Event(), []

    def work(key: str, token: CancelToken) -> None:
        cancel.set()
        assert token.is_set()
        ended.append(key)
        raise Cancelled

    with pytest.raises(Cancelled):
        side_by_side(work, ("one", "other"), cancel)
    assert sorted(ended) == ["one", "other"]


def test_what_starts_meanwhile_keeps_all_threads() -> None:
    # Mutant: the share of a part left behind as the number of threads of all threads to come.
    def of_a_new_thread() -> int:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(num_threads()))
        thread.start()
        thread.join()
        return found[0]

    def inner(key: int, cancel: object) -> tuple[int, int]:
        return torch.get_num_threads(), of_a_new_thread()

    def outer(key: int, cancel: object) -> tuple[int, int, dict[int, tuple[int, int]]]:
        beside = []
        other = threading.Thread(target=lambda: beside.append(side_by_side(inner, (1, 2))))
        other.start()
        other.join()
        return torch.get_num_threads(), of_a_new_thread(), beside[0]

    before = torch.get_num_threads()
    with limited_to(4):
        for own, of_new, beside in side_by_side(outer, (1, 2)).values():
            assert (own, of_new) == (2, 4)
            assert set(beside.values()) == {(2, 4)}
        assert torch.get_num_threads() == of_a_new_thread() == 4
    assert torch.get_num_threads() == of_a_new_thread() == before
