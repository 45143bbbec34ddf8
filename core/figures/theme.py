"""Colours, glyphs and the bare figure that every chart starts from.

One data palette serves the light and the dark page, so a figure needs no theme. Colour means data; shape,
fill, glyph or word always says the same thing a second time.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

CLEAN = "#1F6FC9"
ADVERSARIAL = "#E87219"
STATIC = "#8793A0"
EARLY_EXIT = "#8548A9"
EARLIER = "#16705E"
SAME = "#7B858D"
LATER = "#C78821"
EXITS = ("#5B4FA8", "#3D6BB3", "#2A83A8", "#1F9690", "#4FA66B", "#8FB04A")
FINAL = "#C9B23A"
QUIET = "#6B7682"
THRESHOLD = "#8793A0"
LIGHT_BACKGROUND = "#FFFFFF"
DARK_BACKGROUND = "#11161D"

KIND_GLYPHS = {"static": "■", "early-exit": "●"}
KIND_SYMBOLS = {"static": "square", "early-exit": "circle"}
KIND_COLOURS = {"static": STATIC, "early-exit": EARLY_EXIT}
SHIFT_GLYPHS = {"earlier": "◀", "same": "=", "later": "▶"}
SHIFT_COLOURS = {"earlier": EARLIER, "same": SAME, "later": LATER}
# Colour, dash and marker.
STATE_STYLES = {"clean": (CLEAN, "solid", "circle"), "adversarial": (ADVERSARIAL, "dash", "diamond")}

# Said in full: Plotly leaves a suffix away where the ticks are given.
PERCENT_BAR = {"tickvals": [0, 50, 100], "ticktext": ["0 %", "50 %", "100 %"], "thickness": 12}
PERCENT_TICKS = {"tickvals": [0, 25, 50, 75, 100], "ticktext": ["0 %", "25 %", "50 %", "75 %", "100 %"]}
# Points and bars that answer clicks.
CLICKS = {"clickmode": "event+select", "dragmode": False}

HEIGHT = 360
STRIP_HEIGHT = 140
FONT_SIZE = 13


def exit_names(num_exits: int) -> list[str]:
    """``Exit 1`` … ``Final``, one per exit."""
    return [*(f"Exit {number}" for number in range(1, num_exits)), "Final"]


def exit_ticks(num_exits: int) -> list[str]:
    """``1`` … ``Final``: for an axis that says itself that these are exits."""
    return [*(str(number) for number in range(1, num_exits)), "Final"]


def signed(value: float) -> str:
    """A whole number with its sign, as printed: ``−7``, ``+3``, ``0``."""
    whole = round(value)
    return f"{whole:+d}".replace("-", "−") if whole else "0"


def bare_figure(height: int = HEIGHT, layout: Mapping[str, Any] | None = None) -> go.Figure:
    """An empty figure with the margins, tick colours and legend place of all charts.

    Args:
        height: In pixels.
        layout: More of the layout; what it says of an axis or the legend is added to what all charts have.
    """
    return drawn([], layout, height)


def drawn(
    traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any] | None = None, height: int = HEIGHT
) -> go.Figure:
    """A figure made in one go: each later update costs milliseconds, and a moved threshold redraws many.

    Args:
        traces: In Plotly's own words, each with its ``type``.
        layout: As for ``bare_figure``.
        height: In pixels.
    """
    # A title keeps its distance from tick labels of two lines only where the distance is said.
    axis = {"tickfont": {"color": QUIET}, "title": {"font": {"color": QUIET}, "standoff": 12}, "automargin": True}
    common: dict[str, Any] = {
        "height": height,
        "margin": {"l": 8, "r": 8, "t": 48, "b": 8},
        "font": {"size": FONT_SIZE},
        "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"},
        "hoverlabel": {"font": {"size": FONT_SIZE}},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "xaxis": axis,
        "yaxis": axis,
    }
    for name, value in (layout or {}).items():
        old = common.get(name, axis if name[1:5] == "axis" else None)
        if isinstance(old, dict) and isinstance(value.get("title"), str):
            value = value | {"title": {"text": value["title"]}}
        if isinstance(old, dict) and "title" in value:
            value = value | {"title": old["title"] | value["title"]}
        common[name] = old | value if isinstance(old, dict) else value
    return go.Figure(data=list(traces), layout=common)


def interval(value: pd.Series, low: pd.Series, high: pd.Series) -> dict[str, object]:
    """Thin bars from ``low`` to ``high`` around ``value``, for a trace's ``error_y``."""
    return {"type": "data", "array": high - value, "arrayminus": value - low, "thickness": 1.2, "width": 3}


def threshold_line(threshold: float) -> dict[str, Any]:
    """The threshold across a confidence axis, dotted: a shape."""
    across = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": threshold, "y1": threshold}
    return {**across, "line": {"color": THRESHOLD, "dash": "dot", "width": 1.5}}
