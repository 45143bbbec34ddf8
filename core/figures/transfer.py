"""The transfer matrix: which model's adversarial examples fool which model."""

import math
import re
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.figures.matrix import matrix_figure

_MANY = 7  # columns from which on neither counts nor names would fit on a phone
_HEIGHT_OF_MANY, _ROW_HEIGHT_OF_MANY = 240, 56  # the names of columns stand on end


def transfer_figure(transfer: pd.DataFrame, labels: dict[str, str]) -> go.Figure:
    """Source by target: counts, or shares where ``is_in_percent``; the diagonal framed where ``is_outlined``.

    Args:
        transfer: Rows of one denominator (schema ``TRANSFER``).
        labels: Name on screen of each model, in the order of rows and columns.

    Returns:
        The figure; a cell that the table lacks says that the two models share a backbone.
    """
    sources = [name for name in labels if name in set(transfer.source)]
    targets = [name for name in labels if name in set(transfer.target)]
    cells: dict[tuple[str, str], Any] = {(str(row.source), str(row.target)): row for row in transfer.itertuples()}
    pairs = [[(source, target) for target in targets] for source in sources]
    in_percent = is_in_percent(transfer)
    return matrix_figure(
        [[cells[pair].rate if pair in cells else math.nan for pair in row] for row in pairs],
        [[_cell_text(cells.get(pair), in_percent) for pair in row] for row in pairs],
        [
            [f"made on {labels[pair[0]]}, shown to {labels[pair[1]]}: {_words(cells.get(pair))}" for pair in row]
            for row in pairs
        ],
        [_wrapped(labels[name]) for name in sources],
        [labels[name] if in_percent else _wrapped(labels[name]) for name in targets],
        row_title="made on",
        column_title="shown to",
        outlined=is_outlined(transfer),
        height=_HEIGHT_OF_MANY + _ROW_HEIGHT_OF_MANY * len(sources) if in_percent else None,
        column_axis={"tickangle": -60, "dtick": 1} if in_percent else None,
    )


def is_in_percent(transfer: pd.DataFrame) -> bool:
    """Whether cells hold shares in percent, as counts would not fit; these stand under the pointer and in the table.

    Args:
        transfer: As given to ``transfer_figure``.
    """
    return int(transfer.target.nunique()) >= _MANY


def is_outlined(transfer: pd.DataFrame) -> bool:
    """Whether the cells of attacks shown to their own source are framed: where every source is a target and back.

    Args:
        transfer: As given to ``transfer_figure``.
    """
    return set(transfer.source) == set(transfer.target)


def _wrapped(label: str) -> str:
    # The architecture above, the kind and what else it is below, so that neighbours do not collide.
    return re.sub(
        r" (static|early-exit)(, )?", lambda found: f"<br>{found[1]}" + ",<br>" * bool(found[2]), label, count=1
    )


def _cell_text(cell: Any, in_percent: bool = False) -> str:
    if cell is None:
        return "same<br>backbone"
    if not cell.num_images:
        return "no image"
    return f"{100 * cell.rate:.0f}" if in_percent else f"{cell.num_fooled} of {cell.num_images}"


def _words(cell: Any) -> str:
    if cell is None:
        return "not compared, as both stand on one backbone"
    return f"{_cell_text(cell)} ({100 * cell.low:.0f}–{100 * cell.high:.0f} %)"
