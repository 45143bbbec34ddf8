"""Widgets in, attack specs out: what is attacked how, with only the options that mean something."""

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from core.attacks.spec import (
    PRESETS,
    AttackSpec,
    CorruptionAttack,
    PublishedEarlyAttack,
    SlowdownAttack,
    UniversalAttack,
    WorstCaseAttack,
    early,
    l2_attack,
)
from core.checkpoints import ModelCard
from core.corruptions import CORRUPTIONS, SEVERITIES
from core.exits import ExitPolicy
from core.figures.theme import exit_names
from ui import bound, cache
from ui.words import meaning

EPSILONS = ("0.25/255", "0.5/255", "1/255", "2/255", "4/255", "8/255", "16/255")
L2_EPSILONS = ("0.05", "0.1", "0.25", "0.5", "1", "2")
ALPHAS = ("0.001", "0.01", "0.1", "1", "20", "40")
AIMS = {
    "taken": "the exit taken",
    "final": "the final exit",
    "mean": "the mean of all exits",
    "max-average": "each exit, the worst for all",
}
ATTACKS = {
    "fgsm": "FGSM",
    "pgd": "PGD",
    "mi-fgsm": "MI-FGSM",
    "early": "Early",
    "slowdown": "Slowdown",
    "worst-case": "Worst case",
    "corruption": "Corruption",
}
WITHOUT_EARLY_EXITS = ("fgsm", "pgd", "mi-fgsm", "worst-case", "corruption")
EVERY_EXIT, BEST_EXIT = "every early exit, as published", "whichever gives way"
UNSURE = {"uniform": "all early exits, as published", "confidence": "the exit about to answer"}
STARTS = {"random": "anywhere, as published", "image": "at the image"}
LOSSES = {"probabilities": "probabilities, as published", "logits": "margins on logits"}
NO_BALL, FOR_EACH, FOR_ALL = "none, as published", "one for each image", "one for all images"
NUM_FITTED = 128


def attack_controls(card: ModelCard, class_names: Sequence[str]) -> tuple[AttackSpec, ExitPolicy]:
    """The attack's controls, with only the options that mean something for the model.

    Returns:
        The attack, and the policy under which it is made.
    """
    names = list(ATTACKS) if card.num_exits > 1 else list(WITHOUT_EARLY_EXITS)
    if st.session_state.get("attack", "pgd") not in names:
        st.session_state["attack"] = "pgd"
    name = bound.choose(
        st.segmented_control,
        "Attack",
        names,
        default="pgd",
        required=True,
        format_func=ATTACKS.__getitem__,
        key="attack",
        help=meaning("adversarial"),
    )
    if card.num_exits == 1:
        st.caption("Early and Slowdown go through early exits, and a static model has none.")
    make = {"early": _early, "slowdown": _slowdown, "worst-case": _worst_case, "corruption": _corruption}
    rest = make.get(str(name), _steps)(str(name), card, class_names)
    with st.expander("More options"):
        attack = rest()
        policy = _made_at() if attack.depends_on_policy and card.num_exits > 1 else ExitPolicy()
    return attack, policy


# The first row's widgets come back as what asks for the rest, in the expander, and makes the spec.
Rest = Callable[[], AttackSpec]


def _steps(name: str, card: ModelCard, class_names: Sequence[str]) -> Rest:
    """FGSM, PGD and MI-FGSM, in either ball; PGD also as one perturbation for all images."""
    first, left, right = st.columns([0.6, 1.4, 1.4], vertical_alignment="bottom")
    norm = bound.choose(first.selectbox, "Ball", ["L∞", "L2"], key="norm", help=_BALL_HELP)
    epsilon = _epsilon(left, norm == "L2")
    aim = _aim(right, card)

    def finish() -> AttackSpec:
        columns = st.columns(4)
        fields: dict[str, Any] = _aim_fields(aim)
        fields["goal_class"] = _goal(columns[0], class_names)
        universal = name == "pgd" and norm == "L∞" and aim != "max-average" and _for_all(columns[1], card)
        if universal:
            return UniversalAttack(epsilon=epsilon, fitted_on=_fitted_on(card), **fields)
        if name != "fgsm":
            fields["num_steps"] = bound.number(columns[2].number_input, "Steps", 1, 200, 10, key="steps")
        if name != "fgsm" and norm == "L∞":
            size = bound.number(columns[3].number_input, "Step size (n/255)", 0.05, 16.0, 2.0, 0.25, key="step_size")
            fields["step_size"] = size / 255
        columns = st.columns(4, vertical_alignment="bottom")
        if name == "mi-fgsm":
            fields["decay"] = bound.number(columns[2].number_input, "Decay", 0.0, 2.0, 1.0, 0.1, key="decay")
        fields["random_start"] = bound.switch(
            columns[0].checkbox, "Random start", key="random_start", help=meaning("start")
        )
        fields["stop_when_fooled"] = bound.switch(columns[1].checkbox, "Stop when fooled", key="stop", help=_STOP_HELP)
        return l2_attack(name, epsilon, **fields) if norm == "L2" else PRESETS[name](epsilon=epsilon, **fields)

    return finish


