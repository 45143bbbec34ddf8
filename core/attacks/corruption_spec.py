"""Spec of natural corruptions."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from core.attacks.common import AttackKind, check_numbers
from core.corruptions import CORRUPTIONS, check_corruption

CorruptionName = Literal[
    "gaussian-noise",
    "shot-noise",
    "impulse-noise",
    "gaussian-blur",
    "pixelate",
    "jpeg",
    "elastic",
    "brighter",
    "darker",
    "low-contrast",
    "pale",
]


@dataclass(frozen=True, kw_only=True)
class CorruptionAttack(AttackKind):
    """A natural corruption: nobody's attack, looked at in the same way.

    Attributes:
        name: Which one.
        severity: 1 to 5.
        seed: Draws what is random in it.
    """

    epsilon: ClassVar[float] = 1.0  # type: ignore[misc]
    num_steps: ClassVar[int] = 1  # type: ignore[misc]
    goal_class: ClassVar[None] = None
    name: CorruptionName = "gaussian-noise"
    severity: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every field."""
        check_corruption(self.name, self.severity)
        check_numbers(self, seed=(0, 2**31 - 1))

    @property
    def title(self) -> str:
        """Name on screen."""
        return CORRUPTIONS[self.name].label

    @property
    def looks_at_model(self) -> bool:
        """Images are corrupted alike whatever model is to answer them."""
        return False

    @property
    def is_bounded(self) -> bool:
        """No radius bounds it."""
        return False

    @property
    def strength(self) -> str:
        """Its severity."""
        return f"severity {self.severity}"

    @property
    def strength_name(self) -> str:
        """A severity."""
        return "severity"

    @property
    def aim(self) -> str:
        """It aims at nothing."""
        return "none"

    @property
    def depends_on_policy(self) -> bool:
        """Whether another threshold would have made other images: it knows none."""
        return False

    @property
    def success_rule(self) -> str:
        """Name of the rule by which it has succeeded."""
        return "misclassified_taken"

    @property
    def label(self) -> str:
        """The spec in words, such as ``JPEG severity 3 of 5, quality 40``."""
        corruption = CORRUPTIONS[self.name]
        return f"{self.short_label} of 5, {corruption.unit} {corruption.amounts[self.severity - 1]:g}"

    def check_model(self, num_exits: int, num_classes: int) -> None:
        """Fits every model."""
