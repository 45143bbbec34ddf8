"""Which class is answered as which."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import QUIET, bare_figure

MAX_NUMBERED = 12
MAX_NAMED = 30


def confusion_figure(confusion: pd.DataFrame, class_names: Sequence[str]) -> go.Figure:
    """True class by answer, in percent of the true class, the diagonal outlined.

    Args:
        confusion: Schema ``CONFUSION``.
        class_names: Written at the axes where there are at most ``MAX_NAMED``; numbers stand in the cells where
            there are at most ``MAX_NUMBERED``.
    """
    num_classes = len(class_names)
    grid = confusion.pivot(index="label", columns="predicted", values="share").to_numpy() * 100
    counts = [
        confusion.pivot(index="label", columns="predicted", values=column).to_numpy()
        for column in ("num_answered", "num_images")
    ]
    is_numbered = num_classes <= MAX_NUMBERED
    names, outline = list(class_names), {"color": QUIET, "width": 2}
    figure = bare_figure(500)
    figure.add_trace(
        go.Heatmap(
            z=grid,
            x=names,
            y=names,
            customdata=np.stack(counts, axis=-1),
            text=[[f"{value:.0f}" if value == value else "" for value in row] for row in grid.tolist()]
            if is_numbered
            else None,
            texttemplate="%{text}" if is_numbered else None,
            textfont={"size": 13},
            colorscale="Cividis",
            zmin=0,
            zmax=100,
            xgap=2 if is_numbered else 0,
            ygap=2 if is_numbered else 0,
            colorbar={"ticksuffix": " %", "tickvals": [0, 50, 100], "thickness": 12},
            hovertemplate="%{y} answered as %{x}: %{z:.1f} % (%{customdata[0]} of %{customdata[1]})<extra></extra>",
        )
    )
    diagonal = [
        {"type": "rect", "x0": at - 0.49, "x1": at + 0.49, "y0": at - 0.49, "y1": at + 0.49, "line": outline}
        for at in range(num_classes if is_numbered else 0)
    ]
    figure.update_layout(shapes=diagonal)
    is_named = num_classes <= MAX_NAMED
    figure.update_xaxes(title="answered as", showticklabels=is_named, showgrid=False, constrain="domain")
    figure.update_yaxes(title="true class", showticklabels=is_named, showgrid=False, autorange="reversed")
    return figure
