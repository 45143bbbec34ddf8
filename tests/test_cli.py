"""The command line on toy models and images: what it prints, what it writes, and errors in one line."""

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pandas as pd
import pytest
import torch
import typer
from safetensors import safe_open
from toys import TOY_CLASSES, answered_image_set, toy_card, toy_model, write_hub_parquet

from core.__main__ import app, main
from core.attacks.checks import CODES
from core.attacks.command import Options, spec_from
from core.attacks.run import apply_perturbations
from core.attacks.spec import (
    AttackSpec,
    CorruptionAttack,
    PublishedEarlyAttack,
    SlowdownAttack,
    UniversalAttack,
    WorstCaseAttack,
    early,
    fgsm,
    l2_attack,
    mi_fgsm,
    pgd,
)
from core.card_text import cards_markdown
from core.checkpoints import CARD_FILE, FOLDER_VARIABLE, load_card, load_model, pack_weights, save_model
from core.data import DATA_ROOT_VARIABLE, open_image_set
from core.errors import Cancelled
from core.exits import ExitPolicy, decide
from core.experiment import ExperimentSpec
from core.export import command_of
from core.metrics import Rate, rate
from core.tables import DECISIONS, EXITS, STEPS

ROOT = Path(__file__).parents[1]
EARLY, STATIC = "toy-early-exit", "toy-static"


