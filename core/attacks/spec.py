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
        _check_numbers(self, epsilon=(0, 1), step_size=(0, 1), decay=(0, 10), num_steps=(1, 1000), seed=(0, 2**31 - 1))
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
    def aim(self) -> str:
        """What it aims at in one word: the objective, or such as ``exit-1`` for a chosen exit."""
        return self.objective if self.exit_index is None else f"exit-{self.exit_index + 1}"

    @property
    def num_passes(self) -> int:
        """Gradients taken of each image, at most."""
        return self.num_steps

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


@dataclass(frozen=True, kw_only=True)
class EarlyAttack:
    """The deployed Early Attack: an early exit answers wrongly and surely while the final exit stays right.

    Attributes:
        name: Always ``early``.
        epsilon: Radius of the ball, in pixels of [0, 1].
        step_size: Length of one step per pixel, same unit.
        num_steps: Gradient steps through one exit, at most.
        decay: Momentum kept from step to step; 0 for none.
        exit_index: The early exit to go through, 0-based; None tries several and keeps the first that gives way.
        num_tries: Exits tried on an image that holds out; only without an ``exit_index``.
    """

    name: Literal["early"] = "early"
    epsilon: float = 8 / 255
    step_size: float = 2 / 255
    num_steps: int = 20
    decay: float = 0.8
    exit_index: int | None = None
    num_tries: int = 3

    def __post_init__(self) -> None:
        """Checks every field that does not depend on a model."""
        _check_numbers(self, epsilon=(0, 1), step_size=(0, 1), decay=(0, 10), num_steps=(1, 1000), num_tries=(1, 100))
        if self.name != "early":
            raise ExitLensError(f"An Early Attack is named early, not {self.name!r}. Choose LinfAttack for others.")
        if self.exit_index is not None and self.exit_index < 0:
            raise ExitLensError(f"exit_index is {self.exit_index}; exits count from 0.")

    @property
    def aim(self) -> str:
        """What it aims at in one word: ``taken``, or such as ``exit-1`` for a chosen exit."""
        return "taken" if self.exit_index is None else f"exit-{self.exit_index + 1}"

    @property
    def num_passes(self) -> int:
        """Gradients taken of each image, at most."""
        return self.num_steps * (self.num_tries if self.exit_index is None else 1)

    @property
    def depends_on_policy(self) -> bool:
        """Whether another threshold would have made other images: it aims at what is deployed."""
        return True

    @property
    def success_rule(self) -> str:
        """Name of the rule by which this attack has succeeded."""
        return "taken_broken_final_kept"

    @property
    def goal_class(self) -> None:
        """None: any wrong class will do."""
        return None

    @property
    def label(self) -> str:
        """The spec in words, such as ``Early Attack 2/255, 20 steps of 0.5/255, through exit 2``."""
        way = f"the best of {self.num_tries} exits" if self.exit_index is None else f"exit {self.exit_index + 1}"
        decay = f", decay {self.decay:g}" if self.decay else ""
        steps = f"{self.num_steps} steps of {as_255(self.step_size)}"
        return f"Early Attack {as_255(self.epsilon)}, {steps}{decay}, through {way}"

    def check_model(self, num_exits: int, num_classes: int) -> None:
        """Checks that the model has the early exit that is attacked.

        Raises:
            ExitLensError: If it has not.
        """
        if num_exits == 1:
            raise ExitLensError("An Early Attack needs an early exit; this model is static. Attack its twin.")
        if self.exit_index is not None and self.exit_index >= num_exits - 1:
            raise ExitLensError(
                f"The attack goes through exit {self.exit_index + 1}; this model has {num_exits - 1} early exits."
            )


AttackSpec = LinfAttack | EarlyAttack


def _check_numbers(spec: object, **ranges: tuple[float, float]) -> None:
    for field, (low, high) in ranges.items():
        value = getattr(spec, field)
        if not low <= value <= high:
            raise ExitLensError(f"The attack's {field} is {value}; it must lie between {low} and {high}.")


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


def early(epsilon: float = 8 / 255, **fields: object) -> EarlyAttack:
    """The deployed Early Attack in steps of a quarter of the radius; sources in ``core.attacks.early``."""
    return EarlyAttack(**{"epsilon": epsilon, "step_size": epsilon / 4, **fields})  # type: ignore[arg-type]


PRESETS: dict[str, Callable[..., LinfAttack]] = {"fgsm": fgsm, "pgd": pgd, "mi-fgsm": mi_fgsm}
