"""The page of attribution, without a browser: what stands on it, what a widget and a click change, and what fails."""

import json
import math
import re
import threading
import time
from collections.abc import Iterator

import pandas as pd
import pytest
import streamlit as st
import torch
from every_page import finished, fresh_caches, opened
from streamlit.testing.v1 import AppTest
from test_models_page import EARLY, STATIC, Zoo, zoo
from test_shift_page import STATIC_LABEL, select

from core.agreement import agreement
from core.attacks.spec import pgd
from core.attribution import attribute
from core.attribution_spec import METHODS, AttributionSpec
from core.checkpoints import load_model
from core.data import open_image_set
from core.exits import ExitPolicy, decide
from core.experiment import ExperimentSpec, run_experiment
from core.figures.theme import exit_names
from core.models.classifiers import ExitNetwork
from core.progress import end_if
from core.transfer import evenly_spread
from ui.attribution import _shared_words
from ui.belief import _headline, _spoken
from ui.state import LINK

__all__ = ["fresh_caches", "zoo"]
FIRST, NUM_IMAGES, THRESHOLD = 12, 4, 0.97
QUERY = {"images": "12-15", "threshold": "0.97"}


def has_population(test: AppTest) -> bool:
    return any("Median rank correlation" in text.value for text in test.markdown)


def warm(**query: str) -> AppTest:
    test = finished(opened("attribution", **(QUERY | query)), has_population)
    assert not test.exception and not test.error and not test.warning
    return test


def charts(test: AppTest) -> list[str]:
    return [chart.proto.id.rpartition("figure-")[2] for chart in test.get("plotly_chart")]


def texts(test: AppTest) -> str:
    return "\n".join(element.value for element in (*test.markdown, *test.caption, *test.info, *test.warning))


def by_hand(method: str = "grad_cam", name: str = EARLY, **fields: object):
    """Maps of the four images clean and adversarial, and their agreement, made without any page."""
    model, card = load_model(name)
    images = open_image_set("cifar10:samples").select(list(range(FIRST, FIRST + NUM_IMAGES)))
    spec = ExperimentSpec(images.name, (name,), (name,), pgd(), ExitPolicy())
    result = run_experiment(spec, images, {name: (model, card)}).results[name]
    asked = AttributionSpec(method=method, **fields)  # type: ignore[arg-type]
    clean, adversarial = (
        attribute(model, pixels, asked, labels=images.labels).maps for pixels in (result.images, result.adversarial)
    )
    return agreement(clean, adversarial), result


