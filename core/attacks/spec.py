"""Attack specs: cache key, table row, label and test id in one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from core.errors import ExitLensError

Objective = Literal["taken", "final", "mean", "exit"]


@dataclass(frozen=True, kw_only=True)
class LinfAttack:
    """A sign-step attack inside the L-infinity ball; FGSM, PGD and MI-FGSM differ in numbers only.

    Attributes:
        name: What the numbers make it: ``fgsm``, ``pgd`` or ``mi-fgsm`` for the presets.
        epsilon: Radius of the ball, in pixels of [0, 1].
        step_size: Length of one step per pixel, same unit.
        num_steps: Gradient steps.
        decay: Momentum kept from step to step; 0 for none.
        random_start: Start uniformly inside the ball instead of at the image.
        objective: Whose cross-entropy is raised: of the exit ``taken`` by the policy (looked up again at every
            step), of the ``final`` exit, the ``mean`` of all exits, or one chosen ``exit``.
        exit_index: The chosen exit, 0-based; only with the objective ``exit``.
        goal_class: Class to reach; None for an untargeted attack.
        stop_when_fooled: Leave each image as it is from its first success on.
        seed: Draws the random starts.
    """

    name: str = "pgd"
    epsilon: float = 8 / 255
    step_size: float = 2 / 255
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
        for field, value, low, high in (
            ("epsilon", self.epsilon, 0, 1),
            ("step_size", self.step_size, 0, 1),
            ("decay", self.decay, 0, 10),
            ("num_steps", self.num_steps, 1, 1000),
            ("seed", self.seed, 0, 2**31 - 1),
        ):
            if not low <= value <= high:
                raise ExitLensError(f"The attack's {field} is {value}; it must lie between {low} and {high}.")
        if self.name == "fgsm" and (self.num_steps != 1 or self.step_size != self.epsilon or self.decay):
            raise ExitLensError("FGSM is one step of length epsilon without momentum. Choose pgd or mi-fgsm for more.")
        if self.objective not in get_args(Objective):
            raise ExitLensError(
                f"Unknown objective {self.objective!r}. Choose one of {', '.join(get_args(Objective))}."
            )
        if (self.objective == "exit") != (self.exit_index is not None):
            raise ExitLensError("The objective 'exit' needs an exit_index, and no other objective takes one.")
        if self.exit_index is not None and self.exit_index < 0:
            raise ExitLensError(f"exit_index is {self.exit_index}; exits count from 0.")
        if self.goal_class is not None and self.goal_class < 0:
            raise ExitLensError(f"goal_class is {self.goal_class}; classes count from 0.")

    @property
    def depends_on_policy(self) -> bool:
        """Whether another threshold would have made other images."""
        return self.objective == "taken" or self.stop_when_fooled

    @property
    def success_rule(self) -> str:
        """Name of the rule by which this attack has succeeded: by what it aims at."""
        if self.goal_class is not None:
            return "goal_reached"
        return "misclassified_final" if self.objective == "final" else "misclassified_taken"

    @property
    def label(self) -> str:
        """The spec in words, such as ``PGD 8/255, 10 steps of 2/255, at the exit taken``."""
        steps = "" if self.num_steps == 1 else f", {self.num_steps} steps of {as_255(self.step_size)}"
        extras = [f"decay {self.decay:g}"] if self.decay else []
        extras += ["random start"] if self.random_start else []
        extras += [f"goal class {self.goal_class}"] if self.goal_class is not None else []
        extras += ["stopped when fooled"] if self.stop_when_fooled else []
        aim = {
            "taken": "at the exit taken",
            "final": "at the final exit",
            "mean": "at the mean of all exits",
            "exit": f"at exit {(self.exit_index or 0) + 1}",
        }[self.objective]
        return ", ".join([f"{self.name.upper()} {as_255(self.epsilon)}{steps}", aim, *extras])

    def check_model(self, num_exits: int, num_classes: int) -> None:
        """Checks the fields that depend on the model.

        Raises:
            ExitLensError: If the model has no such exit or class.
        """
        if self.exit_index is not None and self.exit_index >= num_exits:
            raise ExitLensError(f"The attack aims at exit {self.exit_index + 1}; this model has {num_exits}.")
        if self.goal_class is not None and self.goal_class >= num_classes:
            raise ExitLensError(f"The goal is class {self.goal_class}; this model has classes 0 to {num_classes - 1}.")


def as_255(value: float) -> str:
    """A pixel length as a reader knows it, such as ``8/255``."""
    return f"{value * 255:.4g}/255"


def fgsm(epsilon: float = 8 / 255, **fields: object) -> LinfAttack:
    """One step of full length. Source: Goodfellow et al., ICLR 2015, equation in section 4."""
    return LinfAttack(**{"name": "fgsm", "epsilon": epsilon, "step_size": epsilon, "num_steps": 1, **fields})  # type: ignore[arg-type]


def pgd(epsilon: float = 8 / 255, **fields: object) -> LinfAttack:
    """Many small steps, projected. Source: Madry et al., ICLR 2018, section 2.1; starts at the image unless told."""
    return LinfAttack(**{"name": "pgd", "epsilon": epsilon, **fields})  # type: ignore[arg-type]


def mi_fgsm(epsilon: float = 8 / 255, **fields: object) -> LinfAttack:
    """Steps along accumulated normalised gradients. Source: Dong et al., CVPR 2018, algorithm 1."""
    return LinfAttack(**{"name": "mi-fgsm", "epsilon": epsilon, "decay": 1.0, **fields})  # type: ignore[arg-type]


PRESETS: dict[str, Callable[..., LinfAttack]] = {"fgsm": fgsm, "pgd": pgd, "mi-fgsm": mi_fgsm}
