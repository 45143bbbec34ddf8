"""What a session sees while models are replaced and others use the same server."""

import threading
from collections.abc import Callable, Iterator

import pytest
import streamlit as st
from every_page import finished, fresh_caches, has_metrics, metrics, opened, settled, warm
from streamlit.testing.v1 import AppTest
from test_models_page import EARLY, Zoo, zoo

from core.errors import Cancelled, ExitLensError
from core.experiment import Experiment, run_experiment
from ui import cache, jobs

__all__ = ["fresh_caches", "zoo"]
pytestmark = pytest.mark.usefixtures("zoo")
LINK = {"images": "0-11", "attack": "FGSM", "epsilon": "2/255"}


def test_a_model_trained_again_is_attacked_again(zoo: Zoo) -> None:
    # Mutants: results, ladders and tables kept by the name of a model alone, so that the old weights' numbers pass for
    # those of the new ones; an old session that goes on showing them.
    old = warm("attack_lab", **LINK)
    before = metrics(old)
    old.button(key="climb").click().run()
    assert not [button for button in settled(old).button if button.key == "climb"]
    zoo.remove(EARLY)
    zoo.add(EARLY, 4, seed=8)
    assert not old.run().metric and any("has been replaced since" in caption.value for caption in old.caption)
    new = warm("attack_lab", **LINK)
    assert [button for button in new.button if button.key == "climb"]
    st.cache_data.clear()
    st.cache_resource.clear()
    assert metrics(new) == metrics(warm("attack_lab", **LINK)) != before


@pytest.mark.parametrize("page", ["attack_lab", "confidence", "attribution", "exit_shift", "transfer"])
def test_a_link_is_offered_while_the_controls_say_what_is_shown(page: str) -> None:
    # Mutants: a link that is said to open this result and opens another one; none even once the controls say it again.
    def offers_link(test: AppTest) -> bool:
        assert not test.exception and not test.error
        said = any("to copy its link" in caption.value for caption in test.caption)
        found = any(each.key == "copy-link" for each in test.get("bidi_component"))
        assert said != found
        return found

    test = warm(page, **LINK)
    assert offers_link(test)
    test.select_slider(key="epsilon").set_value("1/255").run()
    assert not offers_link(test)
    if page == "attack_lab":  # the only run of the session can be brought back
        next(button for button in test.button if button.label.startswith("FGSM 2/255")).click().run()
    else:
        test.select_slider(key="epsilon").set_value("2/255").run()
    assert offers_link(test)


@pytest.fixture
def let_through(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Holds every attack up until it is called; cancelled ones end."""
    gate = threading.Event()

    def gated(*args: object, cancel: threading.Event, **kwargs: object) -> Experiment:
        while not gate.wait(0.02):
            if cancel.is_set():
                raise Cancelled
        return run_experiment(*args, cancel=cancel, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("ui.cache.run_experiment", gated)
    yield gate.set
    gate.set()


def says_cancelled(test: AppTest) -> bool:
    return any(warning.value.startswith("Cancelled") for warning in test.warning)


def has_progress(test: AppTest) -> bool:
    return any(button.key == "cancel" for button in test.button)


def test_cancel_in_one_session_leaves_the_others_their_run(let_through: Callable[[], None]) -> None:
    # Mutant: one's Cancel ends the run of all.
    first, second = opened("attack_lab", **LINK), opened("attack_lab", **LINK)
    assert has_progress(first) and has_progress(second)
    first.button(key="cancel").click().run()
    assert says_cancelled(first) and not has_progress(first)
    let_through()
    assert has_metrics(finished(second, has_metrics))
    assert says_cancelled(first.run()) and not first.metric, "it wished for no result"
    first.button(key="run").click().run()
    assert metrics(finished(first, has_metrics)) == metrics(second)


def test_what_others_cancelled_is_no_news_of_this_session(let_through: Callable[[], None]) -> None:
    # Mutant: a fresh link that opens with "Cancelled" and without a result, for somebody else wished for none.
    first = opened("attack_lab", **LINK)
    first.button(key="cancel").click().run()
    assert says_cancelled(finished(first, says_cancelled))
    second = opened("attack_lab", **LINK)
    assert not says_cancelled(second) and has_progress(second)
    let_through()
    assert has_metrics(finished(second, has_metrics))


def test_a_new_run_leaves_the_one_before_it(let_through: Callable[[], None]) -> None:
    # Mutants: a run that nobody can see or cancel any more, and the new one behind it; one ended for others too.
    first, other = opened("attack_lab", **LINK), opened("attack_lab", **LINK)
    first.select_slider(key="epsilon").set_value("1/255").run()
    first.button(key="run").click().run()
    before, now = (job for job in cache.job_board()._jobs.values())
    assert not before.cancel.is_set() and not now.is_over, "the other session still waits for it"
    other.select_slider(key="epsilon").set_value("1/255").run()
    other.button(key="run").click().run()
    assert before.cancel.is_set() and not now.cancel.is_set()
    let_through()
    assert metrics(finished(first, has_metrics)) == metrics(finished(other, has_metrics))


def test_a_removed_model_takes_no_page_of_another_down(zoo: Zoo) -> None:
    # Mutants: times reckoned from runs on a model that is gone; its run offered to be brought back on another.
    test = warm("attack_lab", model="● Toy early-exit", **LINK)
    test.select_slider(key="epsilon").set_value("1/255").run()
    finished(test, lambda page: any(button.label.startswith("FGSM 2/255") for button in page.button))
    zoo.remove(EARLY)
    for page in ("attack_lab", "transfer"):
        found = opened(page, **LINK)
        assert not found.exception and not found.error
    assert not [button for button in test.run().button if str(button.key).startswith("past-")]
    assert not test.exception and not test.error


def test_what_failed_can_be_tried_again() -> None:
    # Mutant: a job that failed once raising its error at every pass, with no button to start it again.
    def fails(*_: object, **__: object) -> None:
        raise ExitLensError("Not enough memory.")

    test = warm("attack_lab", **LINK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ui.ladder.climb_ladder", fails)
        test.button(key="climb").click().run()
        finished(test, lambda page: any("Not enough memory." in error.value for error in page.error))
    assert test.metric and not test.exception
    test.button(key="climb").click().run()
    finished(test, lambda page: not [button for button in page.button if button.key == "climb"])
    assert not settled(test).error


def test_what_others_run_does_not_take_a_result_off_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: a session that looks its result up on a board that has forgotten it.
    test = warm("attack_lab", **LINK)
    before = metrics(test)
    monkeypatch.setattr(jobs, "MAX_KEPT", 0)
    warm("attack_lab", **LINK | {"images": "12-14"})
    assert metrics(test.run()) == before
