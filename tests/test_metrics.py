"""Rates, shifts, costs and operating points against numbers worked out by hand; each docstring names its mutant."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap
from torch import Tensor

from core.exits import ExitPolicy, decide, never_leaving
from core.metrics import (
    THRESHOLDS,
    eec_floor,
    eec_trapezoid,
    exit_shares,
    exit_shift,
    mean_change,
    mean_saving,
    operating_curve,
    operating_points,
    overthinking,
    rate,
    rate_of,
)

COSTS = (0.25, 1.0)
NUM_CLASSES = 4


def logits_of(exits: list[list[tuple[int, float]]]) -> Tensor:
    """Logits (N, K, C) in which exit k of an image gives its class the confidence given beside it."""
    probabilities = torch.empty(len(exits), len(exits[0]), NUM_CLASSES, dtype=torch.float64)
    for row, image in enumerate(exits):
        for exit_index, (predicted, confidence) in enumerate(image):
            probabilities[row, exit_index] = (1 - confidence) / (NUM_CLASSES - 1)
            probabilities[row, exit_index, predicted] = confidence
    return probabilities.log()


@pytest.mark.parametrize(
    ("hits", "images", "low", "high"),
    [(7, 8, 0.529, 0.978), (0, 8, 0.0, 0.324), (8, 8, 0.676, 1.0), (50, 100, 0.404, 0.596), (1, 1, 0.207, 1.0)],
)
def test_rate_has_the_wilson_interval_worked_out_by_hand(hits, images, low, high):
    """Mutant: ``"wilson"`` turned into ``"exact"``, or 0.95 into 0.99."""
    measured = rate(hits, images)
    assert (measured.num_hits, measured.num_images, measured.value) == (hits, images, hits / images)
    assert (measured.low, measured.high) == pytest.approx((low, high), abs=5e-4)


@given(st.integers(1, 5000).flatmap(lambda images: st.tuples(st.integers(0, images), st.just(images))))
def test_rate_solves_the_quadratic_that_defines_wilson(counts):
    """Mutant: any other interval; Wilson's ends are the p at which (value - p)**2 = z**2 p (1 - p) / n."""
    measured = rate(*counts)
    assert 0 <= measured.low <= measured.value <= measured.high <= 1
    for end in (measured.low, measured.high):
        distance = (measured.value - end) ** 2
        assert distance == pytest.approx(1.959963984540054**2 * end * (1 - end) / counts[1], abs=1e-12)


def test_rate_of_no_images_is_not_a_number_and_could_be_anything():
    """Mutant: the special case dropped (a division by zero), or 0 returned as if it had been measured."""
    nothing = rate(0, 0)
    assert math.isnan(nothing.value)
    assert (nothing.num_hits, nothing.num_images, nothing.low, nothing.high) == (0, 0, 0.0, 1.0)


@pytest.mark.parametrize(("hits", "images"), [(9, 8), (-1, 8), (1, 0), (0, -1)])
def test_rate_refuses_counts_that_cannot_be(hits, images):
    """Mutant: the check dropped."""
    with pytest.raises(ValueError, match="make no rate"):
        rate(hits, images)


def test_rate_of_counts_only_among_the_given_images():
    """Mutant: hits counted outside the mask, or all images as the denominator."""
    hits = torch.tensor([True, True, False, False, True])
    among = torch.tensor([True, False, True, True, False])
    inside, everywhere = rate_of(hits, among), rate_of(hits)
    assert (inside.num_hits, inside.num_images) == (1, 3)
    assert (everywhere.num_hits, everywhere.num_images) == (3, 5)
    assert rate_of(hits, torch.zeros(5, dtype=torch.bool)).num_images == 0


def test_exit_shift_is_negative_where_the_attack_made_an_image_leave_sooner():
    """Mutant: clean - adversarial."""
    shift = exit_shift(torch.tensor([4, 2, 0, 6]), torch.tensor([1, 2, 6, 5]))
    assert shift.tolist() == [-3, 0, 6, -1]


def test_exit_shift_refuses_different_numbers_of_images():
    """Mutant: the check dropped; one exit would be compared with all of the others."""
    with pytest.raises(ValueError, match="cannot be compared"):
        exit_shift(torch.tensor([1]), torch.tensor([0, 1]))


