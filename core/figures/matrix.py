"""A matrix of rates: Cividis from 0 to 100 %, the text of each cell in it, and every cell can be clicked."""

from collections.abc import Sequence

import plotly.graph_objects as go

from core.figures.theme import FONT_SIZE, PERCENT_BAR, QUIET, bare_figure

CELL_HEIGHT, LEAST_CELL_HEIGHT, MOST_HEIGHT = 56, 25, 520


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

    Returns:
        The figure. A selected point carries ``customdata = [row, column]``, both 0-based.
    """
    cell_height = max(LEAST_CELL_HEIGHT, min(CELL_HEIGHT, MOST_HEIGHT // len(rows)))
    figure = bare_figure(150 + cell_height * len(rows))
    figure.add_trace(
        go.Heatmap(
            z=[[100 * rate for rate in row] for row in rates],
            x=list(columns),
            y=list(rows),
            text=[list(row) for row in texts],
            texttemplate="%{text}",
            textfont={"size": FONT_SIZE},
            colorscale="Cividis",
            zmin=0,
            zmax=100,
            xgap=2,
            ygap=2,
            colorbar=PERCENT_BAR,
            hoverinfo="skip",
        )
    )
    cells = [(row, column) for row in range(len(rows)) for column in range(len(columns))]
    # Heat maps never report a selection, so invisible markers lie over their cells.
    figure.add_trace(
        go.Scatter(
            x=[columns[column] for _, column in cells],
            y=[rows[row] for row, _ in cells],
            mode="markers",
            marker={"symbol": "square", "size": cell_height - 10, "opacity": 0},
            customdata=[list(cell) for cell in cells],
            hovertext=[hovers[row][column] for row, column in cells],
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
        )
    )
    outline = {"type": "rect", "line": {"color": QUIET, "width": 2}}
    frames = [
        {**outline, "x0": index - 0.49, "x1": index + 0.49, "y0": index - 0.49, "y1": index + 0.49}
        for index in range(min(len(rows), len(columns)) if outlined else 0)
    ]
    figure.update_layout(clickmode="event+select", dragmode=False, shapes=frames)
    # Said outright, for names that are numbers.
    names = {"type": "category", "showgrid": False}
    figure.update_xaxes(**names, title=column_title, tickangle=0, side="bottom", constrain="domain")
    figure.update_yaxes(**names, title=row_title, autorange="reversed")
    return figure
