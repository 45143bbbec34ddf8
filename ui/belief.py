"""What can be believed of one image's maps, measured when it is asked for."""

import pandas as pd
import streamlit as st

from core.attribution_spec import METHODS, Method
from core.attribution_tables import belief_table
from core.belief import NUM_NEIGHBOURS, NUM_REDRAWS, NUM_SQUARES, RADIUS
from core.experiment import Experiment
from core.figures import belief_figure
from ui import cache, maps_cache, running
from ui.attribution import Looked
from ui.captions import made_words
from ui.maps_cache import BeliefSpec
from ui.panels import figure_panel
from ui.state import wait_only_for


def belief(method: Method, looked: Looked, experiment: Experiment) -> None:
    """A button, then progress or the measures of every exit."""
    maps, made = looked.maps[method]
    spec, label = BeliefSpec(maps), METHODS[method].label
    job = cache.job_board().find(spec)
    if job is None or running.came_to_nothing(job, "measurement"):
        st.caption(
            f"Does the {label} map tell what covering parts of the image does? Does it hold still when the image "
            "hardly moves? And does it depend on the weights at all?"
        )
        seconds = maps_cache.belief_seconds(maps.attribution, experiment)
        if not st.button(f"Measure {label} of this image (about {max(seconds, 1):.0f} s)", key="measure-belief"):
            return
        job = maps_cache.start_belief(spec, experiment, made)
    wait_only_for("belief", job)
    if not job.is_over and not job.wait(0.2):
        running.progress(job, key="cancel-belief", starting="copying the model")
        return
    table = belief_table(made, job.result(), looked.image_id)
    mean = table.groupby("state")[["infidelity", "sensitivity", "all_redrawn"]].mean()
    st.markdown(_headline(mean.T["clean"], label))
    card = maps_cache.card_of(experiment)
    figure_panel(
        belief_figure(table, card.num_exits),
        key="belief",
        alt=f"Infidelity, sensitivity and likeness to maps of redrawn weights at {len(made.exits[0])} exits, clean and "
        "adversarial. " + "; ".join(f"{state}: {_spoken(row)}" for state, row in mean.iterrows()),
        caption=f"Infidelity: share of the change in the logit, over {NUM_SQUARES} covered squares, that the map, "
        "scaled at best, does not tell: 0 tells all, 1 nothing. Sensitivity: largest move of the map, over its length, "
        f"among {NUM_NEIGHBOURS} neighbours within {RADIUS:g} of the image: 0 is steady. Redrawn: rank correlation of "
        f"sizes with maps of the same network with shuffled weights, mean of {NUM_REDRAWS}; a map that tells of this "
        f"network falls towards 0.{_sums(table)} {maps.attribution.label}; {looked.image_id} · "
        f"{made_words(experiment)}.",
        table=table,
    )


def _headline(mean: pd.Series, label: str) -> str:
    """What was measured of the clean maps, on average over exits, in Markdown; what is NaN was not."""
    told = [
        words
        for column, words in (
            ("infidelity", f"leaves {100 * mean.infidelity:.0f} % of what covering squares does untold"),
            ("sensitivity", f"moves by up to {100 * mean.sensitivity:.0f} % of its length nearby"),
            ("all_redrawn", f"has rank correlation {mean.all_redrawn:.2f} with what redrawn weights show"),
        )
        if pd.notna(mean[column])
    ]
    if not told:
        return f"When clean, no exit has a map of {label} to believe or not."
    listed = told[0] if len(told) == 1 else f"{', '.join(told[:-1])}, and {told[-1]}"
    return f"**When clean, {label} {listed}**, on average over exits.".replace("-0.", "−0.")


def _spoken(mean: pd.Series) -> str:
    words = {"infidelity": "mean infidelity", "sensitivity": "sensitivity", "all_redrawn": "redrawn"}
    known = [f"{words[str(column)]} {value:.2f}" for column, value in mean.dropna().items()]
    return ", ".join(known) or "no maps to measure"


def _sums(table: pd.DataFrame) -> str:
    complete = table.dropna(subset=["sum", "change"])
    if complete.empty:
        return ""
    off = (complete["sum"] - complete["change"]).abs().max()
    return (
        f" These maps should sum to the change in the logit from a flat grey image; they miss it by {off:.2f} at most."
    )