def test_exit_shares_name_every_exit_and_sum_to_one():
    """Mutant: ``minlength`` dropped (exits that nobody takes vanish), or a float32 division."""
    assert exit_shares(torch.tensor([0, 2, 2, 2]), 4) == [0.25, 0.0, 0.75, 0.0]
    assert exit_shares(torch.tensor([0, 1, 1]), 2) == [1 / 3, 2 / 3]
    assert exit_shares(torch.tensor([], dtype=torch.long), 3) == [0.0, 0.0, 0.0]


def test_cost_is_that_of_the_last_exit_computed():
    """Mutant: ``costs`` looks up ``answered_exit``: an unsure image answered by exit 1 would seem cheap."""
    logits = logits_of([[(0, 0.9), (0, 0.9)], [(0, 0.7), (1, 0.6)], [(1, 0.4), (0, 0.95)]])
    decisions = decide(logits, ExitPolicy(0.8, "most_confident"))
    assert decisions.answered_exit.tolist() == [0, 0, 1]
    assert decisions.costs(COSTS).tolist() == [0.25, 1.0, 1.0]


def test_operating_curve_equals_four_images_worked_out_by_hand():
    """Mutant: exit 1 asked at ``>`` a lower threshold, cost of the wrong exit, or accuracy of the final exit only."""
    labels = torch.zeros(4, dtype=torch.long)
    first_exits = [(1, 0.555), (0, 0.655), (0, 0.755), (0, 0.955)]
    curve = operating_curve(logits_of([[exit_1, (0, 0.99)] for exit_1 in first_exits]), labels, COSTS)
    assert tuple(point.threshold for point in curve) == THRESHOLDS
    assert (THRESHOLDS[0], THRESHOLDS[90], THRESHOLDS[-1], len(THRESHOLDS)) == (0.0, 0.9, 1.0, 101)
    # From this hundredth on: accuracy, mean cost, share that leaves at exit 1.
    by_hand = {0: (0.75, 0.25, 1.0), 56: (1.0, 0.4375, 0.75), 66: (1.0, 0.625, 0.5), 76: (1.0, 0.8125, 0.25)}
    by_hand[96] = (1.0, 1.0, 0.0)
    for hundredth, point in enumerate(curve):
        accuracy, cost, leaving = by_hand[max(start for start in by_hand if start <= hundredth)]
        assert (point.accuracy, point.mean_cost) == pytest.approx((accuracy, cost)), point.threshold
        assert point.exit_shares == pytest.approx((leaving, 1 - leaving)), point.threshold
        assert point.num_images == 4


def test_operating_points_are_the_cheapest_thresholds_that_lose_little():
    """Mutant: 5 and 15 percent left out, ``>`` turned into ``<``, or points measured against exit 1."""
    # 44 images sure and right at exit 1; 4 wrong there at 0.405 and 2 at 0.605; the final exit is always right.
    first_exits = [(0, 0.995)] * 44 + [(1, 0.405)] * 4 + [(1, 0.605)] * 2
    logits, labels = logits_of([[exit_1, (0, 0.99)] for exit_1 in first_exits]), torch.zeros(50, dtype=torch.long)
    points = {point.name: point for point in operating_points(logits, labels, COSTS)}
    assert {name: (point.threshold, round(point.accuracy, 12)) for name, point in points.items()} == {
        "loses_1_percent": (0.61, 1.0),
        "loses_5_percent": (0.41, 0.96),
        "loses_15_percent": (0.0, 0.88),
        "threshold_0.90": (0.9, 1.0),
    }
    # Cost by hand at 0.61: 44 leave at a quarter, 6 compute everything.
    assert points["loses_1_percent"].mean_cost == pytest.approx((44 * 0.25 + 6) / 50)
    assert points["loses_1_percent"].exit_shares == pytest.approx((0.88, 0.12))


def test_half_cost_is_the_threshold_nearest_to_half_the_computation():
    """Mutant: ``abs`` dropped, which takes the cheapest threshold."""
    first_exits = [(1, 0.555), (0, 0.655), (0, 0.755), (0, 0.955)]
    logits, labels = logits_of([[exit_1, (0, 0.99)] for exit_1 in first_exits]), torch.zeros(4, dtype=torch.long)
    points = {point.name: point for point in operating_points(logits, labels, COSTS)}
    assert (points["half_cost"].threshold, points["half_cost"].mean_cost) == (0.56, 0.4375)


