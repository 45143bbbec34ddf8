"""Whether confidence can be believed: one exit's reliability, and calibration error and AUROC of all exits."""

from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from core.figures.theme import (
    CLICKS,
    KIND_COLOURS,
    KIND_SYMBOLS,
    QUIET,
    STATE_STYLES,
    THRESHOLD,
    drawn,
    exit_names,
    exit_ticks,
    interval,
)

# Side by side, so that intervals do not cover each other.
_OFFSET = 0.006
LEAST_PER_BIN = 10


class _Style(NamedTuple):
    colour: str
    symbol: str
    offset: float


def reliability_figure(reliability: pd.DataFrame, kind: str | None) -> go.Figure:
    """Accuracy of the images of each confidence bin; on the diagonal, confidence says how often an exit is right.

    Args:
        reliability: Rows of one exit (schema ``RELIABILITY``); one series for each value of ``among``.
        kind: ``static`` or ``early-exit``: the colour; None where the series are clean and adversarial images.

    Returns:
        The figure. A selected bin carries ``customdata = [among, lower end, upper end, …]``.
    """
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "x": [0, 1],
            "y": [0, 100],
            "mode": "lines",
            "name": "perfectly calibrated",
            "showlegend": False,
            "line": {"color": THRESHOLD, "dash": "dot", "width": 1.5},
            "hoverinfo": "skip",
        }
    ]
    styles = _styles(kind)
    for number, (among, rows) in enumerate(reliability.groupby("among", sort=False)):
        style = styles[number]
        accuracy, low, high = (100 * rows[column] for column in ("accuracy", "low", "high"))
        numbers = (each.tolist() for each in (rows.bin_low, rows.bin_high, low, high, rows.num_right, rows.num_images))
        traces.append(
            {
                "type": "scatter",
                "x": rows.mean_confidence + style.offset,
                "y": accuracy,
                "error_y": interval(accuracy, low, high),
                # Between bins of a few images a line would only zigzag.
                "mode": "lines+markers" if rows.num_images.mean() >= LEAST_PER_BIN else "markers",
                "name": f"{among}, n = {rows.num_images.sum():,}",
                "showlegend": True,
                "line": {"color": style.colour, "width": 1.5},
                "marker": {"symbol": style.symbol, "size": 9, "color": style.colour},
                "customdata": [[among, *told] for told in zip(*numbers, strict=True)],
                "hovertemplate": "confidence %{x:.2f}: %{y:.0f} % right (%{customdata[3]:.0f}–%{customdata[4]:.0f} %), "
                "%{customdata[5]} of %{customdata[6]}<extra></extra>",
            }
        )
    layout = {
        **CLICKS,
        "xaxis": {"title": "mean confidence of the bin", "range": [0, 1.02], "showgrid": False, "zeroline": False},
        "yaxis": {"title": "accuracy", "ticksuffix": " %", "range": [-2, 104], "zeroline": False},
    }
    return drawn(traces, layout)


def calibration_figure(calibration: pd.DataFrame, kind: str | None) -> go.Figure:
    """ECE beside AUROC over exits; a short bar shows the ECE that chance alone would give.

    Args:
        calibration: Schema ``CALIBRATION``.
        kind: ``static`` or ``early-exit``: the colour; None where the series are clean and adversarial images.
    """
    names = exit_names(int(calibration.exit_index.max()) + 1)
    ticks = exit_ticks(len(names))
    traces: list[dict[str, Any]] = []
    styles = _styles(kind)
    for number, (among, rows) in enumerate(calibration.groupby("among", sort=False)):
        style = styles[number]
        told = [[names[index], count] for index, count in zip(rows.exit_index, rows.num_images, strict=True)]
        across = {
            "x": [ticks[index] for index in rows.exit_index],
            "type": "scatter",
            "name": str(among),
            "customdata": told,
        }
        for measure, words, axes in (("ece", "ECE", {}), ("auroc", "AUROC", {"xaxis": "x2", "yaxis": "y2"})):
            traces.append(
                {
                    **across,
                    **axes,
                    "y": rows[measure],
                    "mode": "lines+markers",
                    "showlegend": not axes,
                    "line": {"color": style.colour, "width": 1.5},
                    "marker": {"symbol": style.symbol, "size": 9, "color": style.colour},
                    "hovertemplate": f"%{{customdata[0]}}, {among}: {words} %{{y:.3f}}, n = %{{customdata[1]}}"
                    "<extra></extra>",
                }
            )
        chance = f"%{{customdata[0]}}, {among}: a perfectly calibrated exit would show about %{{y:.3f}}<extra></extra>"
        bar = {"symbol": "line-ew-open", "size": 14, "color": style.colour, "line": {"width": 2}}
        traces.append(
            {
                **across,
                "y": rows.ece_floor,
                "mode": "markers",
                "showlegend": False,
                "marker": bar,
                "hovertemplate": chance,
            }
        )
    category = {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": ticks,
        "showgrid": False,
        "title": "exit",
    }
    # NaN where every answer of an exit is right.
    lowest = min([0.5, *calibration.auroc.dropna()])
    # Above the plots: beside the second one, its title would stand in the first.
    titles = [
        {
            "text": text,
            "xref": f"{axes} domain",
            "x": 0,
            "yref": "paper",
            "y": 1,
            "yanchor": "bottom",
            "showarrow": False,
        }
        for axes, text in (("x", "calibration error (ECE)"), ("x2", "AUROC"))
    ]
    layout = {
        "xaxis": {**category, "domain": [0, 0.45]},
        "yaxis": {"rangemode": "tozero", "zeroline": False},
        "xaxis2": {**category, "domain": [0.57, 1], "anchor": "y2"},
        "yaxis2": {"range": [lowest - 0.02, 1.02], "zeroline": False, "anchor": "x2"},
        "annotations": titles,
        "legend": {"y": 1.1},
        "margin": {"t": 72},
    }
    return drawn(traces, layout)


def _styles(kind: str | None) -> list[_Style]:
    """How all images are drawn and how those that reach the exit; or clean and adversarial ones."""
    if kind is None:
        offsets = (-_OFFSET, _OFFSET)
        return [
            _Style(colour, symbol, offset)
            for (colour, _, symbol), offset in zip(STATE_STYLES.values(), offsets, strict=True)
        ]
    return [_Style(QUIET, KIND_SYMBOLS[kind], -_OFFSET), _Style(KIND_COLOURS[kind], "triangle-up", _OFFSET)]
