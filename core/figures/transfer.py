"""The transfer matrix: which model's adversarial examples fool which model."""

import re

import pandas as pd
import plotly.graph_objects as go

from core.figures.matrix import matrix_figure


def transfer_figure(transfer: pd.DataFrame, labels: dict[str, str]) -> go.Figure:
    """Source by target, the count in each cell, the diagonal outlined where every source is a target.

    Args:
        transfer: Rows of one denominator (schema ``TRANSFER``).
        labels: Name on screen of each model.

    Returns:
        The figure; rows and columns are the sources and targets in the order of the table.
    """
    sources, targets = list(dict.fromkeys(transfer.source)), list(dict.fromkeys(transfer.target))
    cells = transfer.set_index(["source", "target"])
    grid = [[cells.loc[(source, target)] for target in targets] for source in sources]
    return matrix_figure(
        [[cell.rate for cell in row] for row in grid],
        [[_cell_text(cell) for cell in row] for row in grid],
        [
            [
                f"made on {labels[source]}, shown to {labels[target]}: {_cell_text(cell)} "
                f"({100 * cell.low:.0f}–{100 * cell.high:.0f} %)"
                for target, cell in zip(targets, row, strict=True)
            ]
            for source, row in zip(sources, grid, strict=True)
        ],
        [_wrapped(labels[name]) for name in sources],
        [_wrapped(labels[name]) for name in targets],
        row_title="made on",
        column_title="shown to",
        outlined=sources == targets,
    )


def _wrapped(label: str) -> str:
    # The architecture above, the kind below, so that neighbours do not collide.
    return re.sub(r" (static|early-exit)", r"<br>\1", label, count=1)


def _cell_text(cell: pd.Series) -> str:
    if not cell.num_images:
        return "no image"
    return f"{cell.num_fooled} of {cell.num_images}"
