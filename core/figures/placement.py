"""Placements: what they cost and how often they are fooled, and what every exit they choose from gets right."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.attacks.success import DONE_WORDS
from core.figures.theme import ADVERSARIAL, CLEAN, EARLY_EXIT, PERCENT_TICKS, QUIET, bare_figure, interval

CHOSEN = "chosen here"
FIXED = "fixed examples"
# Names stand above the chart, each on a line of its own, with a thread down to its marker: placements may coincide.
_FIRST_LINE, _LINE_HEIGHT, _LINE_PIXELS = 112, 9, 20
_NO_ROOM = 0.25  # of the width
_SHARE_AXIS = {**PERCENT_TICKS, "range": [-4, 104], "zeroline": False}
# Marker and colour of each way in which a placement was measured: shape and fill say it, colour repeats it.
_STYLES = {
    FIXED: ("circle-open", ADVERSARIAL),
    "made anew": ("diamond", ADVERSARIAL),
    "trained with these exits": ("square", EARLY_EXIT),
}


def placement_figure(rows: pd.DataFrame) -> go.Figure:
    """Success of an attack over mean cost, one marker a placement; the chosen one is large and named in bold.

    Args:
        rows: Schema ``PLACED``, one attack; the placement ``CHOSEN`` is the reader's.
    """
    across = {"title": "mean cost of clean images", "ticksuffix": " %", "zeroline": False, "showgrid": False}
    named = _named(rows)
    height, top = 400 + _LINE_PIXELS * len(named), _FIRST_LINE + _LINE_HEIGHT * len(named)
    done = {DONE_WORDS[rule] for rule in rows.success_rule}
    down = {"title": done.pop() if len(done) == 1 else "attack succeeds", **_SHARE_AXIS, "range": [-14, top]}
    figure = bare_figure(height, {"xaxis": across, "yaxis": down, "annotations": _names(named, rows)})
    for how, (symbol, colour) in _STYLES.items():
        some = rows[rows.how == how]
        if some.empty:
            continue
        some = some.sort_values("clean_cost")
        chosen = some.placement == CHOSEN
        figure.add_trace(
            go.Scatter(
                x=100 * some.clean_cost,
                y=100 * some.rate,
                error_y=interval(100 * some.rate, 100 * some.low, 100 * some.high),
                mode="markers",
                name=how,
                showlegend=True,
                marker={
                    "symbol": symbol,
                    "size": [18 if is_chosen else 10 for is_chosen in chosen],
                    "color": colour,
                    "line": {"width": 2, "color": colour},
                },
                hovertext=[
                    f"{row['placement']} ({row['exits'] or 'its own exits'}), {how}: {row['num_fooled']:,} of "
                    f"{row['num_images']:,} {DONE_WORDS[row['success_rule']]}, "
                    f"right on {100 * row['clean_accuracy']:.1f} % when clean, mean cost "
                    f"{100 * row['clean_cost']:.0f} %"
                    for row in some.to_dict("records")
                ],
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )
    return figure


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    """One row of each placement that has a name: as attacks were made anew on it, where they were.

    From the lowest line up. Names lie to the left of their threads and threads further right reach higher, so that
    none crosses a name; only next to the axis, where there is no room, do names lie to the right.
    """
    others = rows[rows.placement != CHOSEN]
    first = others.assign(is_fixed=others.how == FIXED).sort_values("is_fixed", kind="stable")
    once = first.drop_duplicates("placement").sort_values("clean_cost", kind="stable")
    low, high = rows.clean_cost.min(), rows.clean_cost.max()
    once = once.assign(to_the_right=once.clean_cost <= low + _NO_ROOM * (high - low))
    return pd.concat([once[once.to_the_right][::-1], once[~once.to_the_right]])


def _names(named: pd.DataFrame, rows: pd.DataFrame) -> list[dict[str, object]]:
    look = {"axref": "x", "ayref": "y", "arrowhead": 0, "arrowwidth": 1, "arrowcolor": QUIET, "font": {"color": QUIET}}

    def thread(row: dict[str, Any], to: float, words: str, anchor: str) -> dict[str, object]:
        x = 100 * row["clean_cost"]
        return {"x": x, "y": 100 * row["rate"], "ax": x, "ay": to, "text": words, "xanchor": anchor, **look}

    chosen = rows[(rows.placement == CHOSEN) & (rows.how == FIXED)]
    return [
        thread(row, _FIRST_LINE + _LINE_HEIGHT * line, row["placement"], "left" if row["to_the_right"] else "right")
        for line, row in enumerate(_records(named))
    ] + [thread(row, -9, f"<b>{CHOSEN}</b>", "center") for row in _records(chosen)]


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def exit_rates_figure(rates: pd.DataFrame, chosen: Sequence[int]) -> go.Figure:
    """Share right at every exit over its cost, clean and attacked; chosen exits are filled.

    Args:
        rates: With ``exit_index``, ``cost``, ``state`` and ``accuracy``.
        chosen: Indices of the exits of the placement.
    """
    across = {"title": "cost of the exit, all exits before it counted", "ticksuffix": " %", "showgrid": False}
    figure = bare_figure(layout={"xaxis": across, "yaxis": {"title": "right", **_SHARE_AXIS}})
    styles = (("clean", CLEAN, "solid", "circle"), ("adversarial", ADVERSARIAL, "dash", "diamond"))
    for state, colour, dash, symbol in styles:
        some = rates[rates.state == state]
        figure.add_trace(
            go.Scatter(
                x=100 * some.cost,
                y=100 * some.accuracy,
                mode="lines+markers",
                name=state,
                showlegend=True,
                line={"color": colour, "dash": dash, "width": 1.5},
                marker={
                    "symbol": [symbol if index in chosen else f"{symbol}-open" for index in some.exit_index],
                    "size": [11 if index in chosen else 7 for index in some.exit_index],
                    "color": colour,
                },
                customdata=[[index + 1] for index in some.exit_index],
                hovertemplate=f"exit %{{customdata[0]}}, {state}: %{{y:.1f}} % right<extra></extra>",
            )
        )
    return figure
