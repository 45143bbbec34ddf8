"""Widgets in, specs out. Everything that belongs in a link is bound to the address by its key."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import streamlit as st
import torch

from core.attacks.spec import PRESETS, LinfAttack, as_255
from core.checkpoints import ModelCard
from core.errors import ExitLensError
from core.exits import ExitPolicy, Fallback
from core.experiment import ExperimentSpec, standing
from core.figures.theme import KIND_GLYPHS, exit_names
from core.kept import KeptModel
from ui import cache

EPSILONS = ("0.25/255", "0.5/255", "1/255", "2/255", "4/255", "8/255", "16/255")
AIMS = {"taken": "the exit taken", "final": "the final exit", "mean": "the mean of all exits"}
DATASET_LABELS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny-imagenet": "Tiny-ImageNet"}
ATTACK_LABELS = {"fgsm": "FGSM", "pgd": "PGD", "mi-fgsm": "MI-FGSM"}
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
        set_name = st.selectbox(
            "Image set", ready, format_func=_set_label, key="set", bind="query-params", persist_state="session"
        )
        if not any(name.endswith(":test") for name in ready):
            st.caption(_why_samples([status.problem for status in statuses if not status.is_ready]))
        by_name = {card.name: card for card in cards if card.dataset == str(set_name).split(":")[0]}
        # The project's own come first: an import does not change what a fresh page opens with.
        names = sorted(
            by_name,
            key=lambda name: (
                by_name[name].imported is not None,
                by_name[name].architecture,
                standing(by_name[name])[0],
                by_name[name].kind != "early-exit",
                standing(by_name[name]),
            ),
        )
        name = st.selectbox(
            "Model",
            names,
            format_func=lambda name: glyph_label(by_name[name]),
            key="model",
            bind="query-params",
            persist_state="session",
        )
        card = by_name[name]
        if not card.stops_early:
            st.caption(
                "Nothing says which layers feed this model's exits, so it computes all of them for every image. "
                "Costs are those that its owner gave, not counted here."
            )
        threshold = st.slider(
            "Threshold",
            0.0,
            1.0,
            0.9,
            0.01,
            key="threshold",
            bind="query-params",
            persist_state="session",
            help="An image leaves at the first early exit whose confidence reaches the threshold. A static model has "
            "no early exit, so it is not moved by it.",
        )
        fallback = st.selectbox(
            "When no exit is sure",
            list(FALLBACKS),
            format_func=FALLBACKS.__getitem__,
            key="fallback",
            bind="query-params",
            persist_state="session",
        )
        waiting = os.environ.get("OMP_WAIT_POLICY", "").lower()
        st.caption(f"Running on: cpu, {torch.get_num_threads()} threads ({waiting or 'default'} waiting)")
    return Setting(str(set_name), card, ExitPolicy(threshold, cast(Fallback, fallback)))


def attack_controls(card: ModelCard, class_names: Sequence[str]) -> tuple[LinfAttack, ExitPolicy]:
    """The attack's controls, with only the options that mean something for the model.

    Returns:
        The attack, and the policy under which it is made.
    """
    left, middle, right = st.columns([1.2, 1.4, 1.4], vertical_alignment="bottom")
    with left:
        name = st.segmented_control(
            "Attack",
            list(ATTACK_LABELS),
            default="pgd",
            required=True,
            format_func=ATTACK_LABELS.__getitem__,
            key="attack",
            bind="query-params",
            persist_state="session",
        )
    with middle:
        epsilon = st.select_slider(
            "Epsilon: how far a pixel may move",
            EPSILONS,
            "8/255",
            key="epsilon",
            bind="query-params",
            persist_state="session",
        )
    aims = dict(AIMS) | {f"exit-{index + 1}": f"{name}" for index, name in enumerate(exit_names(card.num_exits)[:-1])}
    with right:
        if card.num_exits == 1:
            aim = "final"
            st.selectbox("Aims at", ["final"], format_func=aims.__getitem__, disabled=True, key="aim_static")
        else:
            aim = st.selectbox(
                "Aims at",
                list(aims),
                format_func=aims.__getitem__,
                key="aim",
                bind="query-params",
                persist_state="session",
                help="Whose loss is raised. The exit taken is looked up again at every step.",
            )
    fields: dict[str, object] = {"objective": "exit" if aim.startswith("exit-") else aim}
    fields["exit_index"] = int(aim.removeprefix("exit-")) - 1 if aim.startswith("exit-") else None
    with st.expander("More options"):
        policy = _more_options(str(name), fields, class_names)
    return PRESETS[str(name)](epsilon=_pixels(epsilon), **fields), policy


def set_controls(spec: ExperimentSpec, class_names: Sequence[str]) -> None:
    """Puts every control where it stood for an experiment; only for callbacks, which run before the widgets."""
    attack, (dataset, split, selection) = spec.attack, spec.images.split(":", 2)
    assert isinstance(attack, LinfAttack)  # the controls offer no other
    restored: dict[str, object] = {
        "set": f"{dataset}:{split}",
        "model": spec.model,
        "images": selection,
        "attack": attack.name,
        "epsilon": as_255(attack.epsilon),
        "aim": attack.aim,
        "steps": attack.num_steps,
        "step_size": attack.step_size * 255,
        "decay": attack.decay,
        "goal": "none" if attack.goal_class is None else class_names[attack.goal_class],
        "random_start": attack.random_start,
        "stop": attack.stop_when_fooled,
        "made_at": spec.made_at.threshold,
    }
    for key, value in restored.items():
        st.session_state[key] = value


def _more_options(name: str, fields: dict[str, object], class_names: Sequence[str]) -> ExitPolicy:
    columns = st.columns(4)
    if name != "fgsm":
        fields["num_steps"] = columns[0].number_input(
            "Steps", 1, 200, 10, key="steps", bind="query-params", persist_state="session"
        )
        size = columns[1].number_input(
            "Step size (n/255)", 0.05, 16.0, 2.0, 0.25, key="step_size", bind="query-params", persist_state="session"
        )
        fields["step_size"] = size / 255
    if name == "mi-fgsm":
        fields["decay"] = columns[2].number_input(
            "Decay", 0.0, 2.0, 1.0, 0.1, key="decay", bind="query-params", persist_state="session"
        )
    goals = ["none", *class_names]
    goal = columns[3].selectbox(
        "Goal class", goals, key="goal", bind="query-params", persist_state="session", help="Push towards one class."
    )
    fields["goal_class"] = None if goal == "none" else goals.index(str(goal)) - 1
    columns = st.columns(4, vertical_alignment="bottom")
    fields["random_start"] = columns[0].checkbox(
        "Random start", key="random_start", bind="query-params", persist_state="session"
    )
    fields["stop_when_fooled"] = columns[1].checkbox(
        "Stop when fooled",
        key="stop",
        bind="query-params",
        persist_state="session",
        help="Leaves an image alone from its first success on; such images stay unsure and leave late.",
    )
    made_at = columns[2].number_input(
        "Threshold while attacking",
        0.0,
        1.0,
        0.9,
        0.01,
        key="made_at",
        bind="query-params",
        persist_state="session",
        help="An attack on the exit taken needs to know when images leave. The threshold in the sidebar judges the "
        "result; this one makes it.",
    )
    return ExitPolicy(made_at, "final")


def _pixels(text: str) -> float:
    return float(text.removesuffix("/255")) / 255


def _set_label(name: str) -> str:
    dataset, split = name.split(":")
    return f"{DATASET_LABELS[dataset]} {split}"


def _why_samples(problems: list[str]) -> str:
    why = problems[0] if problems else ""
    return f"Showing the bundled samples: {why[:1].lower()}{why[1:]}" if why else "Showing the bundled samples."
