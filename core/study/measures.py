"""What claims measure: for each pair of models one number an image, from the tables of a study."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from core.datasets import DATASETS
from core.study.models import StudyModel
from core.study.placements import is_placement, split_name
from core.study.store import Study

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Where:
    """Which rows of a study count.

    Attributes:
        policy: Name of a policy of the study.
        attack_names: Presets; all without.
        epsilons: In pixels of [0, 1]; all without.
        objective: Of early-exit sources; a static one has one only.
        pairs: ``same`` or ``different`` architecture; both without.
    """

    policy: str
    attack_names: tuple[str, ...] = ()
    epsilons: tuple[float, ...] = ()
    objective: str = "taken"
    pairs: str = ""


@dataclass(frozen=True, eq=False)
class Unit:
    """One comparison of models: the measure is the sum of ``numerator`` over that of ``denominator``.

    Attributes:
        models: That are compared.
        image_ids: Of its images.
        numerator: One number an image; 0 where it does not count.
        denominator: One number an image; for a mean 1 where it counts and 0 elsewhere.
    """

    models: tuple[StudyModel, ...]
    image_ids: tuple[str, ...]
    numerator: np.ndarray
    denominator: np.ndarray

    @property
    def repeats(self) -> tuple[tuple[object, ...], ...]:
        """What its models are: units that share it differ in training seeds alone, and repeat each other."""
        return tuple(model.alike for model in self.models)


def unit_weights(units: Sequence[Unit]) -> np.ndarray:
    """How much each unit counts in a mean, adding up to the number of different comparisons.

    Those that repeat each other count as one together: an architecture that was trained twice says no more of early
    exits than one trained once.
    """
    times = Counter(unit.repeats for unit in units)
    return np.array([1 / times[unit.repeats] for unit in units])


class Tables:
    """The rows of a study that a claim may look at; attacks that stop when they fool are never among them."""

    def __init__(self, study: Study, connection: "duckdb.DuckDBPyConnection", where: Where) -> None:
        """Of a study, restricted to some rows."""
        self.study, self.where, self._connection = study, where, connection
        self._images: dict[str, dict[tuple[str, str], pd.DataFrame]] = {}

    def models(self, kind: str) -> list[StudyModel]:
        """Models of a kind with a backbone of their own, none of them a surrogate."""
        trained = [model for model in self.study.models if model.shares is None and not model.surrogate]
        return [model for model in trained if model.kind == kind]

    @property
    def _statics(self) -> list[str]:
        """Names of the models that have one objective only."""
        return [model.name for model in self.study.models if model.kind == "static"]

    def surrogate_twins(self) -> Iterator[tuple[StudyModel, StudyModel, StudyModel]]:
        """Every early-exit surrogate, the static one that learned the same, and each target that both stand in for."""
        surrogates = [(model, model.surrogate) for model in self.study.models if model.surrogate]
        for early, one in surrogates:
            for static, other in surrogates:
                if early.kind == "early-exit" and one.is_twin_of(other):
                    for name in one.targets:
                        yield early, static, self.study.model(name)

    def images(self, source: StudyModel, target: StudyModel, objective: str | None = None) -> pd.DataFrame | None:
        """What was made on one model and shown to another, one row an image; None where the study has nothing of it.

        What is shown to its own source counts only where it was made under the policy that judges it.

        Returns:
            By image id: ``fooled`` and ``cost_change``, means over attacks and epsilons, and whether the target
            ``was_right`` on the clean image.
        """
        aim = objective or self.where.objective
        if aim not in self._images:
            self._images[aim] = self._images_of_all(aim)
        return self._images[aim].get((source.name, target.name))

    def _images_of_all(self, objective: str) -> dict[tuple[str, str], pd.DataFrame]:
        """What ``images`` returns, of all pairs: the tables are read once, not once for each."""
        where = self.where
        rows = self._connection.execute(
            "select source, target, image_id, avg(succeeded::int) as fooled, "
            "avg(adversarial_cost - clean_cost) as cost_change, bool_and(attackable) as was_right "
            "from decisions where policy = ? "
            "and not stop_when_fooled and (list_contains(?, source) or objective = ?) "
            "and (len(?) = 0 or list_contains(?, attack_name)) "
            "and (len(?) = 0 or list_contains(?, epsilon)) and (made_anew or not (? or source = target)) "
            "group by all order by source, target, image_id",
            [
                where.policy, self._statics, objective,
                *2 * [list(where.attack_names)], *2 * [list(where.epsilons)], self.study.spec.made_anew,
            ],
        ).df()  # fmt: skip
        return {
            (str(pair[0]), str(pair[1])): group.drop(columns=["source", "target"]).set_index("image_id")
            for pair, group in rows.groupby(["source", "target"], sort=False, observed=True)
        }

    def steps(self, source: StudyModel) -> pd.DataFrame | None:
        """What the attacks on a model went through, one row an image and attack; None where there is nothing.

        Only attacks made under the policy count.
        """
        where, statics = self.where, self._statics
        rows = self._connection.execute(
            "select image_id, attack, step_exit, step_wrong from steps join cells using (made, source, attack) "
            "where source = ? and cell in (select cell from decisions where policy = ? and made_anew) "
            "and not stop_when_fooled and (list_contains(?, source) or objective = ?) "
            "and (len(?) = 0 or list_contains(?, attack_name)) and (len(?) = 0 or list_contains(?, epsilon)) "
            "order by attack_name, epsilon, image_id",
            [
                source.name, where.policy, statics, where.objective,
                *2 * [list(where.attack_names)], *2 * [list(where.epsilons)],
            ],
        ).df()  # fmt: skip
        return rows if len(rows) else None

    def classes(self, model: StudyModel) -> int:
        """How many classes a model's data set has."""
        return DATASETS[model.dataset].num_classes

    def fits(self, one: StudyModel, other: StudyModel) -> bool:
        """Whether a pair is among those that the claim is about."""
        same = one.architecture == other.architecture
        return one.dataset == other.dataset and self.where.pairs in ("", "same" if same else "different")


