"""Widgets in, specs out. Everything that belongs in a link is bound to the address by its key."""

from dataclasses import dataclass
from typing import cast

import streamlit as st

from core.checkpoints import ModelCard
from core.errors import ExitLensError
from core.exits import ExitPolicy, Fallback
from core.figures.theme import KIND_GLYPHS
from core.kept import KeptModel
from core.machine import compute_device, device_words
from ui import bound, cache
from ui.words import meaning

DATASET_LABELS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny-imagenet": "Tiny-ImageNet"}
FALLBACKS = {"final": "the final exit answers", "most_confident": "the most confident exit answers"}


@dataclass(frozen=True)
class Setting:
    """What the sidebar says: which images, which model, which policy.

    Attributes:
        set_name: An image set, such as ``cifar10:samples``.
        card: Of the chosen model.
        policy: In force on screen.
    """

    set_name: str
    card: ModelCard
    policy: ExitPolicy


def glyph_label(card: ModelCard | KeptModel) -> str:
    """A model's name with the glyph of its kind, such as ``● ResNet-56 early-exit``."""
    return f"{KIND_GLYPHS[card.kind]} {card.label}"


def setting_controls() -> Setting:
    """The sidebar's controls.

    Raises:
        ExitLensError: If no model can be read.
    """
    cards, problems = cache.cards()
    for problem in problems:
        st.sidebar.warning(problem)
    if not cards:
        raise ExitLensError("There is no model here yet. Restore the folder checkpoints/, or train one: see README.md.")
    datasets = {card.dataset for card in cards}
    statuses = cache.image_set_statuses()
    ready = [status.name for status in statuses if status.is_ready and status.name.split(":")[0] in datasets]
    if not ready:
        raise ExitLensError(f"No images of {', '.join(sorted(datasets))} can be opened here: see README.md.")
    with st.sidebar:
        set_name = bound.choose(
            st.selectbox,
            "Image set",
            ready,
            format_func=_set_label,
            key="set",
            help=meaning("samples", "data root"),
        )
        if not any(name.endswith(":test") for name in ready):
            st.caption(_why_samples([status.problem for status in statuses if not status.is_ready]))
        by_name = {card.name: card for card in cards if card.dataset == str(set_name).split(":")[0]}
        name = bound.choose(
            st.selectbox,
            "Model",
            list(by_name),
            format_func=lambda name: glyph_label(by_name[name]),
            key="model",
            help=meaning("static model", "early-exit model", more="■ static, ● early-exit."),
        )
        card = by_name[name]
        if not card.stops_early:
            st.caption(
                "Nothing says which layers feed this model's exits, so it computes all of them for every image. "
                "Costs are those that its owner gave, not counted here."
            )
        threshold = bound.number(
            st.slider,
            "Threshold",
            0.0,
            1.0,
            0.9,
            0.01,
            key="threshold",
            help=meaning(
                "threshold",
                more="An image leaves at the first early exit whose confidence reaches it. A static model has no early "
                "exit, so it is not moved by it.",
            ),
        )
        fallback = bound.choose(
            st.selectbox,
            "When no exit is sure",
            list(FALLBACKS),
            format_func=FALLBACKS.__getitem__,
            key="fallback",
            help=meaning("fallback"),
        )
        st.caption(f"Running on: {device_words(compute_device())}")
    return Setting(str(set_name), card, ExitPolicy(threshold, cast(Fallback, fallback)))


def _set_label(name: str) -> str:
    dataset, split = name.split(":")
    return f"{DATASET_LABELS[dataset]} {split}"


def _why_samples(problems: list[str]) -> str:
    why = problems[0] if problems else ""
    return f"Showing the bundled samples: {why[:1].lower()}{why[1:]}" if why else "Showing the bundled samples."
