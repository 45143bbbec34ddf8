"""Puts every control back where it stood for an earlier run."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from core.attacks.spec import (
    L2_NAMES,
    AttackSpec,
    CorruptionAttack,
    EarlyAttack,
    L2Attack,
    LinfAttack,
    PublishedEarlyAttack,
    SlowdownAttack,
    UniversalAttack,
    WorstCaseAttack,
    as_255,
)
from core.experiment import ExperimentSpec
from ui.attack_controls import BEST_EXIT, EVERY_EXIT, FOR_ALL, FOR_EACH, NO_BALL


def set_controls(spec: ExperimentSpec, class_names: Sequence[str]) -> None:
    """Puts every control where it stood for an experiment; only for callbacks, which run before the widgets."""
    dataset, split, selection = spec.images.split(":", 2)
    goal = spec.attack.goal_class
    restored: dict[str, Any] = {
        "set": f"{dataset}:{split}",
        "model": spec.model,
        "images": selection,
        "made_at": spec.made_at.threshold,
        "goal": "none" if goal is None else class_names[goal],
        **_of_attack(spec.attack),
    }
    if spec.attack.depends_on_policy:  # others reckon with no fallback, so what is chosen for judging stays
        restored["fallback"] = spec.made_at.fallback
    for key, value in restored.items():
        st.session_state[key] = value


def _of_attack(attack: AttackSpec) -> dict[str, Any]:
    match attack:
        case LinfAttack() | L2Attack():
            return _of_steps(attack)
        case EarlyAttack():
            one = attack.exit_index is not None
            through = f"Exit {(attack.exit_index or 0) + 1}" if one else BEST_EXIT
            restored = {"attack": "early", "through": through, "early_steps": attack.num_steps}
            return restored | {"epsilon": as_255(attack.epsilon)} | ({} if one else {"tries": attack.num_tries})
        case PublishedEarlyAttack():
            return {
                "attack": "early",
                "through": EVERY_EXIT,
                "alpha": f"{attack.alpha:g}",
                "published_steps": attack.num_steps,
                "start": attack.start,
                "loss": attack.loss,
                "ball": as_255(attack.epsilon) if attack.is_bounded else NO_BALL,
            }
        case SlowdownAttack():
            restored = {"attack": "slowdown", "unsure": attack.loss, "slow_steps": attack.num_steps}
            return restored | {"epsilon": as_255(attack.epsilon), "for_all": FOR_EACH}
        case UniversalAttack():
            restored = {"epsilon": as_255(attack.epsilon), "for_all": FOR_ALL}
            if attack.objective == "slowdown":
                return restored | {"attack": "slowdown", "unsure": "uniform"}
            return restored | {"attack": "pgd", "norm": "L∞", "aim": attack.aim}
        case WorstCaseAttack():
            restored = {"attack": "worst-case", "worst_steps": attack.num_steps, "restarts": attack.num_restarts}
            return restored | {"epsilon": as_255(attack.epsilon)}
        case CorruptionAttack():
            restored = {"attack": "corruption", "corruption": attack.name}
            return restored | {"severity": attack.severity, "seed": attack.seed}


def _of_steps(attack: LinfAttack | L2Attack) -> dict[str, Any]:
    restored: dict[str, Any] = {
        "attack": attack.name,
        "aim": attack.aim,
        "random_start": attack.random_start,
        "stop": attack.stop_when_fooled,
        "for_all": FOR_EACH,
    }
    # What an attack has no control for is left alone: after an FGSM run, PGD would start with a single step.
    is_fgsm = attack.name in ("fgsm", L2_NAMES["fgsm"])
    restored |= {} if is_fgsm else {"steps": attack.num_steps}
    restored |= {"decay": attack.decay} if attack.name in ("mi-fgsm", L2_NAMES["mi-fgsm"]) else {}
    if isinstance(attack, L2Attack):
        preset = next(preset for preset, name in L2_NAMES.items() if name == attack.name)
        return restored | {"attack": preset, "norm": "L2", "epsilon_l2": f"{attack.epsilon:g}"}
    restored |= {} if is_fgsm else {"step_size": attack.step_size * 255}
    return restored | {"norm": "L∞", "epsilon": as_255(attack.epsilon)}
