"""What fills the gallery: the Keep button, and the background work on a fresh machine."""

import streamlit as st

from core import kept
from core.errors import ExitLensError
from core.experiment import Experiment
from ui import cache, kept_cache
from ui.controls import glyph_label
from ui.kept_cache import Gallery
from ui.warm_up import WarmUp

GALLERY = "pages/gallery.py"


def keep_button(experiment: Experiment) -> None:
    """Keeps a run for the gallery, and says what is kept of it."""
    weights = {name: card.weights_sha256 for name, card in experiment.cards.items()}
    key = kept.run_key(experiment.spec, weights)
    with st.container(horizontal=True, vertical_alignment="center"):
        if not kept.is_kept(key) and st.button("Keep in the gallery", key="keep"):
            with st.spinner("Keeping the run …"):
                try:
                    kept_cache.keep(experiment)
                except ExitLensError as error:
                    st.error(str(error))
        if kept.is_kept(key):
            num_examples = sum(len(result.images) for result in experiment.results.values())
            st.markdown(f"{num_examples} examples are kept.")
            st.page_link(GALLERY, label="Open the gallery")


def filling_panel(*, rerun_when_kept: bool = False) -> None:
    """What the background work is doing, with Stop; then what it has come to.

    Args:
        rerun_when_kept: Draw the page anew as soon as a first run is kept.
    """
    work = kept_cache.warm_up()
    if work.is_running:
        _progress(work, rerun_when_kept)
        return
    if work.was_stopped:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(f"Filling the gallery was stopped: {work.num_done} of {work.num_all} runs are kept.")
            st.button("Go on", key="go-on", on_click=work.go_on)
    for problem in dict.fromkeys(work.problems):
        st.warning(problem)


@st.fragment(run_every=1.0)
def _progress(work: WarmUp, rerun_when_kept: bool) -> None:
    if not work.is_running or (rerun_when_kept and kept.kept_signature()):
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"Filling the gallery, whenever nothing else runs: {_doing(work)}")
        st.button("Stop", key="stop-filling", on_click=work.stop)


def _doing(work: WarmUp) -> str:
    done = f"{work.num_done} of {work.num_all} runs on the bundled samples done"
    spec = work.current
    if spec is None:
        return f"{done}."
    cards = {card.name: card for card in cache.cards()[0]}
    model = glyph_label(cards[spec.model]) if spec.model in cards else spec.model
    return f"{done}, now {spec.attack.label}, on {model}."


def nothing_kept(gallery: Gallery) -> None:
    """The empty gallery: why, and what fills it."""
    for problem in gallery.kept.problems:
        st.warning(problem)
    st.info(
        "Nothing is kept here yet. Run an attack in the lab and press Keep: its examples then stand here, "
        "with their pictures, verdicts and the command that remakes them."
    )
    st.page_link("pages/attack_lab.py", label="Open the attack lab")
    filling_panel(rerun_when_kept=True)
