"""Which class is answered as which."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from core.figures.matrix import matrix_figure
from core.figures.theme import PERCENT_BAR, drawn

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
    draw = _numbered if len(names) <= MAX_NUMBERED else _plain
    return draw(shares, counts, totals, names)


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
    return matrix_figure(
        shares.tolist(),
        texts,
        hovers,
        names,
        names,
        row_title="true class",
        column_title="answered as",
        height=HEIGHT,
        # All names, also where they stand close.
        column_axis={"tickangle": -45, "dtick": 1},
    )


def _plain(shares: np.ndarray, counts: np.ndarray, totals: np.ndarray, names: list[str]) -> go.Figure:
    heat = {
        "type": "heatmap",
        "z": 100 * shares,
        "x": names,
        "y": names,
        "customdata": np.stack([counts, totals], axis=-1),
        "colorscale": "Cividis",
        "zmin": 0,
        "zmax": 100,
        "colorbar": PERCENT_BAR,
        "hovertemplate": "%{y} answered as %{x}: %{customdata[0]} of %{customdata[1]}<extra></extra>",
    }
    axis = {"showticklabels": len(names) <= MAX_NAMED, "showgrid": False}
    layout = {
        "xaxis": {**axis, "title": "answered as", "constrain": "domain"},
        "yaxis": {**axis, "title": "true class", "autorange": "reversed"},
    }
    return drawn([heat], layout, HEIGHT)
