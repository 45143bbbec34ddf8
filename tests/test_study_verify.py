"""A finished study is checked by doing cells again, and travels without its perturbations."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from toy_study import EARLY, STATIC, STUDY, run_toys, write_project

from core.checkpoints import ModelCard, load_card
from core.errors import ExitLensError
from core.study import parts
from core.study.cell_table import read_cells
from core.study.differences import spec_differences, summary_differences
from core.study.gather import gather
from core.study.report import again_words, command_of, report_html
from core.study.spec import PolicyChoice
from core.study.store import (
    CELLS_FILE,
    DECISIONS_FILE,
    PROJECT,
    connect,
    read_study,
    ship,
    study_folders,
    write_study,
)
from core.study.summary import summary_table
from core.study.verify import changed_models, verify_study


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One finished study of toys."""
    import toys

    from core.datasets import DATASETS
    from core.models import ARCHITECTURES

    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "toy", toys.TOY_DATASET)
        patch.setitem(ARCHITECTURES, "toy", toys.TOY_ARCHITECTURE)
        for name, value in write_project(folder).items():
            patch.setenv(name, value)
        run_toys(folder / "study")
        yield folder / "study"


@pytest.fixture
def shipped(original: Path, tmp_path: Path) -> Path:
    """Its tables alone."""
    ship(original, tmp_path / "shipped")
    return tmp_path / "shipped"


def cards() -> dict[str, ModelCard]:
    return {name: load_card(name) for name in (EARLY, STATIC)}


def test_tables_alone_are_verified_and_every_row_comes_out_the_same(shipped: Path) -> None:
    # Mutant: a verification that reads the parts it should make again.
    assert not (shipped / "parts").exists()
    verified = verify_study(shipped, cards(), num_cells=5)
    assert (verified.num_cells, verified.share, verified.agrees) == (5, 1.0, True)
    cells = {row["cell"]: row for row in pq.read_table(shipped / CELLS_FILE).to_pylist()}
    assert verified.num_rows <= 5 * 5 * 2 * 2 and len(cells) == 21
    assert verify_study(shipped, cards(), num_cells=100).num_cells == 18  # the clean cells are done along


def test_rows_that_were_doctored_are_found(shipped: Path) -> None:
    # Mutants: only clean answers compared; exits not compared; a share over cells.
    for column in ("adversarial_prediction", "adversarial_computed_exit", "clean_prediction"):
        table = pq.read_table(shipped / DECISIONS_FILE)
        values = table[column].to_numpy().copy()
        values[::20] += 1
        place = table.schema.get_field_index(column)
        doctored = table.set_column(place, table.schema.field(place), pa.array(values, pa.int16()))
        other = shipped.parent / column
        shutil.copytree(shipped, other)
        pq.write_table(doctored, other / DECISIONS_FILE)
        verified = verify_study(other, cards(), num_cells=18)
        assert verified.num_rows - verified.num_same == len(values[::20]) and not verified.agrees


def doctor(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(folder / DECISIONS_FILE)), folder / DECISIONS_FILE)


def with_column(table: pa.Table, column: str, change: Callable[[pa.ChunkedArray], Any]) -> pa.Table:
    place = table.schema.get_field_index(column)
    field = table.schema.field(place)
    return table.set_column(place, field, pa.array(change(table[column]).to_pylist(), field.type))


@pytest.mark.parametrize("column", ["succeeded", "attackable"])
def test_outcomes_that_were_turned_are_found(column: str, shipped: Path) -> None:
    # Mutant: answers compared, and not what every figure is made of.
    doctor(shipped, lambda table: with_column(table, column, pc.invert))
    assert verify_study(shipped, cards(), num_cells=18).num_same == 0


def test_costs_that_were_changed_are_found(shipped: Path) -> None:
    # Mutant: costs taken as they are.
    doctor(shipped, lambda table: with_column(table, "adversarial_cost", lambda values: pc.add(values, 0.01)))
    assert not verify_study(shipped, cards(), num_cells=18).agrees


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.filter(pc.field("succeeded")), "are among"),
        (lambda table: pa.concat_tables([table, table.slice(0, 1)]), "rows twice"),
        (lambda table: with_column(table, "epsilon", lambda values: pc.multiply(values, 0.5)), "asked: epsilon"),
    ],
    ids=["rows left out", "a row twice", "another epsilon"],
)
def test_tables_of_other_rows_or_questions_are_refused(change, said, shipped: Path) -> None:
    # Mutant: only rows that are there on both sides compared, or a traceback of pandas.
    doctor(shipped, change)
    with pytest.raises(ExitLensError, match=said):
        verify_study(shipped, cards(), num_cells=18)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seeds", (0, 3)),
        ("targets", ("static",)),
        ("sources", ("static",)),
        ("made_anew", True),
        ("record_steps", True),
    ],
)
def test_whatever_two_studies_ask_otherwise_is_told(field: str, value: object, original: Path) -> None:
    # Mutant: "They ask the same" of studies with other seeds, models or attacks.
    study = read_study(original)
    changed = value if getattr(study.spec, field) != value else not value
    other = replace(study, spec=replace(study.spec, **{field: changed}))
    (line,) = spec_differences(study, other)
    assert line.lower().startswith(field.replace("_", " ")) and spec_differences(study, study) == []
    each = [replace(choice, each_exit=not choice.each_exit) for choice in study.spec.attacks[:1]]
    lines = spec_differences(study, replace(study, spec=replace(study.spec, attacks=(*each, *study.spec.attacks[1:]))))
    assert any("at each exit" in line for line in lines)


