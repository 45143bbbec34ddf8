"""Links that ask for what is not to be had: a sentence that says so, never another result in its place unsaid."""

import pytest
from every_page import fresh_caches, keep_a_run, opened, settled, warm
from PIL import Image
from streamlit.testing.v1 import AppTest
from test_models_page import EARLY, STATIC, zoo
from test_uploads import file_of

from core.tables import DENOMINATORS

__all__ = ["fresh_caches", "zoo"]
pytestmark = pytest.mark.usefixtures("zoo")


@pytest.fixture(autouse=True)
def kept_folder(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXITLENS_KEPT", str(tmp_path / "kept"))


def said(test: AppTest) -> list[str]:
    return [warning.value for warning in test.warning if warning.value.startswith("The link asks for")]


UNUSABLE = [
    ("attack_lab", {"set": "CIFAR-10 nowhere"}, "Image set `CIFAR-10 nowhere`"),
    ("attack_lab", {"model": "nobody"}, "Model `nobody`"),
    ("transfer", {"model": "nobody"}, "Model `nobody`"),
    ("story", {"model": "nobody"}, "Model `nobody`"),
    ("attack_lab", {"threshold": "7"}, "Threshold `7`"),
    ("models", {"threshold": "high"}, "Threshold `high`"),
    ("attack_lab", {"fallback": "a guess"}, "When no exit is sure `a guess`"),
    ("attack_lab", {"attack": "nonsense"}, "Attack `nonsense`"),
    ("attack_lab", {"attack": "Early", "model": "■ Toy static"}, "Attack `Early`"),
    ("exit_shift", {"epsilon": "-1"}, "Epsilon: how far a pixel may move `-1`"),
    ("attack_lab", {"epsilon": "3/255"}, "Epsilon: how far a pixel may move `3/255`"),
    ("attack_lab", {"aim": "Exit 9"}, "Aims at `Exit 9`"),
    ("attack_lab", {"steps": "0"}, "Steps `0`"),
    ("attack_lab", {"made_at": "nan"}, "Threshold while attacking `nan`"),
    ("attack_lab", {"random_start": "perhaps"}, "Random start `perhaps`"),
    ("attack_lab", {"attack": "Corruption", "severity": "9"}, "Severity `9`"),
    ("confidence", {"detail": "99"}, "Image `99`"),
    ("attack_lab", {"close_up": "from afar"}, "View of the image `from afar`"),
    ("transfer", {"sources": "nobody"}, "Made on `nobody`"),
    ("transfer", {"counted": "some"}, "Counted images `some`"),
    ("attribution", {"methods": "Tea leaves"}, "Methods `Tea leaves`"),
    ("attribution", {"map_num_steps": "-4", "methods": "Integrated gradients"}, "Steps from baseline to image `-4`"),
    ("models", {"reliability_exit": "Exit 9"}, "Reliability of `Exit 9`"),
    ("story", {"scene": "99"}, "Step `99`"),
    ("gallery", {"by_model": "nobody"}, "Made on `nobody`"),
    ("gallery", {"view": "`pie`" + 60 * "x"}, "Show as `'pie'" + 35 * "x" + "…`"),
]


@pytest.mark.parametrize(("page", "link", "words"), UNUSABLE, ids=lambda value: str(value)[:40])
def test_what_a_link_cannot_have_is_said(page: str, link: dict[str, str], words: str) -> None:
    # Mutant: the control left at its default without a word, so that another result passes for the one asked for.
    keep_a_run((EARLY, STATIC))
    test = warm(page, **link)
    assert len(said(test)) == 1 and words in said(test)[0]
    assert said(test.run()) == said(warm(page, **link)), "it stays until somebody chooses"


USABLE = [
    ("attack_lab", {"model": "● Toy early-exit", "attack": "PGD", "epsilon": "8/255", "threshold": "0.90"}),
    (
        "attack_lab",
        {"attack": "MI-FGSM", "steps": "3", "decay": "0.5", "random_start": "true", "aim": "the final exit"},
    ),
    ("attack_lab", {"attack": "Corruption", "severity": "5", "seed": "7"}),
    ("attack_lab", {"attack": "Early", "through": "Exit 2", "model": "● Toy early-exit"}),
    ("attribution", {"methods": "Saliency", "explained": "true class"}),
    ("transfer", {"sources": "■ Toy static", "counted": DENOMINATORS[-1]}),
    ("gallery", {"by_model": "● Toy early-exit", "view": "table", "order": "smallest epsilon"}),
    ("attack_lab", {"unknown": "control"}),
]


@pytest.mark.parametrize(("page", "link"), USABLE, ids=lambda value: str(value)[:40])
def test_what_a_link_can_have_is_not_remarked_on(page: str, link: dict[str, str]) -> None:
    # Mutant: a remark wherever Streamlit drops a value from the address, as it does with defaults.
    keep_a_run((EARLY, STATIC))
    test = warm(page, **link)
    assert said(test) == []


def test_the_remark_goes_once_the_control_is_used() -> None:
    # Mutant: a remark that outlives what it is about.
    test = warm("attack_lab", threshold="7", model="nobody")
    test.slider(key="threshold").set_value(0.5).run()
    assert "Threshold" not in said(test)[0] and "Model `nobody`" in said(test)[0]
    test.selectbox(key="model").set_value(STATIC).run()
    assert said(test) == []


def test_the_remark_stays_on_the_page_of_the_link() -> None:
    # Mutant: a remark about a control that is not on the page.
    test = warm("attack_lab", steps="0")
    assert "Steps `0`" in said(test)[0]
    assert said(settled(test.switch_page("pages/models.py"))) == []


def test_a_link_to_an_image_says_nothing_that_a_threshold_moves() -> None:
    # Mutants: the model's answers in the words of the address, so that another threshold's link opens another image;
    # links of old, which had them, not understood; answers that stand nowhere any more.
    test = warm("confidence", detail="5 · frog · frog → cat", images="0-7")
    box = test.selectbox(key="detail")
    assert box.value == 5 and said(test) == []
    assert "5 · frog" in box.options and any("** · true class frog" in each.value for each in test.markdown)
    test.sidebar.slider(key="threshold").set_value(0.3).run()
    assert test.selectbox(key="detail").options == box.options and test.selectbox(key="detail").value == 5
    assert warm("attack_lab", detail="5 · frog", images="0-7").selectbox(key="detail").value == 5


def test_only_the_link_that_opened_the_page_is_remarked_on() -> None:
    # Mutant: a remark on whatever stands in the address, which the controls themselves have written.
    test = warm("attack_lab", images="0-7")
    test.query_params["detail"] = "99"
    test.query_params["threshold"] = "7"
    assert said(test.run()) == []


@pytest.mark.parametrize("images", ["999", "a-b", "-1", "3-", "0-99999999", "1,1", " "])
@pytest.mark.parametrize("page", ["attack_lab", "attribution", "transfer"])
def test_a_selection_that_is_not_there_ends_in_one_sentence(page: str, images: str) -> None:
    # Mutants: a stack trace; the default selection in its place.
    test = opened(page, images=images)
    assert not test.exception and len(test.error) == 1 and len(test.error[0].value) < 250


@pytest.mark.parametrize(
    "control",
    [f"set-{key}" for key in ("threshold", "steps", "model", "methods", "set", "images", "attack", "aim", "nothing")],
)
def test_a_link_inside_the_dashboard_written_by_hand_breaks_nothing(control: str) -> None:
    # Mutant: text put into the state of a slider.
    test = opened("attack_lab", **{control: "nonsense"})
    assert not test.exception


def test_every_broken_upload_gets_its_sentence_and_the_others_are_attacked() -> None:
    # Mutants: a stack trace; the good picture lost with the broken ones; another picture in the place of a broken one.
    test = opened("attack_lab")
    next(each for each in test.segmented_control if each.key == "from").set_value("my own pictures").run()
    settled(test)
    assert not test.exception and not test.error, "nothing uploaded yet"
    grey = file_of(Image.new("LA", (1, 1), (90, 255)))
    files = {"words.png": b"no picture", "good.png": grey, "map.tif": file_of(Image.new("F", (9, 9)), "TIFF")}
    files["huge.png"] = file_of(Image.new("1", (8000, 8000)))
    test.file_uploader[0].set_value([(name, content, "image/png") for name, content in files.items()]).run()
    test.button(key="run").click().run()
    settled(test)
    assert not test.exception
    assert [error.value.split()[0] for error in test.error] == ["words.png", "map.tif", "huge.png"]
    assert any(":upload-" in caption.value and "n = 1" in caption.value for caption in test.caption)
    test.file_uploader[0].set_value(None).run()
    assert not test.exception and not test.error
