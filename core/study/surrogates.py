"""Surrogates: networks trained in the place of a target whose weights an attacker does not have."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from re import fullmatch
from typing import Any, Literal

from pydantic import ConfigDict, StrictFloat, StrictInt, TypeAdapter

from core.checkpoints import ModelCard
from core.corruptions import CORRUPTIONS, check_corruption
from core.errors import ExitLensError
from core.examples import short_hash
from core.exits import ExitPolicy
from core.models import ARCHITECTURES
from core.training.recipe import Recipe

SAME, UNCORRUPTED = "same", "none"
Kind = Literal["static", "early-exit"]
Labels = Literal["truth", "target"]
# Raised when the same surrogate would come to other weights than before: older ones are then trained again.
FORMAT = 1
_ON_CARD, _KEY, _LABELS_RIGHT = "surrogate", "surrogate_key", "labels_right"


@dataclass(frozen=True, kw_only=True)
class SurrogateChoice:
    """A surrogate as it is named for many targets at once.

    Attributes:
        name: Short, for folders.
        target: Models in whose place it is trained: names, patterns or words, as a study's sources have them.
        kind: ``static`` or ``early-exit``, with exits where its architecture has them.
        architecture: Of the registry, or ``same`` as the target's.
        labels: ``truth``, or what the ``target`` answers under the study's first policy.
        corruption: Of the images that it learns from; ``none`` makes the control.
        severity: 1 to 5; none without a corruption.
        num_images: The first so many of ``validation``, in official order; all without.
        num_epochs: Passes over them.
        seed: Draws weights, order, augmentation and what is random in the corruption.
        batch_size: Images per step, at most all.
        peak_learning_rate: Top of the one-cycle schedule.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    target: tuple[str, ...]
    kind: Kind
    architecture: str = SAME
    labels: Labels = "target"
    corruption: str = UNCORRUPTED
    severity: StrictInt | None = None
    num_images: StrictInt | None = None
    num_epochs: StrictInt
    seed: StrictInt = 0
    batch_size: StrictInt = 64
    peak_learning_rate: StrictFloat = 0.05

    def __post_init__(self) -> None:
        """Checks what does not depend on the models."""
        if not fullmatch(r"[a-z0-9][a-z0-9-]*", self.name):
            raise ExitLensError(f"the name {self.name!r} becomes a folder: use small letters, digits and '-'")
        if not self.target:
            raise ExitLensError(f"the surrogate {self.name} needs a target: a model, a pattern or a word for many")
        if self.architecture not in (SAME, *ARCHITECTURES):
            raise ExitLensError(
                f"the surrogate {self.name} has the unknown architecture {self.architecture!r}; choose {SAME!r} or one "
                f"of {', '.join(ARCHITECTURES)}"
            )
        if self.corruption == UNCORRUPTED:
            if self.severity is not None:
                raise ExitLensError(f"the surrogate {self.name} has a severity, but no corruption")
        elif self.severity is None:
            raise ExitLensError(f"the surrogate {self.name} needs a severity from 1 to 5 for its corruption")
        else:
            check_corruption(self.corruption, self.severity)
        ranges = {
            "num_images": (2, 1_000_000),
            "num_epochs": (1, 10_000),
            "batch_size": (2, 1_000_000),
            "seed": (0, 2**31 - 1),
        }
        for field, (least, most) in ranges.items():
            value = getattr(self, field)
            if value is not None and not least <= value <= most:
                raise ExitLensError(
                    f"the surrogate {self.name} has {field} {value}; it must be {least} or more, and {most} at most"
                )
        if not 0 < self.peak_learning_rate <= 10:
            raise ExitLensError(
                f"the surrogate {self.name} has peak_learning_rate {self.peak_learning_rate}; it must lie above 0, and "
                "be 10 at most"
            )


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """One surrogate, with all that its weights depend on; its card carries this.

    Attributes:
        name: Also the folder.
        dataset: Whose ``validation`` images it learns from.
        architecture: Key of the registry.
        kind: ``static`` or ``early-exit``.
        targets: Names of the models in whose place it stands; one where its labels are the target's.
        labels: ``truth`` or ``target``.
        target_hash: ``model_hash`` of the model that labels; empty for the truth.
        policy: Under which that model answers; None for the truth.
        corruption: Of its images, or ``none``.
        severity: 1 to 5; 0 without a corruption.
        num_images: The first so many of ``validation``, in official order.
        num_epochs: Passes over them.
        seed: Draws weights, order, augmentation and corruption.
        batch_size: Images per step.
        peak_learning_rate: Top of the one-cycle schedule.
        num_threads: In training; float sums move with it.
    """

    name: str
    dataset: str
    architecture: str
    kind: Kind
    targets: tuple[str, ...]
    labels: Labels
    target_hash: str
    policy: ExitPolicy | None
    corruption: str
    severity: int
    num_images: int
    num_epochs: int
    seed: int
    batch_size: int
    peak_learning_rate: float
    num_threads: int

    @cached_property
    def key(self) -> str:
        """Stands for all that the weights depend on."""
        return short_hash({"format": FORMAT, **asdict(self)})

    @property
    def queries(self) -> int:
        """Labelled images: how often the target was asked."""
        return self.num_images if self.labels == "target" else 0

    @property
    def recipe(self) -> Recipe:
        """How it is trained."""
        return Recipe(
            name=self.name,
            dataset=self.dataset,
            architecture=self.architecture,
            exits="none" if self.kind == "static" else "standard",
            num_epochs=self.num_epochs,
            batch_size=min(self.batch_size, self.num_images),
            peak_learning_rate=self.peak_learning_rate,
            seed=self.seed,
        )

    @property
    def images_in_words(self) -> str:
        """What its images went through, such as ``Gaussian noise 3``."""
        if self.corruption == UNCORRUPTED:
            return "uncorrupted"
        return f"{CORRUPTIONS[self.corruption].label} {self.severity}"

    @property
    def alike(self) -> tuple[object, ...]:
        """Equal for two surrogates that differ in nothing but their training seed."""
        return (self.kind, *self._learned)

    def is_twin_of(self, other: "Surrogate") -> bool:
        """Whether the two learn the same in the same way, one with exits and one without."""
        return self.kind != other.kind and (self.seed, *self._learned) == (other.seed, *other._learned)

    @property
    def _learned(self) -> tuple[object, ...]:
        data = (self.dataset, self.architecture, self.targets, self.labels, self.corruption, self.severity)
        return (*data, self.num_images, self.num_epochs, self.batch_size, self.peak_learning_rate)


