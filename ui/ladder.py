"""How little is enough: the smallest epsilon that fools each picked image."""

from dataclasses import dataclass
from functools import partial

import pandas as pd
import streamlit as st

from core.attacks.common import strength_words
from core.attacks.spec import AttackSpec
from core.checkpoints import ModelCard
from core.counted import RULE_WORDS
from core.experiment import Experiment, ExperimentSpec
from core.figures import ladder_figure
from core.ladder import climb_ladder, ladder_steps, median_epsilon, rungs_of
from ui import cache, running
from ui.captions import WILSON, images_words, policy_words
from ui.controls import glyph_label
from ui.linked import linked_images
from ui.panels import figure_panel
from ui.state import wait_only_for
from ui.words import meaning


@dataclass(frozen=True)
class LadderKey:
    """The ladder of an experiment's model; the key of its job."""

    experiment: ExperimentSpec


def ladder(experiment: Experiment) -> pd.DataFrame | None:
    """The button, the progress, or the chart; returns schema ``LADDER`` once it is there, None without a radius."""
    if not experiment.results[experiment.spec.model].spec.is_bounded:
        return None
    key = LadderKey(experiment.spec)
    job = cache.job_board().find(key)
    st.subheader("How little is enough", help=meaning("epsilon"))
    spec = experiment.results[experiment.spec.model].spec
    rungs = ", ".join(strength_words(spec.norm, epsilon) for epsilon in rungs_of(spec))
    if job is None or running.came_to_nothing(job, "search"):
        st.caption(f"Attacks each image at epsilon {rungs} until one succeeds; steps shrink with the radius.")
        st.button("Find the smallest epsilon", key="climb", on_click=_start, args=(experiment,))
        return None
    wait_only_for("ladder", job)
    if not job.is_over:
        running.progress(job, key="cancel-ladder")
        return None
    table: pd.DataFrame = job.result()
    steps = ladder_steps(table, rungs_of(spec))
    median, num_attackable = median_epsilon(table), int(table.attackable.sum())
    held = int(table.smallest_epsilon[table.attackable].isna().sum())
    if not num_attackable:
        st.markdown("**No image is attackable** under the rule of this attack.")
    elif pd.isna(median):
        st.markdown(f"Of {num_attackable} attackable images, **{held} hold at every radius**.")
    else:
        words = f"half or more fall within {strength_words(spec.norm, median)}"
        st.markdown(f"Of {num_attackable} attackable images, **{words}**; {held} hold to the end.")
    card, done = experiment.cards[experiment.spec.model], RULE_WORDS[spec.success_rule].done
    selected = figure_panel(
        ladder_figure(steps, spec.norm, done),
        key="ladder",
        alt=f"Share {done} within each radius. "
        + "; ".join(
            f"{strength_words(spec.norm, epsilon)}: {num_fooled} of {num_images}"
            for epsilon, num_fooled, num_images in zip(steps.epsilon, steps.num_fooled, steps.num_images, strict=True)
        ),
        caption=_caption(experiment, card),
        table=table,
        selectable=True,
    )
    for row, *_ in selected[:1]:
        radius = steps.epsilon.iloc[row]
        fallen = (table.attackable & (table.smallest_epsilon <= radius)).to_numpy()
        indices = experiment.image_set.indices.numpy()[fallen].tolist()
        linked_images(
            indices,
            experiment.image_set,
            title=f"{done.capitalize()} within {strength_words(spec.norm, radius)}",
            key="ladder",
        )
    return table


def _caption(experiment: Experiment, card: ModelCard) -> str:
    spec = experiment.results[card.name].spec
    return (
        f"{glyph_label(card)} · {spec.title}, {spec.num_steps} steps{_part_of_radius(spec)} · "
        f"Click a point to see its images · made and judged at "
        f"{policy_words(experiment.spec.made_at)} · {images_words(experiment)} · {WILSON}"
    )


def _part_of_radius(spec: AttackSpec) -> str:
    step_size = getattr(spec, "step_size", None)
    return "" if step_size is None else f", each {step_size / spec.epsilon:.2g} of the radius"


def _start(experiment: Experiment) -> None:
    name, images = experiment.spec.model, experiment.image_set
    spec = experiment.results[name].spec
    model, _ = cache.loaded_model(name, experiment.cards[name].weights_sha256)
    cache.job_board().start(
        LadderKey(experiment.spec),
        partial(climb_ladder, model, images.pixels(), images.labels, spec, experiment.spec.made_at, images.image_ids),
    )
