"""The page of models, without a browser: every part of it, and what a threshold and a click change."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from every_page import finished, fresh_caches, has_metrics, metrics, opened
from streamlit.testing.v1 import AppTest
from toys import TOY_ARCHITECTURE, ToyBackbone, toy_card, toy_model

from core.attacks.spec import pgd
from core.checkpoints import FOLDER_VARIABLE, load_model, pack_weights, save_model
from core.data import DATA_ROOT_VARIABLE, open_image_set
from core.evaluation import EvaluationSpec, evaluate, exit_logits
from core.exits import ExitPolicy, decide
from core.experiment import ExperimentSpec
from core.metrics import operating_points, rate_of
from core.models import ARCHITECTURES
from core.models.costs import multiply_adds, static_fraction

__all__ = ["fresh_caches"]
EARLY, STATIC = "cifar10-toy-early-exit", "cifar10-toy-static"


@dataclass
class Zoo:
    """A folder of toy models that know a bundled data set."""

    folder: Path

    def add(self, name: str, num_exits: int, *, dataset: str = "cifar10", num_classes: int = 10, seed: int = 7) -> None:
        images = open_image_set(f"{dataset}:samples")
        model = toy_model(num_exits=num_exits, num_classes=num_classes, image_size=32, dtype=torch.float32, seed=seed)
        layers, classifiers = multiply_adds(model, 32)
        card = toy_card(
            model,
            name,
            images,
            # A static card without counts: they are then counted when they are asked for.
            layer_multiply_adds=tuple(layers) if num_exits > 1 else (),
            classifier_multiply_adds=tuple(classifiers) if num_exits > 1 else (),
            dataset=dataset,
            num_classes=num_classes,
            class_names=images.class_names,
            operating_points=operating_points(exit_logits(model, images), images.labels, model.exit_costs),
        )
        save_model(pack_weights(model, "float32"), card, self.folder)

    def remove(self, name: str) -> None:
        for file in (self.folder / name).iterdir():
            file.unlink()
        (self.folder / name).rmdir()

    def hold_one_of_many_exits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Puts one early-exit model of 27 exits in the place of all others."""
        for card in list(self.folder.iterdir()):
            self.remove(card.name)
        deep = replace(TOY_ARCHITECTURE, build=lambda classes, side: ToyBackbone(classes, side, 27), num_blocks=27)
        monkeypatch.setitem(ARCHITECTURES, "toy", deep)
        self.add(EARLY, 27)


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_registry: None) -> Iterator[Zoo]:
    """A toy model of four exits and its static twin, only the bundled samples to show them."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    made = Zoo(tmp_path)
    made.add(EARLY, 4)
    made.add(STATIC, 1)
    yield made


def measured(**query: str) -> AppTest:
    test = finished(opened("models", **query), has_metrics)
    assert not test.exception and not test.error
    return test


def words(test: AppTest) -> str:
    return "\n".join(element.value for element in (*test.markdown, *test.caption, *test.info))


def by_hand(name: str, policy: ExitPolicy) -> tuple[str, float]:
    """Share right in words, and mean cost, from the logits."""
    model, card = load_model(name)
    images = open_image_set(f"{card.dataset}:samples")
    decisions = decide(exit_logits(model, images), policy)
    share = rate_of(decisions.prediction == images.labels)
    return f"{100 * share.value:.1f} %", decisions.costs(card.exit_costs).mean().item()


def test_opened_cold_it_measures_the_samples_beside_the_twin(zoo: Zoo) -> None:
    # Mutant: a page that waits for a click, that leaves the twin out, or that shows the numbers on the card.
    test = measured()
    right, cost = by_hand(EARLY, ExitPolicy())
    model, _ = load_model(EARLY)
    relative = cost / static_fraction(*multiply_adds(model, 32))
    shown = metrics(test)
    assert (shown["Right"], shown["Mean cost"]) == (right, f"{100 * cost:.0f} %")
    assert shown["Of the static cost"] == f"{100 * relative:.0f} %"
    assert shown["■ Toy static"] == by_hand(STATIC, ExitPolicy())[0]
    assert len(test.get("plotly_chart")) == 5
    for part in ("n = 20", "95 % Wilson", "wasteful", "destructive", "sha256", "AUROC", "a smaller error says nothing"):
        assert part in words(test), part


def test_a_moved_threshold_moves_the_numbers_and_runs_no_network(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: tables cached without the policy, or an evaluation keyed by it.
    test = measured()
    before = metrics(test)
    monkeypatch.setattr("core.evaluation.exit_logits", lambda *args, **kwargs: pytest.fail("a network ran"))
    started = time.perf_counter()
    test.slider(key="threshold").set_value(0.4).run()
    assert time.perf_counter() - started < 3
    right, cost = by_hand(EARLY, ExitPolicy(0.4))
    assert (metrics(test)["Right"], metrics(test)["Mean cost"]) == (right, f"{100 * cost:.0f} %")
    assert metrics(test)["Mean cost"] != before["Mean cost"] and "T: 0.40, now" in str(
        [chart.proto.spec for chart in test.get("plotly_chart")]
    )
    test.slider(key="threshold").set_value(0.0).run()
    assert metrics(test)["Right"] == by_hand(EARLY, ExitPolicy(0.0))[0]
    assert not test.exception


def test_a_second_visitor_finds_what_was_measured(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: a result that belongs to one session, or an evaluation keyed by more than model and images.
    measured()
    monkeypatch.setattr("core.evaluation.exit_logits", lambda *args, **kwargs: pytest.fail("a network ran"))
    assert has_metrics(opened("models", threshold="0.5"))


def test_without_a_twin_it_says_so_where_the_twin_would_stand(zoo: Zoo) -> None:
    # Mutant: a page that needs two models.
    zoo.remove(STATIC)
    test = measured()
    assert "No static twin of this model is here" in words(test) and "No static twin is here to draw" in words(test)
    assert "Of the static cost" in metrics(test), "the cost of a static network follows from the model itself"
    assert len(test.get("plotly_chart")) == 5


def test_a_static_model_shows_its_one_exit_beside_its_twins_curve(zoo: Zoo) -> None:
    # Mutant: a curve of one point, a reliability choice of one exit, or overthinking of nothing.
    test = measured(model="■ Toy static")
    assert metrics(test)["● Toy early-exit"] and len(test.get("plotly_chart")) == 5
    assert "nothing can be right earlier" in words(test) and "cannot stop early" in words(test)
    assert not [box for box in test.selectbox if box.key == "reliability_exit"]


def test_a_static_model_alone_is_one_point(zoo: Zoo) -> None:
    # Mutant: a curve of a model that is not here.
    zoo.remove(EARLY)
    test = measured()
    assert "it is one point" in words(test) and len(test.get("plotly_chart")) == 4


def test_a_hundred_classes_and_two_exits_fit_too(zoo: Zoo) -> None:
    # Mutant: ten classes or seven exits taken for granted.
    zoo.add("cifar100-toy-early-exit", 2, dataset="cifar100", num_classes=100)
    test = measured(set="CIFAR-100 samples")
    assert "100 classes" in str([chart.proto.alt for chart in test.get("plotly_chart")])
    assert test.selectbox(key="reliability_exit").options == ["Exit 1", "Final"]


def test_reliability_is_that_of_the_chosen_exit_and_survives_another_model(zoo: Zoo) -> None:
    # Mutant: the first exit's diagram under every name; or an exit that the next model lacks.
    test = measured()
    test.selectbox(key="reliability_exit").set_value("Exit 3").run()
    assert any(caption.value.startswith("Exit 3 · ") for caption in test.caption)
    zoo.add("cifar10-toy-early-exit-two", 2)
    test.run()
    test.selectbox(key="model").set_value("cifar10-toy-early-exit-two").run()
    finished(test, has_metrics)
    assert test.selectbox(key="reliability_exit").value == "Exit 1" and not test.exception


def test_wall_clock_is_measured_on_a_click_and_says_when_it_is_out_of_date(zoo: Zoo) -> None:
    # Mutant: timing as the page opens, a result without its spread and threads, or one passed off for another policy.
    test = measured()
    assert "Time, one by one" not in metrics(test)
    test.button(key="time").click().run()
    finished(test, lambda page: "Time, one by one" in metrics(page))
    assert "over 5 repeats" in words(test) and f"{torch.get_num_threads()} thread" in words(test)
    assert "Time, batch of 20" in metrics(test) and "measure again" not in words(test)
    test.slider(key="threshold").set_value(0.4).run()
    assert "measure again" in words(test) and "T = 0.90 · cpu" in words(test)


def test_many_images_wait_for_a_click_and_can_be_cancelled(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: ten thousand images in the script thread as soon as a link is opened; a Cancel that only hides the bar.
    monkeypatch.setattr("ui.measuring.AT_ONCE", 10)
    release = hold_evaluations(monkeypatch)
    test = opened("models")
    button = next(button for button in test.button if button.label.startswith("Measure 20 images (about"))
    assert not has_metrics(test) and "How it was made" in str([each.value for each in test.subheader])
    button.click().run()
    assert any(button.key == "cancel" for button in test.button) and not has_metrics(test)
    test.button(key="cancel").click().run()
    release()
    finished(test, lambda page: "Cancelled" in words(page))
    assert not has_metrics(test)
    next(button for button in test.button if button.label.startswith("Measure 20 images (about")).click().run()
    assert has_metrics(finished(test, has_metrics))


def hold_evaluations(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Evaluations wait until the returned function is called, then see whether they were cancelled."""
    from threading import Event

    gate = Event()

    def gated(*args: object, **kwargs: object) -> object:
        assert gate.wait(60)
        return evaluate(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("ui.cache.evaluate", gated)
    return gate.set


def test_estimates_of_attacks_and_of_evaluations_do_not_mix(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: every finished job taken for an experiment; or twenty images, most of them warming up, as the speed.
    from ui import cache

    _, card = load_model(EARLY)
    attack = ExperimentSpec("cifar10:samples:0-3", (EARLY,), (EARLY,), pgd(), ExitPolicy())
    one = EvaluationSpec(EARLY, card.weights_sha256, "cifar10:samples", 10)
    before = cache.estimated_seconds(attack), cache.evaluation_seconds(one)
    measured()
    assert (cache.estimated_seconds(attack), cache.evaluation_seconds(one)) == before and min(before) > 0
    assert cache.evaluation_seconds(replace(one, num_images=20)) == pytest.approx(2 * before[1])
    monkeypatch.setattr(cache, "POOL_SIZE", 20)
    assert cache.evaluation_seconds(one) != before[1]
    assert cache.start_experiment(attack).future.result(60).spec == cache.as_now(attack)  # type: ignore[union-attr]


def test_clicking_a_cell_of_the_confusion_matrix_shows_its_images(zoo: Zoo) -> None:
    # Mutant: the cell transposed, or the images of the class whatever their answer.
    test = measured()
    model, card = load_model(EARLY)
    images = open_image_set("cifar10:samples")
    answers = decide(exit_logits(model, images), ExitPolicy()).prediction
    label, answer = next(
        (int(label), int(answer)) for label, answer in zip(images.labels, answers, strict=True) if label != answer
    )
    number = int(((images.labels == label) & (answers == answer)).sum())
    point = {"customdata": {"0": label, "1": answer}}
    test.session_state["figure-confusion"] = {"selection": {"points": [point]}}
    test.run()
    title = f"{card.class_names[label]} answered as {card.class_names[answer]}: {number} image"
    assert title in words(test) and not test.exception
