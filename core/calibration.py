"""Whether confidence means something: reliability, calibration error, and whether it tells right from wrong."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.metrics import Rate, rate

NUM_BINS = 15


@dataclass(frozen=True)
class ConfidenceBin:
    """The images whose confidence lies between two numbers.

    Attributes:
        low: Lower end, part of the bin.
        high: Upper end, part of the last bin only.
        mean_confidence: Of its images.
        accuracy: Share of them that are right.
    """

    low: float
    high: float
    mean_confidence: float
    accuracy: Rate


def confidence_bins(confidence: Tensor, right: Tensor) -> list[ConfidenceBin]:
    """The bins of equal width that hold images, rising.

    Args:
        confidence: (N,) in [0, 1].
        right: (N,), True where the answer is right.
    """
    confidence = confidence.double()
    index = bin_index(confidence)
    counts = torch.bincount(index, minlength=NUM_BINS)
    hits = torch.bincount(index, weights=right.double(), minlength=NUM_BINS)
    sums = torch.bincount(index, weights=confidence, minlength=NUM_BINS)
    return [
        ConfidenceBin(place / NUM_BINS, (place + 1) / NUM_BINS, float(total) / int(count), rate(int(hit), int(count)))
        for place, (count, hit, total) in enumerate(zip(counts, hits, sums, strict=True))
        if count
    ]


def calibration_error(bins: list[ConfidenceBin]) -> float:
    """Expected calibration error (ECE), in [0, 1]: how far accuracy lies from confidence; NaN without images.

    The mean over images of their bin's ``|accuracy - mean confidence|``. Written out, because the bins are there
    for the diagram and torchmetrics takes two seconds to import; a test compares the two.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    num_images = sum(each.accuracy.num_images for each in bins)
    gaps = (each.accuracy.num_images * abs(each.accuracy.value - each.mean_confidence) for each in bins)
    return sum(gaps) / num_images if num_images else math.nan


def calibration_floor(confidence: Tensor) -> float:
    """About the ECE that a perfectly calibrated exit with these confidences would still show; NaN without images.

    A few images never match their confidence exactly: in a bin, the number that are right varies with variance
    ``sum p (1 - p)``, and a normal variable lies on average ``sqrt(2 / pi)`` deviations from its mean.

    Args:
        confidence: (N,) in [0, 1].
    """
    if not len(confidence):
        return math.nan
    confidence = confidence.double()
    variances = torch.bincount(
        bin_index(confidence), weights=confidence * (1 - confidence), minlength=NUM_BINS
    ).clamp_min(0)
    return float((variances * 2 / math.pi).sqrt().sum()) / len(confidence)


def auroc(confidence: Tensor, right: Tensor) -> float:
    """Chance that a right answer is surer than a wrong one, ties counted half; NaN where one of them is missing.

    0.5 means that confidence says nothing of being right, 1 that some threshold parts right from wrong. The area
    under the ROC curve is the Mann-Whitney statistic of ranks.

    Source: Hanley and McNeil, Radiology 143, 1982.

    Args:
        confidence: (N,) in [0, 1].
        right: (N,), True where the answer is right.
    """
    num_right, num_wrong = int(right.sum()), int((~right).sum())
    if not num_right or not num_wrong:
        return math.nan
    # Equal confidences share the mean of their ranks.
    _, group, counts = np.unique(confidence.numpy(), return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[group]
    return float((ranks[right.numpy()].sum() - num_right * (num_right + 1) / 2) / (num_right * num_wrong))


def bin_index(confidence: Tensor) -> Tensor:
    """The bin of each confidence, (N,) in [0, 1]: 0 to ``NUM_BINS`` - 1."""
    return (confidence.double() * NUM_BINS).long().clamp_max(NUM_BINS - 1)