@dataclass
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_registry: None) -> Iterator[Path]:
    """Two toy models and the toy test images, found through the environment; Ctrl-C as it was before."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "checkpoints"))
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path / "data"))
    early, static = (toy_model(num_exits=count, dtype=torch.float32, seed=count) for count in (3, 1))
    images = answered_image_set(early)
    for model, name in ((early, EARLY), (static, STATIC)):
        save_model(pack_weights(model, "float32"), toy_card(model, name, images))
    write_hub_parquet(
        tmp_path / "data/toy/test.parquet", images.images, images.labels.tolist(), class_names=TOY_CLASSES
    )
    interrupt = signal.getsignal(signal.SIGINT)
    yield tmp_path
    signal.signal(signal.SIGINT, interrupt)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs ``python -m core WORDS`` in this process, where the toy names are known."""

    def run(*words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["core", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return run


# models, data, verify


def test_models_json_has_the_agreed_shape(command: Command) -> None:
    # Mutant: a key renamed, added or left out; accuracies of one exit only.
    outcome = command("models", "--json")
    early, static = load_model(EARLY)[1], load_model(STATIC)[1]
    assert outcome.status == 0
    assert json.loads(outcome.out) == {
        "models": [
            {
                "name": card.name,
                "dataset": "toy",
                "architecture": "toy",
                "kind": kind,
                "num_exits": num_exits,
                "test_accuracy": [share.value for share in card.test],
                "num_test_images": 12,
                "exit_costs": list(card.exit_costs),
            }
            for card, kind, num_exits in ((early, "early-exit", 3), (static, "static", 1))
        ]
    }


def test_models_in_words_names_accuracy_with_n_and_cost(command: Command) -> None:
    # Mutant: n left out, or fractions printed as percent.
    words = command("models").out
    assert f"{EARLY}: 3 exits" in words and "75.0 %  (n = 12, toy:test)" in words and "100.0 %" in words


def test_models_markdown_is_the_text_of_the_cards(command: Command) -> None:
    # Mutant: the list in words under another option, or a line more than the file.
    cards = [load_card(name) for name in (EARLY, STATIC)]
    assert command("models", "--markdown").out == cards_markdown(cards)


def test_a_damaged_card_hides_no_other_model(command: Command, project: Path) -> None:
    # Mutant: one card that cannot be read ends the list, and what was to be measured.
    (project / "checkpoints" / STATIC / CARD_FILE).write_text("{")
    for words in (("models", "--json"), ("verify", "--json")):
        outcome = command(*words)
        assert outcome.status == 1 and f"error: {STATIC}: " in outcome.err
        assert len(json.loads(outcome.out)["models"]) == 1 and EARLY in outcome.out


def test_data_lists_what_can_be_opened_and_why_others_cannot(command: Command) -> None:
    # Mutant: sets that are not ready left out.
    listed = json.loads(command("data", "--json").out)["image_sets"]
    problems = {row["name"]: row["problem"] for row in listed}
    assert problems["toy:test"] == "" and "does not hold" in problems["cifar10:test"]
    assert "12 images" in command("data").out


def test_verify_agrees_with_all_cards_of_the_images_data_set(command: Command) -> None:
    # Mutant: only the first model measured.
    outcome = command("verify", "--images", "toy:test", "--json")
    measured = {row["name"]: row["agrees"] for row in json.loads(outcome.out)["models"]}
    assert (outcome.status, measured) == (0, {EARLY: True, STATIC: True})


def test_verify_says_differs_and_ends_with_status_1_where_a_card_was_doctored(command: Command, project: Path) -> None:
    # Mutant: status 0 whatever was measured.
    file = project / "checkpoints" / EARLY / CARD_FILE
    card = json.loads(file.read_text())
    card["test"][0]["value"] += 0.01
    file.write_text(json.dumps(card))
    outcome = command("verify", "--images", "toy:test")
    assert outcome.status == 1
    assert f"{EARLY}: DIFFERS" in outcome.out and f"{STATIC}: agrees" in outcome.out


# attack


def attack_words(out: Path, *more: str, model: str = EARLY, images: str = "toy:test") -> list[str]:
    return ["attack", "--model", model, "--images", images, "--out", str(out), "--threshold", "0.6", "--json", *more]


def test_attack_writes_perturbations_by_which_its_success_can_be_judged_again(command: Command, project: Path) -> None:
    # Mutant: float32 stored, perturbations of another model, or a success that the stored images do not bear out.
    out = project / "out"
    summary = json.loads(command(*attack_words(out, "--attack", "pgd", "--steps", "3", images="toy:test:0-9")).out)
    with safe_open(out / "perturbations.safetensors", "pt") as file:
        assert list(file.keys()) == [EARLY]
        assert json.loads(file.metadata()["image_ids"]) == [f"toy/test/{index}" for index in range(10)]
        perturbations = file.get_tensor(EARLY)
    assert perturbations.dtype == torch.float16 and perturbations.double().abs().max() <= 8 / 255
    images, (model, card) = open_image_set("toy:test:0-9"), load_model(EARLY)
    clean, adversarial = (
        decide(model(pixels), ExitPolicy(0.6))
        for pixels in (images.pixels(), apply_perturbations(images.pixels(), perturbations))
    )
    attackable = clean.prediction == images.labels
    fooled = attackable & (adversarial.prediction != images.labels)
    assert 0 < int(fooled.sum()) <= int(attackable.sum()) < 10
    assert Rate(**summary["success"]) == rate(int(fooled.sum()), int(attackable.sum()))
    assert summary["adversarial_accuracy"]["num_hits"] == int((adversarial.prediction == images.labels).sum())
    assert summary["clean_accuracy"]["num_hits"] == int(attackable.sum())
    shift = adversarial.computed_exit - clean.computed_exit
    counts = {"earlier": int((shift < 0).sum()), "same": int((shift == 0).sum()), "later": int((shift > 0).sum())}
    assert summary["exit_shift"] == counts
    costs = {"clean": clean, "adversarial": adversarial}
    assert summary["mean_cost"] == {
        name: pytest.approx(decided.costs(card.exit_costs).mean().item()) for name, decided in costs.items()
    }


def test_attack_writes_tables_that_fit_their_schemas_and_the_summary_it_prints(command: Command, project: Path) -> None:
    # Mutant: a summary on disk that differs from the one printed, or a table left out.
    out = project / "new/out"
    outcome = command(*attack_words(out, "--attack", "fgsm"))
    assert outcome.status == 0
    assert json.loads((out / "summary.json").read_text()) == json.loads(outcome.out)
    assert {note["code"] for note in json.loads(outcome.out)["notes"]} <= set(CODES)
    assert "notes" not in json.loads(command(*attack_words(out, "--attack", "fgsm", "--no-checks")).out)
    assert {file.name for file in out.iterdir()} == {
        "perturbations.safetensors",
        "decisions.parquet",
        "exits.parquet",
        f"steps-{EARLY}.parquet",
        "summary.json",
    }
    for schema, name, num_rows in (
        (DECISIONS, "decisions", 12),
        (EXITS, "exits", 12 * 3 * 2),
        (STEPS, f"steps-{EARLY}", 12 * 3 * 2),
    ):
        assert len(schema.check(pd.read_parquet(out / f"{name}.parquet"))) == num_rows


def test_attack_prints_every_note_with_its_code_and_where_it_is_explained(command: Command, project: Path) -> None:
    # Mutant: notes that only JSON shows.
    words = [*attack_words(project / "out", "--objective", "final", "--epsilon", "0.4", "--step-size", "0.1")]
    words.remove("--json")
    said = command(*words).out
    assert "note saturated: The attack succeeds on" in said and "See docs/checks.md." in said


def test_summary_of_an_attack_with_nothing_to_attack_is_still_json(command: Command, project: Path) -> None:
    # Mutant: the rate of no images written as NaN, which no other program reads.
    label = int(open_image_set("toy:test:1").labels)
    words = attack_words(project / "out", "--goal-class", str(label), images="toy:test:1")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    summary = json.loads(command(*words).out, parse_constant=refuse)
    assert (summary["success"]["num_images"], summary["success"]["value"]) == (0, None)
    assert summary["headline"].startswith("no image was attackable")


SPECS = [
    pgd(),
    fgsm(16 / 255),
    fgsm(0.0123456789),
    mi_fgsm(num_steps=7, step_size=1.5 / 255),
    mi_fgsm(decay=0.0),
    mi_fgsm(decay=1 / 3),
    pgd(random_start=True, seed=12345),
    pgd(objective="exit", exit_index=1, stop_when_fooled=True),
    pgd(objective="mean", goal_class=0),
    pgd(1 / 3 / 255, step_size=1e-6),
    early(2 / 255),
    early(1 / 3 / 255, exit_index=1, num_steps=7, num_tries=5, decay=0.0),
    early(goal_class=2),
    pgd(objective="max-average"),
    l2_attack("pgd", 1 / 3, random_start=True, goal_class=1),
    l2_attack("fgsm", 2.5),
    l2_attack("mi-fgsm", num_steps=3, decay=0.5),
    PublishedEarlyAttack(alpha=1 / 3, num_steps=5),
    PublishedEarlyAttack(start="image", epsilon=8 / 255, loss="logits", seed=3),
    SlowdownAttack(),
    SlowdownAttack(epsilon=4 / 255, loss="confidence", random_start=False, num_steps=7),
    UniversalAttack(objective="slowdown", fitted_on="toy:validation:36-39"),
    UniversalAttack(objective="exit", exit_index=1, goal_class=2, fitted_on="toy:validation:36-39"),
    WorstCaseAttack(num_restarts=3, goal_class=1, seed=5),
    CorruptionAttack(name="jpeg", severity=5),
    CorruptionAttack(seed=9),
]


@pytest.mark.parametrize("attack", SPECS, ids=lambda attack: attack.label)
def test_printed_command_asks_for_the_very_same_experiment(
    attack: AttackSpec, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutant: any field left out of the command, or numbers cut to a few digits.
    policy = ExitPolicy(0.123456789, "most_confident") if attack.depends_on_policy else ExitPolicy(0.9)
    spec = ExperimentSpec("toy:test:0, 3-5", (EARLY,), (EARLY,), attack, policy)
    asked: list[ExperimentSpec] = []

    def remember(spec: ExperimentSpec, *others: object, **more: object) -> None:
        asked.append(spec)
        raise Cancelled

    monkeypatch.setattr("core.experiment.run_experiment", remember)
    python, flag, module, *words = shlex.split(command_of(spec))
    assert (python, flag, module) == ("python", "-m", "core")
    outcome = command(*words)
    assert asked == [spec]
    assert outcome.status == 130 and "Cancelled" in outcome.err


def test_static_model_takes_the_attack_that_an_early_exit_model_would(command: Command, project: Path) -> None:
    # Mutant: the objective ``taken`` refused for, or recorded on, a model with a single exit.
    summary = json.loads(command(*attack_words(project / "out", "--attack", "fgsm", model=STATIC)).out)
    assert summary["spec"]["objective"] == "final" and summary["success_rule"] == "misclassified_final"


@pytest.mark.parametrize(
    ("attack", "option"),
    [
        ("early", "--random-start"),
        ("early", "--stop-when-fooled"),
        ("early", "--objective mean"),
        ("early", "--norm l2"),
        ("pgd", "--tries 2"),
        ("pgd", "--severity 2"),
        ("early-published", "--goal-class 1"),
        ("slowdown", "--objective final"),
        ("worst-case", "--random-start"),
        ("jpeg", "--epsilon 2/255"),
    ],
)
def test_an_attack_takes_no_option_that_it_does_not_know(
    attack: str, option: str, command: Command, project: Path
) -> None:
    # Mutant: an option dropped without a word, so that something else is measured than was asked.
    outcome = command(*attack_words(project / "out", "--attack", attack, *option.split()))
    assert outcome.status == 2 and (option.split()[0] in outcome.err or "norm" in outcome.err)


# Errors


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--model", "nobody"], "nobody"),
        (["--epsilon", "eight"], "eight"),
        (["--epsilon", "8/0"], "8/0"),
        (["--epsilon", "nan"], "epsilon"),
        (["--epsilon", "300/255"], "epsilon"),
        (["--step-size", "-1/255"], "step_size"),
        (["--steps", "0"], "num_steps"),
        (["--images", "toy:test:5-1"], "5-1"),
        (["--images", "toy:test:99"], "99"),
        (["--images", "toys"], "toys"),
        (["--images", "cifar10:samples"], "toy"),
        (["--objective", "everything"], "everything"),
        (["--objective", "exit-0"], "exit-0"),
        (["--objective", "exit-²"], "exit-²"),
        (["--objective", "exit-9"], "exit 9"),
        (["--objective", "exit"], "exit-1"),
        (["--objective", "exit", "--attack", "early"], "exit-1"),
        (["--objective", "exit-3", "--attack", "early"], "exit 3"),
        (["--objective", "exit-2", "--model", STATIC], "exit 2"),
        (["--attack", "early", "--model", STATIC], "static"),
        (["--attack", "early-published", "--model", STATIC], "static"),
        (["--attack", "slowdown", "--model", STATIC], "static"),
        (["--attack", "universal", "--objective", "slowdown", "--model", STATIC], "static"),
        (["--attack", "universal", "--fitted-on", "toy:test:0-3"], "toy:test:0-3"),
        (["--attack", "universal", "--fitted-on", "toy:validation:0-3"], "toy"),
        (["--norm", "l2", "--epsilon", "101"], "epsilon"),
        (["--norm", "L2"], "l2"),
        (["--attack", "jpeg", "--severity", "6"], "severity"),
        (["--attack", "worst-case", "--restarts", "0"], "num_restarts"),
        (["--attack", "worst-case", "--goal-class", "4"], "class 4"),
        (["--attack", "early", "--tries", "0"], "num_tries"),
        (["--attack", "mi-fgsm", "--decay", "nan"], "decay"),
        (["--attack", "early-published", "--alpha", "nan"], "alpha"),
        (["--random-start", "--seed", "-1"], "seed"),
        (["--threshold", "nan"], "threshold"),
        (["--images", "toy:test:"], "selection"),
        (["--images", "toy:test:3,3"], "twice"),
        (["--attack", "cw"], "cw"),
        (["--goal-class", "4"], "class 4"),
        (["--threshold", "2"], "threshold"),
        (["--fallback", "first"], "first"),
    ],
    ids=" ".join,
)
def test_attack_that_cannot_be_made_is_one_line_and_status_2(
    words: list[str], named: str, command: Command, project: Path
) -> None:
    # Mutant: any one check dropped, or an error that ``main`` does not catch.
    outcome = command(*attack_words(project / "out", *words))
    assert outcome.status == 2 and outcome.out == ""
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    assert named in outcome.err
    assert not (project / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["train", "no-such-recipe"],
        ["verify", "nobody", "--images", "toy:test", "--json"],
        ["verify", EARLY, "--images", "cifar10:samples", "--json"],
        ["verify", "--images", "cifar10:samples", "--json"],
    ],
    ids=" ".join,
)
def test_other_commands_fail_in_one_line_too(words: list[str], command: Command) -> None:
    # Mutant: an error of another kind than ExitLensError.
    outcome = command(*words)
    assert outcome.status == 2
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1


