"""Pages opened cold and used, without a browser: what stands on them, and what a widget changes."""

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from every_page import finished, fresh_caches, has_metrics, linked, metrics, opened
from streamlit.testing.v1 import AppTest

from core.checkpoints import checkpoints_folder, list_models, load_card

__all__ = ["fresh_caches"]
ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not list_models(), reason="checkpoints/ holds no model")


def test_home_opened_cold_shows_a_live_result_with_its_n() -> None:
    # Mutant: Home that starts no attack has no metric.
    test = finished(opened(), has_metrics)
    assert not test.exception and not test.error
    assert " of " in metrics(test)["Fooled"]
    assert any("n = 20" in caption.value for caption in test.caption)


def test_inspect_opens_the_lab_with_pgd_at_the_first_exit_whatever_was_chosen_last() -> None:
    # Mutant: the aim alone: an attack chosen before, which may have none, at an exit that nobody named.
    (link,) = [each.proto for each in opened().get("page_link") if each.proto.label == "**Inspect**"]
    test = linked("attack_lab", **{key: values[0] for key, values in parse_qs(link.query_string).items()})
    test.session_state["attack"] = "slowdown"
    test.run()
    assert not test.exception and not test.error
    assert test.segmented_control(key="attack").value == "pgd" and test.selectbox(key="aim").value == "exit-1"


def test_lab_opened_cold_by_its_link_attacks_the_samples() -> None:
    # Mutant: a lab that waits for a click never gets metrics.
    test = finished(opened("attack_lab"), has_metrics)
    assert not test.exception and not test.error
    assert len(test.get("plotly_chart")) == (3 if len(list_models()) > 1 else 2)
    assert any("cifar10:samples:0-7" in caption.value and "n = 8" in caption.value for caption in test.caption)


def has_been_checked(test: AppTest) -> bool:
    said = [caption.value for caption in test.caption]
    return any(caption.startswith("Note: ") or "none found." in caption for caption in said)


@pytest.mark.parametrize(("epsilon", "is_saturated"), [("32/255", True), ("0.25/255", False)])
def test_lab_says_after_a_run_what_the_checks_found(epsilon: str, is_saturated: bool) -> None:
    # Mutant: checks that are not started, or whose notes nobody sees; a note that is always there.
    test = finished(opened("attack_lab", attack="PGD" if is_saturated else "FGSM", epsilon=epsilon), has_been_checked)
    assert not test.exception and not test.error
    note = "Note: The attack succeeds on"
    assert any(caption.value.startswith(note) for caption in test.caption) is is_saturated
    assert any("`saturated` in docs/checks.md" in caption.value for caption in test.caption) is is_saturated


def test_threshold_moves_the_numbers_and_starts_no_attack() -> None:
    # Mutant: numbers cached without the policy stay as they are.
    test = finished(opened("attack_lab"), has_metrics)
    before = metrics(test)
    test.slider(key="threshold").set_value(0.3).run()
    after = metrics(test)
    assert before["Mean cost"] != after["Mean cost"]
    assert test.button(key="run") and not [button for button in test.button if button.key == "cancel"]
    assert any(button.label == "Attack again at 0.30" for button in test.button)


def test_attack_again_makes_the_attack_at_the_new_threshold() -> None:
    # Mutant: a button that leaves made_at alone keeps "made at T = 0.90" in the caption.
    test = finished(opened("attack_lab"), has_metrics)
    test.slider(key="threshold").set_value(0.5).run()
    next(button for button in test.button if button.label.startswith("Attack again")).click().run()
    finished(test, lambda page: any("made at T = 0.50" in caption.value for caption in page.caption))
    assert not test.exception


