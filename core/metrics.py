"""Numbers: rates with intervals, exit shift, cost, operating points."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from core.exits import ExitDecisions, ExitPolicy, Fallback, confidences, decide_from_confidences

NORMAL_QUANTILE = NormalDist().inv_cdf(0.975)
THRESHOLDS = tuple(step / 100 for step in range(101))
NUM_RESAMPLES = 10_000
_NEAR_HALF = 0.1  # a mean cost further from a half is none


@dataclass(frozen=True)
class Rate:
    """A share of images with its 95 % Wilson interval.

    Attributes:
        num_hits: Images that count.
        num_images: The denominator.
        value: ``num_hits / num_images`` in [0, 1]; NaN when the denominator is 0.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    num_hits: int
    num_images: int
    value: float
    low: float
    high: float


def rate(num_hits: int, num_images: int) -> Rate:
    """The share ``num_hits`` of ``num_images`` with its 95 % Wilson interval.

    Source: Wilson, Probable Inference, JASA 1927.

    Raises:
        ValueError: If the hits are negative or more than the images.
    """
    if not 0 <= num_hits <= num_images:
        raise ValueError(f"{num_hits} hits of {num_images} images make no rate.")
    if num_images == 0:
        return Rate(0, 0, float("nan"), 0.0, 1.0)
    # Written out: importing scipy.stats for it would take a second of every cold start. A test compares the two.
    share, weight = num_hits / num_images, NORMAL_QUANTILE**2 / num_images
    centre = (share + weight / 2) / (1 + weight)
    reach = math.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
    low = 0.0 if num_hits == 0 else centre - reach
    high = 1.0 if num_hits == num_images else centre + reach
    return Rate(num_hits, num_images, share, low, high)


def rate_of(hits: Tensor, among: Tensor | None = None) -> Rate:
    """Share of True in ``hits`` (N,), counted only where ``among`` (N,) is True."""
    counted = torch.ones_like(hits) if among is None else among
    return rate(int((hits & counted).sum()), int(counted.sum()))


def exit_shift(clean: Tensor, adversarial: Tensor) -> Tensor:
    """How many exits later each image leaves once attacked.

    Args:
        clean: Computed exit of each unmodified image, (N,), 0-based.
        adversarial: Computed exit of the same images after the attack, (N,).

    Returns:
        (N,) whole numbers; negative where the attack made an image leave sooner.

    Raises:
        ValueError: If the two differ in length.
    """
    if clean.shape != adversarial.shape:
        raise ValueError(f"{len(clean)} clean and {len(adversarial)} adversarial exits cannot be compared.")
    return adversarial - clean


def exit_shares(computed_exit: Tensor, num_exits: int) -> list[float]:
    """Share of images whose last computed exit is each of the K exits; sums to 1."""
    counts = torch.bincount(computed_exit.cpu(), minlength=num_exits)
    return (counts.double() / max(len(computed_exit), 1)).tolist()


def overthinking(predicted: Tensor, labels: Tensor, decisions: ExitDecisions) -> tuple[Tensor, Tensor]:
    """Which images a network went on computing although it had the right answer already.

    Args:
        predicted: (N, K) class predicted by every exit.
        labels: (N,).
        decisions: Where the images leave.

    Returns:
        Two (N,) of truths: wasteful, where an exit before the last one computed was right; and destructive,
        those of them whose answer is wrong.

    Source: Kaya et al., Shallow-Deep Networks, ICML 2019, section 5, there for images that never leave early.
    """
    earlier = torch.arange(predicted.shape[1]) < decisions.computed_exit[:, None]
    wasteful = ((predicted == labels[:, None]) & earlier).any(dim=1)
    return wasteful, wasteful & (decisions.prediction != labels)


def mean_saving(computed_exit: Tensor, exit_costs: Sequence[float]) -> float:
    """Share of the multiply-adds that leaving early saves, in [0, 1): 1 minus the mean cost fraction.

    Args:
        computed_exit: Last exit computed for each image, (N,), 0-based; one image or more.
        exit_costs: Cost fraction of each exit, K of them, the last one 1.
    """
    return 1 - torch.tensor(exit_costs, dtype=torch.float64)[computed_exit.cpu()].mean().item()


def eec_trapezoid(computed_exit: Tensor, exit_costs: Sequence[float]) -> float:
    """The published efficacy of early exits: area under the share of images that are out by each cost, in [0, 1).

    A trapezoid through (0, 0) and, for each exit, (its cost, share of images out by then); the last point is
    (1, 1). Even where no image leaves early it is ``eec_floor``, so the two are shown together.

    Source: Hong et al., A Panda? No, It's a Sloth, ICLR 2021, section 4, early-exit capability (EEC) curve.

    Args:
        computed_exit: Last exit computed for each image, (N,), 0-based; one image or more.
        exit_costs: Cost fraction of each exit, K of them, the last one 1.
    """
    out = np.cumsum(exit_shares(computed_exit, len(exit_costs)))
    return float(np.trapezoid([0.0, *out], [0.0, *exit_costs]))


