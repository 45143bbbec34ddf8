"""What fills a fresh machine: every attack on every model once, user's jobs first, stopped and taken up again."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import answered_image_set, toy_card, toy_model

from core import checkpoints, data, kept
from core.checkpoints import ModelCard, load_card, save_model
from core.datasets import DATASETS
from core.story import STORY_EPSILONS
from ui import warm_up
from ui.warm_up import ATTACKS, WarmUp, warm_up_specs

PATIENCE_SECONDS = 60
NAMES = ("toy-early-exit", "toy-static")


def write_model(name: str, folder: Path, num_exits: int, seed: int) -> None:
    model = toy_model(num_exits=num_exits, dtype=torch.float32, seed=seed)
    card = toy_card(model, name, answered_image_set(model), exit_positions=tuple(range(num_exits - 1)))
    save_model(checkpoints.pack_weights(model, "float32"), card, folder)


@pytest.fixture
def machine(toy_registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two toy models with samples of their own, nothing kept; returns the folder of kept runs."""
    toy = DATASETS["toy"]
    monkeypatch.setitem(DATASETS, "toy", replace(toy, has_samples=True))
    monkeypatch.setenv("EXITLENS_CHECKPOINTS", str(tmp_path / "checkpoints"))
    for number, name in enumerate(NAMES):
        write_model(name, tmp_path / "checkpoints", 3 if number == 0 else 1, seed=number)
    samples = answered_image_set(toy_model(dtype=torch.float32), 20)
    monkeypatch.setattr(data, "open_image_set", lambda name: samples)
    monkeypatch.setattr(warm_up, "QUIET_SECONDS", 0.05)
    monkeypatch.setenv("EXITLENS_WARM_UP", "on")
    return tmp_path / "kept"


def cards() -> list[ModelCard]:
    return [load_card(name) for name in NAMES]


def finished(work: WarmUp) -> WarmUp:
    assert work.wait(PATIENCE_SECONDS), "the warm-up did not end"
    return work


def until(is_so: Callable[[], bool]) -> None:
    for _ in range(100 * PATIENCE_SECONDS):
        if is_so():
            return
        time.sleep(0.01)
    raise AssertionError("It never happened.")


def test_every_attack_on_every_model_is_shown_to_all_models_and_kept(machine: Path) -> None:
    # Mutants: one model or attack left out; shown to the source alone.
    work = finished(WarmUp(machine, cards(), lambda: True))
    read = kept.read_kept(machine)
    assert work.problems == [] and work.num_done == work.num_all == len(read.runs) == len(warm_up_specs(cards()))
    made = {(run.spec.model, run.spec.attack.epsilon, run.spec.attack.name) for run in read.runs.values()}
    assert made >= {(name, attack.epsilon, attack.name) for name in NAMES for attack in ATTACKS}
    assert made >= {(NAMES[0], epsilon, "early") for epsilon in STORY_EPSILONS}
    assert made >= {(NAMES[1], epsilon, "pgd") for epsilon in STORY_EPSILONS}
    assert all(set(run.spec.targets) == set(NAMES) for run in read.runs.values())
    assert len(read.examples) == 20 * len(read.runs)


def test_the_quickest_attack_comes_first_for_every_model(machine: Path) -> None:
    # Mutant: all attacks on one model before the next model has any.
    specs = warm_up_specs(cards())
    assert [spec.attack.name for spec in specs[:2]] == ["fgsm", "fgsm"]
    assert {spec.model for spec in specs[:2]} == set(NAMES)
    assert {spec.attack.name for spec in specs} >= {"fgsm", "pgd", "mi-fgsm"}


def test_what_is_kept_is_not_made_again_but_a_retrained_model_is(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutants: everything made at every start; a key without the weights.
    finished(WarmUp(machine, cards(), lambda: True))
    before = {place.name for place in machine.iterdir()}
    attacked: list[str] = []
    run = warm_up.run_experiment
    monkeypatch.setattr(
        warm_up, "run_experiment", lambda spec, *a, **k: attacked.append(spec.model) or run(spec, *a, **k)
    )
    again = finished(WarmUp(machine, cards(), lambda: True))
    assert attacked == [] and again.num_done == again.num_all
    write_model(NAMES[1], tmp_path / "checkpoints", 1, seed=9)
    finished(WarmUp(machine, cards(), lambda: True))
    assert len(attacked) == again.num_all  # the other model's examples are shown to the new one
    assert before < {place.name for place in machine.iterdir()}


def test_nothing_is_made_while_somebody_waits(machine: Path) -> None:
    # Mutant: quiet never asked for.
    quiet = threading.Event()
    work = WarmUp(machine, cards(), quiet.is_set)
    until(lambda: work.num_all > 0)
    time.sleep(0.3)
    assert kept.kept_signature(machine) == () and work.is_running
    quiet.set()
    finished(work)
    assert work.num_done == work.num_all


def test_a_click_ends_the_attack_at_its_next_step_and_it_is_made_again_later(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutants: the token not handed to the attack; an interrupted run left out, or counted as done.
    busy, started = threading.Event(), []
    run = warm_up.run_experiment

    def interrupted(spec: object, *rest: object, cancel: object) -> object:
        started.append(spec)
        if len(started) == 1:
            busy.set()
            threading.Timer(0.3, busy.clear).start()
        return run(spec, *rest, cancel=cancel)

    monkeypatch.setattr(warm_up, "run_experiment", interrupted)
    work = finished(WarmUp(machine, cards(), lambda: not busy.is_set()))
    assert started[0] == started[1] and len(started) == work.num_all + 1
    assert work.num_done == work.num_all == len(kept.read_kept(machine).runs)


def test_stopped_it_ends_and_goes_on_from_there(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutants: Stop that only hides the words; a start over; two threads at once.
    keep = kept.keep

    def keep_one(*given: object) -> object:
        run = keep(*given)
        work.stop()
        return run

    monkeypatch.setattr(kept, "keep", keep_one)
    gate = threading.Event()
    work = WarmUp(machine, cards(), gate.is_set)
    gate.set()
    until(lambda: not work.is_running)
    assert work.was_stopped and len(kept.kept_signature(machine)) == 1
    monkeypatch.setattr(kept, "keep", keep)
    work.go_on()
    finished(work)
    assert not work.was_stopped and work.num_done == work.num_all == len(kept.kept_signature(machine))


def test_one_damaged_model_is_named_and_the_others_are_attacked(machine: Path, tmp_path: Path) -> None:
    # Mutants: a thread that dies of the first error; one bad model that spoils every run it is shown.
    (tmp_path / "checkpoints" / NAMES[1] / "weights.safetensors").write_bytes(b"not weights")
    work = finished(WarmUp(machine, cards(), lambda: True))
    assert work.num_done == work.num_all >= len(ATTACKS) and len(work.problems) == 1 and NAMES[1] in work.problems[0]
    assert {run.spec.targets for run in kept.read_kept(machine).runs.values()} == {NAMES[:1]}


def test_a_folder_that_cannot_be_written_is_named(machine: Path, tmp_path: Path) -> None:
    # Mutant: an error nobody is told, or runs counted as done.
    (tmp_path / "file").write_text("", encoding="utf-8")
    work = finished(WarmUp(tmp_path / "file" / "kept", cards(), lambda: True))
    assert work.num_done == 0 and len(work.problems) == work.num_all and "cannot be kept" in work.problems[0]


def test_switched_off_it_does_nothing(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: a switch that is not looked at.
    monkeypatch.setenv("EXITLENS_WARM_UP", "off")
    work = WarmUp(machine, cards(), lambda: True)
    assert not work.is_running and not work.was_stopped and work.wait(0)
