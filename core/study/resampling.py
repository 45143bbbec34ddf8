"""Intervals by drawing again: images for all models at once, and models where there are enough training seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from core.study.measures import Unit, unit_weights

NUM_RESAMPLES = 10_000
ENOUGH_SEEDS = 3
_AT_ONCE = 4_000_000  # weights drawn at a time


def resample(
    questions: Sequence[Sequence[Unit]], seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> list[np.ndarray]:
    """For each question, its mean measure on images drawn again, and with enough seeds on models drawn again.

    Questions about the same images share the images drawn, which are most of the work.

    Args:
        questions: Of each the units, one or more.
        seed: Draws images and models.
        num_resamples: How often.

    Returns:
        For each question one number a draw; draws that leave nothing to measure are left out.
    """
    about: dict[tuple[str, ...], list[_Question]] = {}
    asked = [_Question.of(units, seed) for units in questions]
    for question in asked:
        about.setdefault(tuple(question.images), []).append(question)
    for images, alike in about.items():
        generator, at_once = np.random.default_rng(seed), max(1, _AT_ONCE // len(images))
        for first in range(0, num_resamples, at_once):
            count = min(at_once, num_resamples - first)
            drawn = generator.multinomial(len(images), np.full(len(images), 1 / len(images)), count).astype(float)
            for question in alike:
                question.measure(drawn)
    return [question.usable() for question in asked]


def has_enough_seeds(units: Sequence[Unit]) -> bool:
    """Whether every kind of model in these comparisons is there with enough training seeds to speak of others."""
    seeds = {model.name: model.seed for unit in units for model in unit.models}
    return min(len({seeds[name] for name in names}) for names in _alike(units).values()) >= ENOUGH_SEEDS


@dataclass(frozen=True, eq=False)
class _Question:
    """The units of one question, spread over the images of all of them: (images, units)."""

    units: Sequence[Unit]
    images: pd.Index
    numerators: np.ndarray
    denominators: np.ndarray
    generator: np.random.Generator
    means: list[np.ndarray]

    @classmethod
    def of(cls, units: Sequence[Unit], seed: int) -> "_Question":
        images = pd.Index([])
        for unit in units:
            images = images.union(pd.Index(unit.image_ids))
        numerators, denominators = (
            np.stack([_spread(getattr(unit, part), unit, images) for unit in units], axis=1)
            for part in ("numerator", "denominator")
        )
        return cls(units, images, numerators, denominators, np.random.default_rng((seed, 1)), [])

    def measure(self, drawn: np.ndarray) -> None:
        """Adds a mean for each time that images were drawn: how often each, (draws, images)."""
        with np.errstate(invalid="ignore"):
            values = (drawn @ self.numerators) / (drawn @ self.denominators)  # (draws, units)
            weights = np.broadcast_to(unit_weights(self.units), values.shape)
            if has_enough_seeds(self.units):
                weights = weights * _model_weights(self.units, len(drawn), self.generator)
            weights = np.where(np.isnan(values), 0, weights)
            self.means.append((np.nan_to_num(values) * weights).sum(1) / weights.sum(1))

    def usable(self) -> np.ndarray:
        found = np.concatenate(self.means)
        usable: np.ndarray = found[~np.isnan(found)]
        return usable


def _spread(values: np.ndarray, unit: Unit, images: pd.Index) -> np.ndarray:
    """The numbers of a unit in the common order of images; 0 for images that it lacks."""
    spread = np.zeros(len(images))
    spread[images.get_indexer(pd.Index(unit.image_ids))] = values
    return spread


def _model_weights(units: Sequence[Unit], num_draws: int, generator: np.random.Generator) -> np.ndarray:
    """How often each unit's models were all drawn, (draws, units): models are drawn among those alike."""
    drawn: dict[str, np.ndarray] = {}
    for names in _alike(units).values():
        counts = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), num_draws)
        drawn |= dict(zip(names, counts.T, strict=True))
    return np.stack([np.prod([drawn[model.name] for model in unit.models], axis=0) for unit in units], axis=1)


def _alike(units: Sequence[Unit]) -> dict[tuple[object, ...], list[str]]:
    """Names of the models that differ in their seed alone, by what they are alike in."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for model in dict.fromkeys(model for unit in units for model in unit.models):
        groups.setdefault(model.alike, []).append(model.name)
    return groups
