"""The way of one picture through a network: how far it was computed, where it left, and what the end would say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import KIND_SYMBOLS, QUIET, STATE_STYLES, bare_figure, exit_names

LANE_HEIGHT, AXIS_HEIGHT = 116, 56
MOST_NAMED = 8  # exits: of more, only the one taken is named
_FADED = 0.4
# Pixels from the road to the middle of what is said of it.
_ANSWER, _NAME, _END = 30, -25, -47


@dataclass(frozen=True, eq=False)
class Lane:
    """One network on one picture.

    Attributes:
        name: At its left end; ``<br>`` breaks it.
        kind: ``static`` or ``early-exit``: the shape of its markers.
        state: ``clean`` or ``adversarial``: the colour.
        costs: Cost fraction of each exit, K of them.
        exits: Rows of this picture in this state on this network (schema ``EXITS``), K of them.
        taken: Exit where it leaves, 0-based.
    """

    name: str
    kind: str
    state: str
    costs: tuple[float, ...]
    exits: pd.DataFrame
    taken: int


def road_figure(lanes: Sequence[Lane], class_names: Sequence[str]) -> go.Figure:
    """Networks as roads from no work to all of it, the exits on them filled where right and hollow where wrong.

    Args:
        lanes: From top to bottom.
        class_names: One per class.
    """
    places = {lane.name: len(lanes) - 1 - number for number, lane in enumerate(lanes)}
    figure = bare_figure(
        AXIS_HEIGHT + LANE_HEIGHT * len(lanes),
        {
            "margin": {"l": 8, "r": 8, "t": 4, "b": 4},
            "xaxis": {
                "range": [-0.02, 1.03],
                "tickvals": [0, 0.25, 0.5, 0.75, 1],
                "ticktext": ["0 %", "25 %", "50 %", "75 %", "100 %"],
                "title": "work done",
                "showgrid": False,
                "zeroline": False,
            },
            "yaxis": {
                "range": [-0.52, len(lanes) - 0.56],
                "tickvals": list(places.values()),
                "ticktext": list(places),
                "tickfont": {"size": 15, "color": QUIET},
                "showgrid": False,
                "zeroline": False,
            },
        },
    )
    for lane in lanes:
        rows, y = lane.exits.sort_values("exit_index"), places[lane.name]
        figure.add_traces([_line(lane, y, travelled=False), _line(lane, y, travelled=True), _exits(lane, rows, y)])
        for words in _words(lane, rows, y, class_names):
            figure.add_annotation(words)
    return figure


def _line(lane: Lane, y: int, *, travelled: bool) -> go.Scatter:
    colour, dash, _ = STATE_STYLES[lane.state]
    reached = lane.costs[lane.taken]
    line = {"color": colour, "dash": dash, "width": 6} if travelled else {"color": QUIET, "width": 2}
    return go.Scatter(
        x=[0, reached] if travelled else [reached, 1],
        y=[y, y],
        mode="lines",
        line=line,
        opacity=1 if travelled else _FADED,
        showlegend=False,
        hoverinfo="skip",
    )


def _exits(lane: Lane, rows: pd.DataFrame, y: int) -> go.Scatter:
    colour, symbol = STATE_STYLES[lane.state][0], KIND_SYMBOLS[lane.kind]
    names, small = exit_names(len(rows)), 15 if len(rows) <= MOST_NAMED else 8
    right = rows.right.tolist()
    return go.Scatter(
        x=list(lane.costs),
        y=[y] * len(rows),
        mode="markers",
        showlegend=False,
        marker={
            "symbol": [symbol if is_right else f"{symbol}-open" for is_right in right],
            "size": [26 if index == lane.taken else small for index in range(len(rows))],
            "opacity": [1 if index <= lane.taken else _FADED for index in range(len(rows))],
            "color": colour,
            "line": {"color": colour, "width": 3},
        },
        customdata=[[name, "right" if is_right else "wrong"] for name, is_right in zip(names, right, strict=True)],
        text=[f"{confidence:.2f}" for confidence in rows.confidence],
        hovertemplate="%{customdata[0]}: %{customdata[1]}, confidence %{text}, after %{x:.0%} of the work"
        "<extra></extra>",
    )


def _words(lane: Lane, rows: pd.DataFrame, y: int, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """The answer above the road; below it the exits' names and what the end would have said."""
    names, last = exit_names(len(rows)), len(rows) - 1
    said = [
        f"<b>{class_names[predicted]}</b> ({confidence:.2f}), {'right' if is_right else 'wrong'}"
        for predicted, confidence, is_right in zip(rows.predicted, rows.confidence, rows.right, strict=True)
    ]
    words = [_annotation(lane.costs[lane.taken], y, said[lane.taken], size=18, shift=_ANSWER)]
    if lane.taken < last and lane.state == "adversarial":
        words.append(_annotation(1, y, f"would have said {said[last]}", size=15, shift=_END))
    for index, name in enumerate(names):
        if index == lane.taken or last < MOST_NAMED:
            text = f"<b>{name}</b>" if index == lane.taken else name
            centred = {"xanchor": "center", "xshift": 0}
            words.append(_annotation(lane.costs[index], y, text, size=13, shift=_NAME) | centred)
    return words


def _annotation(x: float, y: int, text: str, *, size: int, shift: int) -> dict[str, Any]:
    # Near an end of the road, words grow inwards.
    anchor = "left" if x < 0.35 else "right" if x > 0.65 else "center"
    return {
        "x": x,
        "y": y,
        "text": text,
        "font": {"size": size},
        "showarrow": False,
        "xanchor": anchor,
        "xshift": {"left": -13, "right": 13, "center": 0}[anchor],
        "yshift": shift,
    }
