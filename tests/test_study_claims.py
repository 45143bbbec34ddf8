"""Claims: measures against loops over rows, intervals against oracles, verdicts by hand."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy.stats import bootstrap
from toy_study import EARLY, STATIC, STUDY, run_toys, write_project

from core.errors import ExitLensError
from core.exits import ExitPolicy
from core.study import claims, measures
from core.study.claims import Claim, judge, judge_claims, load_claims
from core.study.measures import MEASURES, Tables, Unit, Where
from core.study.models import StudyModel
from core.study.resampling import has_enough_seeds, resample
from core.study.spec import shipped_studies
from core.study.store import DECISIONS_FILE, STEPS_FILE, connect, read_study

TEXT = STUDY.replace('objective = ["taken", "final"]', 'objective = ["taken", "each-exit"]')


def model(name: str, architecture: str = "toy", kind: str = "static", seed: int = 0) -> StudyModel:
    return StudyModel(
        name=name, label=name, kind=kind, dataset="toy", architecture=architecture, seed=seed, exit_costs=(1.0,),
        layer_multiply_adds=(1,), classifier_multiply_adds=(0,), shares=None, policies=(ExitPolicy(),), hash="0" * 16,
    )  # fmt: skip


def unit(values: list[float], *models: StudyModel, counted: list[float] | None = None) -> Unit:
    ids = tuple(f"image/{number}" for number in range(len(values)))
    weight = np.ones(len(values)) if counted is None else np.array(counted)
    return Unit(models or (model("a"),), ids, np.array(values) * (weight > 0), weight)


def claim(**changes: object) -> Claim:
    fields = {
        "name": "a", "text": "A.", "family": "f", "study": "toys", "measure": "own_cost_change",
        "direction": "greater", "margin": 0.02,
    }  # fmt: skip
    return Claim(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def toys_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims are decided on ten images, as toys have twelve."""
    monkeypatch.setattr(claims, "MIN_IMAGES", 10)


