"""Attack specs: cache key, table row, label and test id in one. Those of the step attacks, and the union of all."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, get_args

from core.attacks.common import (
    AttackKind,
    Norm,
    as_255,
    check_exit_and_goal,
    check_goal_exists,
    check_numbers,
    step_within,
)
from core.attacks.corruption_spec import CorruptionAttack
from core.attacks.early_spec import EarlyAttack, PublishedEarlyAttack
from core.attacks.slowdown_spec import SlowdownAttack
from core.attacks.universal_spec import UniversalAttack
from core.attacks.worst_case_spec import WorstCaseAttack
from core.errors import ExitLensError
from core.machine import Precision

__all__ = [
    "PRESETS",
    "AttackSpec",
    "CorruptionAttack",
    "EarlyAttack",
    "L2Attack",
    "LinfAttack",
    "Objective",
    "PublishedEarlyAttack",
    "SlowdownAttack",
    "StepAttack",
    "UniversalAttack",
    "WorstCaseAttack",
    "as_255",
    "early",
    "fgsm",
    "l2_attack",
    "mi_fgsm",
    "pgd",
]

Objective = Literal["taken", "final", "mean", "max-average", "exit"]
AIM_WORDS = {
    "taken": "at the exit taken",
    "final": "at the final exit",
    "mean": "at the mean of all exits",
    "max-average": "at each exit in turn, the worst for all kept",
}


@dataclass(frozen=True, kw_only=True)
class StepAttack(AttackKind):
    """Steps along the gradient inside a ball; the attacks of this kind differ in numbers and in the ball alone.

    Attributes:
        name: What the numbers make it.
        epsilon: Radius of the ball, in pixels of [0, 1]; over the whole image for ``l2``.
        step_size: Length of one step, same unit.
        num_steps: Gradient steps.
        decay: Momentum kept from step to step; 0 for none.
        random_start: Start uniformly inside the ball instead of at the image.
        objective: Whose cross-entropy is raised: of the exit ``taken`` by the policy (looked up again at every
            step), of the ``final`` exit, the ``mean`` of all exits, or one chosen ``exit``; ``max-average``: one
            attack on each exit, and of these the one that raises the sum over all exits most, image by image.
        exit_index: The chosen exit, 0-based; only with the objective ``exit``.
        goal_class: Class to reach; None for an untargeted attack.
        stop_when_fooled: Leave each image as it is from its first success on.
        seed: Draws the random starts.
    """

    max_radius: ClassVar[float] = 1
    name: str
    epsilon: float
    step_size: float
    num_steps: int = 10
    decay: float = 0.0
    random_start: bool = False
    objective: Objective = "taken"
    exit_index: int | None = None
    goal_class: int | None = None
    stop_when_fooled: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every field that does not depend on a model."""
        far = (0, self.max_radius)
        check_numbers(self, epsilon=far, step_size=far, decay=(0, 10), num_steps=(1, 1000), seed=(0, 2**31 - 1))
        if self.name.startswith(("fgsm", "fgm")) and (
            self.num_steps != 1 or self.step_size != self.epsilon or self.decay
        ):
            raise ExitLensError("FGSM is one step of length epsilon without momentum. Choose pgd or mi-fgsm for more.")
        if self.objective not in get_args(Objective):
            raise ExitLensError(
                f"Unknown objective {self.objective!r}. Choose one of {', '.join(get_args(Objective))}."
            )
        if (self.objective == "exit") != (self.exit_index is not None):
            raise ExitLensError("The objective 'exit' needs an exit_index, and no other objective takes one.")
        check_exit_and_goal(self.exit_index, self.goal_class)

    @property
    def aim(self) -> str:
        """What it aims at in one word: the objective, or such as ``exit-1`` for a chosen exit."""
        return self.objective if self.exit_index is None else f"exit-{self.exit_index + 1}"

    def passes(self, num_exits: int) -> int:
        """Gradients taken of each image at most, on a model of that many exits."""
        return self.num_steps * (num_exits if self.objective == "max-average" else 1)

    @property
    def search_precision(self) -> Precision | None:
        """Number format that its search needs: exact where it stops, as what it does next hangs on verdicts."""
        return "float32" if self.stop_when_fooled else None

    @property
    def can_be_replayed(self) -> bool:
        """Whether the attack of fewer steps is the beginning of this one: not where it chooses at the end."""
        return self.objective != "max-average"

    @property
    def starts_at_image(self) -> bool:
        """Whether the record of its start is one of the clean images."""
        return not self.random_start

    @property
    def start_radius(self) -> float:
        """How far from the image a random start may lie: anywhere in the ball."""
        return self.epsilon

    @property
    def depends_on_policy(self) -> bool:
        """Whether another threshold would have made other images."""
        return self.objective == "taken" or self.stop_when_fooled

    @property
    def success_rule(self) -> str:
        """Name of the rule by which this attack has succeeded: by what it aims at."""
        where = "_final" if self.objective == "final" else ""
        if self.goal_class is not None:
            return f"goal_reached{where}"
        return f"misclassified{where or '_taken'}"

    @property
    def label(self) -> str:
        """The spec in words, such as ``PGD 8/255, 10 steps of 2/255, at the exit taken``."""
        size = as_255(self.step_size) if self.norm == "linf" else f"{self.step_size:.4g}"
        steps = "" if self.num_steps == 1 else f", {self.num_steps} steps of {size}"
        extras = [f"decay {self.decay:g}"] if self.decay else []
        extras += ["random start"] if self.random_start else []
        extras += [f"goal class {self.goal_class}"] if self.goal_class is not None else []
        extras += ["stopped when fooled"] if self.stop_when_fooled else []
        aim = AIM_WORDS.get(self.objective, f"at exit {(self.exit_index or 0) + 1}")
        return ", ".join([f"{self.short_label}{steps}", aim, *extras])

    def as_static(self) -> Self:
        """The same attack on a model with the final exit alone, and so a single objective."""
        return replace(self, objective="final", exit_index=None)

    def at_epsilon(self, epsilon: float) -> Self:
        """The same attack within another radius, its steps as long a part of it."""
        step = step_within(self.step_size, self.epsilon, epsilon, self.max_radius)
        return replace(self, epsilon=epsilon, step_size=step)

    def check_model(self, num_exits: int, num_classes: int) -> None:
        """Checks the fields that depend on the model.

        Raises:
            ExitLensError: If the model has no such exit or class.
        """
        if self.exit_index is not None and self.exit_index >= num_exits:
            raise ExitLensError(f"The attack aims at exit {self.exit_index + 1}; this model has {num_exits}.")
        check_goal_exists(self.goal_class, num_classes)


