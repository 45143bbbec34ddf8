"""What a study asks: models, attacks, policies and images, as one TOML file says it."""

import itertools
import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from re import fullmatch
from typing import Any

from pydantic import ConfigDict, StrictFloat, StrictInt, TypeAdapter, ValidationError

from core.attacks.command import Options, parse_length, spec_from
from core.attacks.spec import AttackSpec, EarlyAttack, StepAttack, UniversalAttack
from core.card_text import POINT_NAMES
from core.checkpoints import ModelCard
from core.data import parse_image_set_name
from core.errors import ExitLensError
from core.exits import ExitPolicy, Fallback, Score
from core.experiment import attack_for
from core.machine import Precision
from core.study.placements import Placement
from core.study.surrogates import UNCORRUPTED, SurrogateChoice

SHIPPED = Path(__file__).parent / "presets"
EACH_EXIT = "each-exit"
_MOST = {"images_per_cell": 1_000_000, "batch_size": 1_000_000, "num_threads": 1_000, "num_images": 1_000_000}
_MOST_SEED = 2**31 - 1
Fields = dict[str, Any]
_SCORE_NAMES: dict[Score, str] = {"confidence": "T", "entropy": "entropy", "patience": "patience"}


@dataclass(frozen=True)
class PolicyChoice:
    """A policy as it is named for many models at once.

    Attributes:
        threshold: The same for every model.
        point: Instead of it, an operating point on each model's card, such as ``loses_1_percent``.
        fallback: What answers when no exit is sure.
        score: What is compared with the threshold; points are thresholds of confidence.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    threshold: StrictFloat | None = None
    point: str | None = None
    fallback: Fallback = "final"
    score: Score = "confidence"

    def __post_init__(self) -> None:
        """Checks that one of the two is given."""
        if (self.threshold is None) == (self.point is None) or self.point == "":
            raise ExitLensError("a policy needs either a threshold or an operating point")
        if self.point and self.score != "confidence":
            raise ExitLensError("operating points are thresholds of confidence, and of no other score")
        if self.threshold is not None:
            ExitPolicy(self.threshold, self.fallback, self.score)

    @property
    def name(self) -> str:
        """In tables: ``T=0.90``, ``patience=2`` or the point, and the fallback where it is not ``final``.

        A threshold has two decimals, or as many digits as tell it from all others: ``T=0.991``.
        """
        plain = self.point or f"{_SCORE_NAMES[self.score]}={self._digits}"
        return plain if self.fallback == "final" else f"{plain} {self.fallback}"

    @property
    def _digits(self) -> str:
        assert self.threshold is not None
        short = f"{self.threshold:.{0 if self.score == 'patience' else 2}f}"
        return short if float(short) == self.threshold else repr(self.threshold)

    def on(self, card: ModelCard) -> ExitPolicy:
        """The policy as it applies to a model; a static one has nothing to decide.

        Raises:
            ExitLensError: If an early-exit model's card has no such operating point.
        """
        if self.threshold is not None:
            return ExitPolicy(self.threshold, self.fallback, self.score)
        if card.num_exits == 1:
            return ExitPolicy(fallback=self.fallback)
        points = {point.name: point.threshold for point in card.operating_points}
        if self.point not in points:
            raise ExitLensError(
                f"{card.name} has no operating point {self.point!r}. On its card: {', '.join(points) or 'none'}."
            )
        return ExitPolicy(points[self.point], self.fallback)


def policy_words(name: str) -> str:
    """The name of a policy as people read it: ``T = 0.90``, ``patience 2``, ``threshold that loses < 1 %``."""
    plain, _, fallback = name.partition(" ")
    score, _, value = plain.partition("=")
    scores = {"T": "T = ", "entropy": "certainty ", "patience": "patience "}
    words = scores[score] + value if value else f"threshold that {POINT_NAMES.get(plain, plain)}"
    return f"{words}, else {fallback.replace('_', ' ')}" if fallback else words


@dataclass(frozen=True)
class AttackChoice:
    """An attack as it is named for many models at once.

    Attributes:
        spec: On an early-exit model.
        each_exit: Made once at every exit that it can be made at.
    """

    spec: AttackSpec
    each_exit: bool = False

    def on(self, card: ModelCard, seeds: tuple[int, ...] = (0,)) -> list[AttackSpec]:
        """The attacks that it comes to on a model: one a seed where starts are random; none where it cannot be made."""
        specs = self._at_each_exit(card.num_exits) if self.each_exit else [self.spec]
        if getattr(self.spec, "random_start", False):
            specs = [replace(spec, seed=seed) for spec in specs for seed in seeds]  # type: ignore[arg-type]
        return [attack_for(card, spec) for spec in dict.fromkeys(specs) if _fits(spec, card)]

    def _at_each_exit(self, num_exits: int) -> list[AttackSpec]:
        if isinstance(self.spec, StepAttack):
            spec = self.spec
            return [replace(spec, objective="exit", exit_index=index) for index in range(num_exits)]
        assert isinstance(self.spec, EarlyAttack)
        return [replace(self.spec, exit_index=index) for index in range(num_exits - 1)]


def _fits(spec: AttackSpec, card: ModelCard) -> bool:
    """Whether a model has what an attack needs."""
    try:
        attack_for(card, spec).check_model(card.num_exits, card.num_classes)
    except ExitLensError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """Everything that a study asks; its outcome depends on this and on the models' weights.

    Attributes:
        name: Short, for folders.
        title: On screen.
        question: What it is to answer, in one or two sentences.
        images: Image sets, with or without a selection, such as ``cifar10:test``.
        num_images: The first so many of each, in official order; all without.
        sources: Models that are attacked: names, patterns such as ``cifar10-*``, or the words of ``models.KINDS``.
        targets: Models that every outcome is shown to, in the same way.
        attacks: What is done to each source.
        policies: What everything is judged under; the first is also in force while attacking.
        made_anew: Whether attacks that depend on the policy are made again under every one.
        seeds: Of random starts.
        placements: Subsets of the exits of every all-exits model, each a model that can be a source and a target.
        surrogates: Networks trained in the place of targets, each a source.
        images_per_cell: Images that one cell attacks: what a killed run loses at most.
        batch_size: Images at a time; part of a cell, as float sums move with it.
        num_threads: Threads of each worker; part of a cell for the same reason.
        precision: Of the gradients; 16 bits are faster where the processor has them, and differ between machines.
            Verdicts are float32.
        record_steps: Whether to note where images were about to leave at every step, which takes longer.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    title: str
    question: str
    images: tuple[str, ...]
    num_images: StrictInt | None = None
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    attacks: tuple[AttackChoice, ...]
    policies: tuple[PolicyChoice, ...] = (PolicyChoice(0.9),)
    made_anew: bool = False
    seeds: tuple[StrictInt, ...] = (0,)
    placements: tuple[Placement, ...] = ()
    surrogates: tuple[SurrogateChoice, ...] = ()
    images_per_cell: StrictInt = 500
    batch_size: StrictInt = 125
    num_threads: StrictInt = 1
    precision: Precision = "float32"
    record_steps: bool = False

    def __post_init__(self) -> None:
        """Checks what does not depend on the models."""
        if not fullmatch(r"[a-z0-9][a-z0-9-]*", self.name):
            raise ExitLensError(f"the name {self.name!r} becomes a folder: use small letters, digits and '-'")
        for field in ("images", "sources", "targets", "attacks", "policies", "seeds"):
            values = getattr(self, field)
            if not values or len(set(values)) < len(values):
                raise ExitLensError(f"{field} needs one entry or more, and none twice")
        _check_no_overlap(self.images)
        for field, most in _MOST.items():
            value = getattr(self, field)
            if value is not None and not 1 <= value <= most:
                raise ExitLensError(f"{field} is {value}; it must lie between 1 and {most}")
        for seed in self.seeds:
            if not 0 <= seed <= _MOST_SEED:
                raise ExitLensError(f"seeds names {seed}; a seed must lie between 0 and {_MOST_SEED}")
        for field in ("policies", "placements", "surrogates"):
            names = [each.name for each in getattr(self, field)]
            if twice := [name for name in names if names.count(name) > 1]:
                raise ExitLensError(f"{field} need a name each, and none twice; {twice[0]} is there twice")
        if len({placement.costs for placement in self.placements}) < len(self.placements):
            raise ExitLensError("two placements have the same costs; leave one of them out")
        if bool(self.surrogates) != ("surrogates" in self.sources):
            raise ExitLensError("the word surrogates in sources and [[surrogates]] tables need each other")