def _unit(models: list[StudyModel], values: pd.Series, counted: pd.Series) -> Unit:
    weight = counted.to_numpy(dtype=float)
    return Unit(
        tuple(models),
        tuple(values.index),
        np.where(weight > 0, values.to_numpy(dtype=float), 0.0) * (weight > 0),
        weight,
    )


def _difference(
    models: list[StudyModel], higher: pd.DataFrame | None, lower: pd.DataFrame | None, column: str, of_all: bool
) -> Iterator[Unit]:
    """``higher`` minus ``lower`` on identical images: all of them, or those that both targets answer rightly."""
    if higher is None or lower is None:
        return
    both = higher.merge(lower, left_index=True, right_index=True, suffixes=("_high", "_low"))
    counted = both.was_right_high & both.was_right_low
    yield _unit(models, both[f"{column}_high"] - both[f"{column}_low"], counted | of_all)


def early_to_static_minus_back(tables: Tables) -> Iterator[Unit]:
    """D2S minus S2D: how much more often a static model is fooled from an early-exit one than the other way round.

    Of images that both answer rightly when clean.
    """
    for static in tables.models("static"):
        for early in tables.models("early-exit"):
            if tables.fits(static, early):
                there, back = tables.images(early, static), tables.images(static, early)
                yield from _difference([early, static], there, back, "fooled", of_all=False)


def to_early_minus_to_static(tables: Tables) -> Iterator[Unit]:
    """S2D minus S2S: how much more often an early-exit model is fooled from a static one than its twin is.

    Of images that both targets answer rightly when clean, whatever the source does.
    """
    for source in tables.models("static"):
        for early in tables.models("early-exit"):
            for static in tables.models("static"):
                twins = (early.architecture, early.dataset) == (static.architecture, static.dataset)
                if static.name != source.name and twins and tables.fits(source, early):
                    to_early, to_static = tables.images(source, early), tables.images(source, static)
                    yield from _difference([source, early, static], to_early, to_static, "fooled", of_all=False)


def cost_change(tables: Tables) -> Iterator[Unit]:
    """How much more an early-exit model computes on what was made on another model than on clean images.

    Of all images.
    """
    for early in tables.models("early-exit"):
        for source in tables.models("static"):
            if tables.fits(source, early) and (rows := tables.images(source, early)) is not None:
                yield _unit([source, early], rows.cost_change, rows.cost_change.notna())


def own_cost_change(tables: Tables) -> Iterator[Unit]:
    """How much more an early-exit model computes on what was made on itself than on clean images.

    Of all images.
    """
    for early in tables.models("early-exit"):
        if (rows := tables.images(early, early)) is not None:
            yield _unit([early], rows.cost_change, rows.cost_change.notna())


