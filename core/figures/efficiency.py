"""What an attack does to the cost: of each image, and of all as the share that is out by a cost."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import (
    CLICKS,
    QUIET,
    SHIFT_COLOURS,
    SHIFT_GLYPHS,
    STATE_STYLES,
    THRESHOLD,
    drawn,
    exit_names,
    interval,
    signed,
)


def cost_change_figure(decisions: pd.DataFrame, efficiency: pd.DataFrame) -> go.Figure:
    """Change in cost of every image, from the largest saving to the largest loss, with the mean and its interval.

    Args:
        decisions: Rows of one source and one target (schema ``DECISIONS``).
        efficiency: Schema ``EFFICIENCY``; its row ``all`` has the mean.

    Returns:
        The figure. A selected bar carries ``customdata = [row of the decisions, …]``.
    """
    change = 100 * (decisions.adversarial_cost - decisions.clean_cost).to_numpy()
    shift = decisions.exit_shift.to_numpy()
    order = change.argsort(kind="stable")
    places = {"earlier": shift[order] < 0, "same": shift[order] == 0, "later": shift[order] > 0}
    traces: list[dict[str, Any]] = []
    for word, here in places.items():
        rows = order[here]
        told = decisions.iloc[rows]
        common = {
            "x": here.nonzero()[0] + 1,
            "y": change[rows],
            "name": f"{SHIFT_GLYPHS[word]} {word}",
            "showlegend": True,
            "customdata": list(
                zip(rows, told.image_id, 100 * told.clean_cost, 100 * told.adversarial_cost, strict=True)
            ),
            "hovertemplate": "%{customdata[1]}: %{customdata[2]:.0f} % → %{customdata[3]:.0f} %<extra></extra>",
        }
        # A bar of no height could be neither seen nor clicked.
        if word == "same":
            marker = {"symbol": "square", "size": 6, "color": SHIFT_COLOURS[word]}
            traces.append({"type": "scatter", "mode": "markers", "marker": marker, **common})
        else:
            traces.append({"type": "bar", "marker": {"color": SHIFT_COLOURS[word], "line": {"width": 0}}, **common})
    whole = efficiency[efficiency.group == "all"].iloc[0]
    mean, low, high = (float(100 * whole[f"cost_change{end}"]) for end in ("", "_low", "_high"))
    across = {"xref": "paper", "x0": 0, "x1": 1}
    band = {"type": "rect", "y0": low, "y1": high, "fillcolor": QUIET, "opacity": 0.25}
    line = {"type": "line", "y0": mean, "y1": mean, "line": {"color": QUIET, "width": 1.5}}
    layout = {
        "shapes": [{**across, **band, "line": {"width": 0}}, {**across, **line}],
        "annotations": [
            {
                # Savings come first and hang down: above them there is room.
                "xref": "paper",
                "x": 0,
                "xanchor": "left",
                "y": max(0.0, high),
                "yanchor": "bottom",
                "text": f"mean {signed(mean)} points",
                "showarrow": False,
                "font": {"size": 12},
            }
        ],
        "bargap": 0.15,
        **CLICKS,
        "legend": {"traceorder": "normal"},
        "xaxis": {"title": "images, by their change", "showgrid": False, "tickformat": "d", "nticks": 6},
        "yaxis": {"title": "change in cost, points", "zeroline": True, "zerolinecolor": QUIET},
    }
    return drawn(traces, layout)


def share_out_figure(share_out: pd.DataFrame, efficiency: pd.DataFrame) -> go.Figure:
    """Share of images that have left by each cost, clean and adversarial, above the floor: no image leaves early.

    Args:
        share_out: Schema ``SHARE_OUT``.
        efficiency: Schema ``EFFICIENCY``; the accuracies of its row ``all`` stand beside the curves.

    Returns:
        The figure. A selected point carries ``customdata = [state, exit, …]``; the exit of the origin is -1.
    """
    accuracy = efficiency.set_index("group").loc["all"]
    traces: list[dict[str, Any]] = []
    for state, (colour, dash, symbol) in STATE_STYLES.items():
        rows = share_out[share_out.state == state]
        names = ["", *exit_names(len(rows))]
        told = [[0.0, 0.0, 0, 0], *rows[["low", "high", "num_images", "num_all"]].to_numpy().tolist()]
        traces.append(
            {
                "type": "scatter",
                "x": [0.0, *(100 * rows.cost)],
                "y": [0.0, *(100 * rows.share)],
                "mode": "lines+markers",
                "name": f"{state}: {100 * accuracy[f'{state}_accuracy']:.0f} % right",
                "line": {"color": colour, "dash": dash, "width": 2},
                "marker": {"symbol": symbol, "size": 9, "color": colour},
                "error_y": interval(*(pd.Series([0.0, *(100 * rows[end])]) for end in ("share", "low", "high"))),
                "customdata": [
                    [state, index - 1, name, 100 * low, 100 * high, int(out), int(num_all)]
                    for index, (name, (low, high, out, num_all)) in enumerate(zip(names, told, strict=True))
                ],
                "hovertemplate": f"{state}, by %{{customdata[2]}} (%{{x:.0f}} % of the cost): %{{y:.0f}} % out "
                "(%{customdata[5]} of %{customdata[6]}, %{customdata[3]:.0f}–%{customdata[4]:.0f} %)<extra></extra>",
            }
        )
    costs = share_out[share_out.state == "clean"].cost.tolist()
    traces.append(
        {
            "type": "scatter",
            "x": [0.0, *(100 * cost for cost in costs)],
            "y": [0.0] * len(costs) + [100.0],
            "mode": "lines",
            "name": "floor: none early",
            "line": {"color": THRESHOLD, "dash": "dot", "width": 1.5},
            "hoverinfo": "skip",
        }
    )
    percent = {"ticksuffix": " %", "zeroline": False}
    layout = {
        **CLICKS,
        "xaxis": {"title": "cost, of the whole network", **percent, "range": [0, 102]},
        "yaxis": {"title": "images out by then", **percent, "range": [-3, 104]},
    }
    return drawn(traces, layout)
