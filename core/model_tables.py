"""Tables about one model on one image set: exits, curve, operating points, calibration, overthinking, confusion."""

import math
from collections.abc import Iterable, Sequence

import pandas as pd
import torch
from torch import Tensor

from core.calibration import auroc, calibration_error, calibration_floor, confidence_bins
from core.checkpoints import ModelCard
from core.evaluation import Evaluation
from core.exits import ExitPolicy, Fallback, never_leaving
from core.metrics import OperatingPoint, Rate, curve_from_confidences, overthinking, rate, rate_of
from core.models.costs import static_fraction
from core.tables import TableSchema

_RATE = {"num_right": "whole", "num_images": "whole", "accuracy": "number", "low": "number", "high": "number"}
_COST = {"cost": "number", "relative_cost": "number"}

MODEL_EXITS = TableSchema(
    "model_exits",
    "one exit: what it costs, how often it is right on all images, and on those that leave there",
    {
        "exit_index": "whole",
        "layer": "text",
        "layer_multiply_adds": "whole",
        "classifier_multiply_adds": "whole",
        **_COST,
        **_RATE,
        **{f"leaving_{name}": kind for name, kind in _RATE.items()},
        "card_accuracy": "number",
        "card_num_images": "whole",
    },
)
CURVE = TableSchema(
    "curve", "one threshold; infinity: no image leaves early", {"threshold": "number", **_RATE, **_COST}
)
POINTS = TableSchema(
    "operating_points",
    "one operating point: as chosen on validation, and as measured here",
    {
        "name": "text",
        "threshold": "number",
        **{f"validation_{name}": kind for name, kind in _RATE.items()},
        "validation_cost": "number",
        **_RATE,
        **_COST,
    },
)
RELIABILITY = TableSchema(
    "reliability",
    "the images of one confidence bin at one exit, of all images or of those that reach it",
    {
        "exit_index": "whole",
        "among": "text",
        "bin_low": "number",
        "bin_high": "number",
        "mean_confidence": "number",
        **_RATE,
    },
)
CALIBRATION = TableSchema(
    "calibration",
    "one exit on all images or on those that reach it",
    {
        "exit_index": "whole",
        "among": "text",
        **_RATE,
        "mean_confidence": "number",
        "ece": "number",
        "ece_floor": "number",
        "auroc": "number",
    },
)
OVERTHINKING = TableSchema(
    "overthinking",
    "one way in which computing on did not help",
    {
        "when": "text",
        "effect": "text",
        "denominator": "text",
        "num_hits": "whole",
        "num_images": "whole",
        "rate": "number",
        "low": "number",
        "high": "number",
    },
)
CONFUSION = TableSchema(
    "confusion",
    "one true class answered as one class",
    {
        "label": "whole",
        "predicted": "whole",
        "num_answered": "whole",
        "num_images": "whole",
        "share": "number",
        "low": "number",
        "high": "number",
    },
)
AMONG = ("all images", "images that reach it")


def model_exits_table(
    evaluation: Evaluation, card: ModelCard, policy: ExitPolicy, layers: Sequence[int], classifiers: Sequence[int]
) -> pd.DataFrame:
    """Cost and accuracy of every exit: schema ``MODEL_EXITS``.

    Args:
        evaluation: What the exits say.
        card: Of the model.
        policy: Decides who leaves where.
        layers: Multiply-adds of the layers since the exit before, K of them.
        classifiers: Multiply-adds of each exit's classifier, K of them.
    """
    decisions, right = evaluation.decide(policy), evaluation.right
    answered_right = decisions.prediction == evaluation.labels
    static_cost = static_fraction(layers, classifiers)
    rows = []
    for exit_index, cost in enumerate(card.exit_costs):
        leaving = rate_of(answered_right, decisions.computed_exit == exit_index)
        rows.append(
            {
                "exit_index": exit_index,
                "layer": card.exit_layers[exit_index] if card.exit_layers else "",
                "layer_multiply_adds": layers[exit_index],
                "classifier_multiply_adds": classifiers[exit_index],
                "cost": cost,
                "relative_cost": cost / static_cost,
                **_rate_columns(rate_of(right[:, exit_index])),
                **_rate_columns(leaving, "leaving_"),
                "card_accuracy": card.test[exit_index].value,
                "card_num_images": card.test[exit_index].num_images,
            }
        )
    return MODEL_EXITS.check(pd.DataFrame(rows))


def curve_table(evaluation: Evaluation, card: ModelCard, fallback: Fallback, static_cost: float) -> pd.DataFrame:
    """Accuracy and mean cost at every threshold, and without early exits: schema ``CURVE``.

    Args:
        evaluation: What the exits say.
        card: Of the model.
        fallback: What answers when no exit is sure.
        static_cost: Cost of the static twin over that of this network.
    """
    points = curve_from_confidences(
        evaluation.confidence, evaluation.predicted, evaluation.labels, card.exit_costs, fallback
    )
    last = never_leaving(evaluation.confidence, evaluation.predicted)
    ways = [(point.threshold, _share(point), point.mean_cost) for point in points]
    ways.append((math.inf, rate_of(last.prediction == evaluation.labels), card.exit_costs[-1]))
    rows = [
        {"threshold": threshold, **_rate_columns(share), "cost": cost, "relative_cost": cost / static_cost}
        for threshold, share, cost in ways
    ]
    return CURVE.check(pd.DataFrame(rows))


