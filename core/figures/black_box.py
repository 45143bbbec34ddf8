"""Surrogates with exits against static ones that learned the same: accuracy, agreement with the target, transfer."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import CLICKS, KIND_COLOURS, KIND_SYMBOLS, QUIET, drawn, interval

MEASURES = {"accuracy": "right", "agreement": "answers like the target", "rate": "target fooled"}
_HEIGHT_OF_ONE, _HEIGHT_OF_REST = 44, 96
_ABOVE = 0.4  # of a row: where its words stand, over the points
_ASIDE = {"early-exit": -0.08, "static": 0.12}  # of a row, so that neither kind hides the other


def black_box_figure(rows: pd.DataFrame) -> go.Figure:
    """Three charts side by side, one row for each way of learning, its two kinds of surrogates joined by a thin line.

    Args:
        rows: One target's, with ``surrogate``, ``target``, ``learned`` (what a surrogate learned from, in words),
            ``kind``, and for each of ``MEASURES`` a value with ``_low`` and ``_high``, fractions.

    Returns:
        The figure. A selected point carries ``customdata = [surrogate, target]``.
    """
    learned = list(dict.fromkeys(rows.learned))
    row = rows.learned.map(learned.index)
    place = row + rows.kind.map(_ASIDE)
    traces: list[dict[str, Any]] = []
    # The words lie over the whole width, not beside the axis: there would be no room for them on a phone.
    annotations = [
        {
            "text": text, "x": 0, "xref": "paper", "xanchor": "left", "y": number - _ABOVE, "yanchor": "middle",
            "showarrow": False, "font": {"color": QUIET},
        }
        for number, text in enumerate(learned)
    ]  # fmt: skip
    down = {"range": [len(learned) - 0.5, -0.6], "showticklabels": False, "showgrid": False, "zeroline": False}
    layout: dict[str, Any] = {**CLICKS, "annotations": annotations, "yaxis": down}
    width = 0.27
    for number, (measure, title) in enumerate(MEASURES.items()):
        suffix = str(number + 1) if number else ""
        left = number * (1 - width) / 2
        layout[f"xaxis{suffix}"] = {
            "domain": [left, left + width],
            "range": [-4, 104],
            "tickvals": [0, 50, 100],
            "ticktext": ["0 %", "50 %", "100 %"],
            "title": title,
            "zeroline": False,
        }
        axes = {"xaxis": f"x{suffix}", "yaxis": "y"}
        for _, pair in rows.groupby(row):
            if len(pair) > 1:
                traces.append(_join(100 * pair[measure], place[pair.index]) | axes)
        for kind, group in rows.groupby("kind"):
            traces.append(_points(str(kind), group, place, measure) | axes | {"showlegend": not number})
    return drawn(traces, layout, _HEIGHT_OF_REST + _HEIGHT_OF_ONE * len(learned))


def _join(across: pd.Series, down: pd.Series) -> dict[str, Any]:
    line = {"color": QUIET, "width": 1, "dash": "dot"}
    return {"type": "scatter", "x": across, "y": down, "mode": "lines", "line": line, "hoverinfo": "skip",
            "showlegend": False}  # fmt: skip


def _points(kind: str, group: pd.DataFrame, place: pd.Series, measure: str) -> dict[str, Any]:
    share, low, high = (100 * group[f"{measure}{end}"] for end in ("", "_low", "_high"))
    return {
        "type": "scatter",
        "x": share,
        "y": place[group.index],
        "mode": "markers",
        "name": f"{kind} surrogate",
        "marker": {"symbol": KIND_SYMBOLS[kind], "size": 10, "color": KIND_COLOURS[kind]},
        "error_x": interval(share, low, high),
        "customdata": group[["surrogate", "target"]].to_numpy().tolist(),
        "hovertext": [
            f"{kind}, {text}: {MEASURES[measure]} {value:.0f} % ({first:.0f}–{last:.0f} %)"
            for text, value, first, last in zip(group.learned, share, low, high, strict=True)
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