def _check_no_overlap(names: tuple[str, ...]) -> None:
    """Checks that no image can be in two image sets; samples are some of the test images."""
    parts = {name: parse_image_set_name(name) for name in names}
    for one, other in itertools.combinations(names, 2):
        (dataset, split, chosen), (its_dataset, its_split, its_chosen) = parts[one], parts[other]
        is_one_split = dataset == its_dataset and (split == its_split or {split, its_split} == {"samples", "test"})
        if is_one_split and (chosen is None or its_chosen is None or not set(chosen).isdisjoint(its_chosen)):
            raise ExitLensError(
                f"images names {one} and {other}, which overlap: some images would count twice. Leave one out, or "
                f"select others, as in {dataset}:{split}:0-99"
            )


def load_study(name_or_path: str | Path) -> tuple[StudySpec, str]:
    """Reads a study by the name of a shipped one or by path.

    Returns:
        The study, and the text of its file.

    Raises:
        ExitLensError: If there is no such file, or a field is missing, unknown or out of range.
    """
    path = Path(name_or_path)
    try:
        if not path.is_file():
            path = SHIPPED / f"{name_or_path}.toml"
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ExitLensError(f"{path} is not text in UTF-8 ({error}). Save it as UTF-8.") from error
    except (OSError, ValueError) as error:  # not there, a folder, not to be read, or no path at all
        raise ExitLensError(
            f"There is no study {str(name_or_path)!r} to read. Give a TOML file or one of "
            f"{', '.join(shipped_studies())}."
        ) from error
    return parse_study(text, str(path)), text


