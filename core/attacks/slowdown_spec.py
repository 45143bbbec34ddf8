"""Spec of the attacks on efficiency."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from core.attacks.common import AttackKind, as_255, check_has_early_exit, check_numbers, step_within
from core.errors import ExitLensError

SlowdownLoss = Literal["uniform", "confidence"]


@dataclass(frozen=True, kw_only=True)
class SlowdownAttack(AttackKind):
    """Keeps images from leaving early, whatever is answered in the end.

    The numbers are the published ones of the form ``uniform``.

    Attributes:
        name: Always ``slowdown``.
        epsilon: Radius of the L-infinity ball, in pixels of [0, 1].
        step_size: Length of one step per pixel, same unit.
        num_steps: Gradient steps.
        loss: ``uniform`` draws every early exit towards equal probabilities of all classes; ``confidence`` makes
            the exit that is about to answer unsure, one after the other.
        random_start: Start uniformly within one step of the image instead of at it.
        seed: Draws the random starts.
    """

    decay: ClassVar[float] = 0.0
    stop_when_fooled: ClassVar[bool] = False
    goal_class: ClassVar[None] = None
    name: Literal["slowdown"] = "slowdown"
    epsilon: float = 8 / 256
    step_size: float = 0.002
    num_steps: int = 30
    loss: SlowdownLoss = "uniform"
    random_start: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every field."""
        check_numbers(self, epsilon=(0, 1), step_size=(0, 1), num_steps=(1, 1000), seed=(0, 2**31 - 1))
        if self.loss not in ("uniform", "confidence"):
            raise ExitLensError(f"Unknown loss {self.loss!r} of a slowdown. Choose uniform or confidence.")

    @property
    def can_be_replayed(self) -> bool:
        """Whether the attack of fewer steps is the beginning of this one."""
        return True

    @property
    def starts_at_image(self) -> bool:
        """Whether the record of its start is one of the clean images."""
        return not self.random_start

    @property
    def start_radius(self) -> float:
        """How far from the image a random start may lie."""
        return min(self.step_size, self.epsilon)

    @property
    def needs_early_exits(self) -> bool:
        """Whether it means nothing on a static model."""
        return True

    @property
    def aim(self) -> str:
        """The early exits, or the one that is about to answer."""
        return "early" if self.loss == "uniform" else "taken"

    @property
    def depends_on_policy(self) -> bool:
        """Whether another threshold would have made other images."""
        return self.loss == "confidence"

    @property
    def success_rule(self) -> str:
        """Name of the rule by which this attack has succeeded."""
        return "slowed"

    @property
    def label(self) -> str:
        """The spec in words, such as ``Slowdown 8/255, 30 steps of 0.51/255, all early exits made unsure``."""
        steps = f"{self.num_steps} steps of {as_255(self.step_size)}"
        way = "all early exits made unsure" if self.loss == "uniform" else "the exit about to answer made unsure"
        extras = [] if self.random_start else ["from the image on"]
        return ", ".join([self.short_label, steps, way, *extras])

    def at_epsilon(self, epsilon: float) -> Self:
        """The same attack within another radius, its steps as long a part of it."""
        return replace(self, epsilon=epsilon, step_size=step_within(self.step_size, self.epsilon, epsilon))

    def check_model(self, num_exits: int, num_classes: int) -> None:
        """Checks that the model has an early exit.

        Raises:
            ExitLensError: If it has not.
        """
        check_has_early_exit("A slowdown", num_exits)
