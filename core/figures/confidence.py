"""The central chart: how sure every exit is of one image, clean and adversarial."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import FONT_SIZE, STATE_STYLES, bare_figure, exit_names, threshold_line

_FADED = 0.35


def confidence_figure(
    exits: pd.DataFrame, threshold: float, exits_taken: dict[str, int], class_names: Sequence[str]
) -> go.Figure:
    """Confidence at every exit, filled where right and hollow where wrong.

    Args:
        exits: Rows of one image on one model, both states (schema ``EXITS``).
        threshold: Drawn as a dotted line.
        exits_taken: Answered exit of each state, 0-based; later exits are faded, as they are not computed
            when deployed.
        class_names: For the words at the markers: at the first exit, at every change, at the exit taken.
    """
    figure = bare_figure()
    names = exit_names(int(exits.exit_index.max()) + 1)
    for state, (colour, dash, symbol) in STATE_STYLES.items():
        rows = exits[exits.state == state].sort_values("exit_index")
        taken = exits_taken[state]
        figure.add_trace(_trace(rows, state, names, class_names, opacity=_FADED))
        figure.add_trace(_trace(rows[rows.exit_index <= taken], state, names, class_names, opacity=1))
        figure.add_trace(
            go.Scatter(
                x=[None],
                y=[None],
                mode="lines+markers",
                name=state,
                line={"color": colour, "dash": dash, "width": 2},
                marker={"symbol": symbol, "size": 10, "color": colour},
            )
        )
        _add_words(figure, rows, names, class_names, taken, colour, side=1 if state == "adversarial" else -1)
    if len(names) > 1:
        figure.add_shape(threshold_line(threshold))
        figure.add_annotation(
            x=0,
            xref="paper",
            xanchor="left",
            y=threshold,
            yanchor="bottom",
            text=f"threshold {threshold:.2f}",
            showarrow=False,
            font={"size": 12},
        )
    figure.update_xaxes(categoryorder="array", categoryarray=names, range=[-0.6, len(names) - 0.4], showgrid=False)
    figure.update_yaxes(range=[-0.12, 1.24], tickvals=[0, 0.2, 0.4, 0.6, 0.8, 1], title="confidence", zeroline=False)
    return figure


def _trace(rows: pd.DataFrame, state: str, names: list[str], class_names: Sequence[str], opacity: float) -> go.Scatter:
    colour, dash, symbol = STATE_STYLES[state]
    answers = zip(rows.predicted.tolist(), rows.right.tolist(), strict=True)
    words = [[class_names[predicted], "right" if right else "wrong", state] for predicted, right in answers]
    return go.Scatter(
        x=[names[index] for index in rows.exit_index],
        y=rows.confidence,
        mode="lines+markers",
        showlegend=False,
        opacity=opacity,
        line={"color": colour, "dash": dash, "width": 2},
        marker={
            "symbol": [symbol if right else f"{symbol}-open" for right in rows.right],
            "size": 10,
            "color": colour,
            "line": {"color": colour, "width": 2},
        },
        customdata=words,
        hovertemplate="%{x}, %{customdata[2]}: %{customdata[0]} (%{customdata[1]}), confidence %{y:.2f}<extra></extra>",
    )


def _add_words(
    figure: go.Figure,
    rows: pd.DataFrame,
    names: list[str],
    class_names: Sequence[str],
    taken: int,
    colour: str,
    side: int,
) -> None:
    """Names the class where it changes and where the image leaves, above (1) or below (-1) the line.

    Words take the theme's text colour: no data colour is legible as small text on both backgrounds.
    """
    previous, was_named = None, False
    for exit_index, predicted, confidence in rows[["exit_index", "predicted", "confidence"]].to_numpy().tolist():
        word = class_names[int(predicted)]
        place = {"x": names[int(exit_index)], "y": confidence}
        if exit_index == taken:
            figure.add_annotation(
                **place,
                text=f"leaves here: {word}",
                font={"size": FONT_SIZE},
                ax=0,
                # Past the word of the exit before, which would stand in the way.
                ay=(-54 if was_named else -36) * side,
                arrowcolor=colour,
                arrowwidth=1.5,
                arrowhead=0,
                standoff=7,
            )
        elif word != previous:
            figure.add_annotation(**place, text=word, font={"size": 12}, showarrow=False, yshift=15 * side)
        was_named, previous = word != previous, word
