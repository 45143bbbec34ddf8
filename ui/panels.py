"""A figure with its caption, table and downloads; numbers in words; busy and empty states."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from core.metrics import Rate


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
    if table is not None:
        with st.expander(f"Table, {len(table)} rows"):
            table_panel(table, key=key)
    return points


def _carried(customdata: Any) -> list[Any]:
    # A browser hands back a list where the figure was drawn from lists, and {"0": …, "1": …} where from an array.
    return list(customdata.values()) if isinstance(customdata, dict) else list(customdata)


def table_panel(table: pd.DataFrame, *, key: str) -> None:
    """A table with its downloads."""
    st.dataframe(table, hide_index=True, height=min(38 + 35 * len(table), 400))
    table_downloads(table, key=key)


def table_downloads(table: pd.DataFrame, *, key: str) -> None:
    """A table to take away; its files are made when they are asked for."""
    with st.container(horizontal=True):
        # Made when they are asked for: a page has many tables, and a moved threshold redraws them all.
        st.download_button(
            "CSV", lambda: table.to_csv(index=False), f"exitlens-{key}.csv", "text/csv", key=f"csv-{key}"
        )
        st.download_button(
            "Parquet",
            lambda: table.to_parquet(index=False),
            f"exitlens-{key}.parquet",
            "application/octet-stream",
            key=f"parquet-{key}",
        )


def rate_words(share: Rate) -> str:
    """A rate as people read it: ``7 of 8 (88 %, 53–98 %)``, or ``88 % (105 of 120, 80–93 %)`` from ten images on."""
    if not share.num_images:
        return "none attackable, none"
    interval = f"{100 * share.low:.0f}–{100 * share.high:.0f} %"
    counts, percent = f"{share.num_hits} of {share.num_images}", f"{100 * share.value:.0f} %"
    return f"{counts} ({percent}, {interval})" if share.num_images < 10 else f"{percent} ({counts}, {interval})"
