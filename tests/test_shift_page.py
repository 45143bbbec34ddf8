"""The pages of exit shift and confidence, without a browser: what stands on them, and what a click changes."""

import time

import pytest
from every_page import finished, fresh_caches, has_metrics, metrics, opened, warm
from streamlit.testing.v1 import AppTest
from test_models_page import EARLY, Zoo, zoo

from core.attacks.spec import pgd
from core.checkpoints import load_model
from core.data import open_image_set
from core.exits import ExitPolicy, decide
from core.experiment import ExperimentSpec, run_experiment
from core.models.classifiers import ExitNetwork

__all__ = ["fresh_caches", "zoo"]
STATIC_LABEL = "■ Toy static"
NUM_IMAGES, FIRST, THRESHOLD = 8, 12, 0.97
# Images and a threshold at which the toy model's images move.
LINK = {"images": "12-19", "threshold": "0.97"}


def decided(threshold: float = THRESHOLD, fallback: str = "final"):
    """Images, card and decisions on eight images when clean and attacked, made without any page."""
    model, card = load_model(EARLY)
    images = open_image_set("cifar10:samples").select(list(range(FIRST, FIRST + NUM_IMAGES)))
    spec = ExperimentSpec(images.name, (EARLY,), (EARLY,), pgd(), ExitPolicy())
    result = run_experiment(spec, images, {EARLY: (model, card)}).results[EARLY]
    policy = ExitPolicy(threshold, fallback)
    return images, card, decide(result.clean_logits, policy), decide(result.adversarial_logits, policy)


def headline(test: AppTest) -> str:
    return next(text.value for text in test.markdown if "once attacked" in text.value or "When clean" in text.value)


def select(test: AppTest, chart: str, *customdata: list, as_dictionary: bool = False) -> AppTest:
    """Clicks points of a chart, as a browser reports it: as lists, or keyed "0", "1" … where drawn from an array."""
    points = [
        {"customdata": {str(place): value for place, value in enumerate(data)} if as_dictionary else data}
        for data in customdata
    ]
    test.session_state[f"figure-{chart}"] = {
        "selection": {"points": points, "point_indices": [], "box": [], "lasso": []}
    }
    return test.run()


def linked(test: AppTest) -> list[str]:
    """Titles of what is linked to a selection."""
    return [text.value for text in test.markdown if text.value.startswith("**") and "image" in text.value]


def pictures(test: AppTest) -> set[int]:
    """Official indices of the images on the page."""
    return {int(image.proto.imgs[0].caption.split()[0]) for image in test.get("image")}


# Exit shift


