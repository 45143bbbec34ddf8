"""Timing an early-exit model that really stops, beside its multiply-adds."""

import streamlit as st

from core.machine import machine_words
from core.timing import NUM_IMAGES, Timing, TimingSpec, spreads
from ui import cache, running
from ui.controls import Setting, glyph_label
from ui.measuring import Pair
from ui.panels import folded_table
from ui.state import models_state, wait_only_for
from ui.words import meaning


def wall_clock_panel(pair: Pair, setting: Setting) -> None:
    """A button, progress, and the times as ratios with their spread."""
    st.subheader("Wall-clock", help=meaning("stops early"))
    card, beside = pair.own.card, pair.counterpart
    if card.num_exits == 1:
        st.info("A static model cannot stop early, so there is nothing to time. Choose an early-exit model.")
        return
    if not card.stops_early:
        st.info("Nothing says which layers feed this model's exits, so it cannot stop early and be timed.")
        return
    against = glyph_label(beside.card) if beside else "the same network without its early exits (its twin is not here)"
    st.caption(
        f"Times {glyph_label(card)}, really stopping at its exits, against {against}: the first {NUM_IMAGES} images "
        "or fewer, one by one and in one batch, both in turn, a first repeat not counted."
    )
    state = models_state()
    spec = TimingSpec(
        card.name,
        card.weights_sha256,
        beside.card.name if beside else None,
        beside.card.weights_sha256 if beside else "",
        setting.policy,
        setting.set_name,
    )
    if st.button(f"Measure at T = {setting.policy.threshold:.2f}", key="time"):
        state.timed = spec
        wait_only_for("timing", cache.start_timing(spec))
    job = cache.job_board().find(state.timed) if state.timed else None
    if job is None or job.spec.model != card.name:
        return
    if not job.is_over:
        running.progress(job)
    elif not running.came_to_nothing(job, "measurement"):
        _show(job.result(), pair)
        if job.spec != spec:
            st.caption("The controls have changed since: measure again to bring it up to date.")


def _show(timing: Timing, pair: Pair) -> None:
    found = spreads(timing.table)
    relative = timing.mean_cost / pair.own.static_cost
    columns = st.columns(len(found) + 1)
    columns[0].metric(
        "Multiply-adds",
        f"{100 * relative:.0f} %",
        help=meaning("static cost", more="Here: multiply-adds done on these images, over those."),
    )
    for column, spread in zip(columns[1:], found, strict=True):
        label = "Time, one by one" if spread.batch_size == 1 else f"Time, batch of {spread.batch_size}"
        column.metric(
            label,
            f"{100 * spread.median:.0f} %",
            help=f"Of the static network's time: median of {spread.num_repeats} repeats.",
        )
        column.caption(f"{100 * spread.low:.0f}–{100 * spread.high:.0f} % over {spread.num_repeats} repeats")
    st.caption(
        f"Of the static network's · {timing.spec.image_set}, first {timing.table.num_images[0]} images · T = "
        f"{timing.spec.policy.threshold:.2f} · {machine_words(timing.machine)}"
    )
    folded_table(timing.table, key="wall-clock")
