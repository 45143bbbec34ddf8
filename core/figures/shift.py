"""The exit-shift strip: how many images leave earlier, at the same exit or later once attacked."""

import plotly.graph_objects as go

from core.figures.theme import CLICKS, FONT_SIZE, SHIFT_COLOURS, SHIFT_GLYPHS, STRIP_HEIGHT, drawn


def shift_figure(counts: dict[str, dict[str, int]]) -> go.Figure:
    """Stacked bars of image counts.

    Args:
        counts: For each bar's label, the images that leave ``earlier``, at the ``same`` exit and ``later``.

    Returns:
        The figure. A selected part of a bar carries ``customdata = [number of the bar, word]``.
    """
    labels = list(counts)
    traces = []
    for word, colour in SHIFT_COLOURS.items():
        values = [counts[label][word] for label in labels]
        traces.append(
            {
                "type": "bar",
                "y": labels,
                "x": values,
                "orientation": "h",
                "name": f"{SHIFT_GLYPHS[word]} {word}",
                "marker": {"color": colour, "line": {"width": 0}},
                "text": [f"{SHIFT_GLYPHS[word]} {value}" if value else "" for value in values],
                "insidetextanchor": "middle",
                "textangle": 0,
                "textposition": "inside",
                # Chosen by computed contrast with each bar.
                "textfont": {"color": "#FFFFFF" if word == "earlier" else "#11161D", "size": FONT_SIZE},
                "customdata": [[number, word] for number in range(len(labels))],
                "hovertemplate": f"%{{y}}: %{{x}} images leave {word}<extra></extra>",
            }
        )
    layout = {
        **CLICKS,
        "barmode": "stack",
        "bargap": 0.25,
        "legend": {"traceorder": "normal"},
        "xaxis": {"title": "images", "showgrid": False, "tickformat": "d", "nticks": 6},
        "yaxis": {"autorange": "reversed"},
    }
    return drawn(traces, layout, STRIP_HEIGHT + 30 * (len(labels) - 1))