@pytest.mark.parametrize("file", [DECISIONS_FILE, CELLS_FILE])
def test_a_damaged_table_is_named(file: str, shipped: Path, tmp_path: Path) -> None:
    # Mutant: an error of duckdb or pyarrow let through.
    (shipped / file).write_bytes((shipped / file).read_bytes()[:-20])
    for look in (
        report_html,
        lambda folder: verify_study(folder, cards()),
        lambda folder: ship(folder, tmp_path / "x"),
    ):
        with pytest.raises(ExitLensError, match=file):
            look(shipped)


def test_shipped_tables_are_not_run_over(shipped: Path) -> None:
    # Mutant: a run that begins with the tables of no cell.
    before = (shipped / DECISIONS_FILE).read_bytes()
    with pytest.raises(ExitLensError, match="without the parts"):
        run_toys(shipped)
    assert (shipped / DECISIONS_FILE).read_bytes() == before


def test_a_part_that_is_damaged_inside_is_made_again(original: Path, tmp_path: Path) -> None:
    # Mutant: a part whose footer can be read taken for whole.
    folder = tmp_path / "study"
    shutil.copytree(original, folder)
    expected = pq.read_table(folder / DECISIONS_FILE)
    for kind in ("answers", "made"):
        part = sorted((folder / "parts" / kind).iterdir())[3]
        content = bytearray(part.read_bytes())
        content[len(content) // 8] ^= 0xFF
        part.write_bytes(bytes(content))
    table = folder / DECISIONS_FILE
    content = bytearray(table.read_bytes())
    content[len(content) // 8] ^= 0xFF
    table.write_bytes(bytes(content))
    run_toys(folder)
    assert pq.read_table(table).equals(expected)


def test_policies_renamed_are_judged_again(original: Path, tmp_path: Path) -> None:
    # Mutant: tables kept whose policies bear other names than the study's.
    folder = tmp_path / "study"
    shutil.copytree(original, folder)
    study, cells = read_study(folder), read_cells(folder, read_study(folder))
    first, *others = study.spec.policies
    renamed = replace(study, spec=replace(study.spec, policies=(PolicyChoice(point="loses_1_percent"), *others)))
    gather(folder, renamed, cells)
    names = set(pq.read_table(folder / DECISIONS_FILE, columns=["policy"])["policy"].to_pylist())
    assert names == {policy.name for policy in renamed.spec.policies} and first.name not in names


def test_the_command_names_what_really_makes_the_study(original: Path) -> None:
    # Mutants: a file that is not where the command looks; a preset of the same name but with other questions.
    study = read_study(original)
    assert command_of(original, study) == f"python -m core study run {original}/spec.toml --out output/toys"
    assert command_of(original, study, goes_on=True).endswith(f"--out {original}")
    # Mutant: not a word of it where the study's words may mean other models by now.
    assert "toy-* means all such models" in again_words(study) and "toy-early-exit, toy-static" in again_words(study)
    named = replace(study.spec, sources=("toy-static",), targets=("toy-static",))
    assert again_words(replace(study, spec=named)) == ""
    placement, corruptions = ((PROJECT / "results" / name) for name in ("placement", "corruptions"))
    assert "run results/placement/spec.toml" in command_of(placement, read_study(placement))
    assert command_of(corruptions, read_study(corruptions)).startswith(
        "python -m core study run corruptions --out output"
    )


def test_a_model_trained_again_is_named(shipped: Path) -> None:
    # Mutants: verdicts of another model compared; only sources looked at.
    study = read_study(shipped)
    assert changed_models(study, cards()) == []
    again = cards() | {STATIC: replace(cards()[STATIC], weights_sha256="0" * 64)}
    assert changed_models(study, again) == [STATIC]
    assert changed_models(study, {EARLY: cards()[EARLY]}) == [STATIC]
    with pytest.raises(ExitLensError, match=f"{STATIC} changed"):
        verify_study(shipped, again)


def test_cells_bear_the_keys_of_their_content(shipped: Path) -> None:
    # Mutant: an attack edited in the table, and the old key believed.
    study = read_study(shipped)
    assert [cell.key for cell in read_cells(shipped, study)] == list(study.cells)
    table = pq.read_table(shipped / CELLS_FILE)
    place = table.schema.get_field_index("attack_json")
    edited = [text.replace('"num_steps": 3', '"num_steps": 4') for text in table["attack_json"].to_pylist()]
    assert edited != table["attack_json"].to_pylist()
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(edited)), shipped / CELLS_FILE)
    with pytest.raises(ExitLensError, match="are not those of the study"):
        read_cells(shipped, study)