def with_num_images(text: str, num_images: int) -> str:
    """The text of a study that asks for so many images of each set, whatever it asked for before.

    Args:
        text: TOML that is a study.
        num_images: 1 or more.
    """
    top, table, rest = text.partition("\n[")
    kept = [line for line in top.splitlines() if not fullmatch(r"\s*num_images\s*=.*", line)]
    return "\n".join([f"num_images = {num_images}", *kept]) + "\n" + table + rest


def shipped_studies() -> list[str]:
    """Names of the studies that come with the project."""
    return sorted(file.stem for file in SHIPPED.glob("*.toml"))


def parse_study(text: str, where: str) -> StudySpec:
    """Reads a study from TOML.

    In ``[[attacks]]``, ``[[policies]]`` and ``[[surrogates]]`` every value may be a list; all combinations are meant,
    and a surrogate's name then ends in its own; only its ``target`` may be a list of selectors. An attack's
    ``preset`` names it, ``norm`` may be ``l2``, and its other fields are those of its spec; ``epsilon`` and
    ``step_size`` may be written as text (``"8/255"``), steps scale with epsilon unless they are given, and
    ``objective`` also knows ``exit-1``, ``exit-2`` ... and ``each-exit``. Random starts are drawn from the study's
    ``seeds``, and from no ``seed`` of an attack's own.

    Args:
        text: TOML.
        where: Named in errors.

    Raises:
        ExitLensError: If a field is missing, unknown or out of range.
    """
    try:
        fields = _read_toml(text)
        if "attacks" in fields:
            fields["attacks"] = [
                _attack_choice(one) for table in _tables(fields, "attacks") for one in _combinations(table, "attacks")
            ]
        if "policies" in fields:
            tables = _tables(fields, "policies")
            fields["policies"] = [one for table in tables for one in _combinations(table, "policies")]
        if "placements" in fields:
            fields["placements"] = _tables(fields, "placements")
        if "surrogates" in fields:
            fields["surrogates"] = [one for table in _tables(fields, "surrogates") for one in _surrogates(table)]
        return TypeAdapter(StudySpec).validate_python(fields)
    except (ValidationError, ExitLensError) as error:
        said = _sentence(error) if isinstance(error, ValidationError) else str(error).rstrip(".")
        # What was got may have more lines than one.
        raise ExitLensError(f"{where}: {' '.join(said.split())}. See docs/studies.md.") from error


