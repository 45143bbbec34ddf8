"""Static to early-exit and back: every pair of models as a point, architectures apart."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from core.figures.theme import EARLY_EXIT, KIND_SYMBOLS, QUIET, STATIC, bare_figure

DIRECTIONS = ("S2S", "S2D", "D2S", "D2D")
WORDS = {"S": "static", "D": "early-exit"}
_COLOURS = {"S": STATIC, "D": EARLY_EXIT}
_SPREAD = 0.5
_HOVER = ["source", "target", "num_fooled", "num_images", "low", "high"]


def directions_figure(directions: pd.DataFrame, labels: dict[str, str], why_empty: dict[bool, str]) -> go.Figure:
    """Two charts side by side, same and different architectures; thin lines join the two ways of one pair.

    The colour says on which kind an example was made, the shape to which kind it was shown.

    Args:
        directions: Rows of one denominator (schema ``DIRECTIONS``).
        labels: Name on screen of each model.
        why_empty: What stands where no pair is of the same (True) or of different architecture (False).
    """
    figure = make_subplots(
        1, 2, shared_yaxes=True, horizontal_spacing=0.04, column_titles=["same architecture", "different architectures"]
    )
    for column, same in enumerate((True, False), start=1):
        rows = directions[(directions.same_architecture == same) & (directions.num_images > 0)]
        if rows.empty:
            _say(figure, why_empty[same], column)
            continue
        places = _places(rows)
        for _, pair in rows.groupby(rows.apply(lambda row: tuple(sorted((row.source, row.target))), axis=1)):
            if len(pair) == 2:
                figure.add_trace(_join(pair, places), row=1, col=column)
        for direction, group in rows.groupby("direction"):
            figure.add_trace(_points(str(direction), group, places, labels), row=1, col=column)
    figure.update_layout(bare_figure().layout)
    figure.update_layout(showlegend=False, hovermode="closest")
    figure.update_xaxes(
        range=[-0.6, 3.6],
        tickvals=list(range(4)),
        ticktext=[f"{WORDS[name[0]]}<br>→ {WORDS[name[2]]}" for name in DIRECTIONS],
        tickangle=0,
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(range=[-4, 104], ticksuffix=" %", tickvals=[0, 25, 50, 75, 100], zeroline=False)
    figure.update_yaxes(title="target fooled", row=1, col=1)
    return figure


def _places(rows: pd.DataFrame) -> pd.Series:
    """Where each point stands on the x axis: beside the others of its direction."""
    number = rows.groupby("direction").cumcount()
    count = rows.groupby("direction").direction.transform("size")
    aside = _SPREAD * ((number + 0.5) / count - 0.5)
    return rows.direction.map(DIRECTIONS.index) + aside


def _points(direction: str, group: pd.DataFrame, places: pd.Series, labels: dict[str, str]) -> go.Scatter:
    colour = _COLOURS[direction[0]]
    value, above, below = (100 * each for each in (group.rate, group.high - group.rate, group.rate - group.low))
    return go.Scatter(
        x=places[group.index],
        y=value,
        mode="markers",
        marker={
            "symbol": KIND_SYMBOLS[WORDS[direction[2]]],
            "size": 11,
            "color": colour,
            "line": {"color": "#FFFFFF", "width": 1},
        },
        error_y={"type": "data", "array": above, "arrayminus": below, "thickness": 1.2, "width": 3},
        hovertext=[
            f"made on {labels[source]}, shown to {labels[target]}: {num_fooled} of {num_images} "
            f"({100 * low:.0f}–{100 * high:.0f} %)"
            for source, target, num_fooled, num_images, low, high in group[_HOVER].to_numpy().tolist()
        ],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _join(pair: pd.DataFrame, places: pd.Series) -> go.Scatter:
    return go.Scatter(
        x=places[pair.index],
        y=100 * pair.rate,
        mode="lines",
        line={"color": QUIET, "width": 1, "dash": "dot"},
        hoverinfo="skip",
    )


def _say(figure: go.Figure, words: str, column: int) -> None:
    figure.add_trace(go.Scatter(x=[None], y=[None], hoverinfo="skip"), row=1, col=column)
    figure.add_annotation(x=1.5, y=50, text=words, showarrow=False, row=1, col=column)
