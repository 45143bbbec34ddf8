"""How much attribution maps agree: between exits, and between clean and adversarial over many images."""

import math
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.figures.matrix import matrix_figure
from core.figures.theme import QUIET, SHIFT_COLOURS, SHIFT_GLYPHS, bare_figure, exit_names, signed

_SPREAD = 0.32  # to either side of the exit shift, so that images of one shift do not hide each other


def between_exits_figure(between: pd.DataFrame, num_exits: int) -> go.Figure:
    """Overlap of the strongest pixels between every two exits of one image in one state.

    Args:
        between: Schema ``BETWEEN_EXITS``, rows of one image and state.
        num_exits: K of the model, for the names of exits.
    """
    names = exit_names(num_exits)
    exits = sorted(set(between.exit_index))
    cells = {(row["exit_index"], row["other_exit"]): row for row in between.to_dict("records")}
    table = [[cells[one, other] for other in exits] for one in exits]
    labels = [names[index].removeprefix("Exit ") for index in exits]
    return matrix_figure(
        [[cell["overlap"] for cell in row] for row in table],
        [["" if math.isnan(cell["overlap"]) else f"{100 * cell['overlap']:.0f}" for cell in row] for row in table],
        [
            [f"{names[cell['exit_index']]} and {names[cell['other_exit']]}: {_alike_words(cell)}" for cell in row]
            for row in table
        ],
        labels,
        labels,
        row_title="exit",
        column_title="exit",
        outlined=False,
    )


def _alike_words(cell: dict[Any, Any]) -> str:
    if math.isnan(cell["overlap"]):
        return "no two maps to compare"
    return (
        f"{100 * cell['overlap']:.0f} % of the strongest pixels shared, rank correlation {cell['rank_correlation']:.2f}"
    )


def attribution_population_figure(population: pd.DataFrame, num_exits: int) -> go.Figure:
    """Rank correlation of each image's clean and adversarial map over its exit shift.

    Args:
        population: Schema ``POPULATION``.
        num_exits: K of the model, for the names of exits.

    Returns:
        The figure. A selected point carries ``customdata = [row of the table, …]``.
    """
    names = exit_names(num_exits)
    drawn = population.assign(row=range(len(population)), x=_spread(population.exit_shift))
    drawn = drawn[drawn.rank_correlation.notna()]
    words = {"earlier": drawn.exit_shift < 0, "same": drawn.exit_shift == 0, "later": drawn.exit_shift > 0}
    traces: list[dict[str, Any]] = []
    for word, chosen in words.items():
        for right in (True, False):
            rows = drawn[chosen & (drawn.adversarial_right == right)]
            if rows.empty:
                continue
            told = [
                [
                    row["row"],
                    row["image_id"],
                    names[row["clean_exit"]],
                    names[row["adversarial_exit"]],
                    100 * row["overlap"],
                ]
                for row in rows.to_dict("records")
            ]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": rows.x,
                    "y": rows.rank_correlation,
                    "name": f"{SHIFT_GLYPHS[word]} {word}, {'right' if right else 'wrong'}",
                    "marker": {
                        "size": 11,
                        "symbol": "circle" if right else "circle-open",
                        "color": SHIFT_COLOURS[word],
                        "line": {"width": 2, "color": SHIFT_COLOURS[word]},
                    },
                    "customdata": told,
                    "hovertemplate": "%{customdata[1]}: %{customdata[2]} → %{customdata[3]}, rank correlation "
                    "%{y:.2f}, %{customdata[4]:.0f} % of the strongest pixels shared<extra></extra>",
                }
            )
    groups = {shift: drawn[drawn.exit_shift == shift].rank_correlation for shift in set(drawn.exit_shift)}
    bars = [
        {
            "type": "line",
            "x0": shift - 0.4,
            "x1": shift + 0.4,
            "y0": ranks.median(),
            "y1": ranks.median(),
            "line": {"color": QUIET},
        }
        for shift, ranks in groups.items()
        if len(ranks) > 1
    ]
    shifts = range(int(population.exit_shift.min()), int(population.exit_shift.max()) + 1)
    layout = {
        "shapes": bars,
        "clickmode": "event+select",
        "dragmode": False,
        "xaxis": {
            "title": "exit shift once attacked",
            "tickvals": list(shifts),
            "ticktext": [signed(shift) for shift in shifts],
            "range": [shifts[0] - 0.6, shifts[-1] + 0.6],
            "showgrid": False,
            "zeroline": False,
        },
        "yaxis": {"title": "rank correlation", "range": [-1.05, 1.05]},
    }
    return bare_figure(layout=layout).add_traces(traces)


def _spread(shifts: "pd.Series[int]") -> "pd.Series[float]":
    """Images of one shift side by side, evenly, in their order."""
    number = shifts.groupby(shifts).cumcount()
    count = shifts.groupby(shifts).transform("size")
    return shifts + _SPREAD * (2 * (number + 0.5) / count - 1)
