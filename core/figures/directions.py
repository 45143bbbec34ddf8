"""Static to early-exit and back: every pair of models as a point, architectures apart."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import (
    CLICKS,
    EARLY_EXIT,
    KIND_GLYPHS,
    KIND_SYMBOLS,
    PERCENT_TICKS,
    QUIET,
    STATIC,
    drawn,
    interval,
)

DIRECTIONS = ("S2S", "S2D", "D2S", "D2D")
WORDS = {"S": "static", "D": "early-exit"}
_COLOURS = {"S": STATIC, "D": EARLY_EXIT}
_SPREAD = 0.5
_MANY = 6  # points of one direction beyond which full-sized ones would hide each other
_HOVER = ["source", "target", "num_fooled", "num_images", "low", "high"]


def directions_figure(
    directions: pd.DataFrame, labels: dict[str, str], why_empty: dict[bool, str], title: str = "target fooled"
) -> go.Figure:
    """Two charts side by side, same and different architectures; thin lines join the two ways of one pair.

    The colour says on which kind an example was made, the shape to which kind it was shown.

    Args:
        directions: Rows of one denominator (schema ``DIRECTIONS``).
        labels: Name on screen of each model.
        why_empty: What stands where no pair is of the same (True) or of different architecture (False).
        title: What is counted.

    Returns:
        The figure. A selected point carries ``customdata = [source, target]``.
    """
    traces: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    layout: dict[str, Any] = {**CLICKS, "showlegend": False, "hovermode": "closest", "annotations": annotations}
    for number, (same, (left, right)) in enumerate({True: (0, 0.48), False: (0.52, 1)}.items()):
        suffix = "2" if number else ""
        place = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
        heading = "one architecture" if same else "two architectures"
        middle = {"x": (left + right) / 2, "xref": "paper", "xanchor": "center"}
        annotations.append(_words(heading, **middle, y=1, yref="paper", yanchor="bottom"))
        rows = directions[(directions.same_architecture == same) & (directions.num_images > 0)]
        if rows.empty:
            annotations.append(_words(why_empty[same], x=1.5, y=37.5, xref=place["xaxis"], yref=place["yaxis"]))
        else:
            traces += [trace | place for trace in _pairs(rows, labels)]
        layout[f"xaxis{suffix}"] = {
            "domain": [left, right],
            "anchor": place["yaxis"],
            "range": [-0.6, 3.6],
            "tickvals": list(range(4)),
            # Glyphs alone: words of both panels do not fit side by side on a phone.
            "ticktext": [" → ".join(KIND_GLYPHS[WORDS[kind]] for kind in (name[0], name[2])) for name in DIRECTIONS],
            "tickangle": 0,
            "showgrid": False,
            "zeroline": False,
        }
        layout[f"yaxis{suffix}"] = {
            "anchor": place["xaxis"],
            "range": [-4, 104],
            **PERCENT_TICKS,
            "zeroline": False,
            "showticklabels": not number,
        }
    layout["yaxis"]["title"] = title
    return drawn(traces, layout)


def _pairs(rows: pd.DataFrame, labels: dict[str, str]) -> list[dict[str, Any]]:
    """Dotted lines between the two ways of each pair, and above them the points."""
    places = _places(rows)
    pairs = rows.groupby(rows.apply(lambda row: tuple(sorted((row.source, row.target))), axis=1))
    joins = [_join(pair, places) for _, pair in pairs if len(pair) == 2]
    points = [_points(str(direction), group, places, labels) for direction, group in rows.groupby("direction")]
    return joins + points


def _words(text: str, **place: object) -> dict[str, Any]:
    return {"text": text, "showarrow": False, **place}


def _places(rows: pd.DataFrame) -> pd.Series:
    """Where each point stands on the x axis: beside the others of its direction."""
    number = rows.groupby("direction").cumcount()
    count = rows.groupby("direction").direction.transform("size")
    aside = _SPREAD * ((number + 0.5) / count - 0.5)
    return rows.direction.map(DIRECTIONS.index) + aside


def _points(direction: str, group: pd.DataFrame, places: pd.Series, labels: dict[str, str]) -> dict[str, Any]:
    share, low, high = (100 * group[column] for column in ("rate", "low", "high"))
    return {
        "type": "scatter",
        "x": places[group.index],
        "y": share,
        "mode": "markers",
        "marker": {
            "symbol": KIND_SYMBOLS[WORDS[direction[2]]],
            "size": 11 if len(group) <= _MANY else 8,
            "color": _COLOURS[direction[0]],
            "line": {"color": "#FFFFFF", "width": 1},
        },
        "error_y": interval(share, low, high),
        "customdata": group[["source", "target"]].to_numpy().tolist(),
        "hovertext": [
            f"made on {labels[source]}, shown to {labels[target]}: {num_fooled} of {num_images} "
            f"({100 * low:.0f}–{100 * high:.0f} %)"
            for source, target, num_fooled, num_images, low, high in group[_HOVER].to_numpy().tolist()
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _join(pair: pd.DataFrame, places: pd.Series) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": places[pair.index],
        "y": 100 * pair.rate,
        "mode": "lines",
        "line": {"color": QUIET, "width": 1, "dash": "dot"},
        "hoverinfo": "skip",
    }