def _read_toml(text: str) -> Fields:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number with thousands of digits, or lists in lists in lists
        raise ExitLensError(f"this is not valid TOML ({error})") from error


def _sentence(error: ValidationError) -> str:
    """The first thing that is wrong: where, what is allowed, and what was got."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"])) or "study"
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    if first["type"] == "unexpected_keyword_argument":
        message = "there is no such field; leave it out, or correct its name"
    elif first["type"] not in ("value_error", "missing"):
        message = f"{message.replace('tuple', 'list')}, but is {first['input']!r:.60}"
    return f"{field}: {message}"


def _tables(fields: Fields, name: str) -> list[Fields]:
    tables = fields[name]
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ExitLensError(f"{name} is a list of tables: write [[{name}]]")
    return tables


def _combinations(table: Fields, name: str) -> list[Fields]:
    """A table whose values may be lists as one table for each combination of their entries."""
    if empty := [field for field, value in table.items() if value == []]:
        raise ExitLensError(f"{name}: {empty[0]} is an empty list; give it an entry, or leave it out")
    lists = [value if isinstance(value, list) else [value] for value in table.values()]
    return [dict(zip(table, values, strict=True)) for values in itertools.product(*lists)]


def _surrogates(table: Fields) -> list[Fields]:
    """A table of surrogates as one for each of them, named by those values that are lists."""
    given = dict(table)
    target, name = given.pop("target", None), given.pop("name", None)
    always = {"name": name, "target": [target] if isinstance(target, str) else target}
    always = {field: value for field, value in always.items() if value is not None}
    found: list[Fields] = []
    for one in _combinations(given, "surrogates"):
        # The control among several corruptions has none of their severities.
        if one.get("corruption") == UNCORRUPTED and isinstance(given["corruption"], list):
            one.pop("severity", None)
        listed = [_in_name(field, value) for field, value in one.items() if isinstance(given[field], list)]
        named = {"name": "-".join([name, *listed])} if isinstance(name, str) else {}
        found.append(always | one | named)
    return [one for number, one in enumerate(found) if one not in found[:number]]


def _in_name(field: str, value: object) -> str:
    """A value of a list as a surrogate's name tells it: ``jpeg``, ``seed-1``, ``epochs-20``."""
    if isinstance(value, str):
        return value
    return f"{field.removeprefix('num_')}-{value}".replace("_", "-").replace(".", "-")


def _attack_choice(table: Fields) -> AttackChoice:
    for field in ("preset", "norm", "objective", "fitted_on"):
        if not isinstance(value := table.get(field, ""), str):
            raise ExitLensError(f"an attack's {field} is {value!r}; it must be text, in quotes")
    given = dict(table)
    preset, norm, objective = given.pop("preset", ""), given.pop("norm", "linf"), given.pop("objective", None)
    lengths = {name: parse_length(str(given.pop(name))) for name in ("epsilon", "step_size") if name in given}
    each_exit = objective == EACH_EXIT
    if objective is not None and "exit_index" in given:
        raise ExitLensError(f"the attack {preset} has an objective and an exit_index; leave out the exit_index")
    spec = spec_from(Options(preset, norm, None if each_exit else objective, given))
    # Read again as from a file, which also refuses a number where a word belongs.
    spec = TypeAdapter(type(spec)).validate_python({each.name: getattr(spec, each.name) for each in fields(spec)})
    if "seed" in given and hasattr(spec, "random_start"):
        raise ExitLensError(
            f"the attack {preset} has a seed of its own; leave it out, as its random starts are drawn from the seeds "
            "at the top of the file"
        )
    if isinstance(spec, UniversalAttack):
        parse_image_set_name(spec.fitted_on)
    if "step_size" in lengths and not hasattr(spec, "step_size"):
        raise ExitLensError(f"the attack {preset} takes no step_size; leave it out")
    if each_exit and not isinstance(spec, StepAttack | EarlyAttack):
        raise ExitLensError(f"the attack {preset} aims at no exit; leave out its objective")
    if (epsilon := lengths.pop("epsilon", None)) is not None:
        spec = spec.at_epsilon(epsilon)
    return AttackChoice(replace(spec, **lengths) if lengths else spec, each_exit)  # type: ignore[arg-type]
