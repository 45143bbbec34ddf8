"""The epsilon ladder: what part of the images succumbs within each radius."""

import pandas as pd
import plotly.graph_objects as go

from core.attacks.common import Norm, strength_words
from core.figures.theme import ADVERSARIAL, CLICKS, PERCENT_TICKS, drawn, interval

LADDER_HEIGHT = 260


def ladder_figure(steps: pd.DataFrame, norm: Norm = "linf", done: str = "fooled") -> go.Figure:
    """Share on which the attack succeeds within each radius, with its interval.

    Args:
        steps: Schema ``LADDER_STEPS``, one denominator.
        norm: Of the radii.
        done: What became of the images, in words.

    Returns:
        The figure. A selected point carries ``customdata = [row of the steps, …]``.
    """
    share, low, high = (100 * steps[column] for column in ("rate", "low", "high"))
    counts = zip(steps.num_fooled.tolist(), steps.num_images.tolist(), strict=True)
    trace = {
        "type": "scatter",
        "x": [strength_words(norm, epsilon) for epsilon in steps.epsilon],
        "y": share,
        "error_y": interval(share, low, high),
        "mode": "lines+markers",
        "showlegend": False,
        "line": {"color": ADVERSARIAL, "dash": "dash", "width": 2, "shape": "hv"},
        "marker": {"symbol": "diamond", "size": 10, "color": ADVERSARIAL},
        "customdata": [[row, f"{hits} of {images}"] for row, (hits, images) in enumerate(counts)],
        "hovertemplate": f"within %{{x}}: %{{customdata[1]}} {done} (%{{y:.0f}} %)<extra></extra>",
    }
    layout = {
        **CLICKS,
        "xaxis": {"title": "epsilon", "type": "category", "showgrid": False},
        "yaxis": {"title": done, "range": [-4, 104], **PERCENT_TICKS, "zeroline": False},
    }
    return drawn([trace], layout, LADDER_HEIGHT)
