"""A study in brief, drawn, and as one file: numbers against the dashboard's own tables, a page that needs nothing."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser
from toy_study import EARLY, STATIC, STUDY, run_toys, write_project

from core.figures.studies import lines_figure
from core.study.charts import Offered, Setting, charts, offered
from core.study.claims import first_policy, interval_words
from core.study.report import command_of, report_html
from core.study.store import DECISIONS_FILE, read_study
from core.study.summary import SUMMARY, summary_rows, summary_table
from core.tables import DECISIONS, transfer_table

TEXT = (
    STUDY.partition("[[attacks]]")[0].replace('title = "Toys"', 'title = "Toys & <others>"')
    + """made_anew = true
[[attacks]]
preset = "pgd"
epsilon = ["2/255", "8/255", "32/255"]
objective = ["taken", "final"]

[[attacks]]
preset = "pgd"
epsilon = "8/255"
objective = "each-exit"

[[attacks]]
preset = "pgd"
epsilon = "32/255"
stop_when_fooled = true

[[policies]]
threshold = [0.6, 0.8, 0.9]
"""
)


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One finished study of toys that every chart can be drawn of."""
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


@pytest.fixture
def summary(study_folder: Path) -> pd.DataFrame:
    """The study in brief."""
    return summary_table(study_folder)


# In brief


def test_rates_are_those_of_the_transfer_page(study_folder: Path, summary: pd.DataFrame) -> None:
    # Mutants: the target's clean answers alone as denominator; stopped attacks or other policies counted along.
    decisions = pq.read_table(study_folder / DECISIONS_FILE).to_pandas()
    static = decisions.source == STATIC
    for policy, aim in (("T=0.60", "taken"), ("T=0.90", "final")):
        rows = decisions[(decisions.policy == policy) & (decisions.epsilon == 8 / 255) & decisions.made_anew]
        rows = rows[(rows.objective == aim) | static.loc[rows.index]]
        expected = transfer_table(rows[list(DECISIONS.columns)])
        expected = expected[expected.denominator == "attackable"].set_index(["source", "target"])
        found = summary_rows(summary, policy, strength="8/255", objective=aim).set_index(["source", "target"])
        assert len(found) == len(expected) == 4
        for column in ("num_fooled", "num_images", "rate", "low", "high"):
            assert found[column].loc[expected.index].tolist() == pytest.approx(expected[column].tolist(), nan_ok=True)


def test_accuracy_cost_and_shift_are_of_all_images(study_folder: Path, summary: pd.DataFrame) -> None:
    # Mutants: means over attackable images; clean and adversarial exchanged; an interval of unpaired costs.
    decisions = pq.read_table(study_folder / DECISIONS_FILE).to_pandas()
    row = summary[(summary.source == EARLY) & (summary.target == EARLY) & summary.stop_when_fooled].iloc[0]
    rows = decisions[(decisions.attack == row.attack) & (decisions.policy == row.policy) & (decisions.target == EARLY)]
    rows = rows[rows.made_at == row.made_at]
    assert row.num_all == len(rows) == 12
    assert row.adversarial_accuracy == pytest.approx((rows.adversarial_prediction == rows.label).mean())
    assert row.clean_cost == pytest.approx(rows.clean_cost.mean())
    change = rows.adversarial_cost - rows.clean_cost
    assert (row.cost_change_low + row.cost_change_high) / 2 == pytest.approx(change.mean())
    reach = 1.959964 * change.std() / 12**0.5
    assert row.cost_change_high - change.mean() == pytest.approx(reach, rel=1e-5)
    shift = [int((rows.exit_shift < 0).sum()), int((rows.exit_shift == 0).sum()), int((rows.exit_shift > 0).sum())]
    assert [row.num_earlier, row.num_same, row.num_later] == shift
    assert SUMMARY.check(summary) is not None


def test_one_setting_is_one_row_a_pair(summary: pd.DataFrame) -> None:
    # Mutants: attacks that stop counted; the fixed examples beside those made anew; an aim for a source that has none.
    for policy in ("T=0.60", "T=0.80", "T=0.90"):
        for aim in ("taken", "final"):
            rows = summary_rows(summary, policy, attack_name="pgd", strength="32/255", objective=aim)
            assert len(rows) == 4 and not rows.stop_when_fooled.any() and rows.made_anew.all()
            assert set(rows[rows.source == EARLY].objective) == {aim}
            assert set(rows[rows.source == STATIC].objective) == {"final"}


# Drawn