def _early(name: str, card: ModelCard, class_names: Sequence[str]) -> Rest:
    """The deployed Early Attack through one exit or several, or the published one through all."""
    left, right = st.columns([1.4, 1.4], vertical_alignment="bottom")
    exits = {exit_name: index for index, exit_name in enumerate(exit_names(card.num_exits)[:-1])}
    through = bound.choose(
        right.selectbox, "Goes through", [BEST_EXIT, *exits, EVERY_EXIT], key="through", help=_THROUGH_HELP
    )
    if through == EVERY_EXIT:
        alpha = bound.choose(left.select_slider, "α: how much the final exit counts", ALPHAS, "1", key="alpha")
        return lambda: _published(float(alpha))
    epsilon = _epsilon(left, False)

    def finish() -> AttackSpec:
        columns = st.columns(4)
        num_steps = bound.number(
            columns[0].number_input,
            "Steps through one exit",
            1,
            200,
            16,
            key="early_steps",
            help="Each a quarter of epsilon long.",
        )
        fields: dict[str, Any] = {"goal_class": _goal(columns[1], class_names), "exit_index": exits.get(str(through))}
        if through == BEST_EXIT:
            fields["num_tries"] = bound.number(
                columns[2].number_input,
                "Exits tried",
                1,
                max(1, card.num_exits - 1),
                min(3, card.num_exits - 1),
                key="tries",
            )
        return early(epsilon, num_steps=num_steps, **fields)

    return finish


def _published(alpha: float) -> AttackSpec:
    columns = st.columns(4)
    num_steps = bound.number(columns[0].number_input, "Steps", 1, 1000, 1000, 100, key="published_steps")
    start = bound.choose(
        columns[1].selectbox, "Starts", list(STARTS), format_func=STARTS.__getitem__, key="start", help=meaning("start")
    )
    loss = bound.choose(columns[2].selectbox, "Loss of", list(LOSSES), format_func=LOSSES.__getitem__, key="loss")
    ball = bound.choose(columns[3].selectbox, "Ball", [NO_BALL, *EPSILONS], key="ball", help=_BALL_HELP)
    epsilon = 1.0 if ball == NO_BALL else _pixels(str(ball))
    return PublishedEarlyAttack(
        alpha=alpha,
        num_steps=num_steps,
        start=start,
        loss=loss,
        epsilon=epsilon,
    )


def _slowdown(name: str, card: ModelCard, class_names: Sequence[str]) -> Rest:
    """The attack on efficiency, for each image or for all."""
    left, right = st.columns([1.4, 1.4], vertical_alignment="bottom")
    epsilon = _epsilon(left, False)
    loss = bound.choose(right.selectbox, "Makes unsure", list(UNSURE), format_func=UNSURE.__getitem__, key="unsure")

    def finish() -> AttackSpec:
        columns = st.columns(4)
        if loss == "uniform" and _for_all(columns[1], card):
            return UniversalAttack(epsilon=epsilon, objective="slowdown", fitted_on=_fitted_on(card))
        num_steps = bound.number(
            columns[0].number_input, "Steps", 1, 200, 30, key="slow_steps", help="Each 0.51/255 long, as published."
        )
        return SlowdownAttack(epsilon=epsilon, num_steps=num_steps, loss=loss)

    return finish


def _worst_case(name: str, card: ModelCard, class_names: Sequence[str]) -> Rest:
    """Every objective in turn."""
    left, right = st.columns([1.4, 1.4], vertical_alignment="bottom")
    epsilon = _epsilon(left, False)
    right.caption(
        "Every objective in turn on the images that still stand: the exit taken, each exit, their mean, and Early."
        if card.num_exits > 1
        else "The final exit from several starts, on the images that still stand."
    )

    def finish() -> AttackSpec:
        columns = st.columns(4)
        num_steps = bound.number(
            columns[0].number_input,
            "Steps of each",
            1,
            200,
            20,
            key="worst_steps",
            help="Each a quarter of epsilon long.",
        )
        goal = _goal(columns[1], class_names)
        restarts = bound.number(columns[2].number_input, "Starts", 1, 20, 2, key="restarts", help=meaning("restart"))
        return WorstCaseAttack(
            epsilon=epsilon, step_size=epsilon / 4, num_steps=num_steps, num_restarts=restarts, goal_class=goal
        )

    return finish


