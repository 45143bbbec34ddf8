"""The tables of a study say what the same attacks say on a page, and what the parts say."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from toy_study import EARLY, STATIC, STUDY, files_of, run_toys, write_project

from core.attacks.run import apply_perturbations, attack
from core.attacks.spec import SlowdownAttack
from core.checkpoints import load_card, load_model
from core.data import open_image_set
from core.errors import ExitLensError
from core.exits import ExitAnswers, ExitPolicy, decide
from core.experiment import ExperimentSpec, attack_for, run_experiment
from core.machine import PRECISION_VARIABLE
from core.study import parts
from core.study.cell_table import read_cells
from core.study.cells import study_cells
from core.study.gather import DECISIONS_SCHEMA, MADE_COLUMNS, ROW_GROUP, judged
from core.study.spec import parse_study
from core.study.store import DECISIONS_FILE, STEPS_FILE, STUDY_FILE, connect, read_study
from core.study.work import read_perturbations
from core.tables import DECISIONS, decisions_table

POLICIES = "[[policies]]\nthreshold = [0.6, 0.9]\n[[policies]]\nthreshold = 0.7\nscore = 'entropy'\n"
POLICIES += "[[policies]]\nthreshold = 2\nscore = 'patience'\n"
TEXT = STUDY.partition("[[policies]]")[0] + POLICIES


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One finished study of toys, found through the environment as long as this module runs."""
    import toys

    from core.datasets import DATASETS
    from core.models import ARCHITECTURES

    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "toy", toys.TOY_DATASET)
        patch.setitem(ARCHITECTURES, "toy", toys.TOY_ARCHITECTURE)
        for name, value in write_project(folder).items():
            patch.setenv(name, value)
        run_toys(folder / "study", TEXT)
        yield folder / "study"


def decisions(folder: Path) -> pd.DataFrame:
    return pq.read_table(folder / DECISIONS_FILE).to_pandas()


