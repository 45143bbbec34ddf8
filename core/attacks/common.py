"""What the specs of all kinds of attack share."""

from numbers import Integral, Real
from typing import ClassVar, Literal, Self

from core.errors import ExitLensError
from core.machine import Precision

Norm = Literal["linf", "l2"]


class AttackKind:
    """What every spec answers; its own class overrides what differs.

    Attributes:
        norm: Measures its radius: ``linf``, the largest change of a pixel, or ``l2``, over the whole image.
    """

    norm: ClassVar[Norm] = "linf"
    name: str
    epsilon: float
    num_steps: int

    @property
    def title(self) -> str:
        """Name on screen."""
        return ATTACK_TITLES.get(self.name, self.name.upper())

    @property
    def aim(self) -> str:
        """What it aims at in one word, such as ``taken``, or ``exit-1`` for a chosen exit."""
        return "taken"

    @property
    def needs_early_exits(self) -> bool:
        """Whether it means nothing on a static model."""
        return False

    @property
    def looks_at_model(self) -> bool:
        """Whether another model would have other images come of it."""
        return True

    @property
    def search_precision(self) -> Precision | None:
        """Number format that its search needs; None where the fastest will do, for verdicts come after it."""
        return None

    @property
    def can_be_replayed(self) -> bool:
        """Whether the attack of fewer steps is the beginning of this one."""
        return False

    @property
    def starts_at_image(self) -> bool:
        """Whether the record of its start is one of the clean images."""
        return True

    @property
    def is_bounded(self) -> bool:
        """Whether ``epsilon`` says how far it may go."""
        return True

    @property
    def strength(self) -> str:
        """How far it may go, such as ``8/255`` or ``L2 0.5``; empty where nothing bounds it."""
        return strength_words(self.norm, self.epsilon) if self.is_bounded else ""

    @property
    def strength_name(self) -> str:
        """What ``strength`` is called."""
        return "epsilon"

    @property
    def short_label(self) -> str:
        """Name and strength, such as ``PGD 8/255``."""
        return " ".join(filter(None, [self.title, self.strength]))

    def passes(self, num_exits: int) -> int:
        """Gradients taken of each image at most, on a model of that many exits."""
        return self.num_steps

    def as_static(self) -> Self:
        """The same attack on a model with the final exit alone."""
        return self

    def at_epsilon(self, epsilon: float) -> Self:
        """The same attack within another radius, its steps as long a part of it.

        Raises:
            ExitLensError: If no radius bounds it.
        """
        raise ExitLensError(f"{self.title} has no radius. Choose an attack with one.")


ATTACK_TITLES = {
    "fgsm": "FGSM",
    "pgd": "PGD",
    "mi-fgsm": "MI-FGSM",
    "fgm-l2": "FGM",
    "pgd-l2": "PGD",
    "mi-fgm-l2": "MI-FGM",
    "early": "Early Attack",
    "early-published": "Published Early Attack",
    "slowdown": "Slowdown",
    "universal": "Universal perturbation",
    "worst-case": "Worst case",
}


def norm_of(name: str) -> Norm:
    """The norm of an attack of this name."""
    return "l2" if name.endswith("-l2") else "linf"


def as_255(value: float) -> str:
    """A pixel length as a reader knows it, such as ``8/255``."""
    return f"{value * 255:.4g}/255"


def strength_words(norm: Norm, epsilon: float) -> str:
    """A radius in words, such as ``8/255`` or ``L2 0.5``."""
    return as_255(epsilon) if norm == "linf" else f"L2 {epsilon:.4g}"


def step_within(step_size: float, epsilon: float, wider: float, most: float = 1.0) -> float:
    """A step that is as long a part of another radius, ``most`` at most; one across the ball goes across the other.

    Raises:
        ExitLensError: If the radius is 0, of which no step is a part.
    """
    if step_size == epsilon:  # rounding must not make it a little longer or shorter
        return min(most, wider)
    if not epsilon:
        raise ExitLensError("The attack's epsilon is 0, so its step is no part of it. Give it an epsilon above 0.")
    return min(most, step_size * wider / epsilon)


def check_numbers(spec: object, **ranges: tuple[float, float]) -> None:
    """Checks that fields of a spec are numbers in their ranges, and whole where they count or seed.

    Raises:
        ExitLensError: If one does not.
    """
    for field, (low, high) in ranges.items():
        value = getattr(spec, field)
        is_whole = field == "seed" or field.startswith("num_")
        is_number = isinstance(value, Integral if is_whole else Real) and not isinstance(value, bool)
        if not is_number:
            kind = "a whole number" if is_whole else "a number"
            raise ExitLensError(f"The attack's {field} is {value!r}; it must be {kind} between {low} and {high}.")
        if not low <= value <= high:
            raise ExitLensError(f"The attack's {field} is {value}; it must lie between {low} and {high}.")


def check_exit_and_goal(exit_index: int | None, goal_class: int | None) -> None:
    """Checks that both, where given, count from 0.

    Raises:
        ExitLensError: If one does not.
    """
    for field, value in (("exit_index", exit_index), ("goal_class", goal_class)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 0):
            counted = "exits" if field == "exit_index" else "classes"
            raise ExitLensError(f"{field} is {value}; {counted} count from 0, in whole numbers.")


def check_goal_exists(goal_class: int | None, num_classes: int) -> None:
    """Checks that a model has the goal class.

    Raises:
        ExitLensError: If it has not.
    """
    if goal_class is not None and goal_class >= num_classes:
        raise ExitLensError(f"The goal is class {goal_class}; this model has classes 0 to {num_classes - 1}.")


def check_has_early_exit(title: str, num_exits: int, exit_index: int | None = None) -> None:
    """Checks that a model has an early exit, and the one that is attacked.

    Raises:
        ExitLensError: If it has not.
    """
    if num_exits == 1:
        raise ExitLensError(f"{title} needs an early exit; this model is static. Attack its twin.")
    if exit_index is not None and exit_index >= num_exits - 1:
        raise ExitLensError(
            f"The attack goes through exit {exit_index + 1}; this model has {num_exits - 1} early exits."
        )