def test_an_attack_reckons_with_the_fallback_in_the_sidebar_and_says_so() -> None:
    # Mutants: an attack on another model than the one on screen; a fallback unsaid; one said where it is the usual.
    sure = "; when no exit is sure, the most confident exit answers"
    test = finished(opened("attack_lab", images="0-1"), has_metrics)
    assert any("made at T = 0.90 · " in caption.value for caption in test.caption)
    test.selectbox(key="fallback").set_value("most_confident").run()
    assert any("controls have changed" in caption.value for caption in test.caption)
    assert any(f"made at T = 0.90 · judged at T = 0.90{sure}" in caption.value for caption in test.caption)
    test.button(key="run").click().run()
    finished(test, lambda page: any(f"made at T = 0.90{sure}" in caption.value for caption in page.caption))
    assert "--fallback most_confident" in test.code[0].value
    test.selectbox(key="fallback").set_value("final").run()  # made already, so it is shown again at once
    assert any("made at T = 0.90 · judged at T = 0.90 · " in caption.value for caption in test.caption)
    next(button for button in test.button if button.label == "Undo").click().run()
    assert test.selectbox(key="fallback").value == "most_confident"
    assert any(f"made at T = 0.90{sure}" in caption.value for caption in test.caption) and not test.exception


def test_link_restores_controls_and_result() -> None:
    # Mutant: a control that is not bound to the address opens with its default.
    link = {
        "images": "3,5",
        "attack": "FGSM",
        "epsilon": "4/255",
        "threshold": "0.5",
        "fallback": "the most confident exit answers",
    }
    test = finished(opened("attack_lab", **link), has_metrics)
    assert test.slider(key="threshold").value == 0.5
    assert test.selectbox(key="fallback").value == "most_confident"
    caption = next(caption.value for caption in test.caption if "Wilson" in caption.value)
    assert "FGSM 4/255" in caption and "cifar10:samples:3,5" in caption and "T = 0.50" in caption


@pytest.mark.parametrize("images", ["nonsense", "5-3", "0,0", "77", ""])
def test_unusable_selection_gives_one_sentence(images: str) -> None:
    # Mutant: an unguarded parser shows a stack trace instead of an error.
    test = opened("attack_lab")
    test.text_input(key="images").set_value(images).run()
    assert not test.exception
    assert len(test.error) == 1 and len(test.error[0].value) < 250


@pytest.mark.parametrize("root", [None, "/nowhere/at/all", "empty", "damaged"])
def test_whatever_the_data_root_is_the_samples_open(
    root: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutant: a page that insists on the data root shows an error or a stack trace.
    monkeypatch.delenv("EXITLENS_DATA", raising=False)
    monkeypatch.setattr("core.data.DEFAULT_DATA_ROOT", tmp_path / "none")
    if root == "damaged":
        (tmp_path / "cifar10").mkdir()
        (tmp_path / "cifar10" / "test.parquet").write_bytes(b"PAR1 not really")
    if root:
        monkeypatch.setenv("EXITLENS_DATA", root if root.startswith("/") else str(tmp_path))
    test = finished(opened("attack_lab"), has_metrics)
    assert not test.exception and not test.error
    assert test.selectbox(key="set").options == ["CIFAR-10 samples"]
    assert any("bundled samples" in caption.value for caption in test.caption)


def test_damaged_and_missing_models_are_named_and_the_rest_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutant: a page that reads every card unguarded ends in a stack trace.
    source = checkpoints_folder()
    monkeypatch.setenv("EXITLENS_CHECKPOINTS", str(tmp_path))
    assert "no model here" in opened("attack_lab").error[0].value
    (tmp_path / "cifar10-resnet56-early-exit").symlink_to(source.resolve() / "cifar10-resnet56-early-exit")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "card.json").write_text("{", encoding="utf-8")
    test = finished(opened("attack_lab"), has_metrics)
    assert not test.exception and not test.error
    assert any(os.sep + "broken" in warning.value for warning in test.warning)


@pytest.mark.skipif("cifar10-resnet56-static" not in list_models(), reason="the static twin is not here")
def test_a_static_model_says_why_nothing_shifts() -> None:
    # Mutant: a strip of "same" bars for a model with one exit.
    test = finished(opened("attack_lab", model="■ ResNet-56 static"), has_metrics)
    assert any("one exit" in info.value for info in test.info)