def test_a_threshold_counts_as_safe_only_if_every_higher_one_is():
    """Mutant: the lowest threshold that loses little, though a higher one loses more."""
    overthought = [(0, 0.405), (1, 0.99)]  # right early, wrong at the end
    sure_and_wrong = [(1, 0.805), (0, 0.99)]
    logits = logits_of([overthought, sure_and_wrong, *[[(0, 0.995), (0, 0.99)]] * 8])
    labels = torch.zeros(10, dtype=torch.long)
    accuracies = {point.threshold: point.accuracy for point in operating_curve(logits, labels, COSTS)}
    assert [accuracies[threshold] for threshold in (0.0, 0.41, 0.8, 0.81)] == pytest.approx([0.9, 0.8, 0.8, 0.9])
    points = {point.name: point.threshold for point in operating_points(logits, labels, COSTS)}
    assert (points["loses_1_percent"], points["loses_5_percent"], points["loses_15_percent"]) == (0.81, 0.81, 0.0)


def test_a_point_that_no_threshold_meets_is_left_out():
    """Mutant: the highest threshold told as one that loses little, the nearest cost told as half of it."""
    # Exit 1 is wholly sure and wrong on 3 of 10 images: they leave there at every threshold.
    logits = torch.zeros(10, 2, 2)
    logits[:, :, 0] = 60
    logits[:3, 0, 0] = -60
    points = operating_points(logits, torch.zeros(10, dtype=torch.long), (0.8, 1.0))
    assert [point.name for point in points] == ["threshold_0.90"]
    assert points[0].accuracy == pytest.approx(0.7)


def test_losing_is_relative_to_the_final_exit():
    """Mutant: ``final * (1 - percent / 100)`` turned into ``1 - percent / 100``."""
    # The final exit is right on 5 of 10 images, and so is exit 1: no threshold loses anything.
    logits = logits_of([[(row % 2, 0.9), (row % 2, 0.99)] for row in range(10)])
    points = {
        point.name: point.threshold for point in operating_points(logits, torch.zeros(10, dtype=torch.long), COSTS)
    }
    assert points["loses_1_percent"] == 0.0


def test_a_static_model_has_no_operating_points():
    """Mutant: the early return dropped."""
    assert operating_points(logits_of([[(0, 0.9)]]), torch.tensor([0]), (1.0,)) == ()


