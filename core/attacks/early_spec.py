"""Specs of the Early Attack: the deployed form, and the published one with its departures."""

from dataclasses import dataclass, replace
from typing import Literal, Self

from core.attacks.common import (
    AttackKind,
    as_255,
    check_exit_and_goal,
    check_goal_exists,
    check_has_early_exit,
    check_numbers,
    step_within,
)
from core.errors import ExitLensError
from core.machine import Precision


@dataclass(frozen=True, kw_only=True)
class EarlyAttack(AttackKind):
    """The deployed Early Attack: an early exit answers wrongly and surely while the final exit stays right.

    Attributes:
        name: Always ``early``.
        epsilon: Radius of the ball, in pixels of [0, 1].
        step_size: Length of one step per pixel, same unit.
        num_steps: Gradient steps through one exit, at most.
        decay: Momentum kept from step to step; 0 for none.
        exit_index: The early exit to go through, 0-based; None tries several and keeps the first that gives way.
        num_tries: Exits tried on an image that holds out; only without an ``exit_index``.
        goal_class: Class that the early exit is to answer; None for any wrong one.
    """

    name: Literal["early"] = "early"
    epsilon: float = 8 / 255
    step_size: float = 2 / 255
    num_steps: int = 16
    decay: float = 0.8
    exit_index: int | None = None
    num_tries: int = 3
    goal_class: int | None = None

    def __post_init__(self) -> None:
        """Checks every field that does not depend on a model."""
        check_numbers(self, epsilon=(0, 1), step_size=(0, 1), decay=(0, 10), num_steps=(1, 1000), num_tries=(1, 100))
        if self.name != "early":
            raise ExitLensError(f"An Early Attack is named early, not {self.name!r}. Choose LinfAttack for others.")
        check_exit_and_goal(self.exit_index, self.goal_class)

    @property
    def needs_early_exits(self) -> bool:
        """Whether it means nothing on a static model."""
        return True

    @property
    def aim(self) -> str:
        """What it aims at in one word: ``taken``, or such as ``exit-1`` for a chosen exit."""
        return "taken" if self.exit_index is None else f"exit-{self.exit_index + 1}"

    def passes(self, num_exits: int) -> int:
        """Gradients taken of each image at most, on a model of that many exits."""
        return self.num_steps * (min(self.num_tries, num_exits - 1) if self.exit_index is None else 1)

    @property
    def depends_on_policy(self) -> bool:
        """Whether another threshold would have made other images: it aims at what is deployed."""
        return True

    @property
    def success_rule(self) -> str:
        """Name of the rule by which this attack has succeeded."""
        return "taken_broken_final_kept" if self.goal_class is None else "goal_taken_final_kept"

    @property
    def label(self) -> str:
        """The spec in words, such as ``Early Attack 2/255, 20 steps of 0.5/255, through exit 2``."""
        way = f"the best of {self.num_tries} exits" if self.exit_index is None else f"exit {self.exit_index + 1}"
        extras = [f"decay {self.decay:g}"] if self.decay else []
        extras += [f"goal class {self.goal_class}"] if self.goal_class is not None else []
        steps = f"{self.num_steps} steps of {as_255(self.step_size)}"
        return ", ".join([self.short_label, steps, *extras, f"through {way}"])

    def at_epsilon(self, epsilon: float) -> Self:
        """The same attack within another radius, its steps as long a part of it."""
        return replace(self, epsilon=epsilon, step_size=step_within(self.step_size, self.epsilon, epsilon))

    def check_model(self, num_exits: int, num_classes: int) -> None:
        """Checks that the model has the early exit that is attacked, and the goal class.

        Raises:
            ExitLensError: If it has not.
        """
        check_has_early_exit("An Early Attack", num_exits, self.exit_index)
        check_goal_exists(self.goal_class, num_classes)


@dataclass(frozen=True, kw_only=True)
class PublishedEarlyAttack(AttackKind):
    """The Early Attack as published: every early exit leaves the clean final answer, the final exit keeps it.

    ``start``, ``epsilon`` and ``loss`` are the departures from it, to be taken one at a time.

    Attributes:
        name: Always ``early-published``.
        alpha: How much the final exit counts against the early ones.
        weight: Of both against the squared distance, C.
        learning_rate: Of Adam.
        num_steps: Gradient steps, at most.
        num_forced: Steps after which an image that has succeeded is left alone.
        start: ``random``: anywhere, the image forgotten, as published; ``image``: at the image.
        epsilon: Radius of the L-infinity ball that every step is projected onto; 1 for none, as published.
        loss: Made of ``probabilities``, as published, or of margins on ``logits``.
        seed: Draws the random starts.
    """

    name: Literal["early-published"] = "early-published"
    alpha: float = 1.0
    weight: float = 50.0
    learning_rate: float = 0.01
    num_steps: int = 1000
    num_forced: int = 200
    start: Literal["random", "image"] = "random"
    epsilon: float = 1.0
    loss: Literal["probabilities", "logits"] = "probabilities"
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every field."""
        check_numbers(
            self,
            alpha=(0, 1e4),
            weight=(0, 1e6),
            learning_rate=(0, 10),
            num_steps=(1, 10_000),
            num_forced=(0, 10_000),
            epsilon=(0, 1),
            seed=(0, 2**31 - 1),
        )
        for field, allowed in (("start", ("random", "image")), ("loss", ("probabilities", "logits"))):
            if getattr(self, field) not in allowed:
                raise ExitLensError(
                    f"Unknown {field} {getattr(self, field)!r} of an Early Attack. Choose {' or '.join(allowed)}."
                )

    @property
    def starts_at_image(self) -> bool:
        """Whether the record of its start is one of the clean images."""
        return self.start == "image"

    @property
    def search_precision(self) -> Precision | None:
        """Number format that its search needs: exact, as what it does next hangs on verdicts on the way."""
        return "float32"

    @property
    def is_bounded(self) -> bool:
        """Whether it is projected onto a ball."""
        return self.epsilon < 1

    @property
    def goal_class(self) -> None:
        """None: it asks for no class, only for another one."""
        return None

    @property
    def needs_early_exits(self) -> bool:
        """Whether it means nothing on a static model."""
        return True

    @property
    def aim(self) -> str:
        """Every early exit at once."""
        return "early"

    @property
    def depends_on_policy(self) -> bool:
        """Whether another threshold would have made other images: it knows none."""
        return False

    @property
    def success_rule(self) -> str:
        """Name of the rule by which this attack has succeeded."""
        return "early_broken_final_kept"

    @property
    def label(self) -> str:
        """The spec in words, such as ``Published Early Attack, α 1, 1000 steps``, with its departures."""
        departures = ["from the image on"] if self.start == "image" else []
        departures += ["margins on logits"] if self.loss == "logits" else []
        return ", ".join([self.short_label, f"α {self.alpha:g}", f"{self.num_steps} steps", *departures])

    def at_epsilon(self, epsilon: float) -> Self:
        """The same attack projected onto another ball."""
        return replace(self, epsilon=epsilon)

    def check_model(self, num_exits: int, num_classes: int) -> None:
        """Checks that the model has an early exit.

        Raises:
            ExitLensError: If it has not.
        """
        check_has_early_exit("An Early Attack", num_exits)
