"""Placements: subsets of the exits of an all-exits model, each a model of its own that shares all weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from pydantic import ConfigDict, StrictFloat

from core.checkpoints import LoadedModel, ModelCard, load_model
from core.errors import ExitLensError
from core.models.classifiers import ExitNetwork
from core.models.costs import check_subset, subset_costs

_AT = "@"


@dataclass(frozen=True)
class Placement:
    """Where exits stand, for any architecture.

    Attributes:
        name: Short.
        costs: Share of the backbone's multiply-adds done at each early exit; the block nearest to each has one.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    costs: tuple[StrictFloat, ...]

    def __post_init__(self) -> None:
        """Checks that it can be told by its name and has shares, and that these rise."""
        if not self.name.strip():
            raise ExitLensError(f"a placement is named {self.name!r}; give it a name that can be read")
        are_shares = self.costs and all(0 < cost < 1 for cost in self.costs)
        if not are_shares or list(self.costs) != sorted(set(self.costs)):
            raise ExitLensError(
                f"the placement {self.name} has the costs {list(self.costs)}; it needs one or more, which rise between "
                "0 and 1"
            )

    def exits(self, card: ModelCard) -> tuple[int, ...]:
        """Indices of the exits of an all-exits model that this comes to, the final one last."""
        done = list(accumulate(card.layer_multiply_adds))
        total = done[-1] + card.classifier_multiply_adds[-1]
        nearest = {
            min(range(card.num_exits - 1), key=lambda index: abs(done[index] / total - cost)) for cost in self.costs
        }
        return (*sorted(nearest), card.num_exits - 1)


def is_placement(name: str) -> bool:
    """Whether a name stands for a subset of another model's exits."""
    return _AT in name


def placed_card(card: ModelCard, exits: Sequence[int]) -> ModelCard:
    """The card of the model with only these exits; its name tells them, as in ``cifar10-resnet56-all-exits@3-7-11``.

    Args:
        card: Of an all-exits model.
        exits: 0-based, rising, the final one last.

    Raises:
        ExitLensError: If the exits do not rise or do not end with the final one.
    """
    kept = check_subset(exits, card.num_exits)
    layers = card.layer_multiply_adds
    return replace(
        card,
        name=f"{card.name}{_AT}{'-'.join(map(str, kept[:-1]))}",
        exit_positions=tuple(card.exit_positions[index] for index in kept[:-1]),
        exit_layers=tuple(card.exit_layers[index] for index in kept),
        exit_costs=subset_costs(layers, card.classifier_multiply_adds, kept),
        layer_multiply_adds=tuple(sum(layers[first + 1 : last + 1]) for first, last in pairwise((-1, *kept))),
        classifier_multiply_adds=tuple(card.classifier_multiply_adds[index] for index in kept),
        test=tuple(card.test[index] for index in kept),
        validation_accuracy=tuple(card.validation_accuracy[index] for index in kept),
        operating_points=(),
    )


def with_placements(cards: Mapping[str, ModelCard], placements: Sequence[Placement]) -> dict[str, ModelCard]:
    """The cards, and one more for every placement on every all-exits model."""
    placed = [
        placed_card(card, placement.exits(card))
        for card in cards.values()
        for placement in placements
        if card.shares and card.layer_multiply_adds
    ]
    return {**cards, **{card.name: card for card in placed}}


def placement_names(cards: Mapping[str, ModelCard], placements: Sequence[Placement]) -> dict[str, str]:
    """Which placement each placed card stands for, by the name of the card."""
    return {
        placed_card(card, placement.exits(card)).name: placement.name
        for card in cards.values()
        for placement in placements
        if card.shares and card.layer_multiply_adds and not is_placement(card.name)
    }


def split_name(name: str, num_exits: int) -> tuple[str, tuple[int, ...]]:
    """The all-exits model that a placed name is of, and its exits; all of them for any other name."""
    base, _, blocks = name.partition(_AT)
    if not blocks:
        return base, tuple(range(num_exits))
    return base, (*map(int, blocks.split("-")), num_exits - 1)


def load_placed(name: str) -> tuple[LoadedModel, ModelCard]:
    """As ``load_model``, for placed names too: their weights are shared and not copied.

    Raises:
        ExitLensError: As ``load_model``; or if the model has no such exits.
    """
    model, card = load_model(name.partition(_AT)[0])
    if not is_placement(name):
        return model, card
    exits = split_name(name, card.num_exits)[1]
    assert isinstance(model, ExitNetwork)
    placed = placed_card(card, exits)
    subset = model.subset(exits)
    subset.exit_costs = placed.exit_costs
    return subset, placed