def eec_floor(exit_costs: Sequence[float]) -> float:
    """The ``eec_trapezoid`` of a network that no image leaves early: the triangle under its last stretch."""
    return (1 - ([0.0, *exit_costs][-2])) / 2


@dataclass(frozen=True)
class Change:
    """A mean difference with its 95 % interval.

    Attributes:
        value: Mean of after minus before.
        low: Lower end of the interval.
        high: Upper end of the interval.
        num_images: Pairs it was measured on.
    """

    value: float
    low: float
    high: float
    num_images: int


def mean_change(before: Tensor, after: Tensor, seed: int = 0) -> Change:
    """Mean of ``after - before`` over pairs, with its 95 % percentile-bootstrap interval.

    Whole pairs are drawn again, so what the images have in common counts once. Too narrow below about ten images.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    Args:
        before: (N,), such as cost fractions of clean images; one image or more.
        after: (N,) of the same images.
        seed: Draws the resamples.

    Raises:
        ValueError: If the two differ in length, or there is no pair.
    """
    if before.shape != after.shape or not len(before):
        raise ValueError(f"{len(before)} values before and {len(after)} after make no pairs.")
    # Costs take few values: to draw N pairs is to draw how often each of their differences occurs. (scipy's bootstrap
    # draws them one by one, and importing it would take a second of the first page; a test compares the two.)
    values, counts = np.unique((after - before).double().numpy(), return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(before), counts / len(before), NUM_RESAMPLES)
    low, high = np.quantile(draws @ values / len(before), (0.025, 0.975))
    return Change(float(counts @ values / len(before)), float(low), float(high), len(before))


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold chosen on validation, and what it does there.

    Attributes:
        name: Why it was chosen, such as ``loses_1_percent``.
        threshold: The confidence that is enough to leave.
        accuracy: Share of images whose answer is right.
        mean_cost: Mean cost fraction.
        exit_shares: Share of images that leave at each exit.
        num_images: Images it was measured on.
    """

    name: str
    threshold: float
    accuracy: float
    mean_cost: float
    exit_shares: tuple[float, ...]
    num_images: int


def operating_curve(logits: Tensor, labels: Tensor, exit_costs: Sequence[float]) -> list[OperatingPoint]:
    """Accuracy and cost at the thresholds 0.00, 0.01 … 1.00, fallback ``final``.

    Args:
        logits: (N, K, C).
        labels: (N,).
        exit_costs: Cost fraction of each exit, K of them.
    """
    return curve_from_confidences(confidences(logits), logits.argmax(dim=-1), labels, exit_costs)


def curve_from_confidences(
    confidence: Tensor, predicted: Tensor, labels: Tensor, exit_costs: Sequence[float], fallback: Fallback = "final"
) -> list[OperatingPoint]:
    """As ``operating_curve``, from what is kept of the logits, and under either fallback.

    Args:
        confidence: (N, K) confidence of every exit.
        predicted: (N, K) class predicted by every exit.
        labels: (N,).
        exit_costs: Cost fraction of each exit, K of them.
        fallback: What answers when no exit is sure.
    """
    points = []
    for threshold in THRESHOLDS:
        decisions = decide_from_confidences(confidence, predicted, ExitPolicy(threshold, fallback))
        points.append(
            OperatingPoint(
                f"threshold_{threshold:.2f}",
                threshold,
                (decisions.prediction == labels).double().mean().item(),
                decisions.costs(exit_costs).mean().item(),
                tuple(exit_shares(decisions.computed_exit, len(exit_costs))),
                len(labels),
            )
        )
    return points


def operating_points(logits: Tensor, labels: Tensor, exit_costs: Sequence[float]) -> tuple[OperatingPoint, ...]:
    """The thresholds at which models are compared, chosen on these (validation) logits.

    ``loses_P_percent`` is the lowest threshold from which on every higher one keeps more than 1 - P/100 of
    the final exit's accuracy; ``half_cost`` the one with mean cost nearest to 0.5. Where no threshold does so, the
    point is left out: an exit that is wholly sure and wrong is left at however high the threshold. 0.9 is always
    there.

    Args:
        logits: (N, K, C).
        labels: (N,).
        exit_costs: Cost fraction of each exit, K of them.

    Returns:
        The points; none for a static model, which has nothing to choose.
    """
    if len(exit_costs) == 1:
        return ()
    curve = operating_curve(logits, labels, exit_costs)
    final = (logits[:, -1].argmax(dim=-1) == labels).double().mean().item()
    chosen = []
    for percent in (1, 5, 15):
        enough = [point.accuracy > final * (1 - percent / 100) for point in curve]
        lowest = max((index + 1 for index, fine in enumerate(enough) if not fine), default=0)
        if lowest < len(curve):
            chosen.append((f"loses_{percent}_percent", curve[lowest]))
    nearest = min(curve, key=lambda point: abs(point.mean_cost - 0.5))
    if abs(nearest.mean_cost - 0.5) <= _NEAR_HALF:
        chosen.append(("half_cost", nearest))
    chosen.append(("threshold_0.90", curve[90]))
    return tuple(
        OperatingPoint(name, point.threshold, point.accuracy, point.mean_cost, point.exit_shares, point.num_images)
        for name, point in chosen
    )
