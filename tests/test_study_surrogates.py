"""Surrogates learn from validation images alone, once, and what they fool stands in the tables of their study."""

import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import toys
from safetensors.torch import load_file
from toy_study import (
    EARLY,
    STATIC,
    STUDY,
    SURROGATES,
    comparable,
    run_as_process,
    run_toys,
    write_project,
    write_training_images,
)

from core.checkpoints import CARD_FILE, WEIGHTS_FILE, list_models, load_card, load_model
from core.corruptions import corrupt
from core.data import open_image_set
from core.errors import Cancelled, ExitLensError
from core.exits import ExitPolicy, decide
from core.figures.theme import KIND_GLYPHS
from core.metrics import rate
from core.study import surrogate_training, workers
from core.study.black_box import BLACK_BOX, black_box_table
from core.study.black_box_charts import black_box_charts, black_box_rows
from core.study.charts import Setting, charts
from core.study.claims import load_claims
from core.study.measures import MEASURES, Tables, Where
from core.study.models import choose_models
from core.study.report import report_html
from core.study.resampling import has_enough_seeds
from core.study.runner import StudyProgress, run_study
from core.study.spec import StudySpec, load_study, parse_study
from core.study.store import DECISIONS_FILE, SURROGATES_FILE, connect, read_study, ship
from core.study.summary import summary_table
from core.study.surrogate_files import FOLDER, STATES_FOLDER
from core.study.surrogate_plans import plan_surrogates
from core.study.surrogate_training import Training, learned_images, train_surrogate
from core.study.surrogates import Surrogate, surrogate_of
from core.study.verify import changed_models, verify_study