def _corruption(name: str, card: ModelCard, class_names: Sequence[str]) -> Rest:
    """Nobody's attack: noise, blur, compression and the like."""
    left, right = st.columns([1.4, 1.4], vertical_alignment="bottom")
    kind = bound.choose(
        left.selectbox,
        "Corruption",
        list(CORRUPTIONS),
        format_func=lambda name: CORRUPTIONS[name].label,
        key="corruption",
        help=meaning("corruption"),
    )
    severity = bound.choose(right.select_slider, "Severity", SEVERITIES, 3, key="severity", help=meaning("corruption"))

    def finish() -> AttackSpec:
        seed = bound.number(st.columns(4)[0].number_input, "Seed of what is random", 0, 2**31 - 1, 0, key="seed")
        return CorruptionAttack(name=kind, severity=severity, seed=seed)

    return finish


def _epsilon(column: Any, is_l2: bool) -> float:
    about: dict[str, Any] = {"help": meaning("epsilon")}
    if is_l2:
        words = "Epsilon: length of the whole change (L2)"
        return float(bound.choose(column.select_slider, words, L2_EPSILONS, "0.5", key="epsilon_l2", **about))
    words = "Epsilon: how far a pixel may move"
    return _pixels(bound.choose(column.select_slider, words, EPSILONS, "8/255", key="epsilon", **about))


def _aim(column: Any, card: ModelCard) -> str:
    aims = AIMS | {f"exit-{index + 1}": name for index, name in enumerate(exit_names(card.num_exits)[:-1])}
    if card.num_exits == 1:
        column.selectbox(
            "Aims at",
            ["final"],
            format_func=aims.__getitem__,
            disabled=True,
            key="aim_static",
            help=meaning("objective", more="A static model has its final exit alone."),
        )
        return "final"
    chosen = bound.choose(
        column.selectbox,
        "Aims at",
        list(aims),
        format_func=aims.__getitem__,
        key="aim",
        help=meaning("objective", more="The exit taken is looked up again at every step."),
    )
    return str(chosen)


def _aim_fields(aim: str) -> dict[str, Any]:
    if not aim.startswith("exit-"):
        return {"objective": aim, "exit_index": None}
    return {"objective": "exit", "exit_index": int(aim.removeprefix("exit-")) - 1}


def _goal(column: Any, class_names: Sequence[str]) -> int | None:
    goals = ["none", *class_names]
    goal = bound.choose(column.selectbox, "Goal class", goals, key="goal", help=meaning("goal class"))
    return None if goal == "none" else goals.index(str(goal)) - 1


def _for_all(column: Any, card: ModelCard) -> bool:
    """Whether one perturbation is to serve all images; it needs validation images to be fitted on."""
    here = {status.name: status.is_ready for status in cache.image_set_statuses()}
    if not here.get(f"{card.dataset}:validation"):
        column.caption("One perturbation for all images is fitted on validation images, which are not here.")
        return False
    chosen = bound.choose(column.selectbox, "Perturbation", [FOR_EACH, FOR_ALL], key="for_all", help=_FOR_ALL_HELP)
    return bool(chosen == FOR_ALL)


def _fitted_on(card: ModelCard) -> str:
    first = cache.image_set(f"{card.dataset}:validation").indices[:NUM_FITTED].tolist()
    return f"{card.dataset}:validation:{first[0]}-{first[-1]}"


def _made_at() -> ExitPolicy:
    made_at = bound.number(
        st.number_input,
        "Threshold while attacking",
        0.0,
        1.0,
        0.9,
        0.01,
        key="made_at",
        width=240,
        help=meaning(
            "threshold",
            "made at",
            more="This attack needs to know when images leave. The threshold in the sidebar judges the result; this "
            "one makes it. What answers when no exit is sure stands in the sidebar, for both.",
        ),
    )
    # The fallback is the sidebar's, which is drawn before: an attacker knows what answers when no exit is sure.
    return ExitPolicy(made_at, st.session_state.get("fallback", "final"))


def _pixels(text: str) -> float:
    return float(text.removesuffix("/255")) / 255


_BALL_HELP = meaning("ball", more="L∞ bounds every pixel by itself, L2 the length of the whole change.")
_STOP_HELP = "Leaves an image alone from its first success on; such images stay unsure and leave late."
_THROUGH_HELP = (
    "Which early exit is to answer wrongly and surely while the final exit stays right. As published, every early exit "
    "is to leave the model's own final answer, however far the pixels have to move."
)
_FOR_ALL_HELP = meaning(
    "perturbation", "universal", more="It is fitted on validation images and has not seen those that are attacked."
)
