"""Accuracy and cost of every exit: on all images, and on those that leave there."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import CLICKS, KIND_COLOURS, KIND_SYMBOLS, QUIET, drawn, exit_names, interval

_OFFSET = 0.09


def model_exits_figure(exits: pd.DataFrame, kind: str) -> go.Figure:
    """Accuracy with intervals over exits, each exit's cost below its name.

    Args:
        exits: Schema ``MODEL_EXITS``.
        kind: ``static`` or ``early-exit``: the colour.

    Returns:
        The figure. A selected point carries ``customdata = [exit, whether of those that leave there, …]``.
    """
    leaving = exits[exits.leaving_num_images > 0]
    # Side by side, so that intervals do not cover each other.
    traces = [_points(exits, "", "all images", QUIET, KIND_SYMBOLS[kind], -_OFFSET)]
    if len(exits) > 1:
        colour = KIND_COLOURS[kind]
        traces.append(_points(leaving, "leaving_", "images that leave here", colour, "triangle-up", _OFFSET))
    names = exit_names(len(exits))
    ticks = [f"{name}<br>{100 * cost:.0f} %" for name, cost in zip(names, exits.cost, strict=True)]
    # Every name of a few exits; of many, as many as stand side by side.
    step = -(-len(names) // 14)
    layout = {
        **CLICKS,
        "xaxis": {
            "tickvals": list(range(0, len(names), step)),
            "ticktext": ticks[::step],
            "range": [-0.5, len(names) - 0.5],
            "title": "exit and its cost (multiply-adds, of the whole network)",
            "showgrid": False,
            "zeroline": False,
        },
        "yaxis": {"title": "accuracy", "ticksuffix": " %", "zeroline": False},
    }
    return drawn(traces, layout)


def _points(rows: pd.DataFrame, prefix: str, name: str, colour: str, symbol: str, offset: float) -> dict[str, Any]:
    accuracy, low, high = (100 * rows[f"{prefix}{column}"] for column in ("accuracy", "low", "high"))
    counts = (rows[f"{prefix}{column}"].tolist() for column in ("num_right", "num_images"))
    told = zip(rows.exit_index.tolist(), low.tolist(), high.tolist(), *counts, strict=True)
    return {
        "type": "scatter",
        "x": rows.exit_index + offset,
        "y": accuracy,
        "error_y": interval(accuracy, low, high),
        "mode": "markers",
        "name": name,
        "showlegend": True,
        "marker": {"symbol": symbol, "size": 10, "color": colour},
        "customdata": [[exit_index, bool(prefix), *numbers] for exit_index, *numbers in told],
        "hovertemplate": f"{name}: %{{y:.1f}} % (%{{customdata[2]:.1f}}–%{{customdata[3]:.1f}} %), "
        "%{customdata[4]} of %{customdata[5]}<extra></extra>",
    }