def drawn(folder: Path, summary: pd.DataFrame, **changes: object) -> dict[str, object]:
    setting = replace(Setting("T=0.90", "pgd", "8/255", "taken", "toy:test"), **changes)  # type: ignore[arg-type]
    return {chart.key: chart for chart in charts(read_study(folder), summary, setting)}


def test_every_chart_that_the_tables_allow_is_drawn(study_folder: Path, summary: pd.DataFrame) -> None:
    # Mutants: a chart left out, or drawn of two points.
    found = drawn(study_folder, summary)
    assert set(found) == {"matrix", "directions", "strength", "cost", "exit", f"thresholds-{EARLY}"}
    for chart in found.values():
        assert chart.alt and chart.caption and len(chart.table)  # type: ignore[attr-defined]
    assert set(drawn(study_folder, summary, strength="2/255")) == set(found) - {"exit"}
    # Mutant: the images of a rate printed under a change in cost, which is over all of them.
    assert "n = 12 ·" in found["cost"].caption and "n = 12 ·" not in found["matrix"].caption
    exits_only = summary[summary.objective.str.startswith("exit-")]
    assert set(drawn(study_folder, exits_only)) == {"exit"} and drawn(study_folder, summary, attack_name="fgsm") == {}
    assert offered(read_study(study_folder), summary) == Offered(
        ("T=0.60", "T=0.80", "T=0.90"),
        ("toy:test",),
        {"pgd": ("2/255", "8/255", "32/255")},
        {"pgd": ("taken", "final")},
    )