def cost_change_by_size(tables: Tables) -> Iterator[Unit]:
    """How much more what was made on a larger static network raises an early-exit model's cost than of a smaller.

    Of all images; both of other architectures than the model, as what was made on its own kin carries further.
    """
    statics = sorted(tables.models("static"), key=lambda model: model.multiply_adds)
    for early in tables.models("early-exit"):
        others = [model for model in statics if model.architecture != early.architecture]
        for index, smaller in enumerate(others):
            for larger in others[index + 1 :]:
                if larger.multiply_adds > smaller.multiply_adds and larger.dataset == smaller.dataset == early.dataset:
                    of_larger, of_smaller = tables.images(larger, early), tables.images(smaller, early)
                    yield from _difference([larger, smaller, early], of_larger, of_smaller, "cost_change", of_all=True)


def transfer_by_exit(tables: Tables) -> Iterator[Unit]:
    """Slope of the transfer to static models over the share of the network that an example was made on.

    Of images that the target answers rightly when clean, whatever the source does. By least squares over the exits:
    what the rate changes by from none of the network to all of it.
    """
    for early in tables.models("early-exit"):
        offsets = np.array(early.exit_costs) - np.mean(early.exit_costs)
        for static in tables.models("static"):
            if not tables.fits(early, static) or early.num_exits < 2:
                continue
            by_exit = [tables.images(early, static, f"exit-{number + 1}") for number in range(early.num_exits)]
            found = [rows for rows in by_exit if rows is not None]
            if len(found) == early.num_exits:
                fooled = pd.concat([rows.fooled for rows in found], axis=1, join="inner")
                slope = pd.Series(fooled.to_numpy() @ offsets / (offsets @ offsets), index=fooled.index)
                yield _unit([early, static], slope, found[0].was_right.loc[fooled.index])


def _making_cost(model: StudyModel, rows: pd.DataFrame) -> pd.DataFrame:
    """Multiply-adds until an image is first wrong, by image; those that never are count with all steps."""
    exits, is_made = _passes(rows)
    forward = np.asarray(model.gradient_costs)[exits] * model.multiply_adds  # with its gradient it comes to three
    return pd.DataFrame(
        {"cost": 3 * (forward * is_made).sum(axis=1), "was_right": is_made[:, 0], "image_id": rows.image_id}
    ).groupby("image_id").agg({"cost": "mean", "was_right": "all"})  # fmt: skip


