"""A figure as one file that any browser opens, without the dashboard and without a network."""

from html import escape

import plotly.graph_objects as go

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 sans-serif; color: #16202B; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }}
</style>
</head>
<body>
<figure>
<div role="img" aria-label="{alt}">{chart}</div>
<figcaption>{caption}</figcaption>
</figure>
</body>
</html>
"""


def figure_page(figure: go.Figure, *, title: str, caption: str, alt: str) -> str:
    """A figure with its caption as one HTML page that loads nothing from anywhere; about 5 MB, as Plotly is in it.

    Args:
        figure: Drawn as for the dashboard, whose theme does not reach here: it is shown on white.
        title: Of the page.
        caption: Spec, n, interval, model and image set.
        alt: What the chart shows, in words.
    """
    alone = go.Figure(figure).update_layout(template="plotly_white")
    chart = alone.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})
    return _PAGE.format(title=escape(title), alt=escape(alt), caption=escape(caption), chart=chart)
