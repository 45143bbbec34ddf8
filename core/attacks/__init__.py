"""Attacks on exits: specs, objectives, one file per method, success rules and the one function that runs them."""

from core.attacks.run import AttackProgress, AttackResult, attack
from core.attacks.spec import (
    PRESETS,
    AttackSpec,
    CorruptionAttack,
    EarlyAttack,
    L2Attack,
    LinfAttack,
    PublishedEarlyAttack,
    SlowdownAttack,
    StepAttack,
    UniversalAttack,
    WorstCaseAttack,
)

__all__ = [
    "PRESETS",
    "AttackProgress",
    "AttackResult",
    "AttackSpec",
    "CorruptionAttack",
    "EarlyAttack",
    "L2Attack",
    "LinfAttack",
    "PublishedEarlyAttack",
    "SlowdownAttack",
    "StepAttack",
    "UniversalAttack",
    "WorstCaseAttack",
    "attack",
]