def _passes(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The exit that each gradient pass goes through and whether it is made: none is once the image is wrong.

    Both are (rows, steps of the longest attack); an image that is never wrong takes all steps of its own.
    """
    num_records = rows.step_exit.map(len).to_numpy()
    exits = np.full((len(rows), num_records.max(initial=1)), -1)
    wrong = np.zeros(exits.shape, dtype=bool)
    is_record = np.arange(exits.shape[1]) < num_records[:, None]
    exits[is_record], wrong[is_record] = (
        np.concatenate(rows.step_exit.tolist()),
        np.concatenate(rows.step_wrong.tolist()),
    )
    return exits[:, :-1], (np.cumsum(wrong, axis=1)[:, :-1] == 0) & is_record[:, 1:]


def making_cost(tables: Tables) -> Iterator[Unit]:
    """Multiply-adds of making examples on an early-exit model minus on its static twin, over the latter.

    Of images that both answer rightly when clean; until the first wrong answer, or to the end where none comes.
    """
    for early in tables.models("early-exit"):
        for static in tables.models("static"):
            if early.architecture == static.architecture:
                yield from _making_cost_difference(tables, early, static)


def _making_cost_difference(tables: Tables, early: StudyModel, static: StudyModel) -> Iterator[Unit]:
    rows = [tables.steps(model) for model in (early, static)]
    if rows[0] is None or rows[1] is None:
        return
    own, other = _making_cost(early, rows[0]), _making_cost(static, rows[1])
    both = own.merge(other, left_index=True, right_index=True, suffixes=("", "_static"))
    counted = both.was_right & both.was_right_static
    yield _unit([early, static], both.cost - both.cost_static, counted * both.cost_static)


def early_share_of_making(tables: Tables) -> Iterator[Unit]:
    """Share of the gradient passes until an image is first wrong that went through the first half of the network."""
    for early in tables.models("early-exit"):
        if (rows := tables.steps(early)) is not None:
            exits, is_made = _passes(rows)
            is_early = np.asarray(early.gradient_costs)[exits] <= 0.5
            passes = pd.DataFrame(
                {"early": (is_early & is_made).sum(axis=1), "made": is_made.sum(axis=1)}, index=rows.image_id
            )
            by_image = passes.groupby(level=0).sum()
            yield Unit((early,), tuple(by_image.index), by_image.early.to_numpy(float), by_image.made.to_numpy(float))


def own_success(tables: Tables) -> Iterator[Unit]:
    """Share on which attacks on early-exit models succeed by their own rule.

    Of attackable images.
    """
    for early in tables.models("early-exit"):
        if (rows := tables.images(early, early)) is not None:
            yield _unit([early], rows.fooled, rows.was_right)


def early_to_early(tables: Tables) -> Iterator[Unit]:
    """Share of what was made on an early-exit model that fools another one.

    Of images that the target answers rightly when clean, whatever the source does.
    """
    for source in tables.models("early-exit"):
        for target in tables.models("early-exit"):
            if source.name != target.name and tables.fits(source, target):
                rows = tables.images(source, target)
                if rows is not None:
                    yield _unit([source, target], rows.fooled, rows.was_right)


def very_early_exit(tables: Tables) -> Iterator[Unit]:
    """How much more often a placement with an exit in the first tenth of the network is fooled than without that one.

    Of images that both answer rightly when clean; attacks made on each of the two.
    """
    placed = [model for model in tables.study.models if is_placement(model.name)]
    exits = {model: split_name(model.name, 0) for model in placed}  # the final one is the same for all
    for model in placed:
        for other in placed:
            (base, more), (other_base, fewer) = exits[model], exits[other]
            if base == other_base and more[1:] == fewer and model.exit_costs[0] <= 0.1:
                own = tables.images(model, model), tables.images(other, other)
                yield from _difference([model, other], *own, "fooled", of_all=False)


def harder_minus_easier(tables: Tables) -> Iterator[Unit]:
    """How much more often models of a data set with more classes are fooled than such of one with fewer.

    Of attackable images of each.
    """
    models = [model for kind in ("static", "early-exit") for model in tables.models(kind)]
    for harder in models:
        for easier in models:
            alike = (harder.kind, harder.architecture) == (easier.kind, easier.architecture)
            if not alike or tables.classes(harder) <= tables.classes(easier):
                continue
            there, here = tables.images(harder, harder), tables.images(easier, easier)
            if there is not None and here is not None:
                rates = [rows.fooled[rows.was_right] for rows in (there, here)]
                both, difference = sum(map(len, rates)), rates[0].mean() - rates[1].mean()
                # Different images cannot be paired: each side is its deviation from its own mean, so that how many of
                # either are drawn says nothing, and the whole is the difference of the two rates.
                deviations = [(rate - rate.mean()) * (both / len(rate)) for rate in rates]
                values = pd.concat([deviations[0], -deviations[1]]) + difference
                yield _unit([harder, easier], values, values.notna())


def surrogates_early_minus_static(tables: Tables) -> Iterator[Unit]:
    """How much more often surrogates with exits fool their target than static ones that learned the same.

    Of images that the target answers rightly when clean.
    """
    for early, static, target in tables.surrogate_twins():
        there, other = tables.images(early, target), tables.images(static, target)
        yield from _difference([early, static, target], there, other, "fooled", of_all=False)


def surrogates_making_cost(tables: Tables) -> Iterator[Unit]:
    """Multiply-adds of making examples on a surrogate with exits minus on its static twin, over the latter.

    Of images that both answer rightly when clean; until the first wrong answer, or to the end where none comes.
    """
    for early, static in dict.fromkeys((early, static) for early, static, _ in tables.surrogate_twins()):
        yield from _making_cost_difference(tables, early, static)


MEASURES: Mapping[str, Callable[[Tables], Iterator[Unit]]] = {
    measure.__name__: measure
    for measure in (
        early_to_static_minus_back, to_early_minus_to_static, cost_change, own_cost_change, cost_change_by_size,
        transfer_by_exit, making_cost, early_share_of_making, own_success, early_to_early,
        very_early_exit, harder_minus_easier,
        surrogates_early_minus_static, surrogates_making_cost,
    )
}  # fmt: skip


def describe(measure: str) -> str:
    """What a measure is, and of which images."""
    words: Any = MEASURES[measure].__doc__
    return " ".join(str(words).split())
