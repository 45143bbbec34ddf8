"""Attacks on exits: specs, objectives, the sign-step loop, success rules and the one function that runs them."""

from core.attacks.run import AttackProgress, AttackResult, attack
from core.attacks.spec import PRESETS, AttackSpec, EarlyAttack, LinfAttack

__all__ = ["PRESETS", "AttackProgress", "AttackResult", "AttackSpec", "EarlyAttack", "LinfAttack", "attack"]