def test_what_travels_says_the_same_but_for_rounding(original: Path, shipped: Path) -> None:
    # Mutants: verdicts made again from rounded confidences; pictures or perturbations along; an unfinished study.
    before, after = (pq.read_table(folder / DECISIONS_FILE).to_pandas() for folder in (original, shipped))
    rounded = [name for name in before if str(before[name].dtype) == "float32"]
    assert rounded == ["clean_confidence", "adversarial_confidence", "linf", "l2"]
    assert before.drop(columns=rounded).equals(after.drop(columns=rounded))
    assert (before[rounded] - after[rounded]).abs().max().max() <= 0.0005001
    assert sorted(path.suffix for path in shipped.iterdir()) == [".json", *4 * [".parquet"], ".toml"]
    assert read_study(shipped) == read_study(original)
    assert connect(shipped).execute("select count(*) from decisions").fetchone() == (len(before),)
    write_study(shipped, replace(read_study(shipped), num_done=20))
    with pytest.raises(ExitLensError, match="20 of 21 cells"):
        ship(shipped, shipped.parent / "never")


def test_studies_are_found_where_they_ship_and_where_they_are_run(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutant: folders that hold no study listed.
    (tmp_path / "results/empty").mkdir(parents=True)
    shutil.copytree(original, tmp_path / "results/b", ignore=shutil.ignore_patterns("parts"))
    shutil.copytree(original, tmp_path / "here/a", ignore=shutil.ignore_patterns("parts"))
    monkeypatch.setattr("core.study.store.SHIPPED", tmp_path / "results")
    monkeypatch.setenv("EXITLENS_STUDIES", str(tmp_path / "here"))
    assert study_folders() == [tmp_path / "results/b", tmp_path / "here/a"]


def test_two_runs_differ_by_what_they_ask_and_by_rows(original: Path, tmp_path: Path) -> None:
    # Mutants: equal rows listed; intervals that meet called apart; a model trained again not told.
    other_text = STUDY.replace("threshold = [0.6, 0.9]", "threshold = [0.6, 0.7]").replace(
        "num_steps = 3", "num_steps = 1"
    )
    run_toys(tmp_path / "other", other_text.replace("images_per_cell = 5", "images_per_cell = 5\nnum_images = 6"))
    one, other = read_study(original), read_study(tmp_path / "other")
    told = "\n".join(spec_differences(one, other))
    for said in (
        "Policies only here: T=0.90",
        "Policies only there: T=0.70",
        "Images: toy:test 12 here",
        "Attacks only",
    ):
        assert said in told
    assert spec_differences(one, one) == []
    retrained = replace(other, models=tuple(replace(model, hash="0" * 16) for model in other.models))
    assert f"Trained again in between: {EARLY}, {STATIC}" in spec_differences(one, retrained)
    rows = summary_table(original)
    assert summary_differences(rows, rows)[0].empty
    moved = rows.assign(rate=rows.rate - 0.5, low=0.0, high=0.1)
    found, _ = summary_differences(rows, moved)
    assert len(found) == len(rows) and found.difference.dropna().round(9).eq(0.5).all()
    assert found.apart.tolist() == (found.low > 0.1).tolist()


def test_part_that_is_written_over_is_whole_at_every_moment(tmp_path: Path) -> None:
    # Mutant: the file opened for writing in place.
    path = tmp_path / "deep/file"
    parts.write_whole(path, b"one")
    parts.write_whole(path, b"two")
    assert path.read_bytes() == b"two" and [each.name for each in path.parent.iterdir()] == ["file"]
    (tmp_path / "blocked").write_text("a file")
    with pytest.raises(ExitLensError, match="cannot be written"):
        parts.write_whole(tmp_path / "blocked/file", b"")
