"""Attribution maps of all exits side by side, clean above adversarial, on one signed scale."""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from core.figures.theme import bare_figure, exit_names


def saliency_figure(clean: np.ndarray, adversarial: np.ndarray) -> go.Figure:
    """Two rows of maps.

    Args:
        clean: (K, H, W), signed.
        adversarial: (K, H, W), signed, drawn on the same scale.
    """
    names = exit_names(len(clean))
    figure = make_subplots(
        2,
        len(names),
        column_titles=names,
        row_titles=["clean", "adversarial"],
        horizontal_spacing=0.01,
        vertical_spacing=0.03,
    )
    # One bright pixel must not bleach all others: the scale ends at the 99th percentile.
    limit = float(np.quantile(np.abs(np.concatenate([clean, adversarial])), 0.99)) or 1.0
    for row, maps in enumerate((clean, adversarial), start=1):
        for column, values in enumerate(maps, start=1):
            figure.add_trace(
                go.Heatmap(z=values[::-1], coloraxis="coloraxis", hovertemplate="%{z:.3f}<extra></extra>"),
                row=row,
                col=column,
            )
    base = bare_figure(max(220, min(420, 2 * round(1000 / (len(names) + 0.5)) + 60)))
    figure.update_layout(base.layout)
    figure.update_layout(
        coloraxis={
            "colorscale": "PuOr",
            "cmin": -limit,
            "cmax": limit,
            "colorbar": {"thickness": 12, "tickvals": [-limit, 0, limit], "ticktext": ["lowers", "0", "raises"]},
        }
    )
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, scaleanchor="x", constrain="domain")
    return figure
