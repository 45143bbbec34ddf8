"""Accuracy and cost of every exit: on all images, and on those that leave there."""

import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import KIND_COLOURS, KIND_SYMBOLS, QUIET, bare_figure, exit_names, interval

_OFFSET = 0.09


def model_exits_figure(exits: pd.DataFrame, kind: str) -> go.Figure:
    """Accuracy with intervals over exits, each exit's cost below its name.

    Args:
        exits: Schema ``MODEL_EXITS``.
        kind: ``static`` or ``early-exit``: the colour.
    """
    figure = bare_figure()
    leaving = exits[exits.leaving_num_images > 0]
    # Side by side, so that intervals do not cover each other.
    figure.add_trace(_points(exits, "", "all images", QUIET, KIND_SYMBOLS[kind], -_OFFSET))
    if len(exits) > 1:
        figure.add_trace(
            _points(leaving, "leaving_", "images that leave here", KIND_COLOURS[kind], "triangle-up", _OFFSET)
        )
    names = exit_names(len(exits))
    ticks = [f"{name}<br>{100 * cost:.0f} %" for name, cost in zip(names, exits.cost, strict=True)]
    # Every name of a few exits; of many, as many as stand side by side.
    step = -(-len(names) // 14)
    figure.update_xaxes(
        tickvals=list(range(0, len(names), step)),
        ticktext=ticks[::step],
        range=[-0.5, len(names) - 0.5],
        title="exit and its cost (multiply-adds, of the whole network)",
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(title="accuracy", ticksuffix=" %", zeroline=False)
    return figure


def _points(rows: pd.DataFrame, prefix: str, name: str, colour: str, symbol: str, offset: float) -> go.Scatter:
    accuracy, low, high = (100 * rows[f"{prefix}{column}"] for column in ("accuracy", "low", "high"))
    return go.Scatter(
        x=rows.exit_index + offset,
        y=accuracy,
        error_y=interval(accuracy, low, high),
        mode="markers",
        name=name,
        showlegend=True,
        marker={"symbol": symbol, "size": 10, "color": colour},
        customdata=list(zip(low, high, rows[f"{prefix}num_right"], rows[f"{prefix}num_images"], strict=True)),
        hovertemplate=f"{name}: %{{y:.1f}} % (%{{customdata[0]:.1f}}–%{{customdata[1]:.1f}} %), "
        "%{customdata[2]} of %{customdata[3]}<extra></extra>",
    )