@pytest.mark.usefixtures("zoo")
def test_exit_shift_opened_cold_by_its_link_says_what_the_decisions_say() -> None:
    # Mutant: answered exits for computed ones, clean for adversarial, or another image set.
    test = warm("exit_shift", set="CIFAR-10 samples", **LINK)
    images, card, clean, adversarial = decided()
    shift = adversarial.computed_exit - clean.computed_exit
    counts = {"earlier": int((shift < 0).sum()), "same": int((shift == 0).sum()), "later": int((shift > 0).sum())}
    most = max(counts, key=counts.__getitem__)
    words = headline(test)
    assert f"{counts[most]} of {NUM_IMAGES}" in words
    assert all(f"{counts[word]} {word}" in words for word in counts if word != most)
    cost = {name: 100 * side.costs(card.exit_costs).mean() for name, side in (("c", clean), ("a", adversarial))}
    assert metrics(test)["Mean cost"] == f"{cost['c']:.0f} % → {cost['a']:.0f} %"
    right = [int((side.prediction == images.labels).sum()) for side in (clean, adversarial)]
    assert metrics(test)["Right answers"] == f"{right[0]} → {right[1]} of {NUM_IMAGES}"
    assert len(test.get("plotly_chart")) == 6
    assert all("n = 8" in caption.value for caption in test.caption if "made at" in caption.value)


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("page", ["exit_shift", "confidence"])
def test_threshold_decides_again_at_once_and_attacks_nothing(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: numbers kept under the old threshold, or a network run behind the slider.
    test = warm(page, **LINK)
    before = headline(test)
    monkeypatch.setattr(ExitNetwork, "forward", lambda *args: pytest.fail("a network ran"))
    seconds = []
    for threshold in (0.98, 0.96, 0.99):
        started = time.perf_counter()
        test.slider(key="threshold").set_value(threshold).run()
        seconds.append(time.perf_counter() - started)
    assert headline(test) != before and not test.exception
    assert not [button for button in test.button if button.key == "cancel"]
    assert any("judged at T = 0.99" in caption.value for caption in test.caption)
    # The server's work is 0.3 s at most; AppTest's own share is in it here, and so is a busy machine.
    assert min(seconds) < 1.0, seconds


@pytest.mark.usefixtures("zoo")
def test_a_slowdown_and_the_published_early_attack_are_counted_in_their_own_words() -> None:
    # Mutants: slowed images called fooled; images that were wrong when clean said to be left out of what counts them.
    slow = {"attack": "Slowdown", "slow_steps": "2"}
    strip = next(text.value for text in warm("exit_shift", **LINK, **slow).caption if "slowed down, n = " in text.value)
    assert "Not slowed down: images that compute everything when clean included." in strip and "fooled" not in strip
    published = {"attack": "Early", "through": "every early exit, as published", "published_steps": "2"}
    strip = next(
        text.value for text in warm("exit_shift", **LINK, **published).caption if "not broken, n = " in text.value
    )
    assert "included" not in strip and "fooled" not in strip
    for page, said in (("attack_lab", "Slowed down, of the images"), ("transfer", "Slowed down, of the images")):
        captions = [text.value for text in warm(page, **LINK, **slow).caption]
        matrix = next(caption for caption in captions if said in caption)
        assert "leave early on both source and target" in matrix and "Outlined" not in matrix
        assert not any("answer rightly when clean" in caption for caption in captions if "Slowdown" in caption)
    matrix = next(text.value for text in warm("transfer", **LINK).caption if text.value.startswith("Fooled, of"))
    assert "that source and target answer rightly when clean. Outlined: " in matrix


@pytest.mark.usefixtures("zoo")
def test_fallback_changes_answers_and_leaves_costs_alone() -> None:
    # Mutant: cost and exit shift counted by the exit that answers.
    link = LINK | {"threshold": "0.99"}
    final = warm("exit_shift", **link)
    before = metrics(final)
    final.selectbox(key="fallback").set_value("most_confident").run()
    assert metrics(final)["Mean cost"] == before["Mean cost"]
    assert metrics(final)["Efficacy"] == before["Efficacy"]
    assert any("the most confident exit answers" in caption.value for caption in final.caption)
    images, _, clean, adversarial = decided(0.99, "most_confident")
    right = [int((side.prediction == images.labels).sum()) for side in (clean, adversarial)]
    assert metrics(final)["Right answers"] == f"{right[0]} → {right[1]} of {NUM_IMAGES}"


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("as_dictionary", [False, True])
def test_selected_cell_bar_and_image_show_the_images_behind_them(as_dictionary: bool) -> None:
    # Mutant: rows and columns of the matrix swapped, positions taken for official indices, or one form only read.
    _, _, clean, adversarial = decided()
    cells = list(zip(clean.computed_exit.tolist(), adversarial.computed_exit.tolist(), strict=True))
    cell = max(cells, key=lambda each: abs(each[0] - each[1]))
    test = select(warm("exit_shift", **LINK), f"exit-matrix-{EARLY}", list(cell), as_dictionary=as_dictionary)
    assert not test.exception
    count = cells.count(cell)
    assert linked(test)[0].endswith(f": {count} image{'s' if count > 1 else ''}**")
    assert pictures(test) == {FIRST + position for position, each in enumerate(cells) if each == cell}

    assert cell[0] != cell[1], "no image moves: the test says nothing"
    word = "earlier" if cell[1] < cell[0] else "later"
    test = select(warm("exit_shift", **LINK), "exit-shift", [0, word])
    moved = {FIRST + position for position, (one, other) in enumerate(cells) if (other - one) * (cell[1] - cell[0]) > 0}
    assert pictures(test) == moved and f": {len(moved)} image" in linked(test)[0]
    test = select(warm("exit_shift", **LINK), "cost-change", [3, "x", 0, 0], [5, "x", 0, 0])
    assert pictures(test) == {15, 17}


def test_a_static_model_has_nothing_to_shift_and_offers_its_twin(zoo: Zoo) -> None:
    # Mutant: an attack on a model whose bars all say "same", or a button that leaves the model alone.
    test = opened("exit_shift", model=STATIC_LABEL)
    assert not test.exception and not test.error and not test.get("plotly_chart")
    assert "nothing can shift" in test.info[0].value
    next(button for button in test.button if button.label.startswith("Look at its twin")).click().run()
    assert test.selectbox(key="model").value == EARLY
    assert len(finished(test, has_metrics).get("plotly_chart")) == 6
    zoo.remove(EARLY)
    alone = opened("exit_shift")
    assert "nothing can shift" in alone.info[0].value and not alone.exception
    assert any("no early-exit twin" in caption.value for caption in alone.caption)


def test_pages_open_with_one_model_and_with_many_exits(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: a page that needs a twin, or one written for seven exits.
    zoo.hold_one_of_many_exits(monkeypatch)
    for page, charts in (("exit_shift", 6), ("confidence", 5)):
        assert len(warm(page).get("plotly_chart")) == charts


# Confidence


@pytest.mark.usefixtures("zoo")
def test_confidence_opened_cold_by_its_link_says_how_sure_and_how_right() -> None:
    # Mutant: the confidence of the final exit instead of the answer's, or states swapped.
    test = warm("confidence", set="CIFAR-10 samples", **LINK)
    images, _, clean, adversarial = decided()
    sure = [side.confidence.double().mean().item() for side in (clean, adversarial)]
    assert metrics(test)["Mean confidence of the answer"] == f"{sure[0]:.2f} → {sure[1]:.2f}"
    right = [int((side.prediction == images.labels).sum()) for side in (clean, adversarial)]
    assert metrics(test)["Right answers"] == f"{right[0]} → {right[1]} of {NUM_IMAGES}"
    wrong = adversarial.prediction != images.labels
    bold = int((adversarial.confidence[wrong] >= THRESHOLD).sum())
    assert metrics(test)["Wrong answers above the threshold"] == f"{bold} of {int(wrong.sum())}"
    assert len(test.get("plotly_chart")) == 5
    assert test.selectbox(key="detail").value in range(FIRST, FIRST + NUM_IMAGES)


@pytest.mark.usefixtures("zoo")
def test_selected_confidence_bar_shows_its_images() -> None:
    # Mutant: right and wrong, or clean and adversarial, taken for each other.
    model, _ = load_model(EARLY)
    images = open_image_set("cifar10:samples").select(list(range(FIRST, FIRST + NUM_IMAGES)))
    confidence, predicted = model(images.pixels())[:, 1].softmax(-1).max(-1)
    bins = (confidence * 10).long().clamp_max(9)
    right = predicted == images.labels
    place = (int(bins[0]), bool(right[0]))
    behind = {FIRST + index for index in range(NUM_IMAGES) if (int(bins[index]), bool(right[index])) == place}
    bar = ["clean", 1, place[0], place[1], "Exit 2", len(behind), NUM_IMAGES, place[0] / 10, place[0] / 10 + 0.1]
    test = select(warm("confidence", **LINK), f"confidence-spread-{EARLY}", bar)
    assert not test.exception
    assert pictures(test) == behind
    assert "Exit 2, clean" in linked(test)[0]


@pytest.mark.usefixtures("zoo")
def test_a_static_model_has_confidence_at_its_one_exit_and_no_threshold() -> None:
    # Mutant: a threshold drawn over a model that has none, or an exit to choose where there is one.
    test = warm("confidence", model=STATIC_LABEL)
    assert len(test.get("plotly_chart")) == 5
    assert not any("dotted: the threshold" in caption.value for caption in test.caption)
    assert not [box for box in test.selectbox if box.key == "reliability_exit"]
