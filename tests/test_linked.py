"""A click on a cell, a bar or a point shows the images that it counts."""

from collections.abc import Mapping

import pytest
import torch
from every_page import fresh_caches, settled, warm
from every_page import linked as linked_page
from streamlit.testing.v1 import AppTest
from test_models_page import EARLY, STATIC, Zoo, zoo
from test_shift_page import FIRST, LINK, NUM_IMAGES, THRESHOLD, decided, linked, pictures, select

from core.attacks.spec import pgd
from core.calibration import NUM_BINS
from core.checkpoints import load_model
from core.data import open_image_set
from core.evaluation import exit_logits
from core.exits import ExitPolicy, decide
from core.experiment import ExperimentSpec, run_experiment
from core.ladder import EPSILONS
from core.model_tables import AMONG
from ui.state import SET

__all__ = ["fresh_caches", "zoo"]
pytestmark = pytest.mark.usefixtures("zoo")


def shown(test: AppTest) -> set[int]:
    """Official indices of the linked images: other pictures have other captions."""
    assert not test.exception and not test.error
    captions = [image.proto.imgs[0].caption for image in test.get("image")]
    return {int(words.split()[0]) for words in captions if words[:1].isdigit()}


def attacked_pair() -> tuple[torch.Tensor, dict]:
    """Labels, and the answers to what was made on each of the twins, shown to the early-exit one."""
    images = open_image_set("cifar10:samples").select(list(range(FIRST, FIRST + NUM_IMAGES)))
    models = {name: load_model(name) for name in (EARLY, STATIC)}
    spec = ExperimentSpec(images.name, (EARLY, STATIC), (EARLY, STATIC), pgd(), ExitPolicy())
    experiment = run_experiment(spec, images, models)
    policy = ExitPolicy(THRESHOLD)
    answers = {pair: decide(logits, policy).prediction for pair, logits in experiment.logits.items()}
    clean = {name: decide(logits, policy).prediction for name, logits in experiment.clean_logits.items()}
    right = {name: answer == images.labels for name, answer in clean.items()}
    fooled = {
        (source, target): right[source] & right[target] & (answer != images.labels)
        for (source, target), answer in answers.items()
    }
    return images.labels, fooled


def numbered(chosen: torch.Tensor) -> set[int]:
    return {FIRST + position for position in chosen.nonzero()[:, 0].tolist()}


@pytest.mark.parametrize("page", ["attack_lab", "transfer"])
def test_cell_of_the_transfer_matrix(page: str) -> None:
    # Mutants: rows and columns exchanged, images that the source gets wrong, positions taken for official indices.
    _, fooled = attacked_pair()
    chart = {"attack_lab": "transfer", "transfer": "transfer-matrix"}[page]
    order = {"attack_lab": [EARLY, STATIC], "transfer": sorted((EARLY, STATIC))}[page]
    test = select(warm(page, **LINK), chart, [order.index(STATIC), order.index(EARLY)])
    assert shown(test) == numbered(fooled[STATIC, EARLY])


def test_point_of_a_direction() -> None:
    # Mutant: source and target exchanged.
    _, fooled = attacked_pair()
    test = select(warm("transfer", **LINK), "transfer-directions", [STATIC, EARLY])
    assert shown(test) == numbered(fooled[STATIC, EARLY])
    assert linked(test) == [] or "Made on ■ Toy static, fooled ● Toy early-exit" in linked(test)[0]


def test_part_of_the_shift_bar_in_the_lab() -> None:
    # Mutant: a click that the lab does not answer.
    _, _, clean, adversarial = decided()
    shift = adversarial.computed_exit - clean.computed_exit
    word = "earlier" if (shift < 0).any() else "later"
    test = select(warm("attack_lab", **LINK), "exit-shift", [0, word])
    assert shown(test) == numbered(shift < 0 if word == "earlier" else shift > 0)


def test_point_of_the_curve_of_images_out() -> None:
    # Mutants: those that leave there instead of by then; clean and adversarial exchanged.
    _, _, clean, adversarial = decided()
    for state, side in (("clean", clean), ("adversarial", adversarial)):
        test = select(warm("exit_shift", **LINK), "share-out", [state, 1, "Exit 2", 0, 0, 0, 0])
        assert shown(test) == numbered(side.computed_exit <= 1)
    assert shown(select(warm("exit_shift", **LINK), "share-out", ["clean", -1, "", 0, 0, 0, 0])) == set()


def test_cell_of_the_exits_while_generating() -> None:
    # Mutant: another step, or the threshold of the sidebar instead of that of the attack.
    images = open_image_set("cifar10:samples").select(list(range(FIRST, FIRST + NUM_IMAGES)))
    spec = ExperimentSpec(images.name, (EARLY,), (EARLY,), pgd(), ExitPolicy())
    steps = run_experiment(spec, images, {EARLY: load_model(EARLY)}).results[EARLY].steps
    exit_index = int(steps[3].exit_taken[0])
    test = select(warm("exit_shift", **LINK), "exits-made-at", [exit_index, 3])
    assert pictures(test) == numbered(steps[3].exit_taken == exit_index)


