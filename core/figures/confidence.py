"""The central chart: how sure every exit is of one image, clean and adversarial."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import FONT_SIZE, STATE_STYLES, THRESHOLD, drawn, exit_names, threshold_line

_FADED = 0.35


class BesideIt(NamedTuple):
    """Another model in the same picture, such as the twin.

    Attributes:
        exits: Rows of the same image on it, both states (schema ``EXITS``).
        exits_taken: Its answered exit of each state, 0-based.
        glyph: Of its kind, before the names of its exits.
    """

    exits: pd.DataFrame
    exits_taken: dict[str, int]
    glyph: str


def confidence_figure(
    exits: pd.DataFrame,
    threshold: float,
    exits_taken: dict[str, int],
    class_names: Sequence[str],
    beside: BesideIt | None = None,
) -> go.Figure:
    """Confidence at every exit, filled where right and hollow where wrong.

    Args:
        exits: Rows of one image on one model, both states (schema ``EXITS``).
        threshold: Drawn as a dotted line over the exits of a model with early ones.
        exits_taken: Answered exit of each state, 0-based; later exits are faded, as they are not computed
            when deployed.
        class_names: For the words at the markers: at the first exit, at every change, at the exit taken.
        beside: Drawn to the right of it, on the same scale.
    """
    names = exit_names(int(exits.exit_index.max()) + 1)
    traces, annotations = _of_model(exits, exits_taken, names, class_names)
    shapes: list[dict[str, Any]] = []
    if len(names) > 1:
        _add_threshold(shapes, annotations, threshold, -0.6, len(names) - 0.5 if beside else len(names) - 0.4)
    if beside:
        boundary = len(names) - 0.5
        names_there = [f"{beside.glyph} {name}" for name in exit_names(int(beside.exits.exit_index.max()) + 1)]
        traces_there, words_there = _of_model(beside.exits, beside.exits_taken, names_there, class_names)
        traces, annotations, names = traces + traces_there, annotations + words_there, names + names_there
        if len(names_there) > 1:
            _add_threshold(shapes, annotations, threshold, boundary, len(names) - 0.4)
        across = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": boundary, "x1": boundary}
        shapes.append({**across, "line": {"color": THRESHOLD, "width": 1}})
    for state, (colour, dash, symbol) in STATE_STYLES.items():
        traces.append(
            {
                "type": "scatter",
                "x": [None],
                "y": [None],
                "mode": "lines+markers",
                "name": state,
                "line": {"color": colour, "dash": dash, "width": 2},
                "marker": {"symbol": symbol, "size": 10, "color": colour},
            }
        )
    layout: dict[str, Any] = {
        "annotations": annotations,
        "shapes": shapes,
        "xaxis": {
            "categoryorder": "array",
            "categoryarray": names,
            "range": [-0.6, len(names) - 0.4],
            "showgrid": False,
        },
        "yaxis": {
            "range": [-0.12, 1.24],
            "tickvals": [0, 0.2, 0.4, 0.6, 0.8, 1],
            "title": "confidence",
            "zeroline": False,
        },
    }
    return drawn(traces, layout)


def _of_model(
    exits: pd.DataFrame, exits_taken: dict[str, int], names: list[str], class_names: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The curves of one model and the words at them."""
    traces, words = [], []
    for state, (colour, _, _) in STATE_STYLES.items():
        rows = exits[exits.state == state].sort_values("exit_index")
        answers = _answers(rows, class_names)
        taken = exits_taken[state]
        traces.append(_trace(answers, state, names) | {"opacity": _FADED})
        traces.append(_trace([answer for answer in answers if answer.exit_index <= taken], state, names))
        words += _words(answers, names, taken, colour, side=1 if state == "adversarial" else -1)
    return traces, words


def _add_threshold(
    shapes: list[dict[str, Any]], annotations: list[dict[str, Any]], threshold: float, start: float, end: float
) -> None:
    """The threshold over some exits, by their places on the axis, and its word at the start."""
    shapes.append({**threshold_line(threshold), "xref": "x", "x0": start, "x1": end})
    annotations.append(
        {
            "x": start,
            "xanchor": "left",
            "y": threshold,
            "yanchor": "bottom",
            "text": f"threshold {threshold:.2f}",
            "showarrow": False,
            "font": {"size": 12},
        }
    )


class _Answer(NamedTuple):
    exit_index: int
    confidence: float
    word: str
    right: bool


def _answers(rows: pd.DataFrame, class_names: Sequence[str]) -> list[_Answer]:
    columns = (rows[name].tolist() for name in ("exit_index", "confidence", "predicted", "right"))
    return [
        _Answer(exit_index, confidence, class_names[predicted], right)
        for exit_index, confidence, predicted, right in zip(*columns, strict=True)
    ]


def _trace(answers: list[_Answer], state: str, names: list[str]) -> dict[str, Any]:
    colour, dash, symbol = STATE_STYLES[state]
    return {
        "type": "scatter",
        "x": [names[answer.exit_index] for answer in answers],
        "y": [answer.confidence for answer in answers],
        "mode": "lines+markers",
        "showlegend": False,
        "opacity": 1,
        "line": {"color": colour, "dash": dash, "width": 2},
        "marker": {
            "symbol": [symbol if answer.right else f"{symbol}-open" for answer in answers],
            "size": 10,
            "color": colour,
            "line": {"color": colour, "width": 2},
        },
        "customdata": [[answer.word, "right" if answer.right else "wrong", state] for answer in answers],
        "hovertemplate": "%{x}, %{customdata[2]}: %{customdata[0]} (%{customdata[1]}), confidence %{y:.2f}"
        "<extra></extra>",
    }


def _words(answers: list[_Answer], names: list[str], taken: int, colour: str, side: int) -> list[dict[str, Any]]:
    """Names the class where it changes and where the image leaves, above (1) or below (-1) the line.

    Words take the theme's text colour: no data colour is legible as small text on both backgrounds.
    """
    words: list[dict[str, Any]] = []
    previous, was_named = None, False
    for answer in answers:
        place = {"x": names[answer.exit_index], "y": answer.confidence}
        if answer.exit_index == taken:
            words.append(
                {
                    **place,
                    "text": f"leaves here: {answer.word}" if len(names) > 1 else answer.word,
                    "font": {"size": FONT_SIZE},
                    "ax": 0,
                    # Past the word of the exit before, which would stand in the way.
                    "ay": (-54 if was_named else -36) * side,
                    "arrowcolor": colour,
                    "arrowwidth": 1.5,
                    "arrowhead": 0,
                    "standoff": 7,
                }
            )
        elif answer.word != previous:
            words.append({**place, "text": answer.word, "font": {"size": 12}, "showarrow": False, "yshift": 15 * side})
        was_named, previous = answer.word != previous, answer.word
    return words
