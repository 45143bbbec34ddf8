"""What holds on every page with its result: words explained, pictures described, numbers with their n."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from every_page import everywhere, keep_a_run, opened
from streamlit.testing.v1 import AppTest
from test_models_page import EARLY, STATIC, Zoo
from test_study_placements import STUDY, write_project
from toy_study import run_toys
from toys import TOY_ARCHITECTURE, TOY_DATASET

from core.checkpoints import FOLDER_VARIABLE
from core.data import DATA_ROOT_VARIABLE
from core.datasets import DATASETS
from core.glossary import glossary, words_in
from core.models import ARCHITECTURES
from ui.attack_controls import ATTACKS

# Too common to be explained each time: the page's other help does.
COMMON = {"exit", "clean", "final exit"}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, AppTest]]:
    """Every page with its result: a toy model and its twin, one kept run, a study of placements; opened once."""
    import streamlit as st

    st.cache_data.clear()
    st.cache_resource.clear()
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("every-page")
        patch.setitem(DATASETS, "toy", TOY_DATASET)
        patch.setitem(ARCHITECTURES, "toy", TOY_ARCHITECTURE)
        with pytest.MonkeyPatch.context() as studied:
            for variable, value in write_project(folder / "studied").items():
                studied.setenv(variable, value)
            run_toys(folder / "studies" / "places", STUDY)
        patch.setattr("core.study.store.SHIPPED", folder / "nothing-shipped")
        patch.setenv("EXITLENS_STUDIES", str(folder / "studies"))
        patch.setenv(FOLDER_VARIABLE, str(folder / "checkpoints"))
        patch.setenv("EXITLENS_KEPT", str(folder / "kept"))
        patch.delenv(DATA_ROOT_VARIABLE, raising=False)
        patch.setattr("core.data.DEFAULT_DATA_ROOT", Path("no-such-folder"))
        zoo = Zoo(folder / "checkpoints")
        zoo.add(EARLY, 4)
        zoo.add(STATIC, 1)
        yield dict(everywhere(keep_a_run((EARLY, STATIC))))


def has_result(test: AppTest) -> bool:
    return bool(test.get("plotly_chart") or test.metric or test.get("image"))


def test_every_page_opens_with_its_result(pages: dict[str, AppTest]) -> None:
    # Mutant: a page that ends in an error, or whose result never comes.
    for page, test in pages.items():
        assert not test.exception and not test.error, page
        # None of the toy models' images tells the story, and the page says so.
        assert has_result(test) or (page == "story" and "tells the story" in test.info[0].value), page


def labelled(test: AppTest) -> Iterator[tuple[str, str]]:
    """Label and help of every number, control and heading on a page."""
    controls = ("selectbox", "slider", "select_slider", "number_input", "checkbox", "toggle", "multiselect")
    for kind in ("metric", *controls, "text_input", "segmented_control"):
        for element in getattr(test, kind):
            yield element.proto.label, element.proto.help
    for kind in ("title", "header", "subheader"):
        for element in getattr(test, kind):
            yield element.proto.body, element.proto.help


def unexplained(page: str, test: AppTest) -> list[tuple[str, str, str]]:
    """Labels that use a word of the glossary without its meaning."""
    return [
        (page, label, word)
        for label, words in labelled(test)
        for word in words_in(label)
        if word not in COMMON and glossary()[word] not in str(words)
    ]


def test_every_label_that_uses_a_word_of_the_glossary_explains_it(pages: dict[str, AppTest]) -> None:
    # Mutant: help left out, or written anew beside the glossary.
    assert [each for page, test in pages.items() for each in unexplained(page, test)] == []
    used = {word for test in pages.values() for label, _ in labelled(test) for word in words_in(label)}
    assert len(used) > 10


@pytest.mark.parametrize("attack", list(ATTACKS.values()))
def test_the_options_of_every_attack_explain_their_words(pages: dict[str, AppTest], attack: str) -> None:
    # Mutant: an attack added with words of its own.
    test = opened("attack_lab", attack=attack, images="3")
    assert not test.exception and unexplained(attack, test) == []


def test_every_picture_chart_and_table_says_what_it_shows(pages: dict[str, AppTest]) -> None:
    # Mutant: an image, a chart or a table without words for those who do not see it.
    missing, num_seen = [], 0
    for page, test in pages.items():
        for kind in ("plotly_chart", "dataframe"):
            shown = test.get(kind)
            num_seen += len(shown)
            missing += [(page, kind) for each in shown if len(each.proto.alt) < 15]
        for picture in test.get("image"):
            missing += [(page, each.caption) for each in picture.proto.imgs if len(each.alt) < 5]
            num_seen += len(picture.proto.imgs)
    assert missing == [] and num_seen > 50


def in_order(test: AppTest) -> list[tuple[str, str]]:
    """Kind of every element of the page and, of words, what they say; as a reader meets them."""
    found = []

    def walk(node: object) -> None:
        children = getattr(node, "children", None)
        if children is None:
            found.append((node.type, getattr(node, "value", "") if node.type in ("caption", "markdown") else ""))
        else:
            for key in sorted(children):
                walk(children[key])

    walk(test.main)
    return found


def test_every_chart_has_one_caption_that_says_of_what_it_is(pages: dict[str, AppTest]) -> None:
    # Mutants: a caption left out; one without model, images or n; a result of a policy that does not say it.
    num_seen = 0
    for page, test in pages.items():
        elements = in_order(test)
        for place, (kind, _) in enumerate(elements):
            if kind != "plotly_chart":
                continue
            num_seen += 1
            kind_after, caption = elements[place + 1]
            assert kind_after == "caption", page
            assert "n = " in caption or "cifar10/test/" in caption, (page, caption)
            assert "●" in caption or "■" in caption or page in ("transfer", "attack_lab", "studies"), (page, caption)
            assert "judged at" not in caption or "made at" in caption or page == "gallery, an example", (page, caption)
    assert num_seen > 20


def test_charts_offer_their_picture_alone(pages: dict[str, AppTest]) -> None:
    # Mutants: Plotly's logo and tools; a picture of pixels.
    for page, test in pages.items():
        for chart in test.get("plotly_chart"):
            config = json.loads(chart.proto.config)
            assert config["displaylogo"] is False and config["modeBarButtons"] == [["toImage"]], page
            assert config["toImageButtonOptions"]["format"] == "svg", page
            assert config["toImageButtonOptions"]["filename"].startswith("exitlens-")


def test_every_page_with_a_result_copies_its_link(pages: dict[str, AppTest]) -> None:
    # Mutant: a result that cannot be passed on.
    for page, test in pages.items():
        buttons = [each.key for each in test.get("bidi_component") if each.key != "tiles"]
        assert buttons == ["copy-link"] * has_result(test), page


def test_every_chart_and_table_is_there_to_take_away(pages: dict[str, AppTest]) -> None:
    # Mutant: a chart without its rows, or without the file that opens anywhere.
    for page, test in pages.items():
        for key in list(test.session_state._state.filtered_state):
            if key.startswith("behind-"):
                test.session_state[key] = True
        test.run()
        assert not test.exception, page
        offered = [button.proto.label for button in test.get("download_button")]
        charts = len(test.get("plotly_chart"))
        assert offered.count("HTML") == charts, page
        assert offered.count("CSV") == offered.count("Parquet") >= charts, (page, offered)
