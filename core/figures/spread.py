"""How sure every exit is of many images: back-to-back histograms, clean to the left, adversarial to the right."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import CLICKS, STATE_STYLES, drawn, exit_names, exit_ticks, threshold_line

_REACH = 0.46  # of the place of an exit that its longest bar takes to one side
_SIDES = {"clean": -1, "adversarial": 1}
_TOLD = ["state", "exit_index", "bin_index", "right", "name", "num_images", "num_all", "bin_low", "bin_high"]


def confidence_spread_figure(spread: pd.DataFrame, threshold: float | None) -> go.Figure:
    """One pair of histograms per exit, filled where right and hollow where wrong.

    Args:
        spread: Schema ``CONFIDENCE_SPREAD``.
        threshold: Drawn as a dotted line; None where there is none to reach.

    Returns:
        The figure. A selected bar carries ``customdata = [state, exit, bin, right, …]``.
    """
    num_exits = int(spread.exit_index.max()) + 1
    names = exit_names(num_exits)
    longest = spread.groupby(["state", "exit_index", "bin_index"]).num_images.sum().max()
    traces: list[dict[str, Any]] = []
    for state, side in _SIDES.items():
        colour = STATE_STYLES[state][0]
        for right in (True, False):
            rows = spread[(spread.state == state) & (spread.right == right)]
            before = _right_in_bin(spread, rows) if not right else 0
            word = "right" if right else "wrong"
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "y": (rows.bin_low + rows.bin_high) / 2,
                    "x": side * _REACH * rows.num_images / longest,
                    "base": rows.exit_index + side * _REACH * before / longest,
                    "width": 0.9 * (rows.bin_high - rows.bin_low),
                    "name": f"{state}, {word}",
                    "showlegend": True,
                    "marker": {
                        "color": colour if right else "rgba(0,0,0,0)",
                        "line": {"color": colour, "width": 1.5},
                    },
                    "customdata": rows.assign(name=[names[index] for index in rows.exit_index])[_TOLD]
                    .to_numpy()
                    .tolist(),
                    "hovertemplate": "%{customdata[4]}, confidence %{customdata[7]:.1f}–%{customdata[8]:.1f}: "
                    f"%{{customdata[5]}} of %{{customdata[6]}} {state} images, {word}<extra></extra>",
                }
            )
    layout = {
        "barmode": "overlay",
        **CLICKS,
        "legend": {"traceorder": "normal"},
        # The first exit's bars stand where a label of the threshold would.
        "shapes": [] if threshold is None else [threshold_line(threshold)],
        "xaxis": {
            "title": "exit: clean to the left, adversarial to the right",
            "tickvals": list(range(num_exits)),
            "ticktext": exit_ticks(num_exits),
            "range": [-0.55, num_exits - 0.45],
            "showgrid": False,
            "zeroline": False,
        },
        "yaxis": {"title": "confidence", "range": [0, 1.01], "zeroline": False},
    }
    return drawn(traces, layout, 400)


def _right_in_bin(spread: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    """How many right answers share a bin with each of these rows: the wrong ones are drawn after them."""
    key = ["state", "exit_index", "bin_index"]
    right = spread[spread.right].set_index(key).num_images
    return right.reindex(pd.MultiIndex.from_frame(rows[key]), fill_value=0).set_axis(rows.index)
