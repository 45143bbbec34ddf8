"""Which classes compete for one image, exit by exit, clean above adversarial."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import FONT_SIZE, QUIET, drawn, exit_names, exit_ticks

MAX_NUMBERED = 12
ROW_HEIGHT, GAP = 28, 34


def top_classes_figure(
    top_classes: pd.DataFrame, exits_taken: dict[str, int], label: int, class_names: Sequence[str]
) -> go.Figure:
    """Probability of each class at each exit, the exit that answers framed.

    Args:
        top_classes: Rows of one image (schema ``TOP_CLASSES``).
        exits_taken: Answered exit of each state, 0-based.
        label: True class.
        class_names: Of all classes.
    """
    classes = list(dict.fromkeys(top_classes.class_index))
    num_exits = int(top_classes.exit_index.max()) + 1
    names, ticks = exit_names(num_exits), exit_ticks(num_exits)
    words = [f"{class_names[index]} (true)" if index == label else class_names[index] for index in classes]
    is_numbered = num_exits <= MAX_NUMBERED
    room = 2 * ROW_HEIGHT * len(classes) + GAP
    axis = {"type": "category", "showgrid": False, "autorange": "reversed"}
    traces: list[dict[str, Any]] = []
    part = ROW_HEIGHT * len(classes) / room
    domains = {"clean": (1 - part, 1.0), "adversarial": (0.0, part)}
    layout: dict[str, Any] = {"shapes": [], "annotations": []}
    for number, (state, (bottom, top)) in enumerate(domains.items(), start=1):
        grid = top_classes[top_classes.state == state].pivot(
            index="class_index", columns="exit_index", values="probability"
        )
        shares = grid.loc[classes].to_numpy()
        suffix = "" if number == 1 else str(number)
        traces.append(
            {
                "type": "heatmap",
                "z": shares,
                "x": ticks,
                "y": words,
                "xaxis": f"x{suffix}",
                "yaxis": f"y{suffix}",
                "text": [[f"{share:.2f}" if share >= 0.005 else "" for share in row] for row in shares],
                "texttemplate": "%{text}" if is_numbered else None,
                "textfont": {"size": FONT_SIZE},
                "colorscale": "Cividis",
                "zmin": 0,
                "zmax": 1,
                # Numbers say it too, and need the room.
                "showscale": number == 1 and not is_numbered,
                "colorbar": {"thickness": 12, "tickvals": [0, 0.5, 1]},
                "xgap": 2,
                "ygap": 2,
                "customdata": [names] * len(classes),
                "hovertemplate": f"{state}, %{{customdata}}: %{{y}} %{{z:.3f}}<extra></extra>",
            }
        )
        taken = exits_taken[state]
        place = {"xref": f"x{suffix}", "yref": f"y{suffix}"}
        frame = {"x0": taken - 0.5, "x1": taken + 0.5, "y0": -0.5, "y1": len(classes) - 0.5}
        layout["shapes"].append({"type": "rect", **place, **frame, "line": {"color": QUIET, "width": 2.5}})
        layout["annotations"].append(
            {
                "xref": "paper",
                "yref": "paper",
                "x": 0,
                "y": top,
                "xanchor": "left",
                "yanchor": "bottom",
                "text": f"<b>{state}</b>, answered at {names[taken]}",
                "showarrow": False,
                "font": {"size": FONT_SIZE},
            }
        )
        layout[f"xaxis{suffix}"] = {**axis, "autorange": True, "anchor": f"y{suffix}", "showticklabels": number == 2}
        layout[f"yaxis{suffix}"] = {**axis, "domain": [bottom, top], "anchor": f"x{suffix}"}
    layout["xaxis2"]["title"] = "exit"
    return drawn(traces, layout, room + 120)