def test_rows_are_those_of_the_same_experiment_on_a_page(study_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutants: a rule of the wrong attack, a denominator of the wrong model, columns of clean and adversarial
    # exchanged, a policy of another number, rows in another order.
    monkeypatch.setenv(PRECISION_VARIABLE, "float32")  # as the study says
    images = open_image_set("toy:test")
    models = {name: load_model(name) for name in (EARLY, STATIC)}
    rows = decisions(study_folder)
    spec = read_study(study_folder).spec.attacks[0].spec
    for policy in (ExitPolicy(0.6), ExitPolicy(0.9)):
        experiment = run_experiment(
            ExperimentSpec("toy:test", (EARLY, STATIC), (EARLY, STATIC), spec, ExitPolicy(0.6)), images, models
        )
        expected = decisions_table(experiment, policy).sort_values(["source", "target", "image_id"])
        made = {source: result.spec.label for source, result in experiment.results.items()}
        chosen = rows[(rows.policy == f"T={policy.threshold:.2f}") & (rows.attack == rows.source.map(made))]
        found = chosen[list(DECISIONS.columns)].sort_values(["source", "target", "image_id"])
        pd.testing.assert_frame_equal(
            found.reset_index(drop=True), expected.reset_index(drop=True), check_dtype=False, rtol=1e-4, atol=1e-6
        )
    assert rows.succeeded.any() and not rows.succeeded.all()


def test_a_slowdown_counts_elsewhere_by_what_is_computed(study_folder: Path) -> None:
    # Mutant: another model counted as slowed down where its answer is wrong.
    study = read_study(study_folder)
    other = replace(study.model(EARLY), name="other")
    study = replace(study, models=(*study.models, other))
    cell = next(cell for cell in read_cells(study_folder, read_study(study_folder)) if cell.source == EARLY)
    images = pq.read_table(parts.part_path(study_folder, parts.MADE, cell.made_key), columns=MADE_COLUMNS)
    cell = replace(cell, attack=SlowdownAttack())
    generator = torch.Generator().manual_seed(1)
    clean, attacked = (ExitAnswers.of(3 * torch.randn(len(images), 3, 4, generator=generator)) for _ in range(2))
    rows = judged(study, cell, images, other, 0, clean, attacked).to_pandas()
    assert set(rows.success_rule) == {"slowed"}
    assert rows.attackable.tolist() == (rows.clean_computed_exit < 2).tolist()
    assert rows.succeeded.tolist() == (rows.adversarial_computed_exit > rows.clean_computed_exit).tolist()
    assert rows.succeeded.tolist() != (rows.adversarial_prediction != rows.label).tolist()


def test_policies_of_every_score_decide_from_what_was_stored_as_from_logits(study_folder: Path) -> None:
    # Mutants: entropy judged by confidence; patience counted from the second exit on; the scores of another target.
    images = open_image_set("toy:test")
    model, card = load_model(EARLY)
    made = attack(
        model, images.pixels(), images.labels, attack_for(card, read_study(study_folder).spec.attacks[0].spec),
        ExitPolicy(0.6), batch_size=2,
    )  # fmt: skip
    rows = decisions(study_folder)
    own = rows[(rows.source == EARLY) & (rows.target == EARLY) & (rows.attack == made.spec.label)]
    for name, policy in (
        ("entropy=0.70", ExitPolicy(0.7, score="entropy")),
        ("patience=2", ExitPolicy(2, score="patience")),
    ):
        judged = own[own.policy == name].set_index("image_id").loc[images.image_ids]
        for state, logits in (("clean", made.clean_logits), ("adversarial", made.adversarial_logits)):
            expected = decide(logits, policy)
            assert judged[f"{state}_computed_exit"].tolist() == expected.computed_exit.tolist()
            assert judged[f"{state}_prediction"].tolist() == expected.prediction.tolist()
    assert own.groupby("policy").adversarial_computed_exit.sum().nunique() > 1


def test_every_verdict_follows_from_the_stored_perturbation(study_folder: Path) -> None:
    # Mutants: answers of the exact adversarial image; perturbations in another order than their image ids.
    images, spec = open_image_set("toy:test"), parse_study(TEXT, "test")
    cards = {name: load_card(name) for name in (EARLY, STATIC)}
    for cell in study_cells(spec, cards, {"toy:test": images.indices.tolist()}):
        if cell.attack is None:
            continue
        content = parts.part_path(study_folder, parts.MADE, cell.made_key).read_bytes()
        ids = parts.decode(content, ["image_id"])["image_id"].to_pylist()
        chosen = images.select([int(image_id.rpartition("/")[2]) for image_id in ids])
        perturbations = read_perturbations(content, chosen.pixels().shape)
        assert perturbations.dtype == torch.float16 and perturbations.abs().max() <= cell.attack.epsilon
        adversarial = apply_perturbations(chosen.pixels(), perturbations)
        answers = pq.read_table(parts.part_path(study_folder, parts.ANSWERS, cell.key)).to_pandas()
        for target in (EARLY, STATIC):
            expected = ExitAnswers.of(load_model(target)[0](adversarial))
            shown = answers[answers.target == target]
            assert shown.image_id.tolist() == ids and set(shown.state) == {"adversarial"}
            assert np.stack(shown.predicted.tolist()).tolist() == expected.predicted.tolist()
            assert np.allclose(np.stack(shown.confidence.tolist()), expected.confidence, atol=1e-5)


def test_steps_say_where_an_image_was_about_to_leave_and_whether_it_was_wrong_there(study_folder: Path) -> None:
    # Mutants: the final exit's verdict in place of the taken one's; the start left out.
    steps = pq.read_table(study_folder / STEPS_FILE).to_pandas()
    images = open_image_set("toy:test")
    model, _ = load_model(EARLY)
    spec = read_study(study_folder).spec.attacks[0].spec
    made = attack(model, images.pixels(), images.labels, spec, ExitPolicy(0.6), batch_size=2)
    rows = steps[(steps.source == EARLY) & (steps.attack == spec.label)].set_index("image_id").loc[images.image_ids]
    for number, step in enumerate(made.steps):
        assert [exits[number] for exits in rows.step_exit] == step.exit_taken.tolist()
        wrong = step.predicted[torch.arange(len(images)), step.exit_taken] != images.labels
        assert [each[number] for each in rows.step_wrong] == wrong.tolist()
    assert {len(each) for each in rows.step_exit} == {4}


def test_made_anew_says_whether_the_attack_knew_the_policy(study_folder: Path, tmp_path: Path) -> None:
    # Mutant: True for every row, which would draw fixed examples as attacks made at each threshold.
    rows = decisions(study_folder)
    knew = rows[(rows.source == EARLY) & (rows.objective == "taken")].groupby("policy").made_anew.agg(["all", "any"])
    assert knew.to_dict("index") == {
        "T=0.60": {"all": True, "any": True},
        **{name: {"all": False, "any": False} for name in ("T=0.90", "entropy=0.70", "patience=2")},
    }
    assert rows[rows.objective == "final"].made_anew.all()
    run_toys(tmp_path / "anew", TEXT.replace("images_per_cell", "made_anew = true\nimages_per_cell"))
    anew = decisions(tmp_path / "anew")
    taken = anew[(anew.source == EARLY) & (anew.objective == "taken")]
    assert taken.made_anew.mean() == pytest.approx(1 / 4)
    assert set(taken[taken.made_anew].policy) == set(taken.policy)


def test_duckdb_reads_every_table_and_joins_them(study_folder: Path) -> None:
    # Mutant: a table under another name, or keys that do not meet.
    connection = connect(study_folder)
    counted = connection.execute(
        "select cells.attack_name, count(*) as n, avg(case when succeeded then 1 else 0 end) as share from decisions "
        "join cells using (cell) where policy = 'T=0.90' and attackable group by 1"
    ).df()
    rows = decisions(study_folder)
    rows = rows[(rows.policy == "T=0.90") & rows.attackable]
    assert counted.n.tolist() == [len(rows)] and counted.share.tolist() == pytest.approx([rows.succeeded.mean()])
    assert connection.execute("select count(*) from timings join cells using (cell)").fetchone() == (21,)
    assert connection.execute("select count(*) from steps join cells using (made)").fetchone() == (12 * 6,)


def test_tables_are_written_in_pieces(study_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: all rows collected before the first is written.
    assert ROW_GROUP >= 10_000
    monkeypatch.setattr("core.study.gather.ROW_GROUP", 100)
    run_toys(tmp_path / "study", TEXT)
    file = pq.ParquetFile(tmp_path / "study" / DECISIONS_FILE)
    sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
    assert len(sizes) > 5 and max(sizes) < 100 + 5 and file.schema_arrow.equals(DECISIONS_SCHEMA)
    assert file.read().equals(pq.read_table(study_folder / DECISIONS_FILE))


def test_a_new_policy_computes_no_network(study_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: policies in the key of a cell.
    run_toys(tmp_path / "study", STUDY)
    monkeypatch.setattr("core.study.workers.do_cell", lambda task: pytest.fail("a cell was done again"))
    assert run_toys(tmp_path / "study", TEXT).is_complete
    assert files_of(tmp_path / "study")[DECISIONS_FILE] == (study_folder / DECISIONS_FILE).read_bytes()


def test_a_folder_without_a_study_is_named(tmp_path: Path) -> None:
    # Mutant: a stack trace for a mistyped folder.
    with pytest.raises(ExitLensError, match="There is no study in"):
        read_study(tmp_path)
    (tmp_path / STUDY_FILE).write_text("{}")
    with pytest.raises(ExitLensError, match="is not a study that this version reads"):
        read_study(tmp_path)
    with pytest.raises(ExitLensError, match=r"cells\.parquet is missing"):
        connect(tmp_path)