@dataclass(frozen=True, kw_only=True)
class LinfAttack(StepAttack):
    """A sign-step attack inside the L-infinity ball: FGSM, PGD and MI-FGSM; fields as in ``StepAttack``."""

    name: Literal["fgsm", "pgd", "mi-fgsm"] = "pgd"
    epsilon: float = 8 / 255
    step_size: float = 2 / 255


@dataclass(frozen=True, kw_only=True)
class L2Attack(StepAttack):
    """The same inside the L2 ball: steps along the gradient over its length; fields as in ``StepAttack``."""

    norm: ClassVar[Norm] = "l2"
    max_radius: ClassVar[float] = 100
    name: Literal["fgm-l2", "pgd-l2", "mi-fgm-l2"] = "pgd-l2"
    epsilon: float = 0.5
    step_size: float = 0.125


AttackSpec = (
    LinfAttack
    | L2Attack
    | EarlyAttack
    | PublishedEarlyAttack
    | SlowdownAttack
    | UniversalAttack
    | WorstCaseAttack
    | CorruptionAttack
)


def fgsm(epsilon: float = 8 / 255, **fields: object) -> LinfAttack:
    """One step of full length. Source: Goodfellow et al., ICLR 2015, equation in section 4."""
    return LinfAttack(**{"name": "fgsm", "epsilon": epsilon, "step_size": epsilon, "num_steps": 1, **fields})  # type: ignore[arg-type]


def pgd(epsilon: float = 8 / 255, **fields: object) -> LinfAttack:
    """Many small steps, projected. Source: Madry et al., ICLR 2018, section 2.1; starts at the image unless told."""
    return LinfAttack(**{"name": "pgd", "epsilon": epsilon, **fields})  # type: ignore[arg-type]


def mi_fgsm(epsilon: float = 8 / 255, **fields: object) -> LinfAttack:
    """Steps along accumulated normalised gradients. Source: Dong et al., CVPR 2018, algorithm 1."""
    return LinfAttack(**{"name": "mi-fgsm", "epsilon": epsilon, "decay": 1.0, **fields})  # type: ignore[arg-type]


def early(epsilon: float = 8 / 255, **fields: object) -> EarlyAttack:
    """The deployed Early Attack in steps of a quarter of the radius; sources in ``core.attacks.early``."""
    return EarlyAttack(**{"epsilon": epsilon, "step_size": epsilon / 4, **fields})  # type: ignore[arg-type]


def worst_case(epsilon: float = 2 / 255, **fields: object) -> WorstCaseAttack:
    """Every objective in turn with restarts, in steps of a quarter of the radius."""
    return WorstCaseAttack(**{"epsilon": epsilon, "step_size": epsilon / 4, **fields})  # type: ignore[arg-type]


def l2_attack(name: str = "pgd", epsilon: float = 0.5, **fields: object) -> L2Attack:
    """The L2 twin of a preset, by the preset's name; steps of a quarter of the radius unless told.

    Source: Madry et al., ICLR 2018, section 5, l2-bounded adversaries.
    """
    numbers: dict[str, object] = {"epsilon": epsilon, "step_size": epsilon / 4}
    numbers |= {"step_size": epsilon, "num_steps": 1} if name == "fgsm" else {}
    numbers |= {"decay": 1.0} if name == "mi-fgsm" else {}
    return L2Attack(**{"name": L2_NAMES[name], **numbers, **fields})  # type: ignore[arg-type]


L2_NAMES = {"fgsm": "fgm-l2", "pgd": "pgd-l2", "mi-fgsm": "mi-fgm-l2"}
PRESETS: dict[str, Callable[..., LinfAttack]] = {"fgsm": fgsm, "pgd": pgd, "mi-fgsm": mi_fgsm}
