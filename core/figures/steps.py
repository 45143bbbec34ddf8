"""Steps by exits: how each exit gave way while an image was attacked."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import ADVERSARIAL, HEIGHT, bare_figure, exit_names


def steps_figure(steps: pd.DataFrame, exits_taken: Sequence[int], class_names: Sequence[str]) -> go.Figure:
    """Probability of the true class at every exit and step, the exit taken at each step marked.

    Args:
        steps: Rows of one image (schema ``STEPS``).
        exits_taken: Exit taken at each step, 0-based, from step 0.
        class_names: For the hover.
    """
    names = exit_names(int(steps.exit_index.max()) + 1)
    grid = steps.pivot(index="exit_index", columns="step", values="true_probability")
    words = steps.assign(word=[class_names[index] for index in steps.predicted])
    figure = bare_figure(max(200, min(HEIGHT, 90 + 38 * len(names))))
    figure.add_trace(
        go.Heatmap(
            z=grid.to_numpy(),
            x=list(grid.columns),
            y=names,
            customdata=words.pivot(index="exit_index", columns="step", values="word").to_numpy(),
            colorscale="Cividis",
            zmin=0,
            zmax=1,
            xgap=2,
            ygap=2,
            colorbar={"title": {"text": "p(true class)", "side": "right"}, "tickvals": [0, 0.5, 1], "thickness": 12},
            hovertemplate="step %{x}, %{y}: true class %{z:.2f}, predicts %{customdata}<extra></extra>",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=list(grid.columns),
            y=[names[index] for index in exits_taken],
            mode="lines+markers",
            name="exit taken",
            line={"color": ADVERSARIAL, "dash": "dash", "width": 2},
            marker={"symbol": "diamond", "size": 10, "color": ADVERSARIAL, "line": {"color": "#FFFFFF", "width": 1}},
            showlegend=True,
            hoverinfo="skip",
        )
    )
    figure.update_xaxes(title="step", dtick=1 if len(grid.columns) <= 21 else None, showgrid=False, zeroline=False)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure
