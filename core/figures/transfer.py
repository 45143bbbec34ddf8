"""The transfer matrix: which model's adversarial examples fool which model."""

import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import QUIET, bare_figure


def transfer_figure(transfer: pd.DataFrame, labels: dict[str, str]) -> go.Figure:
    """Source by target, the rate and its count in each cell, the diagonal outlined.

    Args:
        transfer: Rows of one denominator (schema ``TRANSFER``).
        labels: Name on screen of each model.
    """
    models = list(dict.fromkeys(transfer.source))
    cells = transfer.set_index(["source", "target"])
    grid = [[cells.loc[(source, target)] for target in models] for source in models]
    figure = bare_figure(120 + 80 * len(models))
    figure.add_trace(
        go.Heatmap(
            z=[[100 * cell.rate for cell in row] for row in grid],
            x=[_wrapped(labels[name]) for name in models],
            y=[_wrapped(labels[name]) for name in models],
            customdata=[[f"{100 * cell.low:.0f}–{100 * cell.high:.0f} %" for cell in row] for row in grid],
            text=[[_cell_text(cell) for cell in row] for row in grid],
            texttemplate="%{text}",
            textfont={"size": 14},
            colorscale="Cividis",
            zmin=0,
            zmax=100,
            xgap=2,
            ygap=2,
            colorbar={"ticksuffix": " %", "tickvals": [0, 50, 100], "thickness": 12},
            hovertemplate="made on %{y}, shown to %{x}: %{text} (%{customdata})<extra></extra>",
        )
    )
    for index in range(len(models)):
        figure.add_shape(
            type="rect",
            x0=index - 0.49,
            x1=index + 0.49,
            y0=index - 0.49,
            y1=index + 0.49,
            line={"color": QUIET, "width": 2},
        )
    figure.update_xaxes(title="shown to", tickangle=0, side="bottom", showgrid=False, constrain="domain")
    figure.update_yaxes(title="made on", autorange="reversed", showgrid=False)
    return figure


def _wrapped(label: str) -> str:
    # Names end in the kind of the model, which goes below, so that neighbours do not collide.
    architecture, _, kind = label.rpartition(" ")
    return f"{architecture}<br>{kind}"


def _cell_text(cell: pd.Series) -> str:
    if not cell.num_images:
        return "no image"
    return f"{cell.num_fooled} of {cell.num_images}"
