"""Attribution maps of all exits side by side, on one signed scale."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from core.figures.theme import FONT_SIZE, STATE_STYLES, bare_figure

# One bright pixel must not bleach all others: a scale ends there.
QUANTILE = 0.99
# PuOr that lets the picture below through where a map is near nought.
OVERLAY_SCALE = (
    (0.0, "rgba(179,88,6,0.95)"),
    (0.25, "rgba(241,163,64,0.75)"),
    (0.5, "rgba(241,163,64,0)"),
    (0.5, "rgba(153,142,195,0)"),
    (0.75, "rgba(153,142,195,0.75)"),
    (1.0, "rgba(84,39,136,0.95)"),
)
_WIDTH, _TOP, _WORDS, _LEFT = 860, 26, 24, 0.035


@dataclass(frozen=True, eq=False)
class MapRow:
    """One row of the figure.

    Attributes:
        title: Beside it, such as ``clean``.
        maps: (E, H, W), signed.
        words: What stands under each map.
        framed: Column with a frame, in the colour of the state that the title names; None for none.
        picture: Laid under the maps, (H, W, 3) bytes; None for the maps alone.
        problems: For each map a sentence where there is none, otherwise empty.
    """

    title: str
    maps: np.ndarray
    words: Sequence[str]
    framed: int | None = None
    picture: np.ndarray | None = None
    problems: Sequence[str] = ()


def maps_figure(
    rows: Sequence[MapRow], columns: Sequence[str], *, own_scales: bool = False, note: str = ""
) -> go.Figure:
    """Maps in rows and columns.

    Args:
        rows: From the top. Rows whose title is a state set the scale; others are drawn on it.
        columns: Name of each exit.
        own_scales: One scale for each exit, shared by its rows, instead of one for all.
        note: Below all of them, such as which exits these are.
    """
    side = min(200, max(60, _WIDTH // len(columns) - 8))
    height = _TOP + len(rows) * (side + _WORDS) + _WORDS * bool(note)
    limits = _limits([row for row in rows if row.title in STATE_STYLES], own_scales)
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"annotations": [], "shapes": [], "margin": {"l": 4, "r": 4, "t": 4, "b": 4}}
    is_overlay = any(row.picture is not None for row in rows)
    for column, limit in enumerate(limits):
        layout[_numbered("coloraxis", column)] = {
            "colorscale": list(OVERLAY_SCALE) if is_overlay else "PuOr",
            "cmin": -limit,
            "cmax": limit,
            "showscale": column == 0,
            "colorbar": {"thickness": 12, "tickvals": [-limit, 0, limit], "ticktext": ["lowers", "0", "raises"]},
        }
    for number, row in enumerate(rows):
        top = 1 - (_TOP + number * (side + _WORDS)) / height
        bottom = top - side / height
        layout["annotations"].append(_text(row.title, x=0, y=(top + bottom) / 2, textangle=-90, xanchor="left"))
        for column, values in enumerate(row.maps):
            width = (1 - _LEFT) / len(columns)
            left = _LEFT + column * width
            place = number * len(columns) + column
            middle = left + width / 2
            layout |= _axes(place, (left + 0.04 * width, left + 0.96 * width), (bottom, top), values.shape)
            axes = {"xaxis": _numbered("x", place), "yaxis": _numbered("y", place)}
            if number == 0:
                layout["annotations"].append(_text(columns[column], x=middle, y=1, yanchor="top"))
            layout["annotations"].append(_text(row.words[column], x=middle, y=bottom, yanchor="top", size=12))
            if row.framed == column:
                layout["shapes"].append(_frame(place, values.shape, STATE_STYLES[row.title][0]))
            if row.problems and row.problems[column]:
                layout["annotations"].append(_text("no map", x=middle, y=(top + bottom) / 2, size=12))
                continue
            if row.picture is not None:
                traces.append({"type": "image", "source": _grey_png(row.picture), "hoverinfo": "skip", **axes})
            axis = _numbered("coloraxis", column if own_scales else 0)
            hover = f"{columns[column]}, {row.title}: %{{z:.3g}}<extra></extra>"
            traces.append(
                {"type": "heatmap", "z": values.astype(np.float32), "coloraxis": axis, "hovertemplate": hover, **axes}
            )
    if note:
        layout["annotations"].append(_text(note, x=_LEFT, y=0, xanchor="left", yanchor="bottom", size=12))
    return bare_figure(height, layout).add_traces(traces)


def _limits(rows: Sequence[MapRow], own_scales: bool) -> list[float]:
    """Where each scale ends: one for all exits, or one per exit; 1 where all that is drawn is nought.

    Values that are not finite, and maps that are not drawn, have no say in it.
    """
    sizes = np.abs(np.stack([row.maps for row in rows]).astype(float))  # (rows, E, H, W)
    for row, problems in zip(sizes, (row.problems for row in rows), strict=True):
        row[[bool(problem) for problem in problems] if problems else []] = np.nan
    scales = sizes.swapaxes(0, 1) if own_scales else [sizes]
    known = [scale[np.isfinite(scale)] for scale in scales]
    return [float(np.quantile(values, QUANTILE)) or 1.0 if values.size else 1.0 for values in known]


def _numbered(axis: str, place: int) -> str:
    return f"{axis}{place + 1}" if place else axis


def _axes(
    place: int, across: tuple[float, float], upwards: tuple[float, float], shape: tuple[int, ...]
) -> dict[str, Any]:
    height, width = shape
    plain = {"visible": False, "constrain": "domain", "fixedrange": True}
    return {
        _numbered("xaxis", place): {**plain, "domain": across, "range": [-0.5, width - 0.5], "anchor": "free"},
        _numbered("yaxis", place): {
            **plain,
            "domain": upwards,
            "range": [height - 0.5, -0.5],
            "scaleanchor": _numbered("x", place),
            "anchor": "free",
        },
    }


def _text(text: str, *, x: float, y: float, size: int = FONT_SIZE, **more: Any) -> dict[str, Any]:
    place = {"x": x, "y": y, "xref": "paper", "yref": "paper", "xanchor": "center"}
    return {"text": text, "showarrow": False, "font": {"size": size}} | place | more


def _frame(place: int, shape: tuple[int, ...], colour: str) -> dict[str, Any]:
    height, width = shape
    corners = {"x0": -0.5, "x1": width - 0.5, "y0": -0.5, "y1": height - 0.5}
    axes = {"xref": _numbered("x", place), "yref": _numbered("y", place)}
    return {"type": "rect", **corners, **axes, "line": {"color": colour, "width": 4}}


def _grey_png(picture: np.ndarray) -> str:
    buffer = BytesIO()
    Image.fromarray(picture).convert("L").convert("RGB").save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
