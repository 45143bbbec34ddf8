"""A matrix of rates: Cividis from 0 to 100 %, the text of each cell in it, and every cell can be clicked."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from core.figures.theme import CLICKS, FONT_SIZE, PERCENT_BAR, QUIET, drawn

CELL_HEIGHT, LEAST_CELL_HEIGHT, MOST_HEIGHT = 56, 25, 520
# Above the cells, where legends of other charts stand: beside them it would take their width on a phone.
_BAR_ABOVE = {"orientation": "h", "x": 1, "xanchor": "right", "xpad": 20, "y": 1, "yanchor": "bottom", "ypad": 14}


def matrix_figure(
    rates: Sequence[Sequence[float]],
    texts: Sequence[Sequence[str]],
    hovers: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    row_title: str,
    column_title: str,
    outlined: bool = True,
    height: int | None = None,
    column_axis: Mapping[str, Any] | None = None,
) -> go.Figure:
    """A heat map whose cells answer clicks.

    Args:
        rates: By row and column, in [0, 1]; NaN where there is nothing to count.
        texts: What stands in each cell.
        hovers: What is said of each cell under the pointer.
        rows: Name of each row, from the top.
        columns: Name of each column, from the left.
        row_title: What rows are.
        column_title: What columns are.
        outlined: Draw a frame around each cell of the diagonal.
        height: In pixels; None: by the number of rows.
        column_axis: More about the axis of columns.

    Returns:
        The figure. A selected point carries ``customdata = [row, column]``, both 0-based.
    """
    cell_height = max(LEAST_CELL_HEIGHT, min(CELL_HEIGHT, MOST_HEIGHT // len(rows)))
    heat = {
        "type": "heatmap",
        "z": [[100 * rate for rate in row] for row in rates],
        "x": list(columns),
        "y": list(rows),
        "text": [
            ["" if math.isnan(rate) else text for rate, text in zip(*row, strict=True)]
            for row in zip(rates, texts, strict=True)
        ],
        "texttemplate": "%{text}",
        "textfont": {"size": FONT_SIZE},
        "colorscale": "Cividis",
        "zmin": 0,
        "zmax": 100,
        "xgap": 2,
        "ygap": 2,
        "colorbar": PERCENT_BAR | _BAR_ABOVE | {"thickness": 8, "lenmode": "pixels", "len": 150},
        "hoverinfo": "skip",
    }
    cells = [(row, column) for row in range(len(rows)) for column in range(len(columns))]
    # Heat maps never report a selection, so invisible markers lie over their cells.
    marks = {
        "type": "scatter",
        "x": [columns[column] for _, column in cells],
        "y": [rows[row] for row, _ in cells],
        "mode": "markers",
        "marker": {"symbol": "square", "size": cell_height - 10, "opacity": 0},
        "customdata": [list(cell) for cell in cells],
        "hovertext": [hovers[row][column] for row, column in cells],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "showlegend": False,
    }
    outline = {"type": "rect", "line": {"color": QUIET, "width": 2}}
    frames = [
        {**outline, "x0": index - 0.49, "x1": index + 0.49, "y0": index - 0.49, "y1": index + 0.49}
        for index in range(min(len(rows), len(columns)) if outlined else 0)
    ]
    # Of type category outright, for names that are numbers.
    names = {"type": "category", "showgrid": False}
    # Ranges are said, for the markers over the cells would leave room around them.
    right, bottom = len(columns) - 0.5, len(rows) - 0.5
    across = {
        **names,
        "title": {"text": column_title, "standoff": 36 if any("<br>" in name for name in columns) else 12},
    }
    across |= {"tickangle": 0, "side": "bottom", "constrain": "domain", "range": [-0.5, right]}
    layout = {
        **CLICKS,
        "shapes": frames,
        "annotations": _words_of_empty_cells(rates, texts, rows, columns),
        "xaxis": across | dict(column_axis or {}),
        "yaxis": {**names, "title": row_title, "range": [bottom, -0.5]},
    }
    return drawn([heat, marks], layout, height or 150 + cell_height * len(rows))


def _words_of_empty_cells(
    rates: Sequence[Sequence[float]], texts: Sequence[Sequence[str]], rows: Sequence[str], columns: Sequence[str]
) -> list[dict[str, Any]]:
    """Plotly chooses the colour of a cell's text by the cell's; where there is none, the page shines through."""
    return [
        {"x": column, "y": row, "text": text, "showarrow": False, "font": {"color": QUIET, "size": FONT_SIZE}}
        for row, shares, words in zip(rows, rates, texts, strict=True)
        for column, share, text in zip(columns, shares, words, strict=True)
        if math.isnan(share) and text
    ]
