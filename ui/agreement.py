"""Many images: how much their maps agree before and after the attack, against how far their exit moved."""

from typing import cast

import streamlit as st

from core.attribution_population import Population, PopulationSpec
from core.attribution_spec import METHODS, AttributionSpec
from core.experiment import Experiment
from core.figures import attribution_population_figure
from core.figures.theme import exit_names
from ui import bound, cache, maps_cache, running
from ui.captions import made_words
from ui.controls import Setting
from ui.panels import figure_panel
from ui.state import attribution_state, wait_only_for
from ui.words import meaning

FIGURE = "attribution-population"


def open_clicked(experiment: Experiment) -> None:
    """Opens the image of a point that was just clicked; call it before the widget that chooses the image."""
    event = st.session_state.get(f"figure-{FIGURE}")
    points = event["selection"]["points"] if event else []
    told = points[0]["customdata"] if points else None
    image_id = None if told is None else (told["1"] if isinstance(told, dict) else told[1])
    state = attribution_state()
    # A selection stays; only a new one may overrule what was chosen since.
    if image_id != state.opened and image_id in experiment.image_set.image_ids:
        row = experiment.image_set.image_ids.index(image_id)
        st.session_state["detail"] = int(experiment.image_set.indices[row])
    state.opened = image_id


def population(spec: AttributionSpec, experiment: Experiment, setting: Setting) -> None:
    """All images of the experiment as points that open them."""
    card = maps_cache.card_of(experiment)
    asked = PopulationSpec(experiment.spec, card.weights_sha256, spec)
    num_images, label = len(experiment.image_set), METHODS[spec.method].label
    job = cache.job_board().find(asked)
    seconds = maps_cache.population_seconds(asked, experiment)
    ended = running.came_to_nothing(job, "comparison")
    if ended or (job is None and seconds > running.PATIENCE_SECONDS):
        if not st.button(f"Compare the {label} maps of {num_images} images (about {seconds:.0f} s)", key="compare-all"):
            return
        job = None
    job = job or maps_cache.start_population(asked, experiment)
    wait_only_for("population", job)
    if not job.is_over and not job.wait(0.2):
        st.caption(f"Making {label} maps of {num_images} images, clean and adversarial, at every exit")
        running.progress(job, key="cancel-population", starting="copying the model")
        return
    _population_panel(job.result(), experiment, setting)


def _population_panel(outcome: Population, experiment: Experiment, setting: Setting) -> None:
    card = maps_cache.card_of(experiment)
    names = exit_names(card.num_exits)
    exit_index = _compared_exit(names)
    table = maps_cache.population_rows(outcome.spec, setting.policy, exit_index, outcome, experiment)
    known = table[table.rank_correlation.notna()]
    if known.empty:
        st.info("No image has two maps to compare at this exit.")
        return
    groups = {
        "earlier": known[known.exit_shift < 0],
        "at the same exit": known[known.exit_shift == 0],
        "later": known[known.exit_shift > 0],
    }
    words = ", ".join(
        f"{name} {rows.rank_correlation.median():.2f} (n = {len(rows)})" for name, rows in groups.items() if len(rows)
    ).replace("-", "−")
    st.markdown(f"**Median rank correlation of clean and adversarial maps, by where images leave: {words}.**")
    left_out = f" {len(table) - len(known)} images without two maps are left out." if len(table) > len(known) else ""
    which = "the exits that answer, which may differ" if exit_index is None else names[exit_index]
    selected = figure_panel(
        attribution_population_figure(table, card.num_exits),
        key=FIGURE,
        alt=f"Rank correlation of clean and adversarial maps over exit shift of {len(known)} images. Medians: {words}.",
        caption=f"One point an image; click it to open the image above. Filled: still answered rightly, hollow: wrong; "
        f"bars: medians. Maps at {which}.{left_out} {outcome.spec.attribution.label}; "
        f"{made_words(experiment, setting.policy)}.",
        table=table,
        selectable=True,
    )
    if selected:
        st.markdown(f"Opened: **{selected[0][1]}**. [Go to its maps](#one-image)")


def _compared_exit(names: list[str]) -> int | None:
    """The exit whose maps are compared; None for those that answer."""
    if len(names) == 1:
        return 0
    taken = "the exits that answer"
    chosen = bound.choose(st.selectbox, "Maps compared at", [taken, *names], key="compared_at", help=meaning("map"))
    return None if chosen == taken else names.index(cast(str, chosen))
