"""A study as one HTML file that opens offline: question, claims, charts, numbers, models, and how to repeat it."""

import shlex
from collections.abc import Hashable, Mapping
from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from core.figures.studies import claims_figure
from core.figures.theme import KIND_GLYPHS, QUIET
from core.study.black_box import black_box_table
from core.study.black_box_charts import black_box_charts, black_box_rows
from core.study.charts import Chart, Setting, attack_words, charts, labels_of, offered
from core.study.claims import count_words, first_policy, interval_words, judge_claims, load_claims
from core.study.making import Making, making_tables
from core.study.making_charts import making_charts, stopping_charts
from core.study.models import means_many
from core.study.spec import load_study, policy_words, shipped_studies
from core.study.store import PROJECT, SPEC_FILE, Study, read_study
from core.study.summary import summary_table

TEMPLATE = "report.html.jinja"
MAX_CHARTS = 60
GRID = "rgba(107,118,130,0.3)"


def report_html(folder: Path) -> str:
    """The report of a study: everything in one text, plotly's script once.

    Args:
        folder: Of a study that was run.

    Raises:
        ExitLensError: If there is no study or a table is missing.
    """
    study, summary = read_study(folder), summary_table(folder)
    black_box, making = black_box_table(folder, study), making_tables(folder, study)
    claims = first_policy(judge_claims(folder))
    measured = claims[claims.verdict != "not measured"]
    environment = Environment(
        loader=PackageLoader("core.study", "."), autoescape=select_autoescape(default=True), undefined=StrictUndefined
    )
    return environment.get_template(TEMPLATE).render(
        words=policy_words,
        study=study,
        labels=labels_of(study),
        claims=[_words(row) for row in claims.to_dict("records")],
        claims_chart=_drawn(claims_figure(with_bounds(measured)), is_first=True) if len(measured) else "",
        charts=[
            {"chart": chart, "drawn": _drawn(chart.figure, is_first=measured.empty and number == 0)}
            for number, chart in enumerate(_all_charts(study, summary, black_box, making))
        ],
        surrogates=_surrogates_shown(study, summary, black_box),
        summary=_shown(summary, study),
        spec_text=(folder / SPEC_FILE).read_text(encoding="utf-8"),
        command=command_of(folder, study),
        again=again_words(study),
    )


def command_of(folder: Path, study: Study, *, goes_on: bool = False) -> str:
    """The command that runs a study again, from the project's root.

    Args:
        folder: Of the study.
        study: Its description.
        goes_on: In its own folder, where what is done stays, and not in another.
    """
    place = folder.relative_to(PROJECT) if folder.is_relative_to(PROJECT) else folder
    out = place if goes_on else Path("output") / study.spec.name
    name, num_images = study.spec.name, study.spec.num_images
    is_preset = name in shipped_studies() and replace(load_study(name)[0], num_images=num_images) == study.spec
    asked = name if is_preset else shlex.quote(str(place / SPEC_FILE))
    words = f"python -m core study run {asked} --out {shlex.quote(str(out))}"
    return f"{words} --num-images {num_images}" if is_preset and num_images else words


def again_words(study: Study) -> str:
    """What the command that runs a study again asks of, where that may be other models than those of its tables."""
    words = [name for name in dict.fromkeys((*study.spec.sources, *study.spec.targets)) if means_many(name)]
    if not words:
        return ""
    means = "means" if len(words) == 1 else "mean"
    return (
        f"{' and '.join(words)} {means} all such models that are there when it is run; these tables are of "
        f"{len(study.models)}: {', '.join(model.name for model in study.models)}."
    )