def tiles(test: AppTest) -> list[dict[str, Any]]:
    """What the tiles on screen were told to show."""
    found = next(each for each in test.get("bidi_component") if each.key == "tiles")
    shown: list[dict[str, Any]] = json.loads(found.proto.json)["tiles"]
    return shown


def test_filters_show_only_what_they_say() -> None:
    # Mutant: a filter that is drawn but not applied shows all 20 tiles.
    test = finished(opened("attack_lab"), has_metrics)
    test.selectbox(key="filter_class").set_value("frog").run()
    assert [tile["name"] for tile in tiles(test)] == ["4 frog", "5 frog", "7 frog", "19 frog"]


def test_tiles_say_what_they_show_and_which_are_picked() -> None:
    # Mutants: the tick of another tile; the exit of another threshold; a picture without words.
    test = finished(opened("attack_lab", images="0,2"), has_metrics)
    shown = tiles(test)
    assert [tile["index"] for tile in shown if tile["is_picked"]] == [0, 2]
    assert shown[0]["alt"] == f"Image 0, cat; the model is right at {shown[0]['caption'].removeprefix('● ')}"
    assert all(tile["picture"].startswith("data:image/png;base64,") for tile in shown)
    assert len({tile["picture"] for tile in shown}) == 20
    test.sidebar.slider(key="threshold").set_value(0.5).run()
    assert [tile["caption"] for tile in tiles(test)] != [tile["caption"] for tile in shown]


def test_runs_of_the_session_come_back_as_chips_and_by_undo() -> None:
    # Mutant: a chip that brings back the images but not the attack, or an undo that goes forward again.
    test = finished(opened("attack_lab", attack="FGSM", images="3"), has_metrics)
    for images in ("4", "5"):
        test.text_input(key="images").set_value(images).run()
        test.button(key="run").click().run()
        finished(test, lambda page, images=images: any(f"samples:{images} " in each.value for each in page.caption))
    test.segmented_control(key="attack").set_value("pgd").run()
    next(button for button in test.button if button.label == "FGSM 8/255 · samples:3").click().run()
    assert (test.text_input(key="images").value, test.segmented_control(key="attack").value) == ("3", "fgsm")
    for expected in ("5", "4"):
        next(button for button in test.button if button.label == "Undo").click().run()
        assert test.text_input(key="images").value == expected
        assert any(f"samples:{expected} " in caption.value for caption in test.caption)
    assert not test.exception and not test.error


def test_a_run_that_comes_back_leaves_the_numbers_of_other_attacks_alone() -> None:
    # Mutant: PGD of one step, for FGSM takes one.
    test = finished(opened("attack_lab", attack="FGSM", images="3"), has_metrics)
    test.text_input(key="images").set_value("4").run()
    test.button(key="run").click().run()
    finished(test, lambda page: any("samples:4 " in each.value for each in page.caption))
    next(button for button in test.button if button.label == "FGSM 8/255 · samples:3").click().run()
    for attack in ("pgd", "mi-fgsm"):
        test.segmented_control(key="attack").set_value(attack).run()
        assert (test.number_input(key="steps").value, test.number_input(key="step_size").value) == (10, 2.0)
    assert test.number_input(key="decay").value == 1.0


@pytest.mark.skipif(len(list_models()) < 3, reason="there is no other model here than the pair")
def test_undo_brings_back_to_whom_a_run_was_shown() -> None:
    # Mutant: a run on the pair brought back as one on every model, which undoes nothing.
    test = finished(opened("attack_lab", attack="FGSM", images="3"), has_metrics)
    test.toggle(key="everyone").set_value(True).run()
    finished(test, lambda page: any(button.label == "Undo" for button in page.button))
    next(button for button in test.button if button.label == "Undo").click().run()
    assert not test.toggle(key="everyone").value
    assert not any(button.label == "Undo" for button in test.button), "nothing is left to undo"