def test_point_of_the_ladder() -> None:
    # Mutant: those that fall at this very radius only, or images that were wrong before.
    images = open_image_set("cifar10:samples")
    answers = decide(exit_logits(load_model(EARLY)[0], images), ExitPolicy(THRESHOLD)).prediction
    picked = (answers == images.labels).nonzero()[:, 0].tolist()
    link = {"images": ",".join(map(str, picked)), "threshold": str(THRESHOLD), "made_at": str(THRESHOLD)}
    test = warm("attack_lab", **link)
    test.button(key="climb").click().run()
    settled(test)
    table = next(job.result() for job in jobs() if type(job.spec).__name__ == "LadderKey")
    epsilons = sorted(table.smallest_epsilon.dropna().unique())
    assert epsilons, "no image of the toy model falls at any radius: the test says nothing"
    test = select(test, "ladder", [EPSILONS.index(epsilons[0]), ""])
    fallen = table.attackable & (table.smallest_epsilon == epsilons[0])
    assert shown(test) == {picked[position] for position, fell in enumerate(fallen) if fell}


def jobs() -> list:
    from ui import cache

    return cache.job_board().finished()


def all_answers() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of all samples: confidence and correctness of every exit, and the exit computed."""
    images = open_image_set("cifar10:samples")
    logits = exit_logits(load_model(EARLY)[0], images)
    confidence, predicted = logits.softmax(-1).max(-1)
    return confidence, predicted == images.labels[:, None], decide(logits, ExitPolicy(THRESHOLD)).computed_exit


@pytest.mark.parametrize("leaving", [False, True])
def test_point_of_an_exit_shows_what_it_gets_wrong(leaving: bool) -> None:
    # Mutants: the right ones; all images for those that leave there.
    _, right, computed = all_answers()
    test = select(warm("models", threshold=str(THRESHOLD)), "model-exits", [1, leaving, 0, 0, 0, 0])
    wrong = ~right[:, 1] & ((computed == 1) if leaving else torch.ones_like(computed, dtype=torch.bool))
    assert shown(test) == set(wrong.nonzero()[:, 0].tolist())


@pytest.mark.parametrize("among", AMONG)
def test_bin_of_the_reliability_diagram(among: str) -> None:
    # Mutants: bins of another width; another exit than the one chosen; those that reach it for all.
    confidence, _, computed = all_answers()
    number = int(confidence[0, 1] * NUM_BINS)
    link = {"threshold": str(THRESHOLD), "reliability_exit": "Exit 2"}
    test = warm("models", **link)
    test = select(test, "reliability", [among, number / NUM_BINS, (number + 1) / NUM_BINS, 0, 0, 0, 0])
    held = (confidence[:, 1] * NUM_BINS).long() == number
    if among != AMONG[0]:
        held &= computed >= 1
    assert shown(test) == set(held.nonzero()[:, 0].tolist())


def test_bin_of_attacked_images() -> None:
    # Mutant: clean and adversarial exchanged.
    images = open_image_set("cifar10:samples").select(list(range(FIRST, FIRST + NUM_IMAGES)))
    spec = ExperimentSpec(images.name, (EARLY,), (EARLY,), pgd(), ExitPolicy())
    result = run_experiment(spec, images, {EARLY: load_model(EARLY)}).results[EARLY]
    confidence = result.adversarial_logits[:, 0].softmax(-1).amax(-1)
    number = int(confidence.min() * NUM_BINS)
    bin_of = ["adversarial", number / NUM_BINS, (number + 1) / NUM_BINS, 0, 0, 0, 0]
    test = select(warm("confidence", **LINK), "reliability", bin_of)
    assert shown(test) == numbered((confidence * NUM_BINS).long() == number)


def selection() -> None:
    import streamlit as st
    import torch

    from core.data import ImageSet
    from ui.linked import linked_images

    name, indices = st.session_state["asked"]
    dataset, split = name.split(":")
    numbers = torch.arange(300)
    whole = ImageSet(
        dataset,
        split,
        torch.zeros(300, 3, 32, 32, dtype=torch.uint8),
        numbers % 10,
        numbers,
        "test",
        tuple("abcdefghij"),
    )
    linked_images(indices, whole, title="Some", key="some")


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Mapping[str, str]]]:
    """Words and controls of every link to the lab that is drawn; a script alone has no pages to link to."""
    drawn: list[tuple[str, Mapping[str, str]]] = []
    monkeypatch.setattr("ui.linked.link_to", lambda page, label, controls: drawn.append((label, controls)))
    return drawn


def select_images(name: str, indices: list[int]) -> None:
    test = AppTest.from_function(selection, default_timeout=60)
    test.session_state["asked"] = name, indices
    test.run()
    assert not test.exception, test.exception


def test_the_lab_opens_with_the_image_set_of_the_selection(zoo: Zoo, links: list) -> None:
    # Mutants: numbers alone, which are other pictures in the set that the sidebar names, or none; a link to a set that
    # the lab does not offer, in whose place it would open another.
    zoo.add("cifar100-toy-early-exit", 4, dataset="cifar100", num_classes=100)
    select_images("cifar100:samples", [3, 1])
    ((label, controls),) = links
    assert label == "Attack these alone, in the lab"
    test = linked_page("attack_lab", **{SET + key: value for key, value in controls.items()})
    test.session_state["set"] = "cifar10:samples"
    settled(test)
    assert not test.exception and not test.error
    assert test.selectbox(key="set").value == "cifar100:samples" and test.text_input(key="images").value == "1,3"
    assert any("cifar100:samples:1,3 " in caption.value for caption in test.caption)
    links.clear()
    select_images("tiny-imagenet:test", [3, 1])
    assert not links


def test_a_selection_that_is_cut_says_so(links: list) -> None:
    # Mutant: three hundred images promised, of which the lab opens some.
    select_images("cifar10:samples", list(range(299, -1, -1)))
    select_images("cifar10:samples", list(range(256)))
    labels = [label for label, _ in links]
    assert labels == ["Attack the first 256 of these alone, in the lab", "Attack these alone, in the lab"]
    assert [controls["images"] for _, controls in links] == ["0-255", "0-255"]
