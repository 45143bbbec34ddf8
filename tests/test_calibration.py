"""Reliability bins, calibration error and AUROC against numbers worked out by hand and against torchmetrics."""

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_calibration_error

from core.calibration import NUM_BINS, auroc, calibration_error, calibration_floor, confidence_bins

CONFIDENCE = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
RIGHT = torch.tensor([True, True, True, False, True, False])
NOTHING, NO_TRUTH = torch.tensor([]), torch.tensor([], dtype=torch.bool)


def drawn(num_images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Confidences in steps, some equal and none on an edge of a bin; answers that are right a little too often."""
    generator = torch.Generator().manual_seed(seed)
    confidence = ((torch.rand(num_images, generator=generator) * 60).floor() + 0.3) / 61
    return confidence, torch.rand(num_images, generator=generator) < confidence**0.7


def test_bins_hold_their_images_and_nothing_else() -> None:
    # Mutant: bins rounded to the nearest edge, or the mean of the bin's ends taken for that of its images.
    low, high = confidence_bins(CONFIDENCE, RIGHT)
    assert (low.low, low.high) == pytest.approx((8 / 15, 9 / 15)) and (high.low, high.high) == pytest.approx(
        (14 / 15, 1)
    )
    assert (low.accuracy.num_hits, low.accuracy.num_images, low.mean_confidence) == (1, 2, pytest.approx(0.55))
    assert (high.accuracy.num_hits, high.accuracy.num_images, high.mean_confidence) == (3, 4, pytest.approx(0.95))


def test_full_confidence_lies_in_the_last_bin() -> None:
    # Mutant: a sixteenth bin for 1.0, or an index past the end.
    (only,) = confidence_bins(torch.tensor([1.0, 0.97]), torch.tensor([True, True]))
    assert only.high == 1 and only.accuracy.num_images == 2


def test_calibration_error_of_six_images_worked_out_by_hand() -> None:
    # Mutant: bins weighted alike (0.125), or gaps that cancel. By hand: (4 * |0.75 - 0.95| + 2 * |0.5 - 0.55|) / 6.
    assert calibration_error(confidence_bins(CONFIDENCE, RIGHT)) == pytest.approx(0.15)


@pytest.mark.parametrize("num_images", [1, 20, 5000])
def test_calibration_error_equals_that_of_torchmetrics(num_images: int) -> None:
    # Mutant: squared gaps, or another number of bins.
    confidence, right = drawn(num_images, seed=num_images)
    expected = binary_calibration_error(confidence, right.int(), n_bins=NUM_BINS).item()
    assert calibration_error(confidence_bins(confidence, right)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("num_images", [500, 5000])
def test_floor_is_the_error_that_calibrated_exits_show_on_average(num_images: int) -> None:
    # Mutant: the factor sqrt(2 / pi) left out (25 % more), or variances not summed by bin.
    generator = torch.Generator().manual_seed(0)
    confidence = 0.3 + 0.7 * torch.rand(num_images, generator=generator)
    errors = [
        calibration_error(confidence_bins(confidence, torch.rand(num_images, generator=generator) < confidence))
        for _ in range(300)
    ]
    assert calibration_floor(confidence) == pytest.approx(sum(errors) / len(errors), rel=0.06)


def test_floor_of_two_coins_worked_out_by_hand() -> None:
    # Mutant: divided by the square root of n. By hand: sqrt(2 / pi * (0.25 + 0.25)) / 2.
    assert calibration_floor(torch.tensor([0.5, 0.5])) == pytest.approx(math.sqrt(1 / math.pi) / 2)
    assert calibration_floor(torch.ones(9)) == 0


def test_auroc_counts_the_pairs_in_order() -> None:
    # Mutant: ranks from the top (0.25), or ties that count fully. By hand: 3 of 4 pairs; a tie is half a pair.
    right = torch.tensor([True, False, True, False])
    assert auroc(torch.tensor([0.9, 0.8, 0.7, 0.6]), right) == 0.75
    assert auroc(torch.tensor([0.9, 0.9]), right[:2]) == 0.5
    assert auroc(torch.tensor([0.9, 0.8, 0.9, 0.8]), right) == 1


@pytest.mark.parametrize("num_images", [20, 5000])
def test_auroc_equals_that_of_torchmetrics_ties_included(num_images: int) -> None:
    # Mutant: the first of equal confidences ranked before the others.
    confidence, right = drawn(num_images, seed=num_images)
    assert len(confidence.unique()) < num_images
    assert auroc(confidence, right) == pytest.approx(binary_auroc(confidence, right.int()).item(), abs=1e-6)


def test_what_nothing_was_measured_on_is_no_number() -> None:
    # Mutant: 0 where there is no image; 0.5 or 1 where nothing was wrong.
    assert confidence_bins(NOTHING, NO_TRUTH) == []
    assert math.isnan(calibration_error([])) and math.isnan(calibration_floor(NOTHING))
    for right in (NO_TRUTH, torch.tensor([True, True]), torch.tensor([False, False])):
        assert math.isnan(auroc(torch.full(right.shape, 0.9), right))
