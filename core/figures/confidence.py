"""The central chart: how sure every exit is of one image, clean and adversarial."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import FONT_SIZE, STATE_STYLES, drawn, exit_names, threshold_line

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
    names = exit_names(int(exits.exit_index.max()) + 1)
    traces, annotations = [], []
    for state, (colour, dash, symbol) in STATE_STYLES.items():
        rows = exits[exits.state == state].sort_values("exit_index")
        answers = _answers(rows, class_names)
        taken = exits_taken[state]
        traces.append(_trace(answers, state, names) | {"opacity": _FADED})
        traces.append(_trace([answer for answer in answers if answer.exit_index <= taken], state, names))
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
        annotations += _words(answers, names, taken, colour, side=1 if state == "adversarial" else -1)
    layout: dict[str, Any] = {
        "annotations": annotations,
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
    if len(names) > 1:
        layout["shapes"] = [threshold_line(threshold)]
        annotations.append(
            {
                "x": 0,
                "xref": "paper",
                "xanchor": "left",
                "y": threshold,
                "yanchor": "bottom",
                "text": f"threshold {threshold:.2f}",
                "showarrow": False,
                "font": {"size": 12},
            }
        )
    return drawn(traces, layout)


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
                    "text": f"leaves here: {answer.word}",
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