def rank_words(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


@pytest.mark.usefixtures("zoo")
def test_opened_cold_by_its_link_it_shows_the_maps_of_every_exit() -> None:
    # Mutant: maps of another image, states swapped, or a page that waits for a click.
    test = warm()
    test.selectbox(key="detail").set_value(14).run()
    assert charts(test)[:2] == ["maps-grad_cam", "maps-saliency"]
    assert {"between-exits-clean", "between-exits-adversarial", "attribution-population"} <= set(charts(test))
    alike, _ = by_hand()
    own = alike.rank_correlation[2].diagonal()
    sentence = next(text.value for text in test.markdown if "Least alike" in text.value)
    names = ["Exit 1", "Exit 2", "Exit 3", "Final"]
    assert f"{names[int(own.argmin())]}, rank correlation {rank_words(own.min().item())}" in sentence
    assert f"{names[int(own.argmax())]}, {rank_words(own.max().item())}" in sentence
    assert "cifar10/test/14" in texts(test) and "one scale for all maps" in texts(test).lower()


@pytest.mark.usefixtures("zoo")
def test_link_restores_every_control_of_the_maps() -> None:
    # Mutant: a control that is not bound to the address opens with its default.
    link = {
        "methods": "Integrated gradients",
        "explained": "chosen class",
        "explained_class": "frog",
        "map_view": "over the picture",
        "own_scales": "true",
        "map_num_steps": "5",
        "map_baseline": "0.2",
        "compared_at": "Exit 2",
    }
    assert set(link) <= set(LINK)
    test = warm(**link)
    assert charts(test)[0] == "maps-integrated_gradients"
    told = "Integrated gradients, 5 steps, from grey 0.2, of class 6"
    assert told in texts(test) and "One scale for each exit" in texts(test)
    assert test.selectbox(key="compared_at").value == "Exit 2"
    alike, _ = by_hand("integrated_gradients", explained="chosen", class_index=6, num_steps=5, baseline=0.2)
    median = next(text.value for text in test.markdown if "Median rank correlation" in text.value)
    assert sum(map(int, re.findall(r"n = (\d+)", median))) == NUM_IMAGES
    shown = [float(value.replace("−", "-")) for value in re.findall(r"(−?\d\.\d\d) \(n", median)]
    low, high = alike.rank_correlation[:, 1, 1].aminmax()
    assert all(low - 0.005 <= value <= high + 0.005 for value in shown)


@pytest.mark.usefixtures("zoo")
def test_every_method_has_its_maps_or_a_sentence() -> None:
    # Mutant: one method that ends the page, or a control without its numbers.
    test = opened("attribution", **QUERY)
    finished(test, has_population)
    test.multiselect(key="methods").set_value(list(METHODS)).run()
    finished(test, lambda page: {f"maps-{method}" for method in METHODS} <= set(charts(page)))
    assert not test.exception and not test.error
    for field in ("num_steps", "num_samples", "noise", "window", "stride", "baseline", "seed"):
        assert test.number_input(key=f"map_{field}")
    assert test.segmented_control(key="in_question").value == "grad_cam"
    test.segmented_control(key="in_question").set_value("occlusion").run()
    assert any("Occlusion, squares" in caption.value for caption in test.caption)
    test.number_input(key="map_stride").set_value(9).run()
    assert "at most the window" in test.error[0].value and not test.exception


@pytest.mark.usefixtures("zoo")
def test_no_method_is_a_sentence_with_a_next_step() -> None:
    # Mutant: a stack trace, or a page that is silently empty.
    test = warm()
    test.multiselect(key="methods").set_value([]).run()
    assert "Choose one or more" in test.error[0].value and not test.exception


@pytest.mark.usefixtures("zoo")
def test_a_moved_threshold_makes_no_map_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: maps or populations kept under the policy, or a frame that stays where it was.
    test = warm()
    before = next(text.value for text in test.markdown if "Median rank correlation" in text.value)
    monkeypatch.setattr(ExitNetwork, "forward", lambda *args: pytest.fail("a network ran"))
    monkeypatch.setattr(ExitNetwork, "run_until", lambda *args: pytest.fail("a network ran"))
    seconds = []
    for threshold in (0.98, 0.5):
        started = time.perf_counter()
        test.slider(key="threshold").set_value(threshold).run()
        seconds.append(time.perf_counter() - started)
    assert not test.exception and "T = 0.50" in texts(test)
    assert next(text.value for text in test.markdown if "Median rank correlation" in text.value) != before
    assert min(seconds) < 3, seconds


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("as_dictionary", [False, True])
def test_a_clicked_point_opens_its_image_once(as_dictionary: bool) -> None:
    # Mutant: a point that opens another image, or a selection that overrules what is chosen afterwards.
    test = warm()
    test.selectbox(key="detail").set_value(12).run()
    point = [2, "cifar10/test/14", "Exit 1", "Exit 1", 10.0]
    select(test, "attribution-population", point, as_dictionary=as_dictionary)
    assert test.selectbox(key="detail").value == 14
    assert any("cifar10/test/14" in caption.value for caption in test.caption)
    assert any("Opened: **cifar10/test/14**" in text.value for text in test.markdown)
    finished(test, has_population)
    test.selectbox(key="detail").set_value(13).run()
    assert test.selectbox(key="detail").value == 13, "the old selection still stands, and is old"
    select(test, "attribution-population", [9, "cifar10/test/99", "Exit 1", "Exit 1", 1.0])
    assert not test.exception and test.selectbox(key="detail").value == 13


@pytest.mark.usefixtures("zoo")
def test_belief_is_measured_when_asked_for() -> None:
    # Mutant: a button that starts nothing, or measures of another method.
    test = warm()
    assert "belief" not in charts(test)
    test.button(key="measure-belief").click().run()
    finished(test, lambda page: "belief" in charts(page))
    assert not test.exception and "of what covering squares does untold" in texts(test)
    test.segmented_control(key="in_question").set_value("saliency").run()
    assert "belief" not in charts(test)
    assert "Measure Saliency of this image" in test.button(key="measure-belief").label


def test_a_static_model_has_maps_at_its_one_exit_and_says_what_it_lacks(zoo: Zoo) -> None:
    # Mutant: a matrix of one cell, an exit to choose where there is one, or a page that ends.
    test = warm(model=STATIC_LABEL)
    assert not [name for name in charts(test) if name.startswith("between-exits")]
    assert "no two exits to compare" in texts(test)
    assert not [box for box in test.selectbox if box.key == "compared_at"]
    median = next(text.value for text in test.markdown if "Median rank correlation" in text.value)
    assert "at the same exit" in median and "(n = 4)" in median
    alike, _ = by_hand(name=STATIC)
    assert rank_words(alike.rank_correlation[:, 0, 0].quantile(0.5).item()) in median


def test_the_page_needs_no_twin(zoo: Zoo) -> None:
    # Mutant: a page that looks for one.
    zoo.remove(STATIC)
    assert charts(warm())[:1] == ["maps-grad_cam"]


def test_a_model_of_many_exits_shows_some_of_them_with_those_that_answer(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutant: 27 stamps beside each other, or a frame whose exit is not shown.
    zoo.hold_one_of_many_exits(monkeypatch)
    test = warm(images="12,13")
    assert any("of 27 exits: evenly spread, and those that answer" in caption.value for caption in test.caption)
    assert not test.exception


def test_lab_shows_some_of_many_exits_and_says_which(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutants: all 27 exits as stamps; an exit that answers left out; columns named after their place.
    zoo.hold_one_of_many_exits(monkeypatch)
    asked = []

    def seen(model: object, images: torch.Tensor, spec: AttributionSpec, **kwargs: object) -> object:
        asked.append(spec)
        return attribute(model, images, spec, **kwargs)

    monkeypatch.setattr("ui.cache.attribute", seen)
    link = {"images": "12,13", "close_up": "what each exit looked at"}
    test = finished(opened("attack_lab", **link), lambda page: "saliency" in charts(page))
    model, card = load_model(EARLY)
    images = open_image_set("cifar10:samples").select([12, 13])
    row = images.indices.tolist().index(test.selectbox(key="detail").value)
    spec = ExperimentSpec(images.name, (EARLY,), (EARLY,), pgd(), ExitPolicy())
    made = run_experiment(spec, images, {EARLY: (model, card)}).results[EARLY]
    taken = {
        int(decide(logits[row : row + 1], made.made_at).answered_exit)
        for logits in (made.clean_logits, made.adversarial_logits)
    }
    (only,) = asked
    assert only.exits == tuple(sorted(set(evenly_spread(27)) | taken))
    chart = next(chart for chart in test.get("plotly_chart") if chart.proto.id.endswith("figure-saliency"))
    notes = [note["text"] for note in json.loads(chart.proto.spec)["layout"]["annotations"]]
    assert f"{len(only.exits)} of 27 exits: evenly spread, and those that answer at T = 0.90." in notes
    assert {exit_names(27)[index] for index in only.exits} <= set(notes) and "Exit 2" not in notes
    assert not test.exception


def test_a_mean_of_nothing_is_words_and_no_number() -> None:
    # Mutants: "nan %" on screen; one state's number under the other's name; what is known dropped with what is not.
    mean = pd.Series({"adversarial": 0.25, "clean": 0.5})
    assert _shared_words(mean).startswith(
        "**Two exits share 50 % of their strongest pixels when clean, 25 % once attacked**, on average"
    )
    assert "two maps" not in _shared_words(mean)
    half = _shared_words(mean.where(mean.index == "clean"))
    assert half.startswith("**Two exits share 50 % of their strongest pixels when clean**")
    assert half.endswith("There are no two maps to compare once attacked.")
    assert _shared_words(mean * math.nan) == "No two exits have maps to compare."
    told = pd.Series({"infidelity": 0.3, "sensitivity": 0.2, "all_redrawn": -0.1})
    words = _headline(told, "Grad-CAM")
    for part in ("30 % of what covering", "20 % of its length nearby, and has", "correlation −0.10 with"):
        assert part in words
    assert _headline(told.drop("infidelity").reindex(told.index), "Grad-CAM").startswith("**When clean, Grad-CAM moves")
    assert "no exit has a map of Grad-CAM" in _headline(told * math.nan, "Grad-CAM")
    assert _spoken(told * math.nan) == "no maps to measure"
    for shown in (half, words, _spoken(told)):
        assert "nan" not in shown


@pytest.mark.usefixtures("zoo")
def test_nothing_kept_says_so_and_offers_a_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: maps without an attack, or an expensive attack that nobody asked for.
    monkeypatch.setattr("ui.running.PATIENCE_SECONDS", -1.0)
    test = opened("attribution", **QUERY)
    assert not test.exception and not test.error and not test.get("plotly_chart")
    assert "appears here as soon as the attack is done" in texts(test)
    assert test.button(key="run")


@pytest.mark.usefixtures("zoo")
def test_many_images_wait_for_a_click(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: minutes of work behind a link.
    test = warm()
    monkeypatch.setattr("ui.maps_cache.population_seconds", lambda *args: 60.0)
    test.multiselect(key="methods").set_value(["saliency"]).run()
    finished(test, lambda page: any(button.key == "compare-all" for button in page.button))
    assert "Compare the Saliency maps of 4 images (about 60 s)" in test.button(key="compare-all").label
    assert not has_population(test)
    test.button(key="compare-all").click().run()
    finished(test, has_population)


@pytest.mark.usefixtures("zoo")
def test_cancelled_maps_say_so_and_are_made_again_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: a Cancel that starts the same work again with the next pass through the page.
    from core.errors import Cancelled

    calls = []

    def never(*args: object, **kwargs: object) -> None:
        calls.append(args)
        raise Cancelled

    test = warm(methods="Grad-CAM")
    monkeypatch.setattr("ui.maps_cache.attribute", never)
    test.multiselect(key="methods").set_value(["saliency"]).run()
    finished(test, lambda page: "nothing of these maps was kept" in texts(page))
    test.run()
    assert len(calls) == 1 and not test.exception
    monkeypatch.setattr("ui.maps_cache.attribute", attribute)
    test.button(key="again-saliency").click().run()
    finished(test, lambda page: "maps-saliency" in charts(page))


class Slow:
    """Attribution that waits until it may go on, or is cancelled."""

    def __init__(self, *methods: str) -> None:
        self.methods, self.may_end = methods, threading.Event()
        self.begun: list[str] = []

    def __call__(self, model: object, images: object, spec: AttributionSpec, **kwargs: object) -> object:
        self.begun.append(spec.method)
        while spec.method in self.methods and not self.may_end.is_set():
            time.sleep(0.01)
            end_if(kwargs["cancel"])
        return attribute(model, images, spec, **kwargs)


@pytest.fixture
def slow(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    """Saliency that is not made until it may."""
    made = Slow("saliency")
    monkeypatch.setattr("ui.maps_cache.attribute", made)
    monkeypatch.setattr("ui.attribution.PATIENCE_SECONDS", 0.3)
    yield made
    made.may_end.set()


def comes_next(test: AppTest) -> int:
    return [caption.value for caption in test.caption].count("These maps come next.")


def test_nine_methods_are_begun_one_after_the_other(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutants: nine jobs at once, of which the board refuses some; those behind a finished one never begun.
    monkeypatch.setattr("ui.jobs.MAX_WAITING", 2)
    test = finished(opened("attribution", methods="Saliency", **QUERY), lambda page: bool(page.subheader))
    test.multiselect(key="methods").set_value(["saliency", *(name for name in METHODS if name != "saliency")]).run()
    assert not test.error and not test.exception
    assert slow.begun == ["saliency"] and comes_next(test) == len(METHODS) - 1
    slow.may_end.set()
    finished(test, lambda page: {f"maps-{method}" for method in METHODS} <= set(charts(page)))
    assert not test.error and not test.exception and not comes_next(test)


def test_method_in_question_is_one_whose_maps_are_still_to_come(slow: Slow) -> None:
    # Mutants: only methods with maps on offer, so that a link is refused and a choice lost with the image; maps of
    # another method shown meanwhile.
    test = finished(opened("attribution", in_question="Saliency", **QUERY), lambda page: "still being" in texts(page))
    assert not test.warning and "maps-grad_cam" in charts(test) and "between-exits-clean" not in charts(test)
    assert "The Saliency maps of this image are still being made." in texts(test)
    slow.may_end.set()
    finished(test, has_population)
    assert test.segmented_control(key="in_question").value == "saliency"
    assert any("pixels that two exits" in text and "Saliency, of" in text for text in texts(test).splitlines())
    slow.may_end.clear()
    other = 12 if test.selectbox(key="detail").value != 12 else 13
    test.selectbox(key="detail").set_value(other).run()
    finished(test, lambda page: "still being made" in texts(page))
    assert test.segmented_control(key="in_question").value == "saliency" and not test.warning


def test_maps_of_an_image_left_behind_are_left_and_made_anew_on_return(slow: Slow) -> None:
    # Mutants: the next image waits for maps that nobody looks at; "Cancelled" said to one who only went elsewhere; a
    # click on Cancel forgotten with the next pass.
    from ui.maps_cache import maps_board

    slow.methods = ("grad_cam",)
    test = finished(opened("attribution", methods="Grad-CAM", **QUERY), lambda page: bool(page.subheader))
    first = test.selectbox(key="detail").value
    others = [index for index in range(FIRST, FIRST + NUM_IMAGES) if index != first]
    for index in (*others[:2], first):
        test.selectbox(key="detail").set_value(index).run()
        assert not test.exception and not test.error and "Cancelled" not in texts(test)
        deadline = time.monotonic() + 20
        while len(unfinished := [job for job in maps_board()._jobs.values() if not job.has_ended]) > 1:
            assert time.monotonic() < deadline, "maps of images left behind are still being made"
            time.sleep(0.05)
        assert [job.spec.row for job in unfinished] == [index - FIRST]
    assert len(slow.begun) == 4
    (job,) = unfinished
    test.button(key="cancel-grad_cam").click().run()
    finished(test, lambda page: "nothing of these maps was kept" in texts(page))
    test.run()
    assert "nothing of these maps was kept" in texts(test) and len(slow.begun) == 4 and job.has_ended
    slow.may_end.set()
    test.button(key="again-grad_cam").click().run()
    finished(test, lambda page: "maps-grad_cam" in charts(page))


def test_a_method_that_cannot_work_says_why_and_the_others_stay(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: the whole page ended by one method, or the failed work started anew at every pass.
    from core.errors import ExitLensError

    calls = []

    def fails(model: object, images: object, spec: AttributionSpec, **kwargs: object) -> object:
        if spec.method == "saliency":
            calls.append(spec)
            raise ExitLensError("Saliency has nothing to say here. Choose another method.")
        return attribute(model, images, spec, **kwargs)

    monkeypatch.setattr("ui.maps_cache.attribute", fails)
    test = finished(opened("attribution", **QUERY), has_population)
    test.run()
    assert [warning.value for warning in test.warning] == ["Saliency has nothing to say here. Choose another method."]
    assert "maps-grad_cam" in charts(test) and "maps-saliency" not in charts(test)
    assert len(calls) == 1 and not test.exception


@pytest.mark.usefixtures("zoo")
def test_lab_shows_saliency_by_the_same_function(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: a second way to a map.
    asked = []

    def seen(model: object, images: torch.Tensor, spec: AttributionSpec, **kwargs: object) -> object:
        asked.append(spec)
        return attribute(model, images, spec, **kwargs)

    monkeypatch.setattr("ui.cache.attribute", seen)
    test = finished(opened("attack_lab", close_up="what each exit looked at", **QUERY), lambda page: bool(page.metric))
    assert asked == [AttributionSpec()] and "saliency" in charts(test) and not test.exception
    st.cache_data.clear()
