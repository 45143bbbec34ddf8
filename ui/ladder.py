"""How little is enough: the smallest epsilon that fools each picked image."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

import pandas as pd
import streamlit as st

from core.attacks.run import AttackProgress
from core.attacks.spec import as_255
from core.checkpoints import ModelCard
from core.experiment import Experiment, ExperimentSpec
from core.figures import ladder_figure
from core.ladder import EPSILONS, climb_ladder, ladder_steps
from ui import cache, running
from ui.panels import figure_panel


@dataclass(frozen=True)
class LadderKey:
    """The ladder of an experiment's model; the key of its job."""

    experiment: ExperimentSpec


def ladder(experiment: Experiment) -> pd.DataFrame | None:
    """The button, the progress, or the chart; returns schema ``LADDER`` once it is there."""
    key = LadderKey(experiment.spec)
    job = cache.job_board().find(key)
    st.subheader("How little is enough")
    rungs = ", ".join(f"{255 * epsilon:g}" for epsilon in EPSILONS)
    if job is None or job.was_cancelled:
        st.caption(f"Attacks each image at epsilon {rungs}/255 until one succeeds; steps shrink with the radius.")
        st.button("Find the smallest epsilon", key="climb", on_click=_start, args=(experiment,))
        return None
    if not job.is_over:
        running.progress(job, key="cancel-ladder")
        return None
    table: pd.DataFrame = job.result()
    steps = ladder_steps(table)
    median = table.smallest_epsilon[table.attackable].median()
    words = "more than half hold at every radius" if pd.isna(median) else f"the median is {as_255(median)}"
    held = int(table.smallest_epsilon[table.attackable].isna().sum())
    st.markdown(f"Of {int(table.attackable.sum())} attackable images, **{words}**; {held} hold to the end.")
    card = experiment.cards[experiment.spec.model]
    figure_panel(
        ladder_figure(steps),
        key="ladder",
        alt="Share fooled within each radius. "
        + "; ".join(
            f"{as_255(epsilon)}: {num_fooled} of {num_images}"
            for epsilon, num_fooled, num_images in zip(steps.epsilon, steps.num_fooled, steps.num_images, strict=True)
        ),
        caption=_caption(experiment, card),
        table=table,
    )
    return table


def _caption(experiment: Experiment, card: ModelCard) -> str:
    spec = experiment.results[card.name].spec
    return (
        f"{card.label} · {spec.name.upper()}, {spec.num_steps} steps, each {spec.step_size / spec.epsilon:.2g} of the "
        f"radius · made and judged at T = {experiment.spec.made_at.threshold:.2f} · {experiment.spec.images} · "
        f"n = {len(experiment.image_set)} · 95 % Wilson intervals"
    )


def _start(experiment: Experiment) -> None:
    name, images = experiment.spec.model, experiment.image_set
    spec = experiment.results[name].spec
    model, _ = cache.loaded_model(name, experiment.cards[name].weights_sha256)

    def work(on_progress: Callable[[AttackProgress], None], cancel: Event) -> pd.DataFrame:
        return climb_ladder(
            model,
            images.pixels(),
            images.labels,
            spec,
            experiment.spec.made_at,
            images.image_ids,
            on_progress=on_progress,
            cancel=cancel,
        )

    cache.job_board().start(LadderKey(experiment.spec), work)
