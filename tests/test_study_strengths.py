"""How far attacks of one name may go in a study: severities, L2 radii, steps and seeds are told apart, never pooled."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from toy_study import EARLY, STATIC, STUDY, finished

from core.checkpoints import load_card
from core.metrics import rate
from core.study.cells import study_cells
from core.study.charts import Setting, charts, offered
from core.study.parts import MADE, part_path
from core.study.report import report_html
from core.study.spec import parse_study
from core.study.store import CELLS_FILE, read_study
from core.study.strengths import strengths
from core.study.summary import summary_rows, summary_table

CORRUPTIONS = ("gaussian-noise", "jpeg", "darker")
TEXT = (
    STUDY.partition("[[attacks]]")[0]
    + """seeds = [3, 4]
[[attacks]]
preset = ["gaussian-noise", "jpeg", "darker"]
severity = [5, 1, 3]

[[attacks]]
preset = "pgd"
epsilon = "8/255"
num_steps = [2, 3]
objective = "taken"

[[attacks]]
preset = "pgd"
norm = "l2"
epsilon = 0.5
num_steps = 2
objective = "taken"
random_start = true

[[policies]]
threshold = [0.6, 0.9]
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One finished study of toys."""
    with finished(tmp_path_factory.mktemp("project"), TEXT) as place:
        yield place


@pytest.fixture
def summary(folder: Path) -> pd.DataFrame:
    """The study in brief."""
    return summary_table(folder)


def test_strengths_tell_apart_all_attacks_of_one_name(folder: Path, summary: pd.DataFrame) -> None:
    # Mutants: every severity at radius 1; an L2 radius in 255ths; attacks of 2 and 3 steps under one word.
    found = strengths(folder)
    assert set(found) == set(summary.attack)
    assert set(found.values()) == {
        "severity 1", "severity 3", "severity 5", "8/255, 2 steps", "8/255, 3 steps", "L2 0.5",
    }  # fmt: skip
    choices = offered(read_study(folder), summary)
    severities = ("severity 1", "severity 3", "severity 5")
    assert choices.strengths == {
        **dict.fromkeys(CORRUPTIONS, severities), "pgd": ("8/255, 2 steps", "8/255, 3 steps"), "pgd-l2": ("L2 0.5",),
    }  # fmt: skip
    assert choices.objectives == {
        **dict.fromkeys(CORRUPTIONS, ("none",)), "pgd": ("taken",), "pgd-l2": ("taken",),
    }  # fmt: skip


def test_a_setting_is_one_row_a_pair(summary: pd.DataFrame) -> None:
    # Mutants: two seeds drawn on each other; a static source that vanishes because corruptions aim at nothing.
    for name, strength in (("pgd", "8/255, 2 steps"), ("pgd", "8/255, 3 steps"), ("pgd-l2", "L2 0.5")):
        rows = summary_rows(summary, "T=0.90", attack_name=name, strength=strength)
        assert sorted(zip(rows.source, rows.target, strict=True)) == [
            (source, target) for source in sorted((EARLY, STATIC)) for target in sorted((EARLY, STATIC))
        ], name
    seeds = summary[summary.attack_name == "pgd-l2"].seed
    assert set(seeds) == {3, 4} and set(summary_rows(summary, "T=0.90", attack_name="pgd-l2").seed) == {3}


def test_every_row_has_its_own_rate_and_interval(summary: pd.DataFrame) -> None:
    # Mutant: rates in another order than their rows.
    for row in summary.to_dict("records"):
        share = rate(row["num_fooled"], row["num_images"])
        assert [row["rate"], row["low"], row["high"]] == pytest.approx([share.value, share.low, share.high])
    assert summary.rate.nunique() > 3


def test_a_corruption_is_shown_to_each_model_once_and_is_the_same_for_all(folder: Path) -> None:
    # Mutants: what every other model was shown shown again; noise drawn for each model anew.
    cells = pq.read_table(folder / CELLS_FILE).to_pylist()
    corrupted = [cell for cell in cells if cell["attack_name"] in CORRUPTIONS]
    assert {(cell["source"], *cell["targets"]) for cell in corrupted} == {(EARLY, EARLY), (STATIC, STATIC)}
    made: dict[tuple[str, str], list[object]] = {}
    for cell in corrupted:
        table = pq.read_table(part_path(folder, MADE, cell["made"]))
        made.setdefault((cell["images"], cell["attack"]), []).append(table["perturbation"].to_pylist())
    assert all(len(each) == 2 and each[0] == each[1] for each in made.values())
    # Mutant: a model that attacks are only shown to, left out.
    spec = parse_study(TEXT.replace('sources = ["toy-*"]', f'sources = ["{STATIC}"]'), "here")
    planned = study_cells(spec, {name: load_card(name) for name in (EARLY, STATIC)}, {"toy:test": range(5)})
    sources = [(cell.source, cell.attack.looks_at_model) for cell in planned if cell.attack]
    assert set(sources) == {(STATIC, True), (STATIC, False), (EARLY, False)}


def test_charts_of_corruptions_go_by_severity(folder: Path, summary: pd.DataFrame) -> None:
    # Mutants: severities drawn in the order of the file; the rows of one severity under another's words.
    study = read_study(folder)
    found = {
        chart.key: chart
        for chart in charts(study, summary, Setting("T=0.90", "jpeg", "severity 3", "none", "toy:test"))
    }
    assert set(found) == {"attacks", "strength", "cost"}
    for line in found["strength"].figure.data:
        assert list(line.x) == ["1", "3", "5"]
    assert found["strength"].figure.layout.xaxis.title.text == "severity"
    rows = found["attacks"].table
    assert set(rows.attack_name) == set(CORRUPTIONS) and set(rows.strength) == {"severity 3"} and len(rows) == 6
    drawn = {
        (trace.name, words.partition(",")[0]): value
        for trace in found["attacks"].figure.data
        for words, value in zip(trace.hovertext, trace.x, strict=True)
    }
    assert drawn == {(row["line"], row["attack_title"]): 100 * row["rate"] for row in rows.to_dict("records")}
    assert "severity 3" in found["attacks"].caption and "n = " in found["attacks"].caption
    html = report_html(folder)
    for said in ("severity 5", "L2 0.5", "8/255, 3 steps"):
        assert said in html
    assert "127.5/255" not in html and "255/255" not in html
