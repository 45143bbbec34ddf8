"""What a study found: rates and costs over epsilon, over the exit attacked and over the threshold, one line a pair."""

from collections import Counter
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import (
    ADVERSARIAL,
    EARLY_EXIT,
    KIND_SYMBOLS,
    PERCENT_TICKS,
    QUIET,
    STATIC,
    bare_figure,
    interval,
)

NAME_WIDTH = 20  # letters: on a phone they share the width with the intervals
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_FILLINGS = ("", "-open", "-cross-open", "-dot", "-x-open", "-open-dot", "-cross", "-x")
_COLOURS = {"static": STATIC, "early-exit": EARLY_EXIT}
_RATE_AXIS = {**PERCENT_TICKS, "range": [-4, 104], "zeroline": False}


def lines_figure(
    rows: pd.DataFrame,
    *,
    x: str,
    x_title: str,
    y_title: str,
    kinds: Mapping[str, str],
    architectures: Sequence[str] = (),
    of_whole: bool = True,
    as_category: bool = False,
) -> go.Figure:
    """Lines with intervals: colour and marker say on which kind an example was made, the dash on which architecture.

    What fills the markers tells apart the lines that are alike in all of that, such as targets of one source.

    Args:
        rows: With ``x``, ``line`` (what stands in the legend), ``source``, ``architecture``, ``value``, ``low``,
            ``high`` and ``words`` (under the pointer); values are fractions.
        x: Name of the column on the x axis.
        x_title: What it is.
        y_title: What the values are.
        kinds: Kind of each source.
        architectures: In the order of the dashes.
        of_whole: Whether values lie between 0 and 1; otherwise the axis fits them and marks 0.
        as_category: Whether x is text.
    """
    whole = {"title": y_title, **_RATE_AXIS}
    fitted = {"title": y_title, "ticksuffix": " %", "zeroline": True, "zerolinecolor": QUIET, "zerolinewidth": 1}
    across = {"title": x_title, "showgrid": False, "zeroline": False, **({"type": "category"} if as_category else {})}
    figure = bare_figure(layout={"xaxis": across, "yaxis": whole if of_whole else fitted})
    known = list(architectures) or list(dict.fromkeys(rows.architecture))
    num_alike = Counter[tuple[str, str]]()
    for name, line in rows.groupby("line", sort=False):
        kind, architecture = kinds[line.source.iloc[0]], str(line.architecture.iloc[0])
        filling = _FILLINGS[num_alike[kind, architecture] % len(_FILLINGS)]
        num_alike[kind, architecture] += 1
        figure.add_trace(
            go.Scatter(
                x=line[x],
                y=100 * line.value,
                error_y=interval(100 * line.value, 100 * line.low, 100 * line.high),
                mode="lines+markers",
                name=str(name),
                showlegend=True,
                line={"color": _COLOURS[kind], "dash": _DASHES[known.index(architecture) % len(_DASHES)]},
                marker={"symbol": KIND_SYMBOLS[kind] + filling, "size": 9, "color": _COLOURS[kind]},
                hovertext=line.words,
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )
    return figure


def attacks_figure(rows: pd.DataFrame, kinds: Mapping[str, str], x_title: str = "fooled") -> go.Figure:
    """One row an attack, the most harmful on top: colour and marker say on which kind, the filling on which model.

    Args:
        rows: With ``attack_title``, ``line`` (what stands in the legend), ``source``, ``value``, ``low``, ``high`` and
            ``words`` (under the pointer); values are fractions.
        kinds: Kind of each source.
        x_title: What is counted.
    """
    titles = rows.groupby("attack_title").value.mean().sort_values(ascending=False).index.tolist()
    lines = list(dict.fromkeys(rows.line))
    across = {"title": x_title, "range": [-4, 104], "zeroline": False, "ticksuffix": " %"}
    # Words lie over the whole width, not beside the axis: there would be no room for them on a phone.
    down = {"range": [len(titles) - 0.4, -0.7], "showticklabels": False, "showgrid": False, "zeroline": False}
    words = [
        {
            "text": title, "x": 0, "xref": "paper", "xanchor": "left", "y": number - 0.45, "yanchor": "middle",
            "showarrow": False, "font": {"color": QUIET},
        }
        for number, title in enumerate(titles)
    ]  # fmt: skip
    height = 110 + (26 + 8 * len(lines)) * len(titles)
    figure = bare_figure(height, {"xaxis": across, "yaxis": down, "annotations": words})
    num_alike = Counter[str]()
    for number, (name, line) in enumerate(rows.groupby("line", sort=False)):
        kind = kinds[line.source.iloc[0]]
        filling = _FILLINGS[num_alike[kind] % len(_FILLINGS)]
        num_alike[kind] += 1
        aside = 0.6 * ((number + 0.5) / len(lines) - 0.5) + 0.08
        figure.add_trace(
            go.Scatter(
                x=100 * line.value,
                y=[titles.index(title) + aside for title in line.attack_title],
                error_x=interval(100 * line.value, 100 * line.low, 100 * line.high),
                mode="markers",
                name=str(name),
                showlegend=True,
                marker={"symbol": KIND_SYMBOLS[kind] + filling, "size": 9, "color": _COLOURS[kind]},
                hovertext=[f"{title}, {words}" for title, words in zip(line.attack_title, line.words, strict=True)],
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )
    return figure


def thresholds_figure(rows: pd.DataFrame, made_at: float) -> go.Figure:
    """Share fooled over the threshold in force: fixed examples, and attacks made anew at each threshold.

    Args:
        rows: With ``threshold``, ``made_anew`` (two lines), ``value``, ``low``, ``high`` and ``words``.
        made_at: Where the fixed examples were made.
    """
    across = {"title": "threshold in force", "showgrid": False, "zeroline": False}
    figure = bare_figure(layout={"xaxis": across, "yaxis": {"title": "fooled", **_RATE_AXIS}})
    for anew, name, dash, symbol in (
        (False, f"fixed examples, made at T = {made_at:.2f}", "solid", "circle-open"),
        (True, "attacks made anew at each threshold", "dash", "diamond"),
    ):
        line = rows[rows.made_anew == anew].sort_values("threshold")
        figure.add_trace(
            go.Scatter(
                x=line.threshold,
                y=100 * line.value,
                error_y=interval(100 * line.value, 100 * line.low, 100 * line.high),
                mode="lines+markers",
                name=name,
                showlegend=True,
                line={"color": ADVERSARIAL, "dash": dash},
                marker={"symbol": symbol, "size": 9, "color": ADVERSARIAL},
                hovertext=line.words,
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )
    return figure


def claims_figure(claims: pd.DataFrame) -> go.Figure:
    """The interval of every claim, and where it has to lie for the claim to hold.

    Args:
        claims: Rows of one policy (schema ``core.study.claims.CLAIMS``) that were measured, with ``bound_low`` and
            ``bound_high``, the ends of the region where each holds.
    """
    ends = pd.concat([claims.low, claims.high, claims.value])
    finite = pd.concat([claims.bound_low, claims.bound_high]).replace([float("inf"), float("-inf")], pd.NA).dropna()
    reach = 100 * max(ends.abs().max(), finite.abs().max()) * 1.15
    names = ["<br>".join(wrap(name.replace("-", " "), NAME_WIDTH)) for name in claims.claim]
    across: dict[str, Any] = {"title": "measured", "range": [-reach, reach]}
    across |= {"zeroline": True, "zerolinecolor": QUIET, "zerolinewidth": 1, "showgrid": False, "ticksuffix": " %"}
    down = {"autorange": "reversed", "showgrid": False}
    figure = bare_figure(120 + 46 * len(claims), {"xaxis": across, "yaxis": down})
    for place, row in enumerate(claims.to_dict("records")):
        low, high = (max(-reach, min(reach, 100 * row[end])) for end in ("bound_low", "bound_high"))
        figure.add_shape(
            type="rect", x0=low, x1=high, y0=place - 0.36, y1=place + 0.36, layer="below",
            line={"width": 0}, fillcolor=QUIET, opacity=0.18,
        )  # fmt: skip
    filled = claims.verdict == "holds"
    figure.add_trace(
        go.Scatter(
            x=100 * claims.value,
            y=names,
            error_x=interval(100 * claims.value, 100 * claims.low, 100 * claims.high) | {"thickness": 2},
            mode="markers",
            marker={
                "symbol": ["circle" if holds else "circle-open" for holds in filled],
                "size": 11,
                "color": EARLY_EXIT,
                "line": {"width": 2},
            },
            text=claims.verdict,
            hovertemplate="%{y}: %{x:.1f} %, %{text}<extra></extra>",
            showlegend=False,
        )
    )
    return figure
