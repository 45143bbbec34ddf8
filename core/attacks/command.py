"""Attack specs as command-line options, both ways."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from core.attacks.common import AttackKind
from core.attacks.corruption_spec import CorruptionAttack
from core.attacks.spec import (
    L2_NAMES,
    PRESETS,
    AttackSpec,
    EarlyAttack,
    L2Attack,
    PublishedEarlyAttack,
    SlowdownAttack,
    StepAttack,
    UniversalAttack,
    WorstCaseAttack,
    early,
    l2_attack,
    worst_case,
)
from core.corruptions import CORRUPTIONS
from core.errors import ExitLensError

ATTACK_NAMES = (*PRESETS, "early", "early-published", "slowdown", "universal", "worst-case", *CORRUPTIONS)
_KINDS: dict[str, type] = {
    "early": EarlyAttack,
    "early-published": PublishedEarlyAttack,
    "slowdown": SlowdownAttack,
    "universal": UniversalAttack,
    "worst-case": WorstCaseAttack,
}
_SCALED: dict[str, Callable[..., AttackSpec]] = {"early": early, "worst-case": worst_case}  # steps go by the radius
_PRESET_NUMBERS = ("epsilon", "step_size", "num_steps", "decay")
# Options that have another name than the field.
_FLAGS = {"num_steps": "steps", "num_tries": "tries", "num_restarts": "restarts", "num_forced": "forced-steps"}


@dataclass(frozen=True)
class Options:
    """What was given on a command line; None for what was not.

    Attributes:
        attack: One of ``ATTACK_NAMES``.
        norm: ``linf`` or ``l2``, for the presets.
        objective: ``taken``, ``final``, ``mean``, ``max-average``, ``slowdown`` or ``exit-1`` … ``exit-K``.
        fields: Of the spec, by their own names.
    """

    attack: str
    norm: str = "linf"
    objective: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


def spec_from(options: Options) -> AttackSpec:
    """The attack that was asked for.

    Raises:
        ExitLensError: If there is no such attack, or it knows nothing of an option.
    """
    name = options.attack
    if name not in ATTACK_NAMES:
        raise ExitLensError(f"Unknown attack {name!r}. Choose one of {', '.join(ATTACK_NAMES)}.")
    if options.norm not in ("linf", "l2") or (options.norm == "l2" and name not in PRESETS):
        raise ExitLensError(f"The norm {options.norm!r} is not for {name}. L2 is for {', '.join(PRESETS)}; write l2.")
    given = {key: value for key, value in options.fields.items() if value is not None}
    if options.objective is not None:
        objective, exit_index = parse_objective(options.objective)
        if name == "early" and objective not in ("taken", "exit"):
            raise ExitLensError("An early attack goes through exits: leave out --objective, or name such as exit-1.")
        given |= {"exit_index": exit_index} if name == "early" else {"objective": objective, "exit_index": exit_index}
    kind = _KINDS.get(name) or (CorruptionAttack if name in CORRUPTIONS else StepAttack)
    # The name is what was asked for: a field of that name would make another attack of it.
    unknown = [_flag(key) for key in given if key not in {each.name for each in fields(kind)} - {"name"}]
    if unknown:
        raise ExitLensError(f"The attack {name} takes no --{' and no --'.join(unknown)}: leave it out.")
    if name in PRESETS:
        return l2_attack(name, **given) if options.norm == "l2" else PRESETS[name](**given)
    if name in _SCALED:
        return _SCALED[name](**given)
    return kind(name=name, **given)  # type: ignore[no-any-return]


def options_of(spec: AttackSpec) -> list[str]:
    """The options that ``spec_from`` makes this spec of again, such as ``--epsilon 8/255``."""
    words = [f"--attack {spec.name}"]
    if isinstance(spec, L2Attack):
        words = [f"--attack {next(preset for preset, name in L2_NAMES.items() if name == spec.name)}", "--norm l2"]
    told = {each.name: each.default for each in fields(spec)}
    for key, default in told.items():
        value = getattr(spec, key)
        # Presets have defaults of their own, so the numbers that they choose are always said.
        if key in ("name", "objective", "exit_index") or (value == default and key not in _PRESET_NUMBERS):
            continue
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{_flag(key)}")
        elif key in ("epsilon", "step_size"):
            words.append(f"--{_flag(key)} {exact_length(value, spec)}")
        else:
            words.append(f"--{_flag(key)} {value}")
    return [*words, f"--objective {spec.aim}"] if {"objective", "exit_index"} & set(told) else words


def parse_objective(text: str) -> tuple[str, int | None]:
    """An objective and, where it names one, the 0-based exit.

    Raises:
        ExitLensError: If no exit has that number.
    """
    if not text.startswith("exit"):
        return text, None
    number = text.removeprefix("exit-")
    if not number.isdecimal() or len(number) > 4 or int(number) == 0:
        raise ExitLensError(f"Unknown objective {text!r}. Write taken, final, mean, max-average, or exit-1, exit-2 …")
    return "exit", int(number) - 1


def parse_length(text: str | None) -> float | None:
    """A pixel length such as ``8/255`` or ``0.03``.

    Raises:
        ExitLensError: If it is neither.
    """
    if text is None:
        return None
    numerator, _, denominator = text.partition("/")
    try:
        return float(numerator) / (float(denominator) if denominator else 1.0)
    except (ValueError, ZeroDivisionError) as error:
        raise ExitLensError(f"Cannot read the pixel length {text!r}. Write 8/255 or 0.03.") from error


def exact_length(value: float, spec: AttackKind) -> str:
    """A length that is read back as this very number: ``8/255`` where that says it all."""
    numerator = f"{value * 255:.4g}"
    exact = spec.norm == "linf" and spec.is_bounded and float(numerator) / 255 == value
    return f"{numerator}/255" if exact else repr(value)


def _flag(key: str) -> str:
    return _FLAGS.get(key, key).replace("_", "-")
