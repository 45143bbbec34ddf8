"""Spec of the worst case over all objectives."""

from dataclasses import dataclass, replace
from typing import Literal, Self

from core.attacks.common import (
    AttackKind,
    as_255,
    check_exit_and_goal,
    check_goal_exists,
    check_numbers,
    step_within,
)
from core.machine import Precision

NUM_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class WorstCaseAttack(AttackKind):
    """Every objective in turn, with restarts; an image that has fallen is left alone.

    What is left standing is the white-box accuracy that is reported.

    Attributes:
        name: Always ``worst-case``.
        epsilon: Radius of the L-infinity ball, in pixels of [0, 1].
        step_size: Length of one step per pixel, same unit.
        num_steps: Gradient steps of each attack.
        num_restarts: How often the step attacks are made: first from the image on, then from random starts.
        goal_class: Class to reach; None for an untargeted attack.
        seed: Draws the random starts.
    """

    name: Literal["worst-case"] = "worst-case"
    epsilon: float = 2 / 255
    step_size: float = 0.5 / 255
    num_steps: int = 20
    num_restarts: int = 2
    goal_class: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every field that does not depend on a model."""
        check_numbers(
            self, epsilon=(0, 1), step_size=(0, 1), num_steps=(1, 1000), num_restarts=(1, 100), seed=(0, 2**30)
        )
        check_exit_and_goal(None, self.goal_class)

    @property
    def search_precision(self) -> Precision | None:
        """Number format that its search needs: exact, as what it does next hangs on verdicts on the way."""
        return "float32"

    def passes(self, num_exits: int) -> int:
        """Gradients taken of each image at most, on a model of that many exits."""
        if num_exits == 1:
            return self.num_restarts * self.num_steps
        # The exit taken, every exit and their mean; then the Early Attack.
        return self.num_steps * (self.num_restarts * (num_exits + 2) + min(NUM_TRIES, num_exits - 1))

    @property
    def depends_on_policy(self) -> bool:
        """Whether another threshold would have made other images."""
        return True

    @property
    def success_rule(self) -> str:
        """Name of the rule by which this attack has succeeded."""
        return "goal_reached" if self.goal_class is not None else "misclassified_taken"

    @property
    def label(self) -> str:
        """The spec in words, such as ``Worst case 2/255, 20 steps of 0.5/255, 2 starts``."""
        goal = [f"goal class {self.goal_class}"] if self.goal_class is not None else []
        steps = f"{self.num_steps} steps of {as_255(self.step_size)}"
        return ", ".join([self.short_label, steps, f"{self.num_restarts} start{'s' * (self.num_restarts > 1)}", *goal])

    def at_epsilon(self, epsilon: float) -> Self:
        """The same attack within another radius, its steps as long a part of it."""
        return replace(self, epsilon=epsilon, step_size=step_within(self.step_size, self.epsilon, epsilon))

    def check_model(self, num_exits: int, num_classes: int) -> None:
        """Checks that the model has the goal class.

        Raises:
            ExitLensError: If it has not.
        """
        check_goal_exists(self.goal_class, num_classes)