# Measures


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One finished study of toys."""
    import toys

    from core.datasets import DATASETS
    from core.models import ARCHITECTURES

    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "toy", toys.TOY_DATASET)
        patch.setitem(ARCHITECTURES, "toy", toys.TOY_ARCHITECTURE)
        for name, value in write_project(folder).items():
            patch.setenv(name, value)
        run_toys(folder / "study", TEXT)
        yield folder / "study"


def measured(folder: Path, measure: str, **where: object) -> list[Unit]:
    asked = Where("T=0.60", **where)  # type: ignore[arg-type]
    return list(MEASURES[measure](Tables(read_study(folder), connect(folder), asked)))


def rows_of(folder: Path, source: str, target: str, objective: str, epsilon: float | None = None) -> pd.DataFrame:
    rows = pq.read_table(folder / DECISIONS_FILE).to_pandas()
    rows = rows[(rows.policy == "T=0.60") & (rows.source == source) & (rows.target == target)]
    rows = rows[rows.objective == (objective if source == EARLY else "final")]
    return rows if epsilon is None else rows[rows.epsilon == epsilon]


@pytest.mark.parametrize("epsilon", [None, 8 / 255])
def test_d2s_minus_s2d_is_a_difference_on_images_that_both_answer_rightly(
    study_folder: Path, epsilon: float | None
) -> None:
    # Mutants: each direction over its own denominator; directions exchanged; epsilons not filtered, or not averaged.
    (found,) = measured(study_folder, "early_to_static_minus_back", **({"epsilons": (epsilon,)} if epsilon else {}))
    there = rows_of(study_folder, EARLY, STATIC, "taken", epsilon)
    back = rows_of(study_folder, STATIC, EARLY, "taken", epsilon)
    for number, image_id in enumerate(found.image_ids):
        one, other = (rows[rows.image_id == image_id] for rows in (there, back))
        assert found.denominator[number] == float(one.attackable.all() and other.attackable.all())
        if found.denominator[number]:
            assert found.numerator[number] == pytest.approx(one.succeeded.mean() - other.succeeded.mean())
    assert 0 < found.denominator.sum() < 12 and found.numerator.any()


def test_cost_change_counts_every_image(study_folder: Path) -> None:
    # Mutant: only images that were right; the target's cost before the attack alone.
    for measure, source in (("cost_change", STATIC), ("own_cost_change", EARLY)):
        (found,) = measured(study_folder, measure)
        rows = rows_of(study_folder, source, EARLY, "taken")
        expected = (rows.adversarial_cost - rows.clean_cost).groupby(rows.image_id).mean()
        assert found.denominator.tolist() == [1.0] * 12
        assert found.numerator.tolist() == pytest.approx(expected.loc[list(found.image_ids)].tolist())


def test_slope_over_exits_is_least_squares(study_folder: Path) -> None:
    # Mutant: exit numbers in place of their costs; a slope of the wrong sign.
    (found,) = measured(study_folder, "transfer_by_exit")
    costs = read_study(study_folder).model(EARLY).exit_costs
    rates = []
    for number in range(3):
        rows = rows_of(study_folder, EARLY, STATIC, f"exit-{number + 1}")
        rates.append(rows.succeeded.groupby(rows.image_id).mean().loc[list(found.image_ids)].to_numpy())
    expected = np.polyfit(costs, np.stack(rates), 1)[0]
    assert found.numerator.tolist() == pytest.approx((expected * found.denominator).tolist())


def test_making_cost_counts_passes_until_the_first_wrong_answer(study_folder: Path) -> None:
    # Mutants: the pass after success counted; failures left out; costs of the whole network at every step.
    (found,) = measured(study_folder, "making_cost", epsilons=(32 / 255,))
    study, steps = read_study(study_folder), pq.read_table(study_folder / STEPS_FILE).to_pandas()
    cells = pq.read_table(study_folder / "cells.parquet").to_pandas()
    cells = cells[cells.source != ""].set_index("made")
    steps = steps[steps.made.map(cells.epsilon) == 32 / 255]
    steps = steps[(steps.source == STATIC) | (steps.made.map(cells.objective) == "taken")]

    def cost(source: str, image_id: str) -> float:
        row = steps[(steps.source == source) & (steps.image_id == image_id)].iloc[0]
        done = 0.0
        for exit_index, wrong in list(zip(row.step_exit, row.step_wrong, strict=True))[:-1]:
            if wrong:
                break
            done += 3 * study.model(source).exit_costs[exit_index] * study.model(source).multiply_adds
        return done

    right = found.denominator > 0
    early, static = (np.array([cost(source, image_id) for image_id in found.image_ids]) for source in (EARLY, STATIC))
    assert found.numerator[right].tolist() == pytest.approx((early - static)[right].tolist())
    assert found.denominator[right].tolist() == pytest.approx(static[right].tolist())
    assert 0 < right.sum() < 12 and len(set(static[right])) > 1


def test_early_share_of_making_counts_passes_until_the_first_wrong_answer() -> None:
    # Mutants: passes after success counted; every image weighing the same; the pass where it is wrong already.
    early = replace(model("e", kind="early-exit"), exit_costs=(0.2, 0.7, 1.0))
    rows = pd.DataFrame(
        {
            "image_id": ["a", "b", "a", "c"],
            "step_exit": [[0, 0, 1, -1], [2, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]],
            "step_wrong": [[False, False, False, False], [False, False, True, True], [False, True, True, True],
                           [True, True, True, True]],
        }
    )  # fmt: skip
    tables = SimpleNamespace(models=lambda kind: [early], steps=lambda source: rows)
    (found,) = MEASURES["early_share_of_making"](tables)  # type: ignore[arg-type]
    # a: exits 1, 1, 2 and then, attacked once more, 2; b: the final one and exit 1; c was wrong from the start.
    assert dict(zip(found.image_ids, found.numerator.tolist(), strict=True)) == {"a": 2, "b": 1, "c": 0}
    assert dict(zip(found.image_ids, found.denominator.tolist(), strict=True)) == {"a": 4, "b": 2, "c": 0}
    early = replace(early, stops_early=False)  # each of its passes goes through everything
    (found,) = MEASURES["early_share_of_making"](tables)  # type: ignore[arg-type]
    assert (found.numerator.sum(), found.denominator.sum()) == (0, 6)


def test_own_attacks_count_only_under_the_policy_they_were_made_under(study_folder: Path) -> None:
    # Mutants: what was made at T = 0.60 told as white-box robustness at T = 0.90; steps of any policy.
    tables = {
        name: Tables(read_study(study_folder), connect(study_folder), Where(name)) for name in ("T=0.60", "T=0.90")
    }
    for measure in ("own_success", "own_cost_change", "early_share_of_making"):
        assert [len(list(MEASURES[measure](each))) for each in tables.values()] == [1, 0], measure
    (own,) = MEASURES["own_success"](tables["T=0.60"])
    rows = rows_of(study_folder, EARLY, EARLY, "taken")
    assert own.numerator.sum() == pytest.approx(rows[rows.attackable].succeeded.sum() / 2)  # of two epsilons
    asked = [claim(name="own"), claim(name="made", measure="early_share_of_making")]
    table = judge_claims(study_folder, asked)
    assert set(table[table.policy == "T=0.90"].verdict) == {"not measured"}
    assert claims.first_policy(table).elsewhere.tolist() == ["not measured under T = 0.90"] * 2


def test_n_of_a_claim_counts_what_the_measure_counts(study_folder: Path) -> None:
    # Mutant: images of weight 0 counted as well.
    table = judge_claims(study_folder, [claim(measure="early_to_static_minus_back")]).iloc[0]
    (found,) = measured(study_folder, "early_to_static_minus_back")
    assert table.num_images == table.num_images_most == int(found.denominator.sum()) < 12
    several = {"num_images": 843, "num_images_most": 1906, "num_comparisons": 4}
    assert claims.count_words(several) == "n = 843 to 1,906, the mean of 4 comparisons"
    assert claims.count_words(table.to_dict()) == f"n = {table.num_images}"


class FakeTables:
    """Tables of a few models and images."""

    def __init__(self, shown: dict[StudyModel, list[float]], right: list[bool]) -> None:
        """What fooled each model that was attacked itself, and which images every model answers rightly."""
        self.study = SimpleNamespace(models=tuple(shown))
        self.shown, self.right = shown, right

    def images(self, source: StudyModel, target: StudyModel) -> pd.DataFrame | None:
        assert source is target
        fooled = self.shown[source]
        index = pd.Index([f"{source.dataset}/{number}" for number in range(len(fooled))], name="image_id")
        return pd.DataFrame({"fooled": fooled, "was_right": self.right[: len(fooled)]}, index=index)

    def models(self, kind: str) -> list[StudyModel]:
        return [each for each in self.shown if each.kind == kind]

    def classes(self, each: StudyModel) -> int:
        return {"easy": 10, "hard": 100}[each.dataset]


def test_a_very_early_exit_is_compared_with_the_same_placement_without_it() -> None:
    # Mutants: any two placements compared; the later of the two taken for the earlier.
    def placed(exits: str, first_cost: float) -> StudyModel:
        costs = (first_cost, 0.6, 1.0) if exits.count("-") else (first_cost, 1.0)
        return replace(model(f"a@{exits}", kind="early-exit"), exit_costs=costs)

    more, fewer, other = placed("0-5", 0.05), placed("5", 0.6), placed("2-5", 0.3)
    shown = {more: [1.0, 0.0, 1.0], fewer: [0.0, 0.0, 1.0], other: [1.0, 1.0, 1.0]}
    (found,) = MEASURES["very_early_exit"](FakeTables(shown, [True, True, False]))  # type: ignore[arg-type]
    assert found.models == (more, fewer)
    assert found.numerator.tolist() == [1.0, 0.0, 0.0] and found.denominator.tolist() == [1.0, 1.0, 0.0]


def test_harder_data_is_compared_by_a_difference_of_rates() -> None:
    # Mutants: images of both pooled; the harder subtracted; models of another kind compared.
    hard = replace(model("h"), dataset="hard")
    easy, early = replace(model("e"), dataset="easy"), replace(model("d", kind="early-exit"), dataset="easy")
    shown = {hard: [1.0, 1.0, 0.0], easy: [1.0, 0.0, 0.0, 0.0], early: [0.0]}
    (found,) = MEASURES["harder_minus_easier"](FakeTables(shown, [True] * 4))  # type: ignore[arg-type]
    assert found.models == (hard, easy)
    assert found.numerator.sum() / found.denominator.sum() == pytest.approx(2 / 3 - 1 / 4)


def test_the_interval_of_a_difference_of_rates_is_that_of_two_samples() -> None:
    # Mutant: each side over its size before drawing: how many of either are drawn would widen the interval twofold.
    hard, easy = replace(model("h"), dataset="hard"), replace(model("e"), dataset="easy")
    shown = {hard: [1.0] * 270 + [0.0] * 30, easy: [1.0] * 240 + [0.0] * 60}
    (draws,) = resample([list(MEASURES["harder_minus_easier"](FakeTables(shown, [True] * 300)))])  # type: ignore[arg-type]
    assert draws.mean() == pytest.approx(0.1, abs=0.002)
    assert draws.std() == pytest.approx(np.sqrt(0.9 * 0.1 / 300 + 0.8 * 0.2 / 300), rel=0.05)


class MadeUpTables(Tables):
    """Tables of four images that every model answers rightly, with one rate for each pair of models."""

    def __init__(self, models: list[StudyModel], rates: Callable[[str, str], float], pairs: str = "") -> None:
        """Of models, and how much of what is made on one fools another."""
        study = SimpleNamespace(models=tuple(models), spec=SimpleNamespace(made_anew=False))
        super().__init__(study, None, Where("p", pairs=pairs))  # type: ignore[arg-type]
        self.rates = rates

    def _images_of_all(self, objective: str) -> dict[tuple[str, str], pd.DataFrame]:
        ids = pd.Index([f"image/{number}" for number in range(4)], name="image_id")
        names = [each.name for each in self.study.models]
        rows = {pair: self.rates(*pair) for pair in product(names, names)}
        return {
            pair: pd.DataFrame({"fooled": rate, "cost_change": rate, "was_right": True}, index=ids)
            for pair, rate in rows.items()
        }


R1, R4, M1 = (model(name, name[0], seed=int(name[1])) for name in ("r1", "r4", "m1"))
R2, R5, M2 = (model(name, name[0], "early-exit", seed=int(name[1])) for name in ("r2", "r5", "m2"))
ZOO = [R1, R4, M1, R2, R5, M2]
TO_EARLY = {"r2": 0.8, "r5": 0.6, "m2": 0.9, "r1": 0.5, "r4": 0.5, "m1": 0.1}


def test_an_early_exit_model_is_compared_with_its_twins_from_sources_that_are_neither() -> None:
    # Mutants: the sign exchanged; the source itself taken for the twin; a twin of another architecture; pairs ignored.
    def found(pairs: str) -> dict[tuple[str, ...], float]:
        tables = MadeUpTables(ZOO, lambda _, target: TO_EARLY[target], pairs)
        return {
            tuple(each.name for each in unit.models): round(float(unit.numerator.mean()), 6)
            for unit in MEASURES["to_early_minus_to_static"](tables)
        }

    same = {("r1", "r2", "r4"): 0.3, ("r1", "r5", "r4"): 0.1, ("r4", "r2", "r1"): 0.3, ("r4", "r5", "r1"): 0.1}
    across = {
        ("r1", "m2", "m1"): 0.8, ("r4", "m2", "m1"): 0.8, ("m1", "r2", "r1"): 0.3, ("m1", "r2", "r4"): 0.3,
        ("m1", "r5", "r1"): 0.1, ("m1", "r5", "r4"): 0.1,
    }  # fmt: skip
    assert found("same") == same and found("different") == across and found("") == same | across


def test_an_architecture_that_was_trained_twice_counts_once() -> None:
    # Mutants: the mean over all pairs, in the value or in the draws; weights by kind or architecture of one model.
    tables = MadeUpTables(ZOO, lambda _, target: TO_EARLY[target], "different")
    units = list(MEASURES["to_early_minus_to_static"](tables))
    assert len(units) == 6 and measures.unit_weights(units).sum() == pytest.approx(2)
    (draws,) = resample([units], num_resamples=50)
    value = claims._Measured(claim(), "p", draws, units).value
    # Shown to MobileNet 0.8; shown to ResNet-56 0.3 and 0.1, in the mean 0.2.
    assert value == pytest.approx(0.5) and draws == pytest.approx(np.full(50, 0.5))


def test_transfer_between_early_exit_models_knows_its_pairs() -> None:
    # Mutants: a model shown its own examples; static ones counted; pairs ignored.
    def found(measure: str, pairs: str) -> set[tuple[str, ...]]:
        tables = MadeUpTables(ZOO, lambda *_: 0.5, pairs)
        return {tuple(each.name for each in unit.models) for unit in MEASURES[measure](tables)}

    assert found("early_to_early", "same") == {("r2", "r5"), ("r5", "r2")}
    assert found("early_to_early", "different") == {("r2", "m2"), ("m2", "r2"), ("r5", "m2"), ("m2", "r5")}
    assert found("cost_change", "same") == {("r1", "r2"), ("r1", "r5"), ("r4", "r2"), ("r4", "r5"), ("m1", "m2")}


def test_sources_of_other_sizes_are_compared_on_a_model_that_is_kin_to_neither() -> None:
    # Mutants: smaller minus larger; a source of the model's own architecture, which transfers better whatever its size.
    large = replace(model("v1", "v"), layer_multiply_adds=(9,))
    tables = MadeUpTables([R1, M1, large, R2], lambda source, _: {"v1": 0.7, "m1": 0.2}.get(source, 0.9))
    (found,) = [unit for unit in MEASURES["cost_change_by_size"](tables)]
    assert tuple(each.name for each in found.models) == ("v1", "m1", "r2")
    assert found.numerator.mean() == pytest.approx(0.5)


# Intervals


def test_resampling_agrees_with_scipy_on_a_mean() -> None:
    # Mutants: images drawn without replacement; a denominator that is not drawn along.
    values = np.random.default_rng(1).normal(0.3, 1, 200)
    counted = (np.arange(200) % 3 > 0).astype(float)
    (draws,) = resample([[unit(values.tolist(), counted=counted.tolist())]], seed=1)
    low, high = np.quantile(draws, (0.025, 0.975))
    kept = values[counted > 0]
    oracle = bootstrap((kept,), np.mean, method="percentile", n_resamples=9999, rng=2).confidence_interval
    assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=0.03)
    assert draws.mean() == pytest.approx(kept.mean(), abs=0.01) and len(draws) == 10_000


def test_paired_comparisons_are_drawn_together() -> None:
    # Mutant: each unit's images drawn on their own: what two units have in common would cancel only by chance.
    values = np.random.default_rng(2).normal(0, 1, 100)
    opposite = [unit(values.tolist()), unit((-values).tolist())]
    assert np.abs(resample([opposite])[0]).max() < 1e-12


def test_questions_asked_together_are_answered_as_if_asked_alone() -> None:
    # Mutants: images drawn once for questions about other images; draws that depend on what else is asked.
    one, other = ([unit(np.random.default_rng(seed).normal(0, 1, size).tolist())] for seed, size in ((3, 60), (4, 90)))
    together = resample([one, other, one[::-1]], num_resamples=500)
    for question, draws in zip((one, other, one), together, strict=True):
        assert np.array_equal(resample([question], num_resamples=500)[0], draws)
    assert abs(together[0].mean() - together[1].mean()) > 1e-6


def test_models_are_drawn_again_only_with_three_seeds_of_every_kind() -> None:
    # Mutants: one seed of a kind taken for enough; units drawn instead of models; spread over seeds left out.
    def units(num_early: int) -> list[Unit]:
        return [
            unit(
                [float(early)] * 50, model(f"e{early}", kind="early-exit", seed=early), model(f"s{static}", seed=static)
            )
            for early in range(num_early)
            for static in range(3)
        ]

    assert not has_enough_seeds(units(2)) and has_enough_seeds(units(3))
    # Mutants: placements of one training, or copies of one seed, taken for training seeds.
    placed = [replace(model(f"e{n}", kind="early-exit", seed=n), exit_costs=(0.1 * n + 0.1, 1.0)) for n in range(3)]
    copies = [model(f"e{n}", kind="early-exit") for n in range(3)]
    for models in (placed, copies):
        assert not has_enough_seeds([unit([1.0], each, model(f"s{n}", seed=n)) for each in models for n in range(3)])
    assert resample([units(2)])[0].std() == 0
    # The mean of three draws of 0, 1 and 2: variance 2/3 over 3.
    assert resample([units(3)])[0].std() == pytest.approx(np.sqrt(2 / 9), rel=0.05)


# Verdicts


@pytest.mark.parametrize(
    ("direction", "low", "high", "verdict"),
    [
        ("greater", 0.03, 0.10, "holds"),
        ("greater", 0.01, 0.10, "undecided"),
        ("greater", -0.10, 0.01, "does not hold"),
        ("less", -0.10, -0.03, "holds"),
        ("less", -0.01, 0.10, "does not hold"),
        ("not greater", -0.10, 0.01, "holds"),
        ("not greater", 0.03, 0.10, "does not hold"),
        ("not greater", 0.01, 0.03, "undecided"),
        ("not less", -0.01, 0.10, "holds"),
        ("within", -0.01, 0.01, "holds"),
        ("within", 0.01, 0.03, "undecided"),
        ("within", -0.10, 0.10, "undecided"),
        ("within", -0.10, -0.03, "does not hold"),
    ],
)
def test_verdicts_by_hand(direction: str, low: float, high: float, verdict: str) -> None:
    # Mutant: any end of any region.
    assert judge(low, high, claim(direction=direction).bounds) == verdict
    shifted = claim(direction=direction, reference=0.5)
    assert judge(low + 0.5, high + 0.5, shifted.bounds) == verdict


def test_holm_by_hand() -> None:
    # Mutants: Bonferroni throughout; the largest chance first; levels that go on loosening after a failure; families
    # mixed; claims that were not measured not counted.
    def one(name: str, chance: float, family: str = "f", images: int = 10) -> claims._Measured:
        share = chance / 2
        draws = np.array([-1.0] * round(share * 10_000) + [1.0] * round((1 - share) * 10_000))
        return claims._Measured(claim(name=name, family=family), "p", draws, [unit([1.0] * images)])

    measured = [one("c", 0.02), one("a", 0.001), one("d", 0.2), one("b", 0.03), one("e", 0.04, "g")]
    levels = claims._levels(measured, {"f": 5, "g": 1})
    # a: 0.05/5, decided; c: 0.02 > 0.05/4, not decided; so b and d are judged as strictly.
    assert levels == pytest.approx([0.0125, 0.01, 0.0125, 0.0125, 0.05])
    # Of too few images nothing is decided, and so nothing is spared the others.
    few = [one("a", 0.001, images=9), one("b", 0.012)]
    assert claims._levels(few, {"f": 5}) == pytest.approx([0.01, 0.01])


def test_a_few_images_that_agree_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: a bootstrap of identical values, which has no width, taken for certainty.
    monkeypatch.undo()
    draws, asked = np.full(1000, 1.0), claim(direction="greater")
    for num_images, verdict in ((99, "undecided"), (100, "holds")):
        row = claims._row(claims._Measured(asked, "p", draws, [unit([1.0] * num_images)]), 0.05)
        assert row["verdict"] == verdict
        assert ("too few images" in str(row["scope"])) == (num_images < 100)


def test_attacks_of_other_numbers_of_steps_count_their_own_passes() -> None:
    # Mutants: rows of one length only; a pass after the last record of a shorter attack.
    rows = pd.DataFrame(
        {"step_exit": [[0, 1], [0, 0, 1, 2]], "step_wrong": [[False, False], [False, False, True, True]]}
    )
    exits, is_made = measures._passes(rows)
    assert is_made.tolist() == [[True, False, False], [True, True, False]]
    assert exits[is_made].tolist() == [0, 0, 0]


def test_claims_come_with_everything_a_reader_needs(study_folder: Path) -> None:
    # Mutants: n of one comparison; a scope that promises more; nothing said of a claim that could not be measured.
    asked = [
        claim(name="own", measure="own_cost_change", direction="within", margin=0.9),
        claim(name="none", measure="cost_change_by_size"),
        claim(name="elsewhere", study="another"),
    ]
    table = judge_claims(study_folder, asked)
    assert table.claim.tolist() == ["own", "none"] * 2 and table.policy.tolist() == ["T=0.60"] * 2 + ["T=0.90"] * 2
    own, none = table.iloc[0], table.iloc[1]
    assert (own.verdict, own.scope, own.num_images, own.num_comparisons) == ("holds", "on these weights", 12, 1)
    assert own.low < own.value < own.high and own.region == "between −90 and 90 %"
    assert own.level == pytest.approx(1 - 0.05 / 3)
    assert none.verdict == "not measured" and np.isnan(none.value) and none.num_images == 0
    assert judge_claims(study_folder, asked).equals(table)  # drawn by a seed


def test_a_verdict_that_turns_with_the_policy_is_marked(study_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: undecided taken for the opposite; a mark on the turned policy alone.
    def by_policy(tables: Tables) -> Iterator[Unit]:
        yield unit([1.0 if tables.where.policy == "T=0.60" else -1.0] * 20)

    def unsure(tables: Tables) -> Iterator[Unit]:
        yield unit([1.0] * 20 if tables.where.policy == "T=0.60" else [1.0, -0.96] * 10)

    monkeypatch.setattr(claims, "MEASURES", {"own_success": by_policy, "own_cost_change": unsure})
    table = judge_claims(
        study_folder, [claim(name="turns", measure="own_success"), claim(name="stays", measure="own_cost_change")]
    )
    assert table[table.claim == "turns"].policy_dependent.tolist() == [True, True]
    assert table[table.claim == "turns"].verdict.tolist() == ["holds", "does not hold"]
    assert table[table.claim == "stays"].verdict.tolist() == ["holds", "undecided"]
    assert not table[table.claim == "stays"].policy_dependent.any()


# The file


def test_shipped_claims_name_shipped_studies_and_state_margins() -> None:
    # Mutants: a claim that no study measures; a margin chosen after the fact.
    shipped = load_claims()
    assert {each.study for each in shipped} <= set(shipped_studies())
    for each in shipped:
        is_cost = "cost" in each.measure
        assert each.margin == (0.05 if is_cost and each.measure != "cost_change_by_size" else 0.02)
        assert each.text.endswith(".")


def test_a_damaged_claims_file_is_named(tmp_path: Path) -> None:
    # Mutant: a stack trace.
    path = tmp_path / "claims.toml"
    with pytest.raises(ExitLensError, match="cannot be read"):
        load_claims(path)
    path.write_text('[[claims]]\nname = "a"\n')
    with pytest.raises(ExitLensError, match=r"claims\.toml: 0\.text"):
        load_claims(path)
    with pytest.raises(ExitLensError, match="needs a measure"):
        claim(measure="luck")
