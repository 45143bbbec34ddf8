"""Which models a study is about, and what is remembered of them in its tables."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from core.checkpoints import ModelCard
from core.errors import ExitLensError
from core.examples import short_hash
from core.exits import ExitPolicy
from core.models import ARCHITECTURES
from core.study.placements import is_placement
from core.study.surrogates import Surrogate, is_surrogate, surrogate_of

SURROGATES = "surrogates"


def _has_standard_exits(card: ModelCard) -> bool:
    return bool(card.imported) or card.exit_positions == ARCHITECTURES[card.architecture].exit_positions


def _is_trained_as_a_whole(card: ModelCard) -> bool:
    return card.kind == "early-exit" and card.shares is None and not is_surrogate(card)


KINDS: dict[str, Callable[[ModelCard], bool]] = {
    "static": lambda card: card.kind == "static" and not is_surrogate(card),
    "early-exit": lambda card: _is_trained_as_a_whole(card) and _has_standard_exits(card),
    "other-exits": lambda card: _is_trained_as_a_whole(card) and not _has_standard_exits(card),
    "all-exits": lambda card: card.shares is not None and not is_placement(card.name),
    "placements": lambda card: is_placement(card.name),
    SURROGATES: is_surrogate,
}


def means_many(selector: str) -> bool:
    """Whether a selector is a word or a pattern, not a name."""
    return selector in KINDS or any(character in selector for character in "*?[")


def choose_models(selectors: Iterable[str], cards: Mapping[str, ModelCard]) -> list[str]:
    """The models that selectors mean, each once, in the order of the selectors.

    Args:
        selectors: Names, patterns such as ``cifar10-*-static``, or ``static``, ``early-exit`` (trained as a whole,
            exits where its architecture has them), ``other-exits`` (trained as a whole, exits elsewhere),
            ``all-exits`` (exits on another model's backbone), ``placements`` (subsets of those exits) and
            ``surrogates`` (trained by the study, and meant by no pattern).
        cards: Of all models there are.

    Raises:
        ExitLensError: If a name is not there.
    """
    chosen: list[str] = []
    for selector in selectors:
        if selector in KINDS:
            chosen += [name for name, card in cards.items() if KINDS[selector](card)]
        elif means_many(selector):
            chosen += [name for name, card in cards.items() if fnmatchcase(name, selector) and not is_surrogate(card)]
        elif selector in cards:
            chosen.append(selector)
        else:
            raise ExitLensError(
                f"The study names the model {selector!r}, which is not here. Models here: "
                f"{', '.join(cards) or 'none'}; words for many: {', '.join(KINDS)}."
            )
    return list(dict.fromkeys(chosen))


def model_hash(card: ModelCard) -> str:
    """Sixteen hexadecimal digits that change with all that an outcome takes from a model: weights, exits, costs."""
    facts = [card.name, card.weights_sha256, card.shared_sha256, card.exit_positions, card.exit_costs]
    return short_hash([*facts, card.mean, card.std, card.imported and card.imported.factory])


@dataclass(frozen=True, kw_only=True)
class StudyModel:
    """What a study remembers of a model, so that its tables can be read without it.

    Attributes:
        name: Of the model.
        label: On screen.
        kind: ``static`` or ``early-exit``.
        dataset: Trained on.
        architecture: Of the registry, or an import's own label.
        seed: It was trained with.
        exit_costs: Cost fraction of each exit, K of them.
        layer_multiply_adds: Of the layers since the exit before, K of them; empty where they were not counted.
        classifier_multiply_adds: Of each exit's classifier, K of them; empty where they were not counted.
        shares: Model whose backbone it stands on.
        policies: The study's policies as they apply to it, in order.
        hash: Of all that results depend on.
        surrogate: What it is a surrogate of; None for any other model.
        stops_early: Whether it can stop at an exit; the costs of one that cannot are those its owner gave.
    """

    name: str
    label: str
    kind: str
    dataset: str
    architecture: str
    seed: int
    exit_costs: tuple[float, ...]
    layer_multiply_adds: tuple[int, ...]
    classifier_multiply_adds: tuple[int, ...]
    shares: str | None
    policies: tuple[ExitPolicy, ...]
    hash: str
    surrogate: Surrogate | None = None
    stops_early: bool = True

    @property
    def gradient_costs(self) -> tuple[float, ...]:
        """Cost fraction of a pass to each exit and back, K of them: of the whole network where it cannot stop."""
        return self.exit_costs if self.stops_early else (1.0,) * self.num_exits

    @property
    def num_exits(self) -> int:
        """K, the final exit counted."""
        return len(self.exit_costs)

    @property
    def multiply_adds(self) -> int:
        """Of the whole network with its exits; 0 where they were not counted."""
        return sum(self.layer_multiply_adds) + sum(self.classifier_multiply_adds)

    @property
    def alike(self) -> tuple[object, ...]:
        """Equal for two models that differ in nothing but their training seed."""
        return (self.dataset, self.architecture, self.kind, self.exit_costs, self.surrogate and self.surrogate.alike)

    @classmethod
    def of(cls, card: ModelCard, policies: Iterable[ExitPolicy], placement: str = "") -> "StudyModel":
        """What is remembered of a card, its policies and the placement that it stands for."""
        surrogate = surrogate_of(card)
        label = f"{card.label.partition('@')[0]}: {placement}" if placement else card.label
        return cls(
            name=card.name,
            label=f"Surrogate {card.name}" if surrogate else label,
            kind=card.kind,
            dataset=card.dataset,
            architecture=card.architecture,
            seed=card.seed,
            exit_costs=card.exit_costs,
            layer_multiply_adds=card.layer_multiply_adds,
            classifier_multiply_adds=card.classifier_multiply_adds,
            shares=card.shares,
            policies=tuple(policies),
            hash=model_hash(card),
            surrogate=surrogate,
            stops_early=card.stops_early,
        )
