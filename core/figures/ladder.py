"""The epsilon ladder: what part of the images succumbs within each radius."""

import pandas as pd
import plotly.graph_objects as go

from core.attacks.spec import as_255
from core.figures.theme import ADVERSARIAL, bare_figure

LADDER_HEIGHT = 260


def ladder_figure(steps: pd.DataFrame) -> go.Figure:
    """Share fooled within each radius, with its interval.

    Args:
        steps: Schema ``LADDER_STEPS``, one denominator.
    """
    figure = bare_figure(LADDER_HEIGHT)
    figure.add_trace(
        go.Scatter(
            x=[as_255(epsilon) for epsilon in steps.epsilon],
            y=100 * steps.rate,
            error_y={
                "type": "data",
                "symmetric": False,
                "array": 100 * (steps.high - steps.rate),
                "arrayminus": 100 * (steps.rate - steps.low),
                "thickness": 1.5,
                "width": 0,
            },
            mode="lines+markers",
            showlegend=False,
            line={"color": ADVERSARIAL, "dash": "dash", "width": 2, "shape": "hv"},
            marker={"symbol": "diamond", "size": 10, "color": ADVERSARIAL},
            customdata=[f"{row.num_fooled} of {row.num_images}" for row in steps.itertuples()],
            hovertemplate="within %{x}: %{customdata} fooled (%{y:.0f} %)<extra></extra>",
        )
    )
    figure.update_xaxes(title="epsilon", type="category", showgrid=False)
    figure.update_yaxes(title="fooled", ticksuffix=" %", range=[-4, 104], tickvals=[0, 25, 50, 75, 100], zeroline=False)
    return figure