def test_output_that_is_a_file_is_refused_in_one_line(command: Command, project: Path) -> None:
    # Mutant: the FileExistsError of ``mkdir`` let through.
    (project / "taken").write_text("mine")
    outcome = command(*attack_words(project / "taken", "--attack", "fgsm"))
    assert outcome.status == 2 and outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    assert (project / "taken").read_text() == "mine"


def test_a_model_that_could_not_be_written_is_not_trained(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: hours of training before the place is looked at.
    monkeypatch.setattr("core.training.loop.train", lambda *_, **__: pytest.fail("trained"))
    outcome = command("train", "cifar10-resnet56-static", "--out", "/proc")
    assert outcome.status == 2 and outcome.err.count("\n") == 1
    assert outcome.err.startswith("error: /proc/cifar10-resnet56-static cannot be written")


def test_an_output_that_cannot_be_written_is_refused_before_the_attack(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutants: only making the folder looked at; a viewer who waits for an attack that nobody can keep.
    monkeypatch.setattr("core.experiment.run_experiment", lambda *_, **__: pytest.fail("attacked"))
    outcome = command(*attack_words(Path("/proc"), "--attack", "fgsm"))
    assert outcome.status == 2 and outcome.err.startswith("error: /proc cannot be") and outcome.err.count("\n") == 1


def test_a_worst_case_takes_steps_of_a_quarter_of_its_radius(command: Command) -> None:
    # Mutant: steps that never reach the edge of a wide ball, and cross a small one at once.
    for epsilon in (0.5 / 255, 16 / 255):
        spec = spec_from(Options("worst-case", fields={"epsilon": epsilon}))
        assert spec.step_size == pytest.approx(epsilon / 4)  # type: ignore[union-attr]


def test_program_itself_ends_with_status_2_and_no_traceback(tmp_path: Path) -> None:
    # Mutant: ``app()`` called instead of ``main()`` where the module is run.
    words = [sys.executable, "-m", "core", "attack", "--model", "nobody", "--images", "toy:test", "--out", "out"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "nobody" in done.stderr and "Traceback" not in done.stderr


def commands_below(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its words."""
    if not getattr(command, "commands", None):
        yield name, command
    for word, below in getattr(command, "commands", {}).items():
        yield from commands_below(below, f"{name} {word}".strip())


COMPUTE_NOTHING = {"models", "data fetch", "study list", "study claims", "study report", "study ship", "bench app"}


def test_every_command_that_computes_can_be_told_where() -> None:
    # Mutant: a command that takes a GPU although it was told not to, or one added without the option.
    found = dict(commands_below(typer.main.get_command(app), ""))
    assert {"attack", "train", "verify", "white-box", "import-model", "study run", "bench attacks"} <= set(found)
    without = {name for name, each in found.items() if "--device" not in str([each_.opts for each_ in each.params])}
    assert without == COMPUTE_NOTHING


@pytest.mark.parametrize(
    "words", [["verify", EARLY, "--json"], ["white-box", "--model", EARLY, "--images", "toy:test"]]
)
@pytest.mark.parametrize(("device", "named"), [("gpu", "Unknown device 'gpu'"), ("cuda:7", "no device cuda:7")])
def test_a_device_that_is_not_here_is_one_line(
    words: list[str], device: str, named: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutant: a wish that is not heard, or a fall back that nobody is told of.
    monkeypatch.setenv("EXITLENS_DEVICE", "")
    outcome = command(*words, "--device", device)
    assert outcome.status == 2 and named in outcome.err and outcome.err.count("\n") == 1