@pytest.mark.skipif(len(list_models()) < 3, reason="there is no other model here than the pair")
def test_a_link_to_a_run_on_every_model_opens_with_that_run() -> None:
    # Mutant: the run on the pair, under a toggle that says every model.
    test = finished(opened("attack_lab", attack="FGSM", images="3", everyone="true"), has_metrics)
    test.run()
    assert test.toggle(key="everyone").value
    assert not any("controls have changed" in caption.value for caption in test.caption)
    chart = next(each for each in test.get("plotly_chart") if each.proto.alt.startswith("Transfer."))
    assert "all exits" in chart.proto.alt


def test_transfer_opens_with_models_trained_as_a_whole() -> None:
    # Mutant: every model, exits on the backbones of others too: half as long again to wait, for what is known.
    def drawn(page: AppTest) -> list[str]:
        return [each.proto.alt for each in page.get("plotly_chart") if each.proto.alt.startswith("Transfer matrix.")]

    test = finished(opened("transfer", attack="FGSM", images="3"), drawn)
    assert "all exits" not in drawn(test)[0]
    whole = sum(load_card(name).shares is None for name in list_models())
    assert drawn(test)[0].count(" to ") == whole**2


def test_attack_is_replayed_step_by_step() -> None:
    # Mutant: the last step's picture at every step.
    test = finished(opened("attack_lab", images="0", close_up="step by step"), has_metrics)
    charts = len(test.get("plotly_chart"))
    first = test.select_slider(key="replay").set_value(0).run()
    assert any("step 0 of 10: " in str(image.proto) for image in first.get("image"))
    assert len(first.get("plotly_chart")) == charts and not first.exception


def test_the_close_up_draws_the_view_in_sight_alone() -> None:
    # Mutant: all views drawn at every threshold.
    shown = {
        "every exit": {"figure-confidence-early-exit"},
        "step by step": {"figure-steps", "figure-replay-confidence"},
        "what each exit looked at": {"figure-saliency"},
    }
    test = finished(opened("attack_lab", images="0"), has_metrics)
    for view, keys in shown.items():
        test.segmented_control(key="close_up").set_value(view).run()
        assert {each.key for each in test.get("plotly_chart")} & set().union(*shown.values()) == keys
        assert not test.exception


def test_ladder_finds_the_smallest_epsilon_of_each_image() -> None:
    # Mutant: a button that starts nothing, or the close-up of another image's radius.
    test = finished(opened("attack_lab", images="0-2"), has_metrics)
    assert not any("is enough" in each.value for each in test.markdown)
    test.button(key="climb").click().run()
    finished(
        test, lambda page: any("attackable images, **half or more fall within" in each.value for each in page.markdown)
    )
    assert any("/255 is enough" in each.value for each in test.markdown)
    assert not test.exception and not test.error


def test_a_busy_machine_does_not_leave_the_lab_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: only the speed of what ran so far decides, and a slow first run makes the first page wait for a click.
    monkeypatch.setattr("ui.cache.estimated_seconds", lambda spec: 60.0)
    assert has_metrics(finished(opened("attack_lab"), has_metrics))
    monkeypatch.setattr("ui.cache.usual_seconds", lambda spec: 60.0)
    waiting = opened("attack_lab", epsilon="2/255")
    assert any("waits for you to run it" in caption.value for caption in waiting.caption)


def test_home_says_what_images_are_not_here_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: sets that cannot be opened left out, or counted among those that can.
    monkeypatch.delenv("EXITLENS_DATA", raising=False)
    monkeypatch.setattr("core.data.DEFAULT_DATA_ROOT", tmp_path / "none")
    test = opened()
    why = next(expander for expander in test.expander if "not here" in expander.label)
    assert why.label.startswith("6 image sets")
    assert "- cifar10:test needs" in why.markdown[0].value
    assert "cifar10:samples" not in why.markdown[0].value
