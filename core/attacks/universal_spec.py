"""Spec of universal perturbations."""

from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

from core.attacks.common import (
    AttackKind,
    as_255,
    check_exit_and_goal,
    check_goal_exists,
    check_numbers,
    step_within,
)
from core.errors import ExitLensError

UniversalObjective = Literal["taken", "final", "mean", "exit", "slowdown"]
FITTED_ON = "cifar10:validation:45000-45127"


@dataclass(frozen=True, kw_only=True)
class UniversalAttack(AttackKind):
    """One perturbation for all images, fitted on others.

    Attributes:
        name: Always ``universal``.
        epsilon: Radius of the L-infinity ball, in pixels of [0, 1].
        step_size: Length of one step per pixel, same unit.
        num_steps: Gradient steps, each over all images that it is fitted on.
        objective: Whose mean cross-entropy over those images is raised, as in ``StepAttack``, or ``slowdown``:
            every early exit is made unsure.
        exit_index: The chosen exit, 0-based; only with the objective ``exit``.
        goal_class: Class to reach; None for an untargeted attack.
        fitted_on: Images of ``validation`` that it is fitted on, and nothing is trained or judged on.
    """

    name: Literal["universal"] = "universal"
    epsilon: float = 8 / 255
    step_size: float = 0.005
    num_steps: int = 20
    objective: UniversalObjective = "taken"
    exit_index: int | None = None
    goal_class: int | None = None
    fitted_on: str = FITTED_ON

    def __post_init__(self) -> None:
        """Checks every field that does not depend on a model."""
        check_numbers(self, epsilon=(0, 1), step_size=(0, 1), num_steps=(1, 1000))
        if self.objective not in get_args(UniversalObjective):
            raise ExitLensError(
                f"Unknown objective {self.objective!r}. Choose one of {', '.join(get_args(UniversalObjective))}."
            )
        if (self.objective == "exit") != (self.exit_index is not None):
            raise ExitLensError("The objective 'exit' needs an exit_index, and no other objective takes one.")
        if self.objective == "slowdown" and self.goal_class is not None:
            raise ExitLensError("A universal slowdown has no goal class: it leaves the answer open.")
        if self.fitted_on.split(":")[1:2] != ["validation"]:
            raise ExitLensError(
                f"A universal perturbation cannot be fitted on {self.fitted_on!r}: what it is judged on must be new "
                "to it. Name images of validation, such as cifar10:validation:45000-45127."
            )
        check_exit_and_goal(self.exit_index, self.goal_class)

    @property
    def needs_early_exits(self) -> bool:
        """Whether it means nothing on a static model."""
        return self.objective == "slowdown"

    @property
    def aim(self) -> str:
        """What it aims at in one word: the objective, or such as ``exit-1`` for a chosen exit."""
        return self.objective if self.exit_index is None else f"exit-{self.exit_index + 1}"

    @property
    def depends_on_policy(self) -> bool:
        """Whether another threshold would have made another perturbation."""
        return self.objective == "taken"

    @property
    def success_rule(self) -> str:
        """Name of the rule by which this attack has succeeded: by what it aims at."""
        if self.objective == "slowdown":
            return "slowed"
        where = "_final" if self.objective == "final" else ""
        if self.goal_class is not None:
            return f"goal_reached{where}"
        return f"misclassified{where or '_taken'}"

    @property
    def label(self) -> str:
        """The spec in words."""
        aim = {
            "taken": "at the exit taken",
            "final": "at the final exit",
            "mean": "at the mean of all exits",
            "slowdown": "all early exits made unsure",
        }.get(self.objective, f"at exit {(self.exit_index or 0) + 1}")
        steps = f"{self.num_steps} steps of {as_255(self.step_size)}"
        goal = [f"goal class {self.goal_class}"] if self.goal_class is not None else []
        return ", ".join([self.short_label, steps, aim, *goal, f"fitted on {self.fitted_on}"])

    def as_static(self) -> Self:
        """The same on a model with the final exit alone; a slowdown has nothing to do there."""
        return self if self.objective == "slowdown" else replace(self, objective="final", exit_index=None)

    def at_epsilon(self, epsilon: float) -> Self:
        """The same attack within another radius, its steps as long a part of it."""
        return replace(self, epsilon=epsilon, step_size=step_within(self.step_size, self.epsilon, epsilon))

    def check_model(self, num_exits: int, num_classes: int) -> None:
        """Checks the fields that depend on the model.

        Raises:
            ExitLensError: If the model has no such exit or class, or no early exit to slow.
        """
        if self.objective == "slowdown" and num_exits == 1:
            raise ExitLensError("A slowdown needs an early exit; this model is static. Attack its twin.")
        if self.exit_index is not None and self.exit_index >= num_exits:
            raise ExitLensError(f"The attack aims at exit {self.exit_index + 1}; this model has {num_exits}.")
        check_goal_exists(self.goal_class, num_classes)