def with_bounds(claims: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``CLAIMS`` with the ends of the region in which each claim holds."""
    bounds = {claim.name: claim.bounds for claim in load_claims()}
    return claims.assign(
        bound_low=[bounds[name][0] for name in claims.claim], bound_high=[bounds[name][1] for name in claims.claim]
    )


def _all_charts(study: Study, summary: pd.DataFrame, black_box: pd.DataFrame, making: Making) -> list[Chart]:
    """Charts under the first policy: for every attack, and each of its strengths where they show one of several."""
    choices, drawn, settings = offered(study, summary), dict[str, Chart](), list[Setting]()
    for images, (attack_name, strengths) in product(choices.images, choices.strengths.items()):
        aim = choices.objectives[attack_name][0]
        settings += [Setting(choices.policies[0], attack_name, strength, aim, images) for strength in strengths]
    for setting in settings:
        for chart in chain(
            black_box_charts(study, black_box, setting),
            making_charts(study, making, setting),
            charts(study, summary, setting),
            stopping_charts(study, summary, setting),
        ):
            drawn.setdefault(chart.caption + chart.title, chart)
    return list(drawn.values())[:MAX_CHARTS]


def _drawn(figure: go.Figure, *, is_first: bool) -> str:
    # Quiet on white and on ink alike: the file follows the reader's theme, its figures cannot.
    figure.update_layout(font={"color": QUIET})
    figure.update_xaxes(gridcolor=GRID).update_yaxes(gridcolor=GRID)
    text: str = pio.to_html(
        figure, full_html=False, include_plotlyjs=is_first, config={"displaylogo": False, "responsive": True}
    )
    return text


def _words(row: Mapping[Hashable, Any]) -> dict[str, Any]:
    """A claim as the report prints it."""
    named = {str(name): value for name, value in row.items()}
    return named | {
        "interval": interval_words(named),
        "n": count_words(named).removeprefix("n = ") if named["num_images"] else "",
    }


SHOWN = (
    "source", "target", "attack", "policy", "made_at", "num_fooled", "num_images", "rate", "low", "high",
    "clean_accuracy", "adversarial_accuracy", "clean_cost", "adversarial_cost", "num_earlier", "num_same", "num_later",
)  # fmt: skip
FRACTIONS = ("rate", "low", "high", "clean_accuracy", "adversarial_accuracy", "clean_cost", "adversarial_cost")


def _surrogates_shown(study: Study, summary: pd.DataFrame, black_box: pd.DataFrame) -> dict[str, Any]:
    """One row a surrogate and target, as text: under the first policy, the first attack as far as it may go."""
    choices = offered(study, summary)
    if not choices.strengths:
        return {"columns": [], "rows": [], "setting": ""}
    name, strengths = next(iter(choices.strengths.items()))
    setting = Setting(choices.policies[0], name, strengths[-1], choices.objectives[name][0], choices.images[0])
    labels = labels_of(study)
    columns = ["target", "surrogate", "learned from", "queries", "right", "agrees", "target fooled", "n"]
    rows = [
        [
            labels[row["target"]],
            KIND_GLYPHS[row["kind"]] + " " + row["kind"],
            row["learned"],
            f"{row['queries']:,}",
            *(_with_interval(row, share) for share in ("accuracy", "agreement", "rate")),
            f"{row['num_all']:,}; {row['num_images']:,}",
        ]
        for row in black_box_rows(study, black_box, setting).to_dict("records")
    ]
    return {"columns": columns, "rows": rows, "setting": f"{attack_words(study, setting)}, {setting.policy}"}


def _with_interval(row: Mapping[Hashable, Any], share: str) -> str:
    return f"{100 * row[share]:.1f} % ({100 * row[f'{share}_low']:.1f} to {100 * row[f'{share}_high']:.1f} %)"


def _shown(summary: pd.DataFrame, study: Study) -> dict[str, list[list[str]] | list[str]]:
    """The summary as a table of text."""
    labels = labels_of(study)
    rows = [
        [
            labels[value]
            if name in ("source", "target")
            else f"{100 * value:.1f} %"
            if name in FRACTIONS
            else str(value)
            for name, value in row.items()
        ]
        for row in summary[list(SHOWN)].to_dict("records")
    ]
    return {"columns": [name.replace("_", " ") for name in SHOWN], "rows": rows}
