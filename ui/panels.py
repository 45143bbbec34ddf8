"""A figure with its caption, table and downloads; numbers in words."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from core.figures.page import figure_page
from core.metrics import Rate
from ui.words import column_help


def figure_panel(
    figure: go.Figure,
    *,
    key: str,
    alt: str,
    caption: str,
    table: pd.DataFrame | None = None,
    selectable: bool = False,
) -> list[list[Any]]:
    """A chart, one line under it, and its table to look at and take away.

    Args:
        figure: Drawn with the page's theme.
        key: Also the name of the downloaded files.
        alt: What the chart shows, in words.
        caption: Spec, n, interval, model and image set.
        table: The rows that were drawn.
        selectable: Whether its points answer clicks.

    Returns:
        The ``customdata`` of every selected point.
    """
    config = {
        "displaylogo": False,
        "modeBarButtons": [["toImage"]],
        "toImageButtonOptions": {"format": "svg", "filename": f"exitlens-{key}"},
    }
    points: list[list[Any]] = []
    if selectable:
        event = st.plotly_chart(
            figure,
            theme="streamlit",
            config=config,
            key=f"figure-{key}",
            alt=alt,
            on_select="rerun",
            selection_mode="points",
        )
        points = [_carried(point["customdata"]) for point in event["selection"]["points"]]
    else:
        st.plotly_chart(figure, theme="streamlit", config=config, key=f"figure-{key}", alt=alt)
    st.caption(caption)
    _behind(figure, key, alt, caption, table)
    return points


@st.fragment
def _behind(figure: go.Figure, key: str, alt: str, caption: str, table: pd.DataFrame | None) -> None:
    """The table and the downloads of a figure, drawn once they are looked at: they would slow down every slider."""
    title = "Downloads" if table is None else f"Table of {len(table):,} rows, downloads"
    behind = st.expander(title, key=f"behind-{key}", on_change="rerun")
    if not behind.open:
        return
    with behind:
        if table is not None:
            _table(table)
        with st.container(horizontal=True, vertical_alignment="center"):
            if table is not None:
                _table_buttons(table, key)
            st.download_button(
                "HTML",
                lambda: figure_page(figure, title=f"ExitLens: {key.replace('-', ' ')}", caption=caption, alt=alt),
                f"exitlens-{key}.html",
                "text/html",
                key=f"html-{key}",
                on_click="ignore",
                help="The chart as one page that opens anywhere, without a network; about 5 MB.",
            )
            st.caption("SVG: the camera above the chart.")


def _carried(customdata: Any) -> list[Any]:
    # A browser hands back a list where the figure was drawn from lists, and {"0": …, "1": …} where from an array.
    return list(customdata.values()) if isinstance(customdata, dict) else list(customdata)


@st.fragment
def folded_table(table: pd.DataFrame, *, key: str, title: str = "Table") -> None:
    """A table with its downloads, folded away and drawn once it is looked at."""
    behind = st.expander(f"{title}, {len(table):,} rows", key=f"behind-{key}", on_change="rerun")
    if behind.open:
        with behind:
            table_panel(table, key=key)


def table_panel(table: pd.DataFrame, *, key: str) -> None:
    """A table with its downloads, where a page folds them away itself."""
    _table(table)
    table_downloads(table, key=key)


def _table(table: pd.DataFrame) -> None:
    st.dataframe(
        table,
        hide_index=True,
        height=min(38 + 35 * len(table), 400),
        column_config=column_help(tuple(map(str, table.columns))),
        alt=f"Table of {len(table)} rows: {', '.join(table.columns)}",
    )


def table_downloads(table: pd.DataFrame, *, key: str) -> None:
    """A table to take away; its files are made when they are asked for."""
    with st.container(horizontal=True):
        _table_buttons(table, key)


def _table_buttons(table: pd.DataFrame, key: str) -> None:
    st.download_button(
        "CSV",
        lambda: table.to_csv(index=False),
        f"exitlens-{key}.csv",
        "text/csv",
        key=f"csv-{key}",
        on_click="ignore",
    )
    st.download_button(
        "Parquet",
        lambda: table.to_parquet(index=False),
        f"exitlens-{key}.parquet",
        "application/octet-stream",
        key=f"parquet-{key}",
        on_click="ignore",
    )


def rate_words(share: Rate) -> str:
    """A rate as people read it: ``7 of 8 (88 %, 53–98 %)``, or ``88 % (105 of 120, 80–93 %)`` from ten images on."""
    if not share.num_images:
        return "none attackable, none"
    interval = f"{100 * share.low:.0f}–{100 * share.high:.0f} %"
    counts, percent = f"{share.num_hits} of {share.num_images}", f"{100 * share.value:.0f} %"
    return f"{counts} ({percent}, {interval})" if share.num_images < 10 else f"{percent} ({counts}, {interval})"