def operating_points_table(card: ModelCard, curve: pd.DataFrame) -> pd.DataFrame:
    """The card's operating points, and where they lie on a curve measured elsewhere: schema ``POINTS``.

    Args:
        card: Of an early-exit model; it names at least one point.
        curve: Schema ``CURVE``, of the same model.
    """
    rows = []
    for point in card.operating_points:
        rows.append(
            {"name": point.name, **_rate_columns(_share(point), "validation_"), "validation_cost": point.mean_cost}
        )
    # The nearest hundredth: operating points are hundredths, unless a foreign card says otherwise.
    positions = [int((curve.threshold - point.threshold).abs().argmin()) for point in card.operating_points]
    here = curve.iloc[positions].reset_index(drop=True)
    return POINTS.check(pd.concat([pd.DataFrame(rows), here], axis=1))


def reliability_tables(evaluation: Evaluation, policy: ExitPolicy) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Calibration of every exit, on all images and on those that reach it: ``CALIBRATION``, ``RELIABILITY``."""
    computed_exit = evaluation.decide(policy).computed_exit
    groups = []
    for exit_index in range(evaluation.confidence.shape[1]):
        reach = computed_exit >= exit_index
        for among, counted in zip(AMONG, (torch.ones_like(reach), reach), strict=True):
            confidence, right = evaluation.confidence[counted, exit_index], evaluation.right[counted, exit_index]
            groups.append((exit_index, among, confidence, right))
    return calibration_tables(groups)


def calibration_tables(groups: Iterable[tuple[int, str, Tensor, Tensor]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Calibration of exits on groups of images: schemas ``CALIBRATION`` and ``RELIABILITY``.

    Args:
        groups: Of each: the exit, which images these are, their confidences (N,) and whether they are right (N,).
    """
    calibration, reliability = [], []
    for exit_index, among, confidence, right in groups:
        confidence = confidence.double()
        bins = confidence_bins(confidence, right)
        calibration.append(
            {
                "exit_index": exit_index,
                "among": among,
                **_rate_columns(rate_of(right)),
                "mean_confidence": confidence.mean().item(),
                "ece": calibration_error(bins),
                "ece_floor": calibration_floor(confidence),
                "auroc": auroc(confidence, right),
            }
        )
        reliability += [
            {
                "exit_index": exit_index,
                "among": among,
                "bin_low": each.low,
                "bin_high": each.high,
                "mean_confidence": each.mean_confidence,
                **_rate_columns(each.accuracy),
            }
            for each in bins
        ]
    return CALIBRATION.check(pd.DataFrame(calibration)), RELIABILITY.check(pd.DataFrame(reliability))


def overthinking_table(evaluation: Evaluation, policy: ExitPolicy) -> pd.DataFrame:
    """How often an earlier exit was right already, under a policy and without early exits: ``OVERTHINKING``."""
    rows = []
    for when, decisions in (
        ("under the policy", evaluation.decide(policy)),
        ("if no image left early", never_leaving(evaluation.confidence, evaluation.predicted)),
    ):
        wasteful, destructive = overthinking(evaluation.predicted, evaluation.labels, decisions)
        wrong = decisions.prediction != evaluation.labels
        for effect, denominator, share in (
            ("wasteful", "all", rate_of(wasteful)),
            ("destructive", "all", rate_of(destructive)),
            ("destructive", "wrong answers", rate_of(destructive, wrong)),
        ):
            rows.append(
                {
                    "when": when,
                    "effect": effect,
                    "denominator": denominator,
                    "num_hits": share.num_hits,
                    "num_images": share.num_images,
                    "rate": share.value,
                    "low": share.low,
                    "high": share.high,
                }
            )
    return OVERTHINKING.check(pd.DataFrame(rows))


def confusion_table(evaluation: Evaluation, policy: ExitPolicy, num_classes: int) -> pd.DataFrame:
    """Every true class by every answer under a policy, C * C rows: schema ``CONFUSION``."""
    answers = evaluation.decide(policy).prediction
    cells = torch.bincount(evaluation.labels * num_classes + answers, minlength=num_classes**2)
    totals = cells.view(num_classes, num_classes).sum(dim=1).tolist()
    pairs = [(count, totals[cell // num_classes]) for cell, count in enumerate(cells.tolist())]
    # Most cells of many classes hold 0 or 1 of as many images: each such rate is worked out once.
    rates = {pair: rate(*pair) for pair in set(pairs)}
    rows = [
        (*divmod(cell, num_classes), *pair, rates[pair].value, rates[pair].low, rates[pair].high)
        for cell, pair in enumerate(pairs)
    ]
    return CONFUSION.check(pd.DataFrame(rows, columns=list(CONFUSION.columns)))


def _share(point: OperatingPoint) -> Rate:
    return rate(round(point.accuracy * point.num_images), point.num_images)


def _rate_columns(share: Rate, prefix: str = "") -> dict[str, int | float]:
    return {
        f"{prefix}num_right": share.num_hits,
        f"{prefix}num_images": share.num_images,
        f"{prefix}accuracy": share.value,
        f"{prefix}low": share.low,
        f"{prefix}high": share.high,
    }
