"""Steps by exits: how each exit gave way while an image was attacked."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import ADVERSARIAL, CLICKS, FONT_SIZE, HEIGHT, PERCENT_BAR, drawn, exit_names, exit_ticks

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
    heat = {
        "type": "heatmap",
        "z": grid.to_numpy(),
        "x": list(grid.columns),
        "y": names,
        "customdata": words.pivot(index="exit_index", columns="step", values="word").to_numpy(),
        "colorscale": "Cividis",
        "zmin": 0,
        "zmax": 1,
        "xgap": 2,
        "ygap": 2,
        "colorbar": {"title": {"text": "p(true class)", "side": "right"}, "tickvals": [0, 0.5, 1], "thickness": 12},
        "hovertemplate": "step %{x}, %{y}: true class %{z:.2f}, predicts %{customdata}<extra></extra>",
    }
    taken = {
        "type": "scatter",
        "x": list(grid.columns),
        "y": [names[index] for index in exits_taken],
        "mode": "lines+markers",
        "name": "exit taken",
        "line": {"color": ADVERSARIAL, "dash": "dash", "width": 2},
        "marker": {"symbol": "diamond", "size": 10, "color": ADVERSARIAL, "line": {"color": "#FFFFFF", "width": 1}},
        "showlegend": True,
        "hoverinfo": "skip",
    }
    layout = {
        "xaxis": {"title": "step", **_every_step(grid), "showgrid": False, "zeroline": False},
        "yaxis": {"autorange": "reversed", "showgrid": False},
    }
    return drawn([heat, taken], layout, max(200, min(HEIGHT, 90 + 38 * len(names))))


def exits_made_at_figure(made_at: pd.DataFrame) -> go.Figure:
    """Where images were about to leave at each step: the density of exit numbers while examples are made.

    Args:
        made_at: Schema ``EXITS_MADE_AT``.

    Returns:
        The figure. A selected cell carries ``customdata = [exit, step]``.
    """
    grid = made_at.pivot(index="exit_index", columns="step", values="share")
    counts = made_at.pivot(index="exit_index", columns="step", values="num_images")
    names = exit_names(len(grid))
    is_numbered = len(grid.columns) <= MAX_NUMBERED
    ticks = exit_ticks(len(names))
    heat = {
        "type": "heatmap",
        "z": 100 * grid.to_numpy(),
        "x": list(grid.columns),
        "y": ticks,
        "text": [[str(count or "") for count in row] for row in counts.to_numpy().tolist()] if is_numbered else None,
        "texttemplate": "%{text}" if is_numbered else None,
        "textfont": {"size": FONT_SIZE},
        "colorscale": "Cividis",
        "zmin": 0,
        "zmax": 100,
        "xgap": 2 if len(grid.columns) <= 4 * MAX_NUMBERED else 0,
        "ygap": 2,
        "colorbar": PERCENT_BAR,
        "hoverinfo": "skip",
    }
    held = made_at[made_at.num_images > 0]
    # Heat maps never report a selection, so invisible markers lie over the cells that hold images.
    marks = {
        "type": "scatter",
        "x": held.step,
        "y": [ticks[index] for index in held.exit_index],
        "mode": "markers",
        "marker": {"symbol": "square", "size": 26, "opacity": 0},
        "customdata": held[["exit_index", "step"]].to_numpy().tolist(),
        "hovertext": [
            f"step {step}, {names[exit_index]}: {100 * share:.0f} % ({num_images} images)"
            for step, exit_index, share, num_images in zip(
                held.step, held.exit_index, held.share, held.num_images, strict=True
            )
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "showlegend": False,
    }
    layout = {
        **CLICKS,
        "xaxis": {"title": "step of the attack", **_every_step(grid), "showgrid": False},
        "yaxis": {"title": "exit", "type": "category", "autorange": "reversed", "showgrid": False},
    }
    return drawn([heat, marks], layout, max(200, min(HEIGHT + 10 * len(names), 110 + 38 * len(names))))


def _every_step(grid: pd.DataFrame) -> dict[str, object]:
    # The range is said, for markers over the cells would widen it by steps that are none.
    ends: dict[str, object] = {"range": [int(grid.columns[0]) - 0.5, int(grid.columns[-1]) + 0.5]}
    return ends | ({"dtick": 1} if len(grid.columns) <= 21 else {})
