"""Home's parts: the live result, the ways in, and what is ready on this machine."""

import os

import pandas as pd
import streamlit as st

from core.attacks.spec import pgd
from core.data import DATA_ROOT_VARIABLE as ROOT
from core.data import selection_text
from core.datasets import DATASETS
from core.exits import ExitPolicy
from core.experiment import ExperimentSpec, attack_for
from ui import cache, fetching, kept_cache, result, running
from ui.controls import Setting, glyph_label
from ui.filling import GALLERY, filling_panel
from ui.links import copy_link
from ui.state import link_to
from ui.words import column_help, help_of

LAB = "pages/attack_lab.py"
WAYS_IN: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("Browse", "Pick images, attack them live and follow them from exit to exit.", LAB, {}),
    ("Show", "Five steps, in large type: how an early answer is fooled where the end is not.", "pages/story.py", {}),
    (
        "Inspect",
        "Aim at the first exit alone and see what the later ones make of it.",
        LAB,
        {"attack": "pgd", "aim": "exit-1"},  # another attack may have no aim
    ),
)


def live_result(setting: Setting) -> None:
    """A PGD attack on the bundled samples, made now by the models on this machine."""
    images, what = _first_images(setting)
    # Its twin only looks on: attacking both would make the first page wait twice as long.
    targets = cache.pair_names(setting.card)
    spec = ExperimentSpec(images, targets[:1], targets, attack_for(setting.card, pgd()), ExitPolicy())
    job = cache.find_experiment(spec) or cache.start_experiment(spec)
    if not job.is_over:
        st.markdown(f"Attacking the {what} with PGD, now, on this machine …")
        running.progress(job)
        return
    if running.came_to_nothing(job, "attack"):
        if st.button("Run it again"):
            cache.start_experiment(spec)
            st.rerun()
        return
    st.markdown(f"Just now, on this machine: PGD within 8/255 against the {what}.")
    result.headline(job.result(), setting)
    copy_link()


def _first_images(setting: Setting) -> tuple[str, str]:
    """The samples of the model's data set, or the first images of the chosen set where none are bundled; in words."""
    if DATASETS[setting.card.dataset].has_samples:
        return f"{setting.card.dataset}:samples:0-19", "20 bundled sample images"
    first = cache.image_set(setting.set_name).indices[:20].tolist()
    return f"{setting.set_name}:{selection_text(first)}", f"first {len(first)} images of {setting.set_name}"


def what_is_kept() -> None:
    """How full the gallery is, and what is filling it."""
    filling_panel()
    num_examples = len(kept_cache.gallery().examples)
    if num_examples:
        st.page_link(GALLERY, label=f"The gallery holds {num_examples:,} adversarial examples")


def ways_in() -> None:
    """Three links, one for each kind of viewer."""
    st.header("Three ways in")
    for column, (verb, words, page, controls) in zip(st.columns(3), WAYS_IN, strict=True):
        with column, st.container(border=True, height="stretch"):
            link_to(page, f"**{verb}**", controls)
            st.caption(words)


def what_is_ready() -> None:
    """Models and image sets of this machine, ready or not and why."""
    st.header("What is ready here")
    cards, problems = cache.cards()
    rows = [
        {
            "model": glyph_label(card),
            "trained on": card.dataset,
            "exits": card.num_exits,
            "final accuracy": 100 * card.test[-1].value,
            "95 % interval": f"{100 * card.test[-1].low:.1f}–{100 * card.test[-1].high:.1f} %",
            "n": card.test[-1].num_images,
            "measured on": card.test_set,
            "first exit": 100 * card.test[0].value,
            "first exit's cost": 100 * card.exit_costs[0],
        }
        for card in cards
    ]
    percent = {
        name: st.column_config.NumberColumn(format="%.1f %%", help=help_of(name))
        for name in ("final accuracy", "first exit", "first exit's cost")
    }
    models = pd.DataFrame(rows)
    st.dataframe(
        models,
        hide_index=True,
        column_config=column_help(tuple(models.columns)) | percent,
        alt=f"{len(models)} models with their exits, accuracy and cost",
    )
    for problem in problems:
        st.warning(problem)
    statuses = cache.image_set_statuses()
    known = {card.dataset for card in cards}
    ready, missing = ([status for status in statuses if status.is_ready is wanted] for wanted in (True, False))
    st.dataframe(
        pd.DataFrame(
            [
                {
                    "image set": status.name,
                    "images": status.num_images,
                    "state": _state_words(status.name.split(":")[0] in known),
                }
                for status in ready
            ]
        ),
        hide_index=True,
        alt=f"{len(statuses)} image sets, ready or not and why",
    )
    if missing:
        # With a data root, something is wrong with it; without one, nothing is.
        with st.expander(f"{len(missing)} image sets are not here, and why", expanded=bool(os.environ.get(ROOT))):
            st.markdown("\n".join(f"- {status.problem}" for status in missing))
    fetching.fetch_controls()


def _state_words(has_model: bool) -> str:
    return "ready" if has_model else "readable, but no model of this data set is here yet"