def test_too_many_lines_for_one_chart_are_drawn_model_by_model(
    study_folder: Path, summary: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutants: a legend over the whole chart; lines left out, or in two charts.
    whole = drawn(study_folder, summary)
    monkeypatch.setattr("core.study.charts.MANY_LINES", 0)
    parts = drawn(study_folder, summary)
    assert set(whole) - set(parts) == {"cost", "exit"}
    assert set(parts) - set(whole) == {f"cost-{EARLY}", f"exit-{EARLY}"}
    for name in ("cost", "exit"):
        assert parts[f"{name}-{EARLY}"].table.equals(whole[name].table)  # type: ignore[attr-defined]
        assert "Toy early-exit" in parts[f"{name}-{EARLY}"].title  # type: ignore[attr-defined]


def test_charts_speak_of_what_an_attack_is_counted_by(study_folder: Path, summary: pd.DataFrame) -> None:
    # Mutant: slowdowns told as answers that are wrong.
    found, slowed = drawn(study_folder, summary), drawn(study_folder, summary.assign(success_rule="slowed"))
    for charts_of, title, axis, counted in (
        (found, "Who fools whom", "fooled", "that source and target answer rightly when clean"),
        (slowed, "From model to model", "slowed down", "that leave early on both source and target when clean"),
    ):
        matrix, directions, strength = (charts_of[key] for key in ("matrix", "directions", "strength"))
        assert matrix.title.startswith(title)  # type: ignore[attr-defined]
        assert matrix.caption.startswith(f"{axis.capitalize()}, of the images {counted}.")  # type: ignore[attr-defined]
        assert "Outlined: an attack shown to its own source." in matrix.caption  # type: ignore[attr-defined]
        assert f"Of the images {counted}" in directions.caption  # type: ignore[attr-defined]
        assert directions.figure.layout.yaxis.title.text == f"target {axis}"  # type: ignore[attr-defined]
        assert strength.figure.layout.yaxis.title.text == axis  # type: ignore[attr-defined]


def test_fixed_and_anew_are_two_lines_over_the_threshold(study_folder: Path, summary: pd.DataFrame) -> None:
    # Mutant: fixed examples judged at each threshold drawn as attacks made anew.
    chart = drawn(study_folder, summary)[f"thresholds-{EARLY}"]
    fixed, anew = chart.figure.data  # type: ignore[attr-defined]
    assert list(fixed.x) == list(anew.x) == [0.6, 0.8, 0.9]
    assert "made at T = 0.60" in fixed.name and "anew" in anew.name
    rows = summary[(summary.source == EARLY) & (summary.target == EARLY) & (summary.objective == "taken")]
    rows = rows[(rows.epsilon == 8 / 255)]
    assert list(fixed.y) == pytest.approx((100 * rows[rows.made_at == 0.6].sort_values("threshold").rate).tolist())
    assert list(anew.y) == pytest.approx((100 * rows[rows.made_anew].sort_values("threshold").rate).tolist())
    assert fixed.y[0] == anew.y[0]  # the same attack at the threshold where both were made


# As one file


@pytest.mark.parametrize("what", ["stopped", "nothing done"])
def test_a_study_without_rows_to_draw_is_reported_all_the_same(what: str, study_folder: Path, tmp_path: Path) -> None:
    # Mutants: the first of no attacks asked for; rates of no rows taken for text.
    shutil.copytree(study_folder, tmp_path / "study")
    table = pq.read_table(tmp_path / "study" / DECISIONS_FILE)
    if what == "stopped":
        place = table.schema.get_field_index("stop_when_fooled")
        table = table.set_column(place, table.schema.field(place), pa.array([True] * len(table)))
    else:
        table = table.slice(0, 0)
    pq.write_table(table, tmp_path / "study" / DECISIONS_FILE)
    assert "How it was made" in report_html(tmp_path / "study")


def test_report_is_one_file_that_asks_for_nothing(study_folder: Path) -> None:
    # Mutants: plotly from the internet, or once a chart; a title that is taken for markup; a section left out.
    html = report_html(study_folder)
    assert not re.search(r"""<(?:script|link|img|iframe)[^>]*\s(?:src|href)\s*=""", html)
    assert html.count("plotly.js v") == 1
    assert "Toys &amp; &lt;others&gt;" in html and "<others>" not in html.replace("&lt;others&gt;", "")
    study = read_study(study_folder)
    for said in (
        "Does it come to the same?", "No claim is about this study", "Who fools whom", "omp_wait_policy",
        *(model.hash for model in study.models), command_of(study_folder, study), "torch",
    ):  # fmt: skip
        assert said in html, said
    assert html.count('class="plotly-graph-div"') >= 9


def test_claims_stand_in_the_report_with_their_verdicts(study_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: only claims that hold are shown.
    from core.study import claims, report

    asked = [
        claims.Claim(name="own", text="Costs stay.", family="f", study="toys", measure="own_cost_change",
                     direction="within", margin=1.5),
        claims.Claim(name="not", text="Costs rise by much.", family="f", study="toys", measure="own_cost_change",
                     direction="greater", margin=1.5),
        claims.Claim(name="none", text="Size matters.", family="f", study="toys", measure="cost_change_by_size",
                     direction="greater", margin=0.02),
    ]  # fmt: skip
    for module in (claims, report):
        monkeypatch.setattr(module, "load_claims", lambda: asked)
    monkeypatch.setattr(claims, "MIN_IMAGES", 10)  # toys have twelve
    html = report_html(study_folder)
    for verdict in ("holds", "does not hold", "not measured"):
        assert f'class="verdict">{verdict}</span>' in html
    table = first_policy(claims.judge_claims(study_folder))
    assert table.elsewhere.tolist() == ["the same under 2 other policies"] * 2 + [""]
    assert re.fullmatch(r"[+−]\d+\.\d % \([+−]\d+\.\d to [+−]\d+\.\d %\)", interval_words(table.iloc[0].to_dict()))


@pytest.mark.browser
def test_report_opens_offline_in_a_browser(browser: Browser, study_folder: Path, tmp_path: Path) -> None:
    # Mutant: a script that fails, or anything asked of the network.
    file = tmp_path / "report.html"
    file.write_text(report_html(study_folder), encoding="utf-8")
    problems: list[str] = []
    page = browser.new_context(offline=True).new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if "file:" not in request.url else None)
    page.goto(f"file://{file}", timeout=120_000)
    page.wait_for_selector(".main-svg", timeout=60_000)
    assert page.locator(".plotly-graph-div .main-svg").count() >= 9
    assert page.locator("h1").inner_text() == "Toys & <others>"
    assert [url for url in problems if not url.startswith(("data:", "blob:"))] == []


def test_lines_alike_in_kind_and_architecture_differ_in_their_markers() -> None:
    # Mutant: every target of one source drawn the same.
    lines = pd.DataFrame(
        {"line": ["a → b", "a → c", "d → b"], "source": ["a", "a", "d"], "architecture": ["x", "x", "y"]}
    )
    rows = lines.assign(epsilon=1.0, value=0.5, low=0.4, high=0.6, words="")
    kinds = dict.fromkeys(("a", "d"), "early-exit")
    drawn = lines_figure(rows, x="epsilon", x_title="", y_title="", kinds=kinds).data
    looks = [(line.line.dash, line.marker.symbol) for line in drawn]
    assert looks == [("solid", "circle"), ("solid", "circle-open"), ("dash", "circle")]