ROOT = Path(__file__).parents[1]
NAMES = [
    f"learned-{kind}-{labels}-{corruption}"
    for kind in ("static", "early-exit")
    for labels in ("truth", "target")
    for corruption in ("none", "gaussian-noise")
]


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One finished study of toys with surrogates."""
    from core.datasets import DATASETS
    from core.models import ARCHITECTURES

    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "toy", toys.TOY_DATASET)
        patch.setitem(ARCHITECTURES, "toy", toys.TOY_ARCHITECTURE)
        for name, value in write_project(folder).items():
            patch.setenv(name, value)
        run_toys(folder / "study", SURROGATES)
        yield folder / "study"


def spec_of(text: str = SURROGATES) -> StudySpec:
    return parse_study(text, "mine.toml")


def planned(text: str = SURROGATES) -> dict[str, Surrogate]:
    cards = {name: load_card(name) for name in list_models()}
    return {surrogate.name: surrogate for surrogate in plan_surrogates(spec_of(text), cards)}


def with_line(line: str) -> str:
    """The study with one line of its table of surrogates exchanged, or added."""
    field = line.partition(" =")[0]
    table = re.search(r"\[\[surrogates\]\]\n(?:.+\n)+", SURROGATES)[0]  # type: ignore[index]
    kept = "".join(each for each in table.splitlines(keepends=True) if not each.startswith(f"{field} ="))
    return SURROGATES.replace(table, kept + line + "\n")


# What a file says


def test_lists_make_surrogates_that_are_named_by_what_differs(variables: dict[str, str]) -> None:
    # Mutants: one name for all, whose folders would overwrite each other; the control with a severity.
    choices = spec_of().surrogates
    assert [choice.name for choice in choices] == NAMES
    assert [choice.severity for choice in choices] == [None, 3] * 4
    assert {choice.target for choice in choices} == {(EARLY,)}
    more = spec_of(with_line("seed = [0, 1]")).surrogates
    assert len(more) == 16 and more[0].name == "learned-static-truth-none-seed-0"


def test_a_surrogate_that_labels_is_one_a_target_and_one_of_the_truth_one_an_architecture(
    variables: dict[str, str],
) -> None:
    # Mutants: twins trained once each on the same images and labels; two targets answering for one surrogate.
    found = planned(with_line('target = ["static", "toy-e*"]'))
    truth = found["learned-static-truth-none-toy-toy"]
    assert truth.targets == (STATIC, EARLY) and (truth.queries, truth.policy, truth.target_hash) == (0, None, "")
    asked = found[f"learned-static-target-none-of-{STATIC}"]
    assert asked.targets == (STATIC,) and asked.queries == 8 and asked.policy == ExitPolicy(0.6)
    assert len(found) == 4 + 2 * 4
    assert {surrogate.num_threads for surrogate in found.values()} == {1}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('corruption = "fog"', "Unknown corruption 'fog'. Choose one of gaussian-noise"),
        ("severity = 9", "The severity is 9; it must be a whole number from 1 to 5"),
        ('corruption = "none"', "has a severity, but no corruption"),
        ('architecture = "alexnet"', "unknown architecture 'alexnet'; choose 'same' or one of resnet56"),
        ("target = []", "needs a target"),
        ('kind = "dynamic"', "kind"),
        ('labels = "guess"', "labels"),
        ("num_images = 1", "num_images 1; it must be 2 or more"),
        ("num_epochs = 0", "num_epochs 0; it must be 1 or more"),
        ('name = "../up"', "../up"),
        ("colour = 1", "colour"),
        ("peak_learning_rate = -1", "peak_learning_rate -1.0; it must lie above 0"),
        ("peak_learning_rate = nan", "peak_learning_rate nan; it must lie above 0"),
        ("peak_learning_rate = inf", "peak_learning_rate inf; it must lie above 0, and be 10 at most"),
        ("peak_learning_rate = true", "peak_learning_rate: Input should be a valid number, but is True"),
        ("num_images = true", "num_images: Input should be a valid integer, but is True"),
        ("seed = true", "seed: Input should be a valid integer, but is True"),
        ("seed = 99999999999", "seed 99999999999; it must be 0 or more, and 2147483647 at most"),
        ("num_epochs = 1000000000", "it must be 1 or more, and 10000 at most"),
        ("batch_size = 1000000000", "it must be 2 or more, and 1000000 at most"),
        ("kind = []", "surrogates: kind is an empty list"),
    ],
)
def test_a_surrogate_that_cannot_be_is_one_clear_sentence(toy_registry: None, line: str, named: str) -> None:
    # Mutants: any one check dropped; a stack trace of pydantic's.
    with pytest.raises(ExitLensError, match=r"^mine\.toml: surrogates") as refused:
        spec_of(with_line(line))
    said = str(refused.value)
    assert named in said and "\n" not in said and "Value error" not in said and said.endswith(". See docs/studies.md.")


def test_target_missing_from_the_file_or_from_the_models_is_one_clear_sentence(variables: dict[str, str]) -> None:
    # Mutants: a surrogate of nobody; one whose target is shown nothing, and so measures nothing.
    with pytest.raises(ExitLensError, match=r"^mine\.toml: surrogates\.0\.target: Field required"):
        spec_of(SURROGATES.replace('target = "toy-early-exit"\n', ""))
    for line, said in (
        ('target = "nobody"', "names the model 'nobody', which is not here"),
        ('target = "all-exits"', "has no target here: no model of toy is 'all-exits'"),
        ("num_images = 9", "asks for 9 images; toy:validation holds 8"),
        (f'name = "{STATIC}"\nkind = "static"\nlabels = "truth"\ncorruption = "jpeg"', f"would be called {STATIC}"),
    ):
        text = SURROGATES
        for each in line.splitlines():
            text = with_line(each) if text is SURROGATES else _again(text, each)
        with pytest.raises(ExitLensError, match=said):
            planned(text)
    with pytest.raises(ExitLensError, match=f"stands in for {EARLY}, which the study shows nothing to"):
        planned(SURROGATES.replace('targets = ["toy-*"]', 'targets = ["static"]'))


def _again(text: str, line: str) -> str:
    field = line.partition(" =")[0]
    return re.sub(rf"(\[\[surrogates\]\]\n(?:.+\n)*?){field} = .*\n", rf"\g<1>{line}\n", text)


def test_the_word_and_the_tables_need_each_other(toy_registry: None) -> None:
    # Mutants: surrogates trained that nothing attacks; a word that means nobody.
    for text in (SURROGATES.replace('["surrogates"]', '["static"]'), STUDY.replace('["toy-*"]', '["surrogates"]', 1)):
        with pytest.raises(ExitLensError, match="need each other"):
            spec_of(text)


# What they learn


def test_only_validation_images_are_learned(tmp_path: Path, variables: dict[str, str]) -> None:
    # Mutants: trained on test images; on training images; on all of them.
    def weights(name: str) -> bytes:
        return train_surrogate(Training(planned()[name], tmp_path / name / str(time.monotonic_ns()))).weights

    names = [NAMES[1], NAMES[2]]  # of the truth and corrupted; of the target and uncorrupted
    before = [weights(name) for name in names]
    write_training_images(tmp_path, changed=range(32))
    test = toys.toy_image_set(12, split="test", seed=99)
    toys.write_hub_parquet(
        tmp_path / "data/toy/test.parquet", test.images, test.labels.tolist(), class_names=toys.TOY_CLASSES
    )
    assert [weights(name) for name in names] == before
    (tmp_path / "data/toy/test.parquet").unlink()
    assert [weights(name) for name in names] == before
    write_training_images(tmp_path, changed=[39])
    assert all(one != other for one, other in zip(map(weights, names), before, strict=True))


def test_only_so_many_images_are_learned_and_the_control_has_as_many(tmp_path: Path, variables: dict[str, str]) -> None:
    # Mutants: num_images not heeded; a control of another size, or corrupted too; corruption of another severity.
    validation = open_image_set("toy:validation")
    for count in (8, 5):
        found = planned(with_line(f"num_images = {count}"))
        control, corrupted = (learned_images(found[name], validation) for name in NAMES[:2])
        assert control.image_ids == corrupted.image_ids == validation.image_ids[:count]
        assert torch.equal(control.images, validation.images[:count])
        expected = (255 * corrupt(validation.pixels()[:count], "gaussian-noise", 3)).round().byte()
        assert torch.equal(corrupted.images, expected) and not torch.equal(corrupted.images, control.images)
        assert torch.equal(corrupted.labels, validation.labels[:count])
        sizes = {(surrogate.num_images, surrogate.num_epochs) for surrogate in found.values()}
        assert sizes == {(count, 20)}
        assert {surrogate.queries for surrogate in found.values()} == {0, count}
    write_training_images(tmp_path, changed=[39])
    assert _weights(planned(with_line("num_images = 5"))[NAMES[0]], tmp_path / "a") == _weights(
        found[NAMES[0]], tmp_path / "b"
    )


def _weights(surrogate: Surrogate, states: Path) -> bytes:
    return train_surrogate(Training(surrogate, states)).weights


def test_labels_of_the_target_are_its_answers_to_the_corrupted_images_and_are_counted(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    # Mutants: the final exit's answers; answers to the uncorrupted images; another policy; truth counted as queries.
    surrogate, validation = planned()["learned-static-target-gaussian-noise"], open_image_set("toy:validation")
    learned = learned_images(surrogate, validation)
    model, _ = load_model(EARLY)
    logits = model(learned.pixels())
    assert torch.equal(learned.labels, decide(logits, ExitPolicy(0.6)).prediction)
    assert not torch.equal(learned.labels, logits[:, -1].argmax(-1))
    assert not torch.equal(learned.labels, validation.labels)
    trained = train_surrogate(Training(surrogate, tmp_path))
    facts = trained.card.recipe["surrogate"]
    said = (facts["targets"], facts["labels"], facts["corruption"], facts["severity"], facts["images"])
    assert said == ([EARLY], "target", "gaussian-noise", 3, "toy:validation")
    assert facts["queries"] == facts["num_images"] == 8
    assert surrogate_of(trained.card) == surrogate and trained.card.test_set == "toy:validation"
    right = (learned.labels == validation.labels).double().mean().item()
    assert trained.card.recipe["labels_right"] == right
    other = replace(surrogate, target_hash="0" * 16)
    with pytest.raises(ExitLensError, match="not the one that the study was planned with"):
        train_surrogate(Training(other, tmp_path))


def test_same_surrogate_comes_to_the_same_weights_and_leaves_the_random_state_alone(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    # Mutants: weights drawn from the process's state; the process's state moved, and with it what comes next.
    surrogate = planned()["learned-early-exit-truth-none"]
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first = train_surrogate(Training(surrogate, tmp_path / "a")).weights
    assert torch.equal(torch.random.get_rng_state(), before) and torch.get_num_threads() == threads
    torch.rand(7)
    assert train_surrogate(Training(surrogate, tmp_path / "b")).weights == first
    seeded = replace(surrogate, seed=1)
    assert train_surrogate(Training(seeded, tmp_path / "c")).weights != first


# Once, and resumed


def test_a_killed_run_resumed_comes_to_the_same_tables(
    tmp_path: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutants: a half-written surrogate taken for a whole one; states left behind; a training that goes on elsewhere.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload(["toy_study", "torchvision.transforms.v2.functional", "torch.utils.flop_counter"])
    run_toys(tmp_path / "unbroken", SURROGATES)
    moments, seen = random.Random(1), set[int]()
    for round_number in range(6):
        process = forked.Process(target=run_as_process, args=(variables, tmp_path / "killed", SURROGATES))
        process.start()
        wanted = min(len(NAMES), round_number + 1)
        while process.is_alive() and len(_trained(tmp_path / "killed")) < wanted:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.join()
        seen.add(len(_trained(tmp_path / "killed")))
    assert len(seen & set(range(1, len(NAMES)))) > 1, "no kill came between two surrogates"
    run_toys(tmp_path / "killed", SURROGATES)
    assert comparable(tmp_path / "killed") == comparable(tmp_path / "unbroken")
    assert not (tmp_path / "killed" / FOLDER / STATES_FOLDER).exists()


def _trained(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{FOLDER}/*/{CARD_FILE}"))


def test_a_training_that_was_stopped_goes_on_from_its_last_epoch(
    tmp_path: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutants: begun again; epochs done twice; a state that two surrogates share.
    from core.training import loop

    surrogate = planned()[NAMES[-1]]
    whole = train_surrogate(Training(surrogate, tmp_path / "whole")).weights
    save, saved = loop._save, list[int]()

    def stopping(*arguments: object) -> None:
        save(*arguments)  # type: ignore[arg-type]
        saved.append(arguments[4])  # type: ignore[arg-type]
        if len(saved) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_surrogate(Training(surrogate, tmp_path / "stopped"))
    assert train_surrogate(Training(surrogate, tmp_path / "stopped")).weights == whole
    assert saved == list(range(1, 21))


def test_what_is_trained_is_not_trained_again_unless_it_is_damaged_or_planned_otherwise(
    tmp_path: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutants: a folder of the name believed; the truth learned again because a policy changed; a flipped byte loaded.
    trained: list[str] = []

    def counted(training: Training) -> object:
        trained.append(training.surrogate.name)
        return train_surrogate(training)

    monkeypatch.setattr(workers, "train_surrogate", counted)
    run_toys(tmp_path / "study", SURROGATES)
    assert trained == NAMES
    trained.clear()
    before = comparable(tmp_path / "study")
    run_toys(tmp_path / "study", SURROGATES)
    assert trained == []
    weights = tmp_path / "study" / FOLDER / NAMES[1] / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    (tmp_path / "study" / FOLDER / NAMES[2] / CARD_FILE).unlink()
    run_toys(tmp_path / "study", SURROGATES)
    assert trained == NAMES[1:3] and comparable(tmp_path / "study") == before
    trained.clear()
    run_toys(tmp_path / "study", SURROGATES.replace("[0.6, 0.9]", "[0.9, 0.6]"))
    assert trained == [name for name in NAMES if "target" in name]


def test_surrogates_are_no_models_of_the_zoo_nor_meant_by_patterns(study_folder: Path) -> None:
    # Mutants: surrogates among the dashboard's models; attacked as "static" ones; a target of every pattern.
    assert list_models() == [EARLY, STATIC]
    study = read_study(study_folder)
    cards = {name: load_card(name) for name in list_models()}
    cards |= {name: load_card(name, study_folder / FOLDER) for name in NAMES}
    assert choose_models(["surrogates"], cards) == NAMES
    assert choose_models(["static", "early-exit", "other-exits", "*"], cards) == [STATIC, EARLY]
    shown = {cell["source"]: cell["targets"] for cell in pq.read_table(study_folder / "cells.parquet").to_pylist()}
    assert set(shown) == {"", *NAMES}
    assert all(shown[name] == [name, EARLY, STATIC] for name in NAMES)
    assert {model.name for model in study.models if model.surrogate} == set(NAMES)


def test_a_run_cancelled_while_training_keeps_what_is_trained(tmp_path: Path, variables: dict[str, str]) -> None:
    # Mutants: a study of no cells called complete; the surrogate at hand thrown away.
    cancel, seen = threading.Event(), list[StudyProgress]()

    def on_progress(progress: StudyProgress) -> None:
        seen.append(progress)
        if progress.num_done == 2:
            cancel.set()

    with pytest.raises(Cancelled, match="2 of 8 surrogates are trained"):
        run_study(spec_of(), SURROGATES, tmp_path / "study", workers.here, on_progress=on_progress, cancel=cancel)
    assert [progress.words.partition(",")[0] for progress in seen] == [f"{count} of 8 surrogates" for count in range(3)]
    assert len(_trained(tmp_path / "study")) == 2 and run_toys(tmp_path / "study", SURROGATES).is_complete


@pytest.mark.slow
def test_spawned_workers_train_the_same(
    tmp_path: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutants: surrogates that only the process which trained them can load; weights that depend on the process.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "toys.toml").write_text(SURROGATES)
    command = [sys.executable, str(ROOT / "tests/toy_study.py"), "study", "run", str(tmp_path / "toys.toml")]
    run = subprocess.run(
        [*command, "--out", str(tmp_path / "spawned"), "--workers", "2"], check=True, capture_output=True, text=True
    )
    assert "18 of 18 cells are done" in run.stdout
    run_toys(tmp_path / "here", SURROGATES)
    assert comparable(tmp_path / "spawned") == comparable(tmp_path / "here")


def test_large_networks_are_compiled_and_each_begins_with_no_others_graphs(
    tmp_path: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutants: the ninth surrogate of a process quietly uncompiled; toys that wait for a compiler.
    calls: list[object] = []

    def watched(*arguments: object, compiled: bool, **more: object) -> object:
        calls.append(compiled)
        return train(*arguments, compiled=False, **more)  # type: ignore[arg-type]

    train = surrogate_training.train
    monkeypatch.setattr(surrogate_training, "train", watched)
    monkeypatch.setattr(torch.compiler, "reset", lambda: calls.append("reset"))
    surrogate = planned()[NAMES[0]]
    train_surrogate(Training(surrogate, tmp_path / "small"))
    monkeypatch.setattr(surrogate_training, "PAYS_TO_COMPILE", 1)
    train_surrogate(Training(surrogate, tmp_path / "large"))
    assert calls == [False, "reset", True]
    counted = surrogate_training.training_multiply_adds
    assert counted(replace(surrogate, num_epochs=40)) == 2 * counted(surrogate)
    assert counted(surrogate) == 3 * 8 * 20 * sum((*load_card(STATIC).layer_multiply_adds, 16))


# Tables


def decisions(folder: Path) -> pd.DataFrame:
    return pq.read_table(folder / DECISIONS_FILE).to_pandas()


def test_table_says_what_the_rows_say(study_folder: Path) -> None:
    # Mutants: accuracy of the target; agreement with the truth; agreement under attack; denominators exchanged.
    table, rows = black_box_table(study_folder, read_study(study_folder)), decisions(study_folder)
    assert list(table.columns) == list(BLACK_BOX.columns) and len(table) == len(NAMES) * 2
    assert set(table.surrogate) == set(NAMES) and set(table.target) == {EARLY}
    for found in table.to_dict("records"):
        of_it = rows[(rows.source == found["surrogate"]) & (rows.policy == found["policy"])].set_index("image_id")
        own, other = (of_it[of_it.target == name] for name in (found["surrogate"], EARLY))
        right, agreeing = own.clean_prediction == own.label, own.clean_prediction == other.clean_prediction
        assert found["num_all"] == 12
        assert (found["num_right"], found["num_agreeing"]) == (int(right.sum()), int(agreeing.sum()))
        assert found["num_images"] == int(other.attackable.sum())
        assert found["num_fooled"] == int((other.attackable & other.succeeded).sum())
        assert found["num_attackable"] == int((other.attackable & own.attackable).sum())
        assert found["num_both"] == int((other.attackable & own.attackable & other.succeeded).sum())
        share = rate(found["num_fooled"], found["num_images"])
        assert (found["rate"], found["rate_low"], found["rate_high"]) == (share.value, share.low, share.high)
        assert found["accuracy"] == pytest.approx(right.mean())
        assert found["queries"] == (8 if "target" in found["surrogate"].split("-") else 0)
    assert table.num_right.nunique() > 1 and table.num_agreeing.nunique() > 1 and table.num_fooled.nunique() > 1
    summary = summary_table(study_folder).set_index(["source", "target", "policy"])
    for found in table.to_dict("records"):
        row = summary.loc[(found["surrogate"], EARLY, found["policy"])]
        assert (row.num_fooled, row.num_images) == (found["num_both"], found["num_attackable"])


def test_surrogates_are_a_view_that_joins_the_decisions(study_folder: Path) -> None:
    # Mutant: a table that DuckDB does not offer, or whose names do not meet those of the decisions.
    joined = connect(study_folder).execute(
        "select labels, count(distinct source), any_value(num_learned), max(queries) from decisions "
        "join surrogates on source = surrogate where target <> source group by 1 order by 1"
    )
    assert joined.fetchall() == [("target", 4, 8, 8), ("truth", 4, 8, 0)]


def test_study_without_surrogates_has_no_table_of_them(tmp_path: Path, variables: dict[str, str]) -> None:
    # Mutants: an empty file in every study; surrogates of an earlier study of the folder left in it.
    run_toys(tmp_path / "study", SURROGATES)
    assert (tmp_path / "study" / SURROGATES_FILE).is_file()
    study = run_toys(tmp_path / "study")
    assert not (tmp_path / "study" / SURROGATES_FILE).exists()
    assert black_box_table(tmp_path / "study", study).empty


def test_claims_compare_twins_on_identical_images_and_other_claims_leave_surrogates_out(study_folder: Path) -> None:
    # Mutants: surrogates that learned differently compared; denominators of each surrogate's own; surrogates counted
    # as static and early-exit models; as many seeds as there are surrogates.
    tables, rows = Tables(read_study(study_folder), connect(study_folder), Where("T=0.60")), decisions(study_folder)
    units = list(MEASURES["surrogates_early_minus_static"](tables))
    assert [tuple(model.name for model in unit.models) for unit in units] == [
        (f"learned-early-exit-{learned}", f"learned-static-{learned}", EARLY)
        for learned in ("truth-none", "truth-gaussian-noise", "target-none", "target-gaussian-noise")
    ]
    for unit in units:
        one, other = (
            rows[(rows.source == model.name) & (rows.target == EARLY) & (rows.policy == "T=0.60")]
            .set_index("image_id")
            .loc[list(unit.image_ids)]
            for model in unit.models[:2]
        )
        difference = (one.succeeded.astype(int) - other.succeeded.astype(int)) * one.attackable
        assert unit.numerator.tolist() == difference.tolist()
        assert unit.denominator.tolist() == one.attackable.astype(float).tolist()
    assert any(unit.numerator.any() for unit in units) and not has_enough_seeds(units)
    assert len(list(MEASURES["surrogates_making_cost"](tables))) == 4
    for measure in set(MEASURES) - {"surrogates_early_minus_static", "surrogates_making_cost"}:
        assert list(MEASURES[measure](tables)) == [], measure
    about = [claim.name for claim in load_claims() if claim.study == "black-box"]
    assert about == ["surrogates-with-exits-are-more-effective", "surrogates-with-exits-are-cheaper"]


def test_charts_and_report_show_surrogates_beside_their_target(study_folder: Path) -> None:
    # Mutants: twins on two rows; points of another measure; what a surrogate fools drawn as white-box transfer.
    study, summary = read_study(study_folder), summary_table(study_folder)
    table, setting = black_box_table(study_folder, study), Setting("T=0.60", "pgd", "32/255", "taken", "toy:test")
    (chart,) = black_box_charts(study, table, setting)
    rows = black_box_rows(study, table, setting)
    assert len(rows) == 8 and list(dict.fromkeys(rows.learned)) == [
        "Toy, uncorrupted, true labels",
        "Toy, Gaussian noise 3, true labels",
        "Toy, uncorrupted, labels of the target (8 queries)",
        "Toy, Gaussian noise 3, labels of the target (8 queries)",
    ]
    points = [trace for trace in chart.figure.data if trace.mode == "markers"]
    assert [trace.name for trace in points] == ["early-exit surrogate", "static surrogate"] * 3
    for number, measure in enumerate(("accuracy", "agreement", "rate")):
        for trace, kind in zip(points[2 * number : 2 * number + 2], ("early-exit", "static"), strict=True):
            assert list(trace.x) == pytest.approx((100 * rows[rows.kind == kind][measure]).tolist())
            assert [round(height) for height in trace.y] == [0, 1, 2, 3]
            assert [list(point) for point in trace.customdata] == rows[rows.kind == kind][
                ["surrogate", "target"]
            ].to_numpy().tolist()
    assert "n = 3 for transfer, 12 otherwise" in chart.caption and "8 validation images" in chart.caption
    assert list(charts(study, summary, setting)) == []
    html = report_html(study_folder)
    for said in ("<h2>Surrogates</h2>", "labels of the target (8 queries)", "Black-box: ● Toy early-exit"):
        assert said in html, said
    assert html.count("fool it more often than static ones that learned the same") == 1


def test_page_shows_surrogates_and_a_point_opens_what_fooled_its_target(
    study_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutants: a page that draws no surrogates, or names each of them on top; images that the surrogate got right only.
    import streamlit as st
    from streamlit.testing.v1 import AppTest

    st.cache_data.clear()
    st.cache_resource.clear()
    shutil.copytree(study_folder, tmp_path / "output/box", ignore=shutil.ignore_patterns("parts"))
    monkeypatch.setattr("core.study.store.SHIPPED", tmp_path / "results")
    monkeypatch.setenv("EXITLENS_STUDIES", str(tmp_path / "output"))
    test = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    test.run()
    test.switch_page("pages/studies.py").run()
    assert not test.exception
    assert any(title.value.startswith("Black-box: ● Toy early-exit through surrogates") for title in test.subheader)
    assert any("8 surrogates" in text.value and NAMES[0] not in text.value for text in test.caption)
    rows = black_box_table(study_folder, read_study(study_folder))
    chosen = rows[(rows.policy == "T=0.60") & (rows.num_fooled > rows.num_both)].iloc[0]
    test.session_state[f"figure-study-black-box-{EARLY}"] = {
        "selection": {"points": [{"customdata": {"0": chosen.surrogate, "1": EARLY}}]}
    }
    test.run()
    assert not test.exception
    said = " ".join(text.value for text in test.markdown)
    assert f"Made on {KIND_GLYPHS[chosen.kind]} Surrogate {chosen.surrogate}" in said
    assert f"{chosen.num_fooled} image" in said


def test_black_box_study_ships_and_is_verified_where_its_surrogates_are(study_folder: Path, tmp_path: Path) -> None:
    # Mutants: weights in what ships; surrogates called changed models; a verification that cannot load them.
    cards = {name: load_card(name) for name in list_models()}
    assert changed_models(read_study(study_folder), cards) == []
    assert verify_study(study_folder, cards, num_cells=2).share == 1.0
    ship(study_folder, tmp_path / "shipped")
    assert (tmp_path / "shipped" / SURROGATES_FILE).is_file() and not (tmp_path / "shipped" / FOLDER).exists()
    study = read_study(tmp_path / "shipped")
    assert len(black_box_table(tmp_path / "shipped", study)) == len(NAMES) * 2
    with pytest.raises(ExitLensError, match="shipped results hold no weights"):
        verify_study(tmp_path / "shipped", cards, num_cells=1)


def test_shipped_study_has_control_and_corruptions_both_kinds_and_both_architectures() -> None:
    # Mutants: a corruption without its control; kinds that learn for other times; fewer images than promised.
    spec, _ = load_study("black-box")
    choices = spec.surrogates
    assert spec.num_images is None or spec.num_images >= 1000
    assert {choice.kind for choice in choices} == {"static", "early-exit"}
    assert {choice.labels for choice in choices} == {"truth", "target"}
    assert {choice.architecture for choice in choices} == {"same", "mobilenet"}
    facts = {choice: replace(choice, name="x", kind="static", corruption="none", severity=None) for choice in choices}
    for choice, control in facts.items():
        assert control in [replace(other, name="x", kind="static") for other in choices if other.corruption == "none"]
        twins = [
            other
            for other in choices
            if replace(other, name="x", kind="static") == replace(choice, name="x", kind="static")
        ]
        assert len(twins) == 2


def test_state_dict_of_a_surrogate_is_that_of_its_architecture(study_folder: Path) -> None:
    # Mutant: kinds exchanged.
    for name in NAMES:
        keys = load_file(study_folder / FOLDER / name / WEIGHTS_FILE).keys()
        assert any(key.startswith("exits.") for key in keys) == ("early-exit" in name)
