"""Transfer between exits: which exit an example was made on, and which exits it fools."""

import pandas as pd
import plotly.graph_objects as go

from core.figures.matrix import matrix_figure
from core.figures.theme import exit_names


def exit_transfer_figure(transfer: pd.DataFrame, num_exits: int) -> go.Figure:
    """Attacked exit by shown exit, the percentage in each cell, the diagonal outlined.

    Args:
        transfer: Rows of one denominator (schema ``EXIT_TRANSFER``).
        num_exits: Of the model, for the exits' names.

    Returns:
        The figure; rows and columns are the exits in the order of the table.
    """
    exits, names = list(dict.fromkeys(transfer.source_exit)), exit_names(num_exits)
    cells = transfer.set_index(["source_exit", "target_exit"])
    grid = [[cells.loc[(source, target)] for target in exits] for source in exits]
    shown = [names[index] for index in exits]
    return matrix_figure(
        [[cell.rate for cell in row] for row in grid],
        [[f"{100 * cell.rate:.0f}" if cell.num_images else "none" for cell in row] for row in grid],
        [
            [
                f"made on {source}, shown to {target}: {int(cell.num_fooled)} of {int(cell.num_images)} "
                f"({100 * cell.low:.0f}–{100 * cell.high:.0f} %)"
                for target, cell in zip(shown, row, strict=True)
            ]
            for source, row in zip(shown, grid, strict=True)
        ],
        shown,
        shown,
        row_title="made on",
        column_title="shown to",
    )