def with_surrogate(card: ModelCard, surrogate: Surrogate, labels_right: float) -> dict[str, Any]:
    """The ``recipe`` of a surrogate's card, which says what it is.

    Args:
        card: As training made it.
        surrogate: What was trained.
        labels_right: Share of its labels that are the truth.
    """
    facts = TypeAdapter(Surrogate).dump_python(surrogate, mode="json")
    facts |= {"images": f"{surrogate.dataset}:validation", "queries": surrogate.queries}
    return {**card.recipe, _ON_CARD: facts, _KEY: surrogate.key, _LABELS_RIGHT: labels_right}


def is_surrogate(card: ModelCard) -> bool:
    """Whether a card is that of a surrogate."""
    return _ON_CARD in card.recipe


def surrogate_of(card: ModelCard) -> Surrogate | None:
    """What a card says of a surrogate; None for any other model."""
    facts: Mapping[str, Any] | None = card.recipe.get(_ON_CARD)
    return TypeAdapter(Surrogate).validate_python(facts) if facts else None


def surrogate_key(card: ModelCard) -> str:
    """The key that a surrogate was trained under."""
    return str(card.recipe.get(_KEY, ""))


def labels_right(card: ModelCard) -> float:
    """Share of a surrogate's labels that are the truth."""
    return float(card.recipe[_LABELS_RIGHT])
