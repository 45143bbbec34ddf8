"""Which class is answered as which."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from core.figures.matrix import matrix_figure
from core.figures.theme import bare_figure

MAX_NUMBERED = 12
MAX_NAMED = 30
HEIGHT = 500


def confusion_figure(confusion: pd.DataFrame, class_names: Sequence[str]) -> go.Figure:
    """True class by answer, in percent of the true class.

    Args:
        confusion: Schema ``CONFUSION``.
        class_names: Up to ``MAX_NUMBERED`` classes make a matrix with numbers whose cells answer clicks; more make
            a plain one, with names at the axes up to ``MAX_NAMED``.
    """
    names = list(class_names)
    shares, counts, totals = (
        confusion.pivot(index="label", columns="predicted", values=column).to_numpy()
        for column in ("share", "num_answered", "num_images")
    )
    if len(names) <= MAX_NUMBERED:
        figure = _numbered(shares, counts, totals, names)
    else:
        figure = _plain(shares, counts, totals, names)
    figure.update_layout(height=HEIGHT)
    return figure


def _numbered(shares: np.ndarray, counts: np.ndarray, totals: np.ndarray, names: list[str]) -> go.Figure:
    cells = range(len(names))
    hovers = [
        [
            f"{names[row]} answered as {names[column]}: {counts[row, column]} of {totals[row, column]}"
            for column in cells
        ]
        for row in cells
    ]
    texts = [[f"{100 * share:.0f}" if share == share else "" for share in row] for row in shares.tolist()]
    figure = matrix_figure(
        shares.tolist(), texts, hovers, names, names, row_title="true class", column_title="answered as"
    )
    figure.update_xaxes(tickangle=-45)
    return figure


def _plain(shares: np.ndarray, counts: np.ndarray, totals: np.ndarray, names: list[str]) -> go.Figure:
    figure = bare_figure()
    figure.add_trace(
        go.Heatmap(
            z=100 * shares,
            x=names,
            y=names,
            customdata=np.stack([counts, totals], axis=-1),
            colorscale="Cividis",
            zmin=0,
            zmax=100,
            colorbar={"ticksuffix": " %", "tickvals": [0, 50, 100], "thickness": 12},
            hovertemplate="%{y} answered as %{x}: %{customdata[0]} of %{customdata[1]}<extra></extra>",
        )
    )
    is_named = len(names) <= MAX_NAMED
    figure.update_xaxes(title="answered as", showticklabels=is_named, showgrid=False, constrain="domain")
    figure.update_yaxes(title="true class", showticklabels=is_named, showgrid=False, autorange="reversed")
    return figure
