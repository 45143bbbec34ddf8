"""Tables about one model: end points and counts worked out by hand."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from toys import answered_image_set, toy_card, toy_model

from core import model_tables
from core.checkpoints import ModelCard
from core.evaluation import Evaluation, EvaluationSpec, evaluate
from core.exits import ExitPolicy
from core.metrics import OperatingPoint, rate
from core.model_tables import (
    AMONG,
    CALIBRATION,
    CONFUSION,
    CURVE,
    MODEL_EXITS,
    OVERTHINKING,
    POINTS,
    RELIABILITY,
    confusion_table,
    curve_table,
    model_exits_table,
    operating_points_table,
    overthinking_table,
    reliability_tables,
)
from core.models.costs import multiply_adds, static_fraction

# Five images of class 0 and one of class 1 at three exits: the class predicted, and how surely.
LABELS = torch.tensor([0, 0, 0, 0, 0, 1])
PREDICTED = torch.tensor([[0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 0], [1, 0, 0], [0, 1, 1]])
CONFIDENCE = torch.tensor(
    [[0.95, 0.99, 0.99], [0.5, 0.6, 0.7], [0.5, 0.6, 0.7], [1.0, 0.9, 0.9], [0.4, 0.93, 0.99], [0.6, 0.92, 0.99]]
)
EVALUATION = Evaluation(EvaluationSpec("toy", "abc", "toy:test", 6), LABELS, CONFIDENCE, PREDICTED, 0.1)
POLICY = ExitPolicy(0.9)
MODEL = toy_model(num_exits=3, dtype=torch.float32)
LAYERS, CLASSIFIERS = multiply_adds(MODEL, MODEL.image_size)
POINT = OperatingPoint("loses_5_percent", 0.9, 0.75, 0.4, (0.5, 0.25, 0.25), 8)


@pytest.fixture(scope="module")
def card() -> ModelCard:
    made = toy_card(MODEL, "toy-early-exit", answered_image_set(MODEL), operating_points=(POINT,))
    return replace(made, exit_costs=(0.2, 0.6, 1.0))


@pytest.fixture(scope="module")
def curve(card: ModelCard) -> pd.DataFrame:
    return curve_table(EVALUATION, card, "final", static_cost=0.8)


def test_every_builder_fits_its_schema(card: ModelCard, curve: pd.DataFrame) -> None:
    # Mutant: a builder that returns its frame unchecked with a column more, or a schema without a builder.
    calibration, reliability = reliability_tables(EVALUATION, POLICY)
    tables = {
        MODEL_EXITS.name: model_exits_table(EVALUATION, card, POLICY, LAYERS, CLASSIFIERS),
        CURVE.name: curve,
        POINTS.name: operating_points_table(card, curve),
        CALIBRATION.name: calibration,
        RELIABILITY.name: reliability,
        OVERTHINKING.name: overthinking_table(EVALUATION, POLICY),
        CONFUSION.name: confusion_table(EVALUATION, POLICY, 4),
    }
    schemas = [each for each in vars(model_tables).values() if isinstance(each, model_tables.TableSchema)]
    assert {schema.name for schema in schemas} == set(tables)
    for schema in schemas:
        assert list(schema.check(tables[schema.name]).columns) == list(schema.columns)


def test_exits_are_counted_on_all_images_and_on_those_that_leave_there(card: ModelCard) -> None:
    # Mutant: those that reach an exit taken for those that leave, or the exit's own answer for the deployed one.
    table = model_exits_table(EVALUATION, card, POLICY, LAYERS, CLASSIFIERS)
    assert list(zip(table.num_right, table.num_images, strict=True)) == [(3, 6), (3, 6), (5, 6)]
    # At 0.9: images 0 and 3 leave at exit 1, images 4 and 5 at exit 2, images 1 and 2 at the end.
    assert list(zip(table.leaving_num_right, table.leaving_num_images, strict=True)) == [(1, 2), (2, 2), (1, 2)]
    assert table.cost.tolist() == [0.2, 0.6, 1.0]
    assert table.relative_cost.tolist() == pytest.approx(
        [cost / static_fraction(LAYERS, CLASSIFIERS) for cost in (0.2, 0.6, 1.0)]
    )
    assert table.layer_multiply_adds.tolist() == list(LAYERS)
    assert table.card_accuracy.tolist() == [share.value for share in card.test]


def test_the_curve_runs_from_the_first_exit_to_the_final_one(curve: pd.DataFrame) -> None:
    # Mutant: threshold 1 taken for the end: image 3 is wrong at exit 1 with a confidence of 1, so it still leaves.
    first, sure, last = curve.iloc[0], curve.iloc[100], curve.iloc[-1]
    assert (first.threshold, first.num_right, first.cost, first.relative_cost) == (
        0,
        3,
        pytest.approx(0.2),
        pytest.approx(0.25),
    )
    assert (sure.threshold, sure.num_right, sure.cost) == (1, 4, pytest.approx((5 * 1 + 0.2) / 6))
    assert (last.threshold, last.num_right, last.cost, last.relative_cost) == (math.inf, 5, 1, pytest.approx(1.25))
    assert len(curve) == 102 and curve.threshold.is_monotonic_increasing
    assert curve.cost.diff()[1:].min() > -1e-12


def test_the_curve_takes_the_fallback_that_is_in_force(card: ModelCard) -> None:
    # Mutant: the fallback ``final`` whatever was chosen: image 2 is wrong at the end and right at no surer exit.
    sure = replace(EVALUATION, confidence=CONFIDENCE.clone())
    sure.confidence[2] = torch.tensor([0.8, 0.6, 0.7])
    final, confident = (curve_table(sure, card, fallback, 0.8) for fallback in ("final", "most_confident"))
    assert (final.num_right[90], confident.num_right[90]) == (4, 5)
    assert final.cost[90] == confident.cost[90]


def test_operating_points_stand_where_the_curve_has_their_thresholds(card: ModelCard, curve: pd.DataFrame) -> None:
    # Mutant: validation numbers printed as if they were measured here.
    (row,) = operating_points_table(card, curve).to_dict("records")
    assert (row["name"], row["threshold"]) == ("loses_5_percent", 0.9)
    assert (row["validation_num_right"], row["validation_num_images"], row["validation_cost"]) == (6, 8, 0.4)
    assert (row["num_right"], row["num_images"], row["cost"]) == (4, 6, pytest.approx((2 * 0.2 + 2 * 0.6 + 2) / 6))
    assert row["validation_low"] == rate(6, 8).low and row["low"] == rate(4, 6).low


def test_calibration_counts_all_images_and_those_that_reach_the_exit() -> None:
    # Mutant: those that leave there counted as those that reach it, or the first exit's confidence used for all.
    calibration, reliability = reliability_tables(EVALUATION, POLICY)
    counts = calibration.pivot(index="exit_index", columns="among", values="num_images")
    assert counts[AMONG[0]].tolist() == [6, 6, 6] and counts[AMONG[1]].tolist() == [6, 4, 2]
    last = calibration.set_index(["exit_index", "among"]).loc[(2, AMONG[1])]
    # Images 1 (right) and 2 (wrong), both 0.7 sure: |0.5 - 0.7|, and a tie.
    assert (last.ece, last.auroc, last.mean_confidence) == pytest.approx((0.2, 0.5, 0.7), abs=1e-6)
    whole = reliability[(reliability.exit_index == 2) & (reliability.among == AMONG[1])]
    assert len(whole) == 1 and whole.num_right.item() == 1 and whole.num_images.item() == 2


def test_an_exit_that_nobody_reaches_has_no_calibration() -> None:
    # Mutant: a table that fails, or 0 where nothing was measured.
    calibration, reliability = reliability_tables(EVALUATION, ExitPolicy(0.0))
    beyond = calibration[(calibration.among == AMONG[1]) & (calibration.exit_index > 0)]
    assert (beyond.num_images == 0).all() and beyond[["ece", "auroc", "ece_floor", "accuracy"]].isna().all().all()
    assert reliability[(reliability.among == AMONG[1]) & (reliability.exit_index > 0)].empty


def test_overthinking_is_counted_by_hand() -> None:
    # Mutant: the exit taken counted as an earlier one, or wrong answers of all images as the denominator.
    table = overthinking_table(EVALUATION, POLICY).set_index(["when", "effect", "denominator"])
    counts = {key: (row.num_hits, row.num_images) for key, row in table.iterrows()}
    # Under the policy images 1 and 2 were right at exit 1 and went on; 2 ends wrong, and 3 is wrong without it.
    assert counts["under the policy", "wasteful", "all"] == (2, 6)
    assert counts["under the policy", "destructive", "all"] == (1, 6)
    assert counts["under the policy", "destructive", "wrong answers"] == (1, 2)
    # Without early exits 0, 1, 2, 4 and 5 were right before; of them 2 ends wrong, the only one that does.
    assert counts["if no image left early", "wasteful", "all"] == (5, 6)
    assert counts["if no image left early", "destructive", "wrong answers"] == (1, 1)


def test_confusion_counts_answers_by_true_class() -> None:
    # Mutant: rows and columns exchanged, or shares of the answers instead of the true class.
    table = confusion_table(EVALUATION, POLICY, 3).set_index(["label", "predicted"])
    # Answers at 0.9: 0, 0, 1, 1, 0 for class 0 and 1 for class 1.
    assert table.num_answered.tolist() == [3, 2, 0, 0, 1, 0, 0, 0, 0]
    assert table.share.loc[(0, 1)] == 0.4 and table.low.loc[(0, 1)] == rate(2, 5).low
    assert table.share.loc[2].isna().all() and (table.num_images.loc[2] == 0).all()


def test_a_static_model_fills_every_table() -> None:
    # Mutant: a table that takes a second exit for granted.
    model = toy_model(num_exits=1, dtype=torch.float32)
    images = answered_image_set(model)
    static = toy_card(model, "toy-static", images)
    done = evaluate(EvaluationSpec("toy-static", static.weights_sha256, "toy:test", len(images)), model, images)
    layers, classifiers = multiply_adds(model, model.image_size)
    table = model_exits_table(done, static, POLICY, layers, classifiers)
    assert table.num_right.tolist() == [static.test[0].num_hits] and table.relative_cost.tolist() == [1]
    assert (overthinking_table(done, POLICY).num_hits == 0).all()
    ends = curve_table(done, static, "final", 1.0).iloc[[0, -1]]
    assert ends.num_right.tolist() == [static.test[0].num_hits] * 2 and ends.cost.tolist() == [1, 1]
