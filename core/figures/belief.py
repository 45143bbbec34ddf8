"""What speaks for and against the maps of one image, exit by exit."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import FONT_SIZE, STATE_STYLES, bare_figure, exit_ticks

# Column, title, and range of its axis; none where the data set it.
PANELS: tuple[tuple[str, str, list[float] | None], ...] = (
    ("infidelity", "infidelity", [-0.03, 1.03]),
    ("sensitivity", "sensitivity", None),
    ("classifier_redrawn", "redrawn classifier", [-1.03, 1.03]),
    ("all_redrawn", "all weights redrawn", [-1.03, 1.03]),
)


def belief_figure(belief: pd.DataFrame, num_exits: int) -> go.Figure:
    """Four panels over the exits, clean and adversarial.

    Args:
        belief: Schema ``BELIEF``, rows of one image.
        num_exits: K of the model, for the names of exits.
    """
    ticks = exit_ticks(num_exits)
    exits = sorted(set(belief.exit_index))
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"annotations": [], "margin": {"l": 8, "r": 8, "t": 56, "b": 8}}
    for number, (column, title, reach) in enumerate(PANELS):
        down, right = divmod(number, 2)
        end = str(number + 1) if number else ""
        across, upwards = [0.54 * right, 0.54 * right + 0.46], [0.6 - 0.58 * down, 1 - 0.58 * down]
        layout[f"xaxis{end}"] = {
            "domain": across,
            "anchor": f"y{end}",
            "tickvals": list(range(len(exits))),
            "ticktext": [ticks[index] for index in exits],
            "range": [-0.4, len(exits) - 0.6],
            "showgrid": False,
            "title": "exit" if down else "",
        }
        layout[f"yaxis{end}"] = {
            "domain": upwards,
            "anchor": f"x{end}",
            "range": reach,
            "rangemode": "tozero",
            "zeroline": False,
        }
        layout["annotations"].append(
            {
                "text": title,
                "x": across[0],
                "y": upwards[1],
                "xref": "paper",
                "yref": "paper",
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"size": FONT_SIZE},
            }
        )
        for state, (colour, dash, symbol) in STATE_STYLES.items():
            rows = belief[belief.state == state].sort_values("exit_index")
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "x": [exits.index(index) for index in rows.exit_index],
                    "y": rows[column],
                    "name": state,
                    "showlegend": not number,
                    "line": {"color": colour, "dash": dash, "width": 2},
                    "marker": {"symbol": symbol, "size": 9, "color": colour},
                    "xaxis": f"x{end}",
                    "yaxis": f"y{end}",
                    "hovertemplate": f"{state}: %{{y:.2f}}<extra></extra>",
                }
            )
    layout["legend"] = {"y": 1.07}
    return bare_figure(460, layout).add_traces(traces)
