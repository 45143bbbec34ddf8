"""What making an example takes: numbers against the raw steps by hand and against the claims, and charts of them."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pyarrow.parquet as pq
import pytest
from toy_study import EARLY, STATIC, STUDY, run_toys, write_project

from core.figures.making import making_figure
from core.study.charts import Chart, Setting
from core.study.making import MADE_EXITS, MAKING, Making, making_tables
from core.study.making_charts import making_charts, stopping_charts
from core.study.measures import Tables, Where, early_share_of_making, making_cost
from core.study.report import report_html
from core.study.store import CELLS_FILE, DECISIONS_FILE, SHIPPED, STEPS_FILE, connect, read_study
from core.study.summary import summary_table

TEXT = (
    STUDY.partition("[[attacks]]")[0]
    + """
[[attacks]]
preset = "pgd"
epsilon = ["2/255", "8/255", "32/255", "96/255"]
objective = ["taken", "final"]
num_steps = 4

[[attacks]]
preset = "pgd"
epsilon = "32/255"
objective = "each-exit"
num_steps = 4

[[attacks]]
preset = "pgd"
epsilon = ["8/255", "32/255"]
num_steps = 4
stop_when_fooled = true

[[policies]]
threshold = [0.6, 0.9]
"""
)
FEW = (
    STUDY.partition("[[attacks]]")[0]
    + """
[[attacks]]
preset = "pgd"
epsilon = "32/255"
num_steps = 4

[[attacks]]
preset = "pgd"
epsilon = "32/255"
num_steps = 4
stop_when_fooled = true

