"""What making an example takes: its cost on either kind of model, the exits it goes through, and what a stop does."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import (
    ADVERSARIAL,
    EARLY_EXIT,
    KIND_COLOURS,
    KIND_SYMBOLS,
    QUIET,
    drawn,
    exit_ticks,
    interval,
)

MAKING_COSTS = {
    "making_cost": "passes until<br>first wrong",
    "useful_cost": "passes per example<br>that fools the static one",
}
_HEIGHT_OF_ONE, _HEIGHT_OF_REST = 54, 122
_ABOVE = 0.32  # of a row: where its words stand, over the points
_APART = 6.5  # pixels between the points of a row, so that none hides another
_WIDTH, _GAP = 0.46, 0.08


def making_figure(rows: pd.DataFrame) -> go.Figure:
    """Two charts side by side, one row an attack and architecture, its models joined by a thin line.

    Args:
        rows: With ``words`` (which attack), ``label`` (of the source), ``kind``, ``told`` (under the pointer), and for
            each of ``MAKING_COSTS`` a value with ``_low`` and ``_high``, in gradient passes of the static model.

    Returns:
        The figure; one chart alone where nothing was shown to a static model.
    """
    words = list(dict.fromkeys(rows.words))
    within, most = rows.groupby("words").cumcount(), int(rows.groupby("words").size().max())
    row_height = _HEIGHT_OF_ONE + _APART * max(0, most - 2)
    below = within - (rows.groupby("words").label.transform("size") - 1) / 2
    place = rows.words.map(words.index) + below * _APART / row_height + 0.12
    # The second model of a kind in a row is hollow.
    is_hollow = rows.groupby(["words", "kind"]).cumcount() % 2 == 1
    measures = [name for name in MAKING_COSTS if rows[name].notna().any()]
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "annotations": _words_above(words),
        "yaxis": _rows_axis(len(words)),
        "legend": {"traceorder": "normal"},
    }
    for number, measure in enumerate(measures):
        suffix = str(number + 1) if number else ""
        left = number * (_WIDTH + _GAP)
        layout[f"xaxis{suffix}"] = {
            "domain": [left, left + _WIDTH] if len(measures) > 1 else [0, 1],
            "rangemode": "tozero",
            "title": MAKING_COSTS[measure],
            "showgrid": True,
            "zeroline": False,
        }
        axes = {"xaxis": f"x{suffix}", "yaxis": "y"}
        for _, group in rows.groupby(rows.words, sort=False):
            if len(group) > 1:
                traces.append(_join(group[measure], place[group.index]) | axes)
        for kind, group in rows.groupby("kind", sort=False):
            traces.append(_points(str(kind), group, place, is_hollow, measure) | axes | {"showlegend": not number})
    return drawn(traces, layout, round(_HEIGHT_OF_REST + row_height * len(words)))


def made_exits_figure(rows: pd.DataFrame) -> go.Figure:
    """Share of the gradient passes of one source over the exits that images were about to leave at.

    Args:
        rows: One row an exit (schema ``core.study.making.MADE_EXITS``), in order.
    """
    names = [f"{name}<br>{100 * cost:.0f} %" for name, cost in zip(exit_ticks(len(rows)), rows.exit_cost, strict=True)]
    hatched = {"shape": "/", "fillmode": "replace", "fgcolor": EARLY_EXIT, "bgcolor": "rgba(0,0,0,0)", "size": 6}
    frame = {"color": EARLY_EXIT, "width": 1}
    bars = [
        {
            "type": "bar",
            "x": names,
            "y": 100 * rows[share],
            "error_y": interval(100 * rows[share], 100 * rows[f"{share}_low"], 100 * rows[f"{share}_high"])
            | {"color": QUIET},
            "name": name,
            "marker": {"color": EARLY_EXIT, "line": frame, **pattern},
            "hovertext": _exit_words(rows, share, passes, name),
            "hovertemplate": "%{hovertext}<extra></extra>",
        }
        for share, passes, name, pattern in (
            ("share", "num_passes", "all passes", {}),
            ("needed_share", "num_needed", "until first wrong", {"pattern": hatched}),
        )
    ]
    layout = {
        "barmode": "group",
        "xaxis": {"title": "exit, and what an image computes up to it", "type": "category", "showgrid": False},
        "yaxis": {"title": "of the passes", "ticksuffix": " %", "rangemode": "tozero", "zeroline": False},
        "legend": {"traceorder": "normal"},
    }
    return drawn(bars, layout)


def stopping_figure(rows: pd.DataFrame) -> go.Figure:
    """Change in mean cost of one target by attacks that run all their steps, and by those that stop once they fool.

    Args:
        rows: One row an attack and source, with ``words`` (which), and for ``running`` and ``stopping`` a value with
            ``_low`` and ``_high``, fractions of the whole network.
    """
    words = list(rows.words)
    across = {
        "title": "change in mean cost",
        "ticksuffix": " %",
        "showgrid": True,
        "zeroline": True,
        "zerolinecolor": QUIET,
    }
    traces = []
    for change, name, symbol, aside in (
        ("running", "runs all its steps", "diamond", 0.0),
        ("stopping", "stops once it fools", "diamond-open", 0.26),
    ):
        value, low, high = (100 * rows[f"{change}{end}"] for end in ("", "_low", "_high"))
        traces.append(
            {
                "type": "scatter",
                "x": value,
                "y": [number + aside for number in range(len(words))],
                "mode": "markers",
                "name": name,
                "showlegend": True,
                "error_x": interval(value, low, high),
                "marker": {
                    "symbol": symbol,
                    "size": 11,
                    "color": ADVERSARIAL,
                    "line": {"color": ADVERSARIAL, "width": 2},
                },
                "hovertext": [
                    f"{text}, {name}: {mean:+.1f} % ({first:+.1f} to {last:+.1f} %)"
                    for text, mean, first, last in zip(words, value, low, high, strict=True)
                ],
                "hovertemplate": "%{hovertext}<extra></extra>",
            }
        )
    layout = {
        "xaxis": {**across, "zerolinewidth": 1},
        "yaxis": _rows_axis(len(words)),
        "annotations": _words_above(words),
        "legend": {"traceorder": "normal"},
    }
    return drawn(traces, layout, _HEIGHT_OF_REST + _HEIGHT_OF_ONE * len(words))


def _words_above(words: Sequence[str]) -> list[dict[str, Any]]:
    # The words lie over the whole width, not beside the axis: there would be no room for them on a phone.
    return [
        {
            "text": text, "x": 0, "xref": "paper", "xanchor": "left", "y": number - _ABOVE, "yanchor": "middle",
            "showarrow": False, "font": {"color": QUIET},
        }
        for number, text in enumerate(words)
    ]  # fmt: skip


def _rows_axis(num_rows: int) -> dict[str, Any]:
    return {"range": [num_rows - 0.5, -0.6], "showticklabels": False, "showgrid": False, "zeroline": False}


def _join(across: pd.Series, down: pd.Series) -> dict[str, Any]:
    line = {"color": QUIET, "width": 1, "dash": "dot"}
    return {"type": "scatter", "x": across, "y": down, "mode": "lines", "line": line, "hoverinfo": "skip",
            "showlegend": False}  # fmt: skip


def _points(kind: str, group: pd.DataFrame, place: pd.Series, is_hollow: pd.Series, measure: str) -> dict[str, Any]:
    symbols = [KIND_SYMBOLS[kind] + "-open" * hollow for hollow in is_hollow[group.index]]
    return {
        "type": "scatter",
        "x": group[measure],
        "y": place[group.index],
        "mode": "markers",
        "name": f"made on {kind}",
        "marker": {"symbol": symbols, "size": 10, "color": KIND_COLOURS[kind]},
        "error_x": interval(group[measure], group[f"{measure}_low"], group[f"{measure}_high"]),
        "hovertext": group.told,
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _exit_words(rows: pd.DataFrame, share: str, passes: str, name: str) -> list[str]:
    return [
        f"{exit_name}, {name}: {100 * row[share]:.0f} % ({row[passes]:,} passes)"
        for exit_name, row in zip(exit_ticks(len(rows)), rows.to_dict("records"), strict=True)
    ]
