"""From which exit to which: the matrix that can be clicked, and the same as a flow."""

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.figures.matrix import matrix_figure
from core.figures.theme import FONT_SIZE, SHIFT_COLOURS, SHIFT_GLYPHS, drawn, exit_names, exit_ticks


def exit_flow_figure(flow: pd.DataFrame) -> go.Figure:
    """Clean exit by adversarial exit: of the images of a row, the share in each cell, and their number in it.

    Args:
        flow: Schema ``EXIT_FLOW``.

    Returns:
        The figure. A selected point carries ``customdata = [clean exit, adversarial exit]``, both 0-based.
    """
    num_exits = int(flow.clean_exit.max()) + 1
    names, ticks = exit_names(num_exits), exit_ticks(num_exits)
    cells = [rows.to_dict("records") for _, rows in flow.groupby("clean_exit")]
    return matrix_figure(
        [[cell["share"] for cell in row] for row in cells],
        [[str(cell["num_images"] or "") for cell in row] for row in cells],
        [[_cell_words(cell, names) for cell in row] for row in cells],
        ticks,
        ticks,
        row_title="exit when clean",
        column_title="exit when adversarial",
    )


def _cell_words(cell: Mapping[Hashable, Any], names: list[str]) -> str:
    words = f"{names[cell['clean_exit']]} → {names[cell['adversarial_exit']]}: "
    words += f"{cell['num_images']} of {cell['num_all']}"
    percents = [f"{100 * cell[column]:.0f}" for column in ("share", "low", "high") if cell["num_all"]]
    return words + (f" ({percents[0]} %, {percents[1]}–{percents[2]} %)" if percents else "")


def flow_figure(flow: pd.DataFrame) -> go.Figure:
    """Ribbons from the clean exit to the adversarial one, as wide as they have images, coloured by direction.

    Args:
        flow: Schema ``EXIT_FLOW``.
    """
    num_exits = int(flow.clean_exit.max()) + 1
    names = exit_names(num_exits)
    ways = flow[flow.num_images > 0]
    words = [_direction(shift) for shift in (ways.adversarial_exit - ways.clean_exit).tolist()]
    sides = {"clean": ways.clean_exit, "adversarial": ways.adversarial_exit}
    ribbons = {
        "type": "parcats",
        "dimensions": [_side(label, exits, ways.num_images, names) for label, exits in sides.items()],
        "counts": ways.num_images,
        "line": {"color": [SHIFT_COLOURS[word] for word in words], "shape": "hspline"},
        "arrangement": "fixed",
        "hoveron": "color",
        "hoverinfo": "count+probability",
        "labelfont": {"size": FONT_SIZE},
        "tickfont": {"size": FONT_SIZE},
    }
    legend = [
        {
            "type": "scatter",
            "x": [None],
            "y": [None],
            "mode": "markers",
            "name": f"{SHIFT_GLYPHS[word]} {word}",
            "marker": {"symbol": "square", "size": 12, "color": colour},
        }
        for word, colour in SHIFT_COLOURS.items()
    ]
    # The names of the two sides stand where legends of other charts do.
    layout = {
        "xaxis": {"visible": False},
        "yaxis": {"visible": False},
        "margin": {"l": 24, "r": 72, "t": 84},
        "legend": {"y": 1.1},
    }
    return drawn([ribbons, *legend], layout, max(360, 24 * max(side.nunique() for side in sides.values()) + 80))


def _side(label: str, exits: pd.Series, num_images: pd.Series, names: list[str]) -> dict[str, object]:
    totals = num_images.groupby(exits).sum()
    return {
        "label": label,
        "values": exits,
        "categoryorder": "array",
        "categoryarray": list(totals.index),
        "ticktext": [f"{names[index]}: {total}" for index, total in zip(totals.index.tolist(), totals, strict=True)],
    }


def _direction(shift: int) -> str:
    return "same" if shift == 0 else "earlier" if shift < 0 else "later"
