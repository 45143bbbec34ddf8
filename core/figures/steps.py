"""Steps by exits: how each exit gave way while an image was attacked."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import ADVERSARIAL, FONT_SIZE, HEIGHT, PERCENT_BAR, bare_figure, exit_names, exit_ticks

MAX_NUMBERED = 12  # columns that leave room for a number in a cell


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


def exits_made_at_figure(made_at: pd.DataFrame) -> go.Figure:
    """Where images were about to leave at each step: the density of exit numbers while examples are made.

    Args:
        made_at: Schema ``EXITS_MADE_AT``.
    """
    grid = made_at.pivot(index="exit_index", columns="step", values="share")
    counts = made_at.pivot(index="exit_index", columns="step", values="num_images")
    names = exit_names(len(grid))
    is_numbered = len(grid.columns) <= MAX_NUMBERED
    figure = bare_figure(max(200, min(HEIGHT + 10 * len(names), 110 + 38 * len(names))))
    figure.add_trace(
        go.Heatmap(
            z=100 * grid.to_numpy(),
            x=list(grid.columns),
            y=exit_ticks(len(names)),
            text=[[str(count or "") for count in row] for row in counts.to_numpy().tolist()] if is_numbered else None,
            texttemplate="%{text}" if is_numbered else None,
            textfont={"size": FONT_SIZE},
            customdata=np.dstack([counts.to_numpy(), np.broadcast_to(np.array(names)[:, None], grid.shape)]),
            colorscale="Cividis",
            zmin=0,
            zmax=100,
            xgap=2 if len(grid.columns) <= 4 * MAX_NUMBERED else 0,
            ygap=2,
            colorbar=PERCENT_BAR,
            hovertemplate="step %{x}, %{customdata[1]}: %{z:.0f} % (%{customdata[0]} images)<extra></extra>",
        )
    )
    figure.update_xaxes(title="step of the attack", dtick=1 if len(grid.columns) <= 21 else None, showgrid=False)
    figure.update_yaxes(title="exit", type="category", autorange="reversed", showgrid=False)
    return figure
