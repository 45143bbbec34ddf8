"""Accuracy against mean cost over all thresholds, beside the static twin."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import EARLY_EXIT, KIND_SYMBOLS, STATIC, drawn, interval
from core.metrics import Rate

# In pixels, about: the room that words take, a percent of cost in a wide window, the figure and the plot in it.
_LINE, _LETTER, _PERCENT = 26, 7, 7
_HEIGHT, _PLOT_HEIGHT = 420, 294


@dataclass(frozen=True)
class StaticPoint:
    """The static model in the same picture.

    Attributes:
        label: Its name.
        cost: Its multiply-adds over those of the early-exit network.
        accuracy: On the same images.
    """

    label: str
    cost: float
    accuracy: Rate


def curve_figure(curve: pd.DataFrame, marked: Mapping[float, str], static: StaticPoint | None) -> go.Figure:
    """The curve, the thresholds to mark on it with their intervals, and the static model.

    Args:
        curve: Schema ``CURVE``.
        marked: Words for thresholds to mark.
        static: Drawn as a square with a line at its accuracy; None without one.
    """
    line = {
        "type": "scatter",
        "x": 100 * curve.cost,
        "y": 100 * curve.accuracy,
        "mode": "lines",
        "name": "early-exit, all thresholds",
        "showlegend": True,
        "line": {"color": EARLY_EXIT, "width": 2.5},
        "customdata": _hover(curve),
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    points = pd.DataFrame(
        [curve.iloc[(curve.threshold - threshold).abs().argmin()] for threshold in sorted(marked)],
        columns=curve.columns,
    )
    accuracy, low, high = (100 * points[column] for column in ("accuracy", "low", "high"))
    marks = {
        "type": "scatter",
        "x": 100 * points.cost,
        "y": accuracy,
        "error_y": interval(accuracy, low, high),
        "mode": "markers",
        "showlegend": False,
        "marker": {"symbol": KIND_SYMBOLS["early-exit"], "size": 10, "color": EARLY_EXIT},
        "customdata": _hover(points),
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    layout: dict[str, Any] = {
        "annotations": _words(points, [marked[threshold] for threshold in sorted(marked)]),
        "xaxis": {
            "title": "mean cost, of the whole network",
            "range": [0, 104],
            "ticksuffix": " %",
            "showgrid": False,
            "zeroline": False,
        },
        "yaxis": {"title": "accuracy", "ticksuffix": " %", "zeroline": False},
    }
    if static is None:
        return drawn([line, marks], layout, _HEIGHT)
    level = {"y0": 100 * static.accuracy.value, "y1": 100 * static.accuracy.value}
    across = {"type": "line", "xref": "x domain", "x0": 0, "x1": 1, **level}
    layout["shapes"] = [{**across, "line": {"color": STATIC, "dash": "dot", "width": 1.5}}]
    return drawn([line, marks, _static_trace(static)], layout, _HEIGHT)


def _words(points: pd.DataFrame, texts: Sequence[str]) -> list[dict[str, object]]:
    """Words below and to the right of each point, where the curve never runs, each as high as there is room."""
    words: list[dict[str, object]] = []
    taken: list[tuple[float, float, float]] = []  # left end, right end and depth below 100 %, all in pixels
    percent_high = _PLOT_HEIGHT / max(100 * float(points.high.max() - points.low.min()), 1) if len(points) else 0.0
    for row, text in reversed(list(zip(points.to_dict("records"), texts, strict=True))):
        cost = 100 * row["cost"]
        to_right = cost < 75  # near the right edge there is room on the left only
        left = cost * _PERCENT + (30 if to_right else -30 - _LETTER * len(text))
        right, down = left + _LETTER * len(text), 36
        depth = percent_high * 100 * (1 - row["accuracy"])
        while any(left < end and start < right and abs(depth + down - at) < _LINE for start, end, at in taken):
            down += _LINE // 2
        taken.append((left, right, depth + down))
        words.append(
            {
                "x": cost,
                "y": 100 * row["accuracy"],
                "text": text,
                "xanchor": "left" if to_right else "right",
                "ax": 30 if to_right else -30,
                "ay": down,
                "arrowwidth": 1,
                "arrowhead": 0,
                "arrowcolor": STATIC,
                "standoff": 7,
            }
        )
    return words


def _static_trace(static: StaticPoint) -> dict[str, Any]:
    share = static.accuracy
    return {
        "type": "scatter",
        "x": [100 * static.cost],
        "y": [100 * share.value],
        "error_y": interval(*(pd.Series([100 * value]) for value in (share.value, share.low, share.high))),
        "mode": "markers",
        "name": static.label,
        "showlegend": True,
        "marker": {"symbol": KIND_SYMBOLS["static"], "size": 11, "color": STATIC},
        "hovertemplate": f"{static.label}: %{{y:.1f}} % ({100 * share.low:.1f}–{100 * share.high:.1f} %), "
        f"{share.num_hits} of {share.num_images}<extra></extra>",
    }


def _hover(rows: pd.DataFrame) -> list[str]:
    return [_in_words(row) for row in rows.to_dict("records")]


def _in_words(row: dict[Hashable, Any]) -> str:
    setting = "no image leaves early" if row["threshold"] > 1 else f"threshold {row['threshold']:.2f}"
    interval_words = f"{100 * row['low']:.1f}–{100 * row['high']:.1f} %"
    return (
        f"{setting}: {100 * row['accuracy']:.1f} % ({interval_words}), {row['num_right']:.0f} of "
        f"{row['num_images']:.0f}<br>mean cost {100 * row['cost']:.1f} %, {100 * row['relative_cost']:.1f} % of the "
        "static twin's"
    )