@pytest.mark.parametrize("num_images", [1, 2, 7, 8, 20, 1000, 9980])
def test_wilson_interval_equals_scipys(num_images: int) -> None:
    # Mutant: a continuity correction, or a share clipped instead of the interval's end.
    for num_hits in {0, 1, num_images // 3, num_images - 1, num_images}:
        expected = binomtest(num_hits, num_images).proportion_ci(0.95, "wilson")
        share = rate(num_hits, num_images)
        assert (share.low, share.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_overthinking_is_wasteful_where_an_earlier_exit_was_right_and_destructive_where_the_answer_is_wrong():
    """Mutant: the exit taken counted as an earlier one (image 3), or exits after it counted too (image 4)."""
    sure, unsure = 0.95, 0.5
    images = [
        [(0, sure), (0, sure), (0, sure)],  # right and gone at once
        [(0, unsure), (1, unsure), (0, sure)],  # right early, right at the end
        [(0, unsure), (1, unsure), (1, sure)],  # right early, wrong at the end
        [(1, unsure), (0, sure), (0, sure)],  # right only where it left
        [(1, sure), (0, sure), (0, sure)],  # wrong where it left, right later
        [(0, unsure), (1, sure), (0, sure)],  # right early, wrong where it left, though right at the end
    ]
    logits, labels = logits_of(images), torch.zeros(6, dtype=torch.long)
    decisions = decide(logits, ExitPolicy(0.9))
    wasteful, destructive = overthinking(logits.argmax(-1), labels, decisions)
    assert wasteful.tolist() == [False, True, True, False, False, True]
    assert destructive.tolist() == [False, False, True, False, False, True]


def test_overthinking_goes_by_the_exits_computed_not_by_the_one_that_answered():
    """Mutant: ``answered_exit``: under most_confident the first exit may answer after all were computed."""
    logits = logits_of([[(0, 0.8), (1, 0.5)]])
    decisions = decide(logits, ExitPolicy(0.9, "most_confident"))
    assert (decisions.answered_exit.item(), decisions.computed_exit.item()) == (0, 1)
    wasteful, destructive = overthinking(logits.argmax(-1), torch.tensor([0]), decisions)
    assert (wasteful.item(), destructive.item()) == (True, False)


def test_an_image_that_never_leaves_early_is_answered_by_the_final_exit_whatever_its_confidence():
    """Mutant: threshold 1 in its place, at which a confidence of 1 still leaves."""
    confidence, predicted = torch.tensor([[1.0, 0.4]]), torch.tensor([[2, 3]])
    decisions = never_leaving(confidence, predicted)
    assert (decisions.computed_exit.item(), decisions.answered_exit.item()) == (1, 1)
    assert (decisions.prediction.item(), decisions.confidence.item()) == (3, pytest.approx(0.4))


EXIT_COSTS = (0.2, 0.6, 1.0)


def test_mean_saving_is_one_minus_the_mean_cost() -> None:
    # Mutant: the mean cost itself, or the cost of the mean exit.
    assert mean_saving(torch.tensor([0, 0, 1, 2]), EXIT_COSTS) == pytest.approx(1 - (0.2 + 0.2 + 0.6 + 1.0) / 4)
    assert mean_saving(torch.tensor([2, 2]), EXIT_COSTS) == 0.0


def test_efficacy_is_the_area_under_the_trapezoid_worked_out_by_hand() -> None:
    # Mutant: the point (0, 0) left out, steps instead of trapezoids, or shares instead of running sums.
    # Out by 0.2: one half; by 0.6: three quarters; by 1: all.
    by_hand = 0.2 * (0 + 0.5) / 2 + 0.4 * (0.5 + 0.75) / 2 + 0.4 * (0.75 + 1) / 2
    assert eec_trapezoid(torch.tensor([0, 0, 1, 2]), EXIT_COSTS) == pytest.approx(by_hand)


@pytest.mark.parametrize(("costs", "floor"), [(EXIT_COSTS, 0.2), ((0.2, 0.9, 1.0), 0.05), ((1.0,), 0.5)])
def test_efficacy_has_its_floor_where_no_image_leaves_early(costs: tuple[float, ...], floor: float) -> None:
    # Mutant: a floor of nought, or one from the first exit's cost.
    nobody = torch.full((7,), len(costs) - 1)
    assert eec_floor(costs) == pytest.approx(floor)
    assert eec_trapezoid(nobody, costs) == pytest.approx(floor)
    assert eec_trapezoid(torch.zeros(7, dtype=torch.long), costs) >= floor


def test_mean_change_is_of_pairs_and_its_interval_that_of_scipys_bootstrap() -> None:
    # Mutant: before and after drawn apart (three times as wide here), before - after, or a 90 % interval.
    generator = torch.Generator().manual_seed(1)
    before = torch.rand(40, generator=generator, dtype=torch.float64)
    after = before - 0.2 + 0.1 * torch.rand(40, generator=generator, dtype=torch.float64)
    change = mean_change(before, after)
    difference = (after - before).numpy()
    expected = bootstrap((difference,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    assert (change.value, change.num_images) == (pytest.approx(difference.mean()), 40)
    assert (change.low, change.high) == pytest.approx((expected.low, expected.high), abs=5e-4)
    assert change == mean_change(before, after)


def test_change_that_is_the_same_for_all_has_no_width() -> None:
    # Mutant: an interval about the values instead of their differences.
    before = torch.tensor([0.25, 0.5, 1.0])
    change = mean_change(before, before - 0.25)
    assert (change.value, change.low, change.high) == (-0.25, -0.25, -0.25)


@pytest.mark.parametrize(("before", "after"), [([0.1], [0.1, 0.2]), ([], [])])
def test_change_without_pairs_is_refused(before: list[float], after: list[float]) -> None:
    # Mutant: the check dropped; one value would be compared with all.
    with pytest.raises(ValueError, match="make no pairs"):
        mean_change(torch.tensor(before), torch.tensor(after))
