"""The story's last two charts: how many pictures are fooled within each radius, and under each remedy."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.attacks.spec import as_255
from core.figures.theme import (
    ADVERSARIAL,
    DARK_BACKGROUND,
    FONT_SIZE,
    KIND_COLOURS,
    LIGHT_BACKGROUND,
    bare_figure,
    interval,
)

_PRICE_HEIGHT, _REMEDY_HEIGHT = 320, 84
_TICKS = (0, 25, 50, 75, 100)
# Said in full: Plotly leaves a suffix away where the ticks are given.
_RATES = {
    "range": [0, 104],
    "tickvals": _TICKS,
    "ticktext": [f"{tick} %" for tick in _TICKS],
    "title": "fooled",
    "zeroline": False,
}


def price_figure(price: pd.DataFrame, names: dict[str, str]) -> go.Figure:
    """Share of pictures fooled within each radius: the model by the story's attack, the twin by its own.

    Args:
        price: Schema ``PRICE``.
        names: What each ``what`` that is drawn is called, in order; the first is the early-exit model's.
    """
    layout = {"barmode": "group", "xaxis": {"title": "noise: at most", "type": "category"}, "yaxis": _RATES}
    figure = bare_figure(_PRICE_HEIGHT, layout)
    kinds = ("early-exit", "static")
    for number, (what, name) in enumerate(names.items()):
        kind = kinds[number]
        rows = price[price.what == what]
        marker = {"color": KIND_COLOURS[kind]}
        bars = _bars(rows, "", name, marker, LIGHT_BACKGROUND if kind == "early-exit" else DARK_BACKGROUND)
        rates = bars.pop("rates")
        labels = [as_255(epsilon) for epsilon in rows.epsilon]
        figure.add_trace(go.Bar(x=labels, y=rates, error_y=_interval(rows, ""), **bars))
    return figure


def remedies_figure(remedies: pd.DataFrame, names: Sequence[str]) -> go.Figure:
    """Share of pictures fooled under each remedy, by the story's attack and by any that was tried, and the work.

    Args:
        remedies: Schema ``REMEDIES``.
        names: Of its rows; ``<br>`` breaks them.
    """
    labels = [
        f"{name}<br><b>{100 * cost:.0f} % of the work</b>" for name, cost in zip(names, remedies.mean_cost, strict=True)
    ]
    layout = {
        "barmode": "group",
        "xaxis": _RATES,
        "yaxis": {"type": "category", "autorange": "reversed"},
        "legend": {"traceorder": "normal"},
    }
    figure = bare_figure(_REMEDY_HEIGHT * (len(labels) + 1), layout)
    lines = {"shape": "/", "fillmode": "replace", "fgcolor": ADVERSARIAL, "bgcolor": "#F6C9A5", "size": 9}
    for prefix, name, pattern in (
        ("early_", "fooled early, right at the end", {}),
        ("any_", "fooled at all", {"pattern": lines}),
    ):
        bars = _bars(remedies, prefix, name, {"color": ADVERSARIAL, **pattern}, DARK_BACKGROUND)
        rates = bars.pop("rates")
        figure.add_trace(go.Bar(y=labels, x=rates, error_x=_interval(remedies, prefix), orientation="h", **bars))
    return figure


def _interval(rows: pd.DataFrame, prefix: str) -> dict[str, object]:
    return interval(*(100 * rows[f"{prefix}{column}"] for column in ("rate", "low", "high")))


def _bars(rows: pd.DataFrame, prefix: str, name: str, marker: dict[str, Any], inside: str) -> dict[str, Any]:
    """What bars of both charts have: their colour, and how many of how many at their foot."""
    rates, low, high = (100 * rows[f"{prefix}{column}"] for column in ("rate", "low", "high"))
    counts = list(zip(rows[f"{prefix}num_fooled"], rows[f"{prefix}num_images"], strict=True))
    return {
        "rates": rates,
        "name": name,
        "marker": marker,
        "text": [f"{hits} of {among}" for hits, among in counts],
        "textposition": ["inside" if share else "outside" for share in rates],
        "insidetextanchor": "start",
        "textangle": 0,
        "textfont": {"size": FONT_SIZE},
        "insidetextfont": {"color": inside},
        "customdata": [
            f"{share:.0f} %, {least:.0f}–{most:.0f} %" for share, least, most in zip(rates, low, high, strict=True)
        ],
        "hovertemplate": f"{name}: %{{text}} (%{{customdata}})<extra></extra>",
    }
