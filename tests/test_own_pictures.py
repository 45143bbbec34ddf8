"""A user's own pictures in the lab, on other pages, and beside the other runs of the session."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from every_page import fresh_caches, metrics, settled, warm
from PIL import Image
from safetensors import safe_open
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import ButtonGroup, Selectbox
from test_models_page import EARLY, STATIC, zoo
from test_uploads import file_of

from core.export import perturbations_file
from ui.state import IMAGE_SET, OWN_PICTURES, PAIR_RUN

__all__ = ["fresh_caches", "zoo"]
pytestmark = pytest.mark.usefixtures("zoo")
LABELS = {EARLY: "● Toy early-exit", STATIC: "■ Toy static"}
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


def place(test: AppTest) -> ButtonGroup:
    return next(each for each in test.segmented_control if each.key == "from")


def shown_class(test: AppTest) -> Selectbox:
    return next(each for each in test.selectbox if each.label == "mine.png shows")


def run(test: AppTest) -> AppTest:
    test.button(key="run").click().run()
    return clean(settled(test))


def clean(test: AppTest) -> AppTest:
    assert not test.exception and not test.error and not test.warning
    return test


def own_result(test: AppTest) -> AppTest:
    """After a run on a picture whose class was chosen."""
    place(test).set_value(OWN_PICTURES).run()
    test.file_uploader[0].set_value([("mine.png", file_of(Image.fromarray(PIXELS)), "image/png")]).run()
    shown_class(test).set_value("frog").run()
    run(test)
    assert shows_own(test)
    return test


def shows_own(test: AppTest) -> bool:
    return any(":upload-" in caption.value and "n = 1" in caption.value for caption in test.caption)


def shows(test: AppTest, images: str) -> bool:
    return any(f"samples:{images} " in caption.value for caption in test.caption)


def press(test: AppTest, label: str) -> AppTest:
    next(button for button in test.button if button.label == label).click().run()
    return clean(settled(test))


def test_undo_and_chips_lead_from_own_pictures_back_to_the_image_set() -> None:
    # Mutants: the old run's attack on the picture; an undo that skips the newest run of the image set.
    test = warm("attack_lab", images="3", attack="FGSM")
    test.text_input(key="images").set_value("4").run()
    own_result(run(test))
    press(test, "Undo")
    assert place(test).value == IMAGE_SET and shows(test, "4") and not shows_own(test)
    press(test, "Undo")
    assert shows(test, "3") and not any(button.label == "Undo" for button in test.button)
    place(test).set_value(OWN_PICTURES).run()
    assert shows_own(clean(settled(test)))
    press(test, "FGSM 8/255 · samples:3")
    assert place(test).value == IMAGE_SET and shows(test, "3")


def test_own_pictures_outlive_a_look_at_another_page() -> None:
    # Mutants: pictures, switch, class or result lost with the lab; another page that puts a run of the image set, which
    # is known, in the place of what is shown.
    test = own_result(warm("attack_lab", images="3", attack="FGSM"))
    before = metrics(test)
    test.switch_page("pages/confidence.py")
    assert shows_own(clean(settled(test)))
    assert any("your own pictures" in caption.value for caption in test.caption)
    test.switch_page("pages/attack_lab.py")
    clean(settled(test))
    assert place(test).value == OWN_PICTURES and shown_class(test).value == "frog"
    assert shows_own(test) and metrics(test) == before
    assert any("mine.png" in caption.value for caption in test.caption)
    place(test).set_value(IMAGE_SET).run()
    assert shows(clean(settled(test)), "3")


def test_own_pictures_are_gone_once_their_owner_removes_them() -> None:
    # Mutant: kept pictures that nobody gets rid of.
    test = own_result(warm("attack_lab", images="3", attack="FGSM"))
    test.file_uploader[0].set_value(None).run()
    assert not test.session_state["own_pictures"] and not test.metric


def shown_classes(test: AppTest) -> list[str]:
    return [each.value for each in test.selectbox if each.label.endswith(" shows")]


def given(test: AppTest, *names: str) -> AppTest:
    """Uploads pictures, of which those whose names begin alike are the same."""
    files = [(name, file_of(Image.fromarray(np.roll(PIXELS, ord(name[0]), 0))), "image/png") for name in names]
    test.file_uploader[0].set_value(files).run()
    return clean(test)


def test_a_chosen_class_stays_with_its_picture() -> None:
    # Mutants: a class of the place, lost as an earlier picture is removed; one for all that are alike.
    test = warm("attack_lab", images="3")
    place(test).set_value(OWN_PICTURES).run()
    given(test, "a.png", "b.png", "b2.png")
    first, second, _ = shown_classes(test)
    other = "truck" if second == "frog" else "frog"
    next(each for each in test.selectbox if each.label == "b.png shows").set_value(other).run()
    assert shown_classes(test) == [first, other, second]
    assert shown_classes(given(test, "b.png", "b2.png")) == [other, second]
    assert shown_classes(given(test, "a.png", "b.png")) == [first, other]


def test_a_class_that_nobody_chose_follows_the_model() -> None:
    # Mutants: the answer of the model before, as if its owner had said it; a choice that goes with the model.
    answers = {}
    for name in (EARLY, STATIC):
        test = warm("attack_lab", images="3", model=LABELS[name], threshold="0.3")
        place(test).set_value(OWN_PICTURES).run()
        answers[name] = shown_classes(given(test, *(f"{letter}.png" for letter in "abcdefgh")))
    assert answers[EARLY] != answers[STATIC], "the two agree on all: the test says nothing"
    chosen = next(each for each in test.selectbox if each.label == "a.png shows")
    other = next(each for each in chosen.options if each not in (answers[EARLY][0], answers[STATIC][0]))
    chosen.set_value(other).run()
    test.sidebar.selectbox(key="model").set_value(EARLY).run()
    assert shown_classes(clean(test)) == [other, *answers[EARLY][1:]]


def test_perturbations_can_be_taken_away(tmp_path: Path) -> None:
    # Mutants: no such button where the page promises one; another file than the command line writes.
    test = own_result(warm("attack_lab", images="3", attack="FGSM"))
    assert any("perturbations to take with you" in info.value for info in test.info)
    assert any(each.proto.label == "Perturbations" for each in test.get("download_button"))
    experiment = test.session_state[PAIR_RUN].shown.result()
    (tmp_path / "file").write_bytes(perturbations_file(experiment))
    with safe_open(tmp_path / "file", "pt") as file:
        assert torch.equal(file.get_tensor(EARLY), experiment.results[EARLY].perturbations)
        assert json.loads(file.metadata()["image_ids"]) == experiment.image_set.image_ids
