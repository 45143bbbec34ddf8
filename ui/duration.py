"""What one image took: multiply-adds, and milliseconds measured on this machine."""

import pandas as pd
import streamlit as st

from core.checkpoints import ModelCard
from core.errors import ExitLensError
from core.experiment import Experiment
from core.machine import machine_words
from core.timing import ExitTimes, ExitTimingSpec
from ui import cache
from ui.words import meaning

_HELP = meaning("cost fraction", "stops early")


def what_it_took(experiment: Experiment, row: pd.Series) -> None:
    """Multiply-adds and time of one image, clean and attacked; the time is measured once, in the background.

    Args:
        experiment: The experiment.
        row: Of the image, on the model in question (schema ``DECISIONS``).
    """
    card = experiment.cards[experiment.spec.model]
    costs = f"{100 * row.clean_cost:.0f} % → **{100 * row.adversarial_cost:.0f} %** of the multiply-adds"
    if card.num_exits == 1 or not card.stops_early:
        st.markdown(costs, help=_HELP)
        return
    _with_time(card, costs, int(row.clean_computed_exit), int(row.adversarial_computed_exit))


@st.fragment(run_every=0.5)
def _while_timing(card: ModelCard, costs: str) -> None:
    if _times(card) is not None:
        st.rerun()
    st.markdown(f"{costs} · timing the exits …", help=_HELP)


def _with_time(card: ModelCard, costs: str, clean: int, adversarial: int) -> None:
    times = _times(card)
    if times is None:
        _while_timing(card, costs)
        return
    whole = times.milliseconds(card.num_exits - 1)
    st.markdown(
        f"{costs} · {times.milliseconds(clean):.1f} ms → **{times.milliseconds(adversarial):.1f} ms** instead of "
        f"{whole:.1f} ms for the whole network",
        help=_HELP,
    )
    st.caption(
        f"Measured here, one image at a time, really stopping: medians of {times.table.num_runs[0]} runs on "
        f"{times.spec.image_set}, {machine_words(times.machine)}."
    )


def _times(card: ModelCard) -> ExitTimes | None:
    """The measured times; None until they are there."""
    sets = (status.name for status in cache.image_set_statuses() if status.is_ready)
    image_set = next(name for name in sets if name.startswith(f"{card.dataset}:"))
    spec = ExitTimingSpec(card.name, card.weights_sha256, image_set)
    try:
        job = cache.job_board().find(spec) or cache.start_exit_timing(spec)
    except ExitLensError:  # too many jobs wait: later, then
        return None
    return job.result() if job.has_result else None