[[policies]]
threshold = [0.6, 0.9]
"""
)
STRENGTHS = ["2/255", "8/255", "32/255", "96/255"]
SETTING = Setting("T=0.60", "pgd", "32/255", "taken", "toy:test")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """One study of toys as its attacks went, one with attacks made anew, and one that noted no steps."""
    import toys

    from core.datasets import DATASETS
    from core.models import ARCHITECTURES

    folder = tmp_path_factory.mktemp("project")
    texts = {
        "noted": TEXT,
        "anew": FEW.replace("record_steps = true", "record_steps = true\nmade_anew = true"),
        "unnoted": FEW.replace("record_steps = true", "record_steps = false"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "toy", toys.TOY_DATASET)
        patch.setitem(ARCHITECTURES, "toy", toys.TOY_ARCHITECTURE)
        for name, value in write_project(folder).items():
            patch.setenv(name, value)
        for name, text in texts.items():
            run_toys(folder / name, text)
        yield {name: folder / name for name in texts}


@pytest.fixture(scope="module")
def making(folders: dict[str, Path]) -> Making:
    return making_tables(folders["noted"], read_study(folders["noted"]))


def row_of(making: Making, source: str, objective: str, strength: str = "32/255") -> pd.Series:
    rows = making.costs.set_index(["source", "objective", "strength"])
    return rows.loc[[(source, objective, strength)]].iloc[0]


def raw_steps(folder: Path, source: str, objective: str, epsilon: float) -> pd.DataFrame:
    """The steps of one attack that runs on, one row an image."""
    cells = pq.read_table(folder / CELLS_FILE).to_pandas()
    cells = cells[(cells.source == source) & (cells.objective == objective) & ~cells.stop_when_fooled]
    steps = pq.read_table(folder / STEPS_FILE).to_pandas()
    return steps[steps.made.isin(cells[np.isclose(cells.epsilon, epsilon)].made)].set_index("image_id").sort_index()


def passes_until_wrong(row: pd.Series) -> int:
    """Gradient passes of one image before it is wrong for the first time."""
    return next((number for number, wrong in enumerate(row.step_wrong) if wrong), len(row.step_wrong) - 1)


def drawn(folder: Path, making: Making, setting: Setting = SETTING) -> dict[str, Chart]:
    study = read_study(folder)
    both = [*making_charts(study, making, setting), *stopping_charts(study, summary_table(folder), setting)]
    return {chart.key: chart for chart in both}


# Costs


@pytest.mark.parametrize(("source", "objective"), [(EARLY, "taken"), (EARLY, "final"), (STATIC, "final")])
@pytest.mark.parametrize(("strength", "epsilon"), [("2/255", 2 / 255), ("32/255", 32 / 255)])
def test_cost_is_that_of_the_passes_until_an_image_is_first_wrong(
    folders: dict[str, Path], making: Making, source: str, objective: str, strength: str, epsilon: float
) -> None:
    # Mutants: images that are never wrong left out; the pass counted that finds an image wrong; an attack on the final
    # exit said to stop early; images counted that a twin has wrong at the start; the network with its exits as unit.
    folder, model = folders["noted"], read_study(folders["noted"]).model(source)
    steps = raw_steps(folder, source, objective, epsilon)
    counted = ~steps.step_wrong.str[0]
    for other, aim in ((EARLY, "taken"), (EARLY, "final"), (STATIC, "final")):
        counted &= ~raw_steps(folder, other, aim, epsilon).step_wrong.str[0]
    unit = sum(model.layer_multiply_adds) + model.classifier_multiply_adds[-1]
    costs = []
    for _, image in steps[counted].iterrows():
        exits = image.step_exit[: passes_until_wrong(image)]
        stages = [model.exit_costs[index] if objective == "taken" else 1.0 for index in exits]
        costs.append(sum(stages) * model.multiply_adds / unit)
    row = row_of(making, source, objective, strength)
    assert 1 < row.num_images == len(costs) < 12 and row.num_steps == 4
    assert row.making_cost == pytest.approx(np.mean(costs))
    assert row.making_cost_high - row.making_cost == pytest.approx(half_of_mean(costs, 12))
    assert row.num_made == sum(wrong.any() for wrong in steps[counted].step_wrong)


def half_of_mean(values: list[float], num_drawn: int) -> float:
    """Half of the interval of a mean over some of the images drawn."""
    squares = sum((value - np.mean(values)) ** 2 for value in values)
    return 1.959964 * float(np.sqrt(squares * num_drawn / (num_drawn - 1))) / len(values)


def test_useful_cost_is_all_passes_over_examples_that_fool_the_static_twin(
    folders: dict[str, Path], making: Making
) -> None:
    # Mutants: passes until first wrong, though the image shown is the last; fooled images of another target; images
    # that the twin has wrong when clean.
    folder, model = folders["noted"], read_study(folders["noted"]).model(EARLY)
    decisions = pq.read_table(folder / DECISIONS_FILE).to_pandas()
    decisions = decisions[~decisions.stop_when_fooled & (decisions.policy == "T=0.60")]
    decisions = decisions[np.isclose(decisions.epsilon, 96 / 255)]
    shown = decisions[(decisions.source == EARLY) & (decisions.target == STATIC) & (decisions.objective == "taken")]
    shown = shown.set_index("image_id").sort_index()
    steps = raw_steps(folder, EARLY, "taken", 96 / 255)
    right = ~steps.step_wrong.str[0] & (shown.clean_prediction == shown.label)
    unit = sum(model.layer_multiply_adds) + model.classifier_multiply_adds[-1]
    costs = [sum(model.exit_costs[index] for index in exits[:-1]) for exits in steps[right].step_exit]
    fooled = int((shown.adversarial_prediction != shown.label)[right].sum())
    row = row_of(making, EARLY, "taken", "96/255")
    assert row.twin == STATIC and row.num_useful == fooled > 0 and row.num_shown == right.sum()
    assert row.useful_cost == pytest.approx(sum(costs) * model.multiply_adds / unit / fooled)
    assert row.useful_cost_low < row.useful_cost < row.useful_cost_high
    own = row_of(making, STATIC, "final", "96/255")
    assert own.twin == STATIC and own.whole_cost == 4
    assert own.useful_cost == pytest.approx(4 * own.num_shown / own.num_useful)


def agrees_with_claims(folder: Path, making: Making, attack_name: str, strength: str, epsilon: float) -> None:
    study = read_study(folder)
    where = Where(study.spec.policies[0].name, attack_names=(attack_name,), epsilons=(epsilon,))
    tables = Tables(study, connect(folder), where)
    rows = making.costs[(making.costs.attack_name == attack_name) & (making.costs.strength == strength)]
    rows = rows[(rows.objective == "taken") | (rows.kind == "static")]
    (unit,) = making_cost(tables)
    early, static = (rows[rows.kind == kind].iloc[0] for kind in ("early-exit", "static"))
    expected = unit.numerator.sum() / unit.denominator.sum()
    assert early.making_cost / static.making_cost - 1 == pytest.approx(expected)
    assert early.num_images == static.num_images == (unit.denominator > 0).sum()
    exits = making.exits[(making.exits.source == early.source) & (making.exits.attack == early.attack)]
    (share,) = early_share_of_making(tables)
    in_first_half = exits[exits.exit_cost <= 0.5].needed_share.sum()
    assert in_first_half == pytest.approx(share.numerator.sum() / share.denominator.sum())


def test_costs_are_those_that_claims_are_judged_by(folders: dict[str, Path], making: Making) -> None:
    # Mutants: another unit on one side; exits after the step in place of those before it.
    agrees_with_claims(folders["noted"], making, "pgd", "32/255", 32 / 255)


def test_costs_of_the_shipped_study_are_those_that_its_claims_are_judged_by() -> None:
    # Mutant: cells of several image ranges counted as several attacks.
    folder = SHIPPED / "making"
    making = making_tables(folder, read_study(folder))
    assert len(making.costs) == 12 and set(making.costs.num_images) == {859}
    for attack_name in ("pgd", "mi-fgsm"):
        for strength, epsilon in (("1/255", 1 / 255), ("2/255", 2 / 255), ("8/255", 8 / 255)):
            agrees_with_claims(folder, making, attack_name, strength, epsilon)


def test_attacks_made_anew_are_kept_apart_by_their_policy(folders: dict[str, Path]) -> None:
    # Mutants: passes of all policies in one mean; a static source under the first policy alone.
    making = making_tables(folders["anew"], read_study(folders["anew"]))
    alike = making.costs[making.costs.strength == "32/255"]
    for policy in ("T=0.60", "T=0.90"):
        rows = alike[alike.policy == policy].set_index(["source", "objective"])
        assert rows.loc[(STATIC, "final"), "whole_cost"] == 4 and (EARLY, "taken") in rows.index
    taken = alike[(alike.source == EARLY) & (alike.objective == "taken")].set_index("policy")
    assert taken.loc["T=0.60", "whole_cost"] < taken.loc["T=0.90", "whole_cost"]
    assert "T = 0.90" in drawn(folders["anew"], making, replace(SETTING, policy="T=0.90"))["making"].caption


# Exits


def test_exits_are_those_before_each_pass(folders: dict[str, Path], making: Making) -> None:
    # Mutants: the end counted, though no pass follows it; exits of attacks that stop; unknown exits taken for the last.
    steps = raw_steps(folders["noted"], EARLY, "taken", 32 / 255)
    every = np.concatenate([exits[:-1] for exits in steps.step_exit])
    needed = np.concatenate([row.step_exit[: passes_until_wrong(row)] for _, row in steps.iterrows()])
    rows = making.exits[(making.exits.objective == "taken") & (making.exits.strength == "32/255")]
    assert rows.exit_index.tolist() == [0, 1, 2] and set(rows.num_all_passes) == {48} == {len(every)}
    assert rows.num_passes.tolist() == [int((every == index).sum()) for index in range(3)]
    assert rows.num_needed.tolist() == [int((needed == index).sum()) for index in range(3)]
    assert rows.share.sum() == pytest.approx(1) and rows.needed_share.sum() == pytest.approx(1)
    assert ((rows.share_low <= rows.share) & (rows.share <= rows.share_high)).all()
    at_first = making.exits[making.exits.objective == "exit-1"]
    assert at_first.num_all_passes.iloc[0] == at_first.num_passes.sum() < 48  # where exit 1 is unsure, nobody knows


# Drawn


def test_every_chart_has_words_and_its_table(folders: dict[str, Path], making: Making) -> None:
    # Mutants: a chart left out, or without n, interval or alternative text.
    found = drawn(folders["noted"], making)
    assert set(found) == {"making", f"made-exits-{EARLY}", f"stopping-{EARLY}"}
    for chart in found.values():
        assert chart.alt and len(chart.table) and "n = " in chart.caption and "95 % intervals" in chart.caption
    costs = found["making"].table
    assert costs.strength.tolist() == [name for name in STRENGTHS for _ in range(2)]
    assert set(zip(costs.source, costs.objective, strict=True)) == {(EARLY, "taken"), (STATIC, "final")}
    html = report_html(folders["noted"])
    for chart in found.values():
        assert chart.title in html


def test_what_is_drawn_is_what_the_tables_say(folders: dict[str, Path], making: Making) -> None:
    # Mutants: the two kinds exchanged; shares as fractions; passes until first wrong where all are drawn.
    found = drawn(folders["noted"], making)
    points = {(trace.name, trace.xaxis): trace for trace in found["making"].figure.data if trace.mode == "markers"}
    for kind, source, aim, symbol in (("early-exit", EARLY, "taken", "circle"), ("static", STATIC, "final", "square")):
        rows = [row_of(making, source, aim, strength) for strength in STRENGTHS]
        for axis, value in (("x", "making_cost"), ("x2", "useful_cost")):
            trace = points[f"made on {kind}", axis]
            assert set(trace.marker.symbol) == {symbol}
            assert list(trace.x) == pytest.approx([getattr(row, value) for row in rows], nan_ok=True)
    every, needed = found[f"made-exits-{EARLY}"].figure.data
    table = found[f"made-exits-{EARLY}"].table
    assert list(every.y) == pytest.approx((100 * table.share).tolist())
    assert list(needed.y) == pytest.approx((100 * table.needed_share).tolist())
    assert [str(name).partition("<br>")[0] for name in every.x] == ["1", "2", "Final"]


def test_stopping_is_compared_with_the_same_attack_that_runs_on(folders: dict[str, Path], making: Making) -> None:
    # Mutants: the two exchanged; other strengths; clean costs of other images; static targets, whose cost never moves.
    folder = folders["noted"]
    chart = drawn(folder, making)[f"stopping-{EARLY}"]
    decisions = pq.read_table(folder / DECISIONS_FILE).to_pandas()
    decisions = decisions[(decisions.target == EARLY) & (decisions.policy == "T=0.60")]
    table = chart.table
    assert sorted(zip(table.source, table.strength, strict=True)) == [
        (source, strength) for source in (EARLY, STATIC) for strength in ("32/255", "8/255")
    ]
    for number, row in enumerate(table.itertuples()):
        own = decisions[(decisions.source == row.source) & np.isclose(decisions.epsilon, row.epsilon)]
        own = own[own.objective == row.objective]
        for stops, value, trace in (
            (False, row.running, chart.figure.data[0]),
            (True, row.stopping, chart.figure.data[1]),
        ):
            rows = own[own.stop_when_fooled == stops]
            assert len(rows) == 12
            assert value == pytest.approx((rows.adversarial_cost - rows.clean_cost).mean())
            assert trace.x[number] == pytest.approx(100 * value)
    assert not [*stopping_charts(read_study(folder), summary_table(folder), replace(SETTING, policy="none"))]


def test_without_steps_nothing_of_making_is_drawn(folders: dict[str, Path], making: Making, tmp_path: Path) -> None:
    # Mutants: one entry a row taken for steps; an error for a table without rows; static sources drawn alone.
    assert set(drawn(folders["unnoted"], Making(pd.DataFrame(), pd.DataFrame()))) == {f"stopping-{EARLY}"}
    unnoted = making_tables(folders["unnoted"], read_study(folders["unnoted"]))
    shutil.copytree(folders["noted"], tmp_path / "empty")
    table = pq.read_table(tmp_path / "empty" / STEPS_FILE)
    pq.write_table(table.slice(0, 0), tmp_path / "empty" / STEPS_FILE)
    study = read_study(folders["noted"])
    for empty in (unnoted, making_tables(tmp_path / "empty", study)):
        assert empty.costs.empty and empty.exits.empty
        assert list(empty.costs.columns) == list(MAKING.columns)
        assert list(empty.exits.columns) == list(MADE_EXITS.columns)
        assert not [*making_charts(study, empty, SETTING)]
    alone = Making(making.costs[making.costs.kind == "static"], making.exits.head(0))
    assert not [*making_charts(study, alone, SETTING)]


def test_axes_stay_quiet_and_rows_apart(folders: dict[str, Path], making: Making) -> None:
    # Mutants: axes in the theme's colour; a model's points over another's.
    for chart in drawn(folders["noted"], making).values():
        figure: go.Figure = chart.figure
        layout = figure.to_plotly_json()["layout"]
        assert all(axis["tickfont"]["color"] for name, axis in layout.items() if name[1:5] == "axis")
    points = [trace for trace in drawn(folders["noted"], making)["making"].figure.data if trace.mode == "markers"]
    heights = [height for trace in points if trace.xaxis == "x" for height in trace.y]
    assert len(set(heights)) == len(heights) == 8


def test_second_seeds_stand_apart_and_hollow() -> None:
    # Mutants: points of one row over each other; two seeds of a kind that look alike; rows too low for their points.
    cost = {f"making_cost{end}": [1.0, 2.0, 1.5, 2.5] for end in ("", "_low", "_high")}
    unknown = {f"useful_cost{end}": [np.nan] * 4 for end in ("", "_low", "_high")}
    kinds = ["early-exit", "static", "early-exit", "static"]
    rows = pd.DataFrame({"words": "PGD", "label": list("abcd"), "kind": kinds, "told": "", **cost, **unknown})
    figure = making_figure(rows)
    points = [trace for trace in figure.data if trace.mode == "markers"]
    assert {trace.name: list(trace.marker.symbol) for trace in points} == {
        "made on early-exit": ["circle", "circle-open"], "made on static": ["square", "square-open"],
    }  # fmt: skip
    heights = sorted(height for trace in points for height in trace.y)
    row_height = making_figure(pd.concat([rows, rows.assign(words="FGSM")])).layout.height - figure.layout.height
    assert min(np.diff(heights)) * row_height == pytest.approx(6.5)
    assert max(heights) - min(heights) < 0.5
