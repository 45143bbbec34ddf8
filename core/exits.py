"""Which exit an image leaves at: a pure function of all logits, and its really-stopping twin."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from core.errors import ExitLensError
from core.models import ExitModel
from core.progress import CancelToken
from core.stagewise import run_stagewise

Fallback = Literal["final", "most_confident"]
Score = Literal["confidence", "entropy", "patience"]
MOST_PATIENCE = 1000
NEAR_THRESHOLD = 1e-5
_NOT_FINITE = "The model returned numbers that are not finite. Check its weights and the images."


@dataclass(frozen=True)
class ExitPolicy:
    """When an image leaves.

    An image leaves at the first non-final exit whose score reaches the threshold; where none does, the fallback
    answers.

    Attributes:
        threshold: The score that is enough to leave: in [0, 1], or for ``patience`` a whole number from 1.
        fallback: ``final``: the final exit answers; ``most_confident``: the most confident exit answers,
            though everything was computed.
        score: ``confidence``; ``entropy``: 1 minus the entropy of the exit's probabilities over its largest possible
            value; ``patience``: how many exits in a row, this one included, predict the same class.

    Source: entropy: Teerapittayanon et al., BranchyNet, ICPR 2016, there as a bound from above on the entropy itself;
    patience: Zhou et al., BERT Loses Patience (PABEE), NeurIPS 2020, there counted from the second exit on.
    """

    threshold: float = 0.9
    fallback: Fallback = "final"
    score: Score = "confidence"

    def __post_init__(self) -> None:
        """Checks the fields."""
        if self.score not in get_args(Score):
            raise ExitLensError(f"Unknown score {self.score!r}. Choose one of {', '.join(get_args(Score))}.")
        if self.score == "patience":
            if not (1 <= self.threshold <= MOST_PATIENCE and self.threshold == int(self.threshold)):
                raise ExitLensError(f"The patience is {self.threshold}; it must be a whole number of exits from 1 on.")
        elif not 0 <= self.threshold <= 1:
            raise ExitLensError(f"The threshold is {self.threshold}; it must lie between 0 and 1.")
        if self.fallback not in get_args(Fallback):
            raise ExitLensError(f"Unknown fallback {self.fallback!r}. Choose one of {', '.join(get_args(Fallback))}.")


@dataclass(frozen=True, eq=False)
class ExitAnswers:
    """What every exit says of some images: all that policies and success rules look at.

    Attributes:
        confidence: (N, K) confidence of every exit.
        predicted: (N, K) class predicted by every exit.
        certainty: (N, K) score ``entropy`` of every exit; only a policy that goes by it needs it.
    """

    confidence: Tensor
    predicted: Tensor
    certainty: Tensor | None = None

    @classmethod
    def of(cls, logits: Tensor, policy: ExitPolicy | None = None) -> "ExitAnswers":
        """Of the logits of all exits, (N, K, C); given a policy, without what it does not look at.

        Raises:
            ExitLensError: If the logits do not have three dimensions or are not finite.
        """
        if logits.ndim != 3:
            raise ExitLensError(f"Logits have shape {tuple(logits.shape)}; (images, exits, classes) is needed.")
        if not torch.isfinite(logits).all():
            raise ExitLensError(_NOT_FINITE)
        needs_certainty = policy is None or policy.score == "entropy"
        return cls(confidences(logits), logits.argmax(dim=-1), certainties(logits) if needs_certainty else None)

    def at(self, exits: Sequence[int]) -> "ExitAnswers":
        """What some of the exits say, in that order: of a network that has no others."""
        kept = list(exits)
        certainty = None if self.certainty is None else self.certainty[:, kept]
        return ExitAnswers(self.confidence[:, kept], self.predicted[:, kept], certainty)

    def scores(self, policy: ExitPolicy) -> Tensor:
        """What the policy's threshold is compared with, (N, K).

        Raises:
            ValueError: If the policy goes by an entropy that is not known here.
        """
        if policy.score == "patience":
            return agreeing(self.predicted)
        if policy.score == "confidence":
            return self.confidence
        if self.certainty is None:
            raise ValueError("A policy that goes by entropy needs the certainty of every exit.")
        return self.certainty

    def decide(self, policy: ExitPolicy) -> "ExitDecisions":
        """What a policy makes of it, one decision an image."""
        num_images, num_exits = self.predicted.shape
        leaves = self.scores(policy) >= policy.threshold
        leaves[:, -1] = True
        computed = leaves.int().argmax(dim=1)  # the first True
        answered = computed
        if policy.fallback == "most_confident":
            answered = torch.where(computed == num_exits - 1, self.confidence.argmax(dim=1), computed)
        rows = torch.arange(num_images, device=self.predicted.device)
        return ExitDecisions(answered, computed, self.predicted[rows, answered], self.confidence[rows, answered])


@dataclass(frozen=True, eq=False)
class ExitDecisions:
    """What a policy decides, one entry per image.

    Attributes:
        answered_exit: (N,) 0-based exit whose answer counts.
        computed_exit: (N,) last exit computed; later than ``answered_exit`` only under ``most_confident``.
        prediction: (N,) class answered.
        confidence: (N,) confidence of that answer in [0, 1].
    """

    answered_exit: Tensor
    computed_exit: Tensor
    prediction: Tensor
    confidence: Tensor

    def costs(self, exit_costs: Sequence[float]) -> Tensor:
        """Cost fraction of each image, (N,), given the model's ``exit_costs``."""
        return torch.tensor(exit_costs, dtype=torch.float64)[self.computed_exit.cpu()]


def confidences(logits: Tensor) -> Tensor:
    """Largest softmax probability of every exit, (N, K) in (0, 1], from logits (N, K, C)."""
    return logits.softmax(dim=-1).amax(dim=-1)


def certainties(logits: Tensor) -> Tensor:
    """1 minus the entropy of every exit over the logarithm of the number of classes, (N, K), from logits (N, K, C).

    0 where all classes are equally probable, 1 where one class has all probability.
    """
    probabilities = logits.softmax(dim=-1)
    entropy: Tensor = torch.special.entr(probabilities).sum(dim=-1)
    return (1 - entropy / math.log(max(logits.shape[-1], 2))).clamp(0, 1)


def agreeing(predicted: Tensor) -> Tensor:
    """How many exits in a row, up to and with each exit, predict its class, (N, K) from predicted classes (N, K)."""
    counts = [torch.ones_like(predicted[:, 0])]
    for exit_index in range(1, predicted.shape[1]):
        same = predicted[:, exit_index] == predicted[:, exit_index - 1]
        counts.append(torch.where(same, counts[-1] + 1, 1))
    return torch.stack(counts, dim=1)


def decide(logits: Tensor, policy: ExitPolicy) -> ExitDecisions:
    """Applies a policy to the logits of all exits.

    Args:
        logits: (N, K, C).
        policy: When an image leaves.

    Returns:
        The decisions, N of each.

    Raises:
        ExitLensError: If the logits do not have three dimensions or are not finite.
    """
    return ExitAnswers.of(logits, policy).decide(policy)


def decide_from_confidences(confidence: Tensor, predicted: Tensor, policy: ExitPolicy) -> ExitDecisions:
    """As ``decide``, from what tables keep of the logits.

    Args:
        confidence: (N, K) confidence of every exit.
        predicted: (N, K) class predicted by every exit.
        policy: When an image leaves.
    """
    return ExitAnswers(confidence, predicted).decide(policy)


def never_leaving(confidence: Tensor, predicted: Tensor) -> ExitDecisions:
    """Decisions without early exits: everything is computed and the final exit answers.

    This is the end of the curve over thresholds: no threshold in [0, 1] gives it, as a confidence can be 1.

    Args:
        confidence: (N, K) confidence of every exit.
        predicted: (N, K) class predicted by every exit.
    """
    last = torch.full(confidence.shape[:1], confidence.shape[1] - 1, device=confidence.device)
    return ExitDecisions(last, last, predicted[:, -1], confidence[:, -1])


@torch.no_grad()
def run_dynamic(
    model: ExitModel,
    images: Tensor,
    policy: ExitPolicy,
    *,
    batch_size: int | None = None,
    cancel: CancelToken | None = None,
) -> ExitDecisions:
    """Decides as deployed: each stage is computed only for the images that are still undecided.

    Args:
        model: Any exit model; one whose ``stops_early`` is False decides the same but saves nothing.
        images: (N, 3, H, W) in [0, 1].
        policy: When an image leaves.
        batch_size: Images at a time, as in ``run_stagewise``.
        cancel: Looked at before each batch of a stage.

    Returns:
        The same decisions as ``decide(model(images), policy)``, but where a confidence lies within
        ``NEAR_THRESHOLD`` of the threshold: float32 logits move with the batch size.

    Raises:
        ExitLensError: If a logit that was computed is not finite, or the batch size is below 1.
        Cancelled: Once ``cancel`` is set.
    """
    last = model.num_exits - 1
    answered, computed, prediction, agreed = torch.zeros(4, len(images), dtype=torch.long, device=images.device)
    confidence = torch.full((len(images),), -1.0, dtype=images.dtype, device=images.device)
    previous = torch.full_like(answered, -1)

    def leave(exit_index: int, rows: Tensor, logits: Tensor) -> Tensor:
        now = ExitAnswers.of(logits[:, None], policy)
        sure, predicted = now.confidence[:, 0], now.predicted[:, 0]
        agreed[rows] = torch.where(predicted == previous[rows], agreed[rows] + 1, 1)
        previous[rows] = predicted
        score = agreed[rows] if policy.score == "patience" else now.scores(policy)[:, 0]
        leaves = score >= policy.threshold
        if exit_index == last:
            leaves = torch.ones_like(leaves)
        # Under most_confident an undecided image remembers its best exit so far; else the latest counts.
        better = leaves | (sure > confidence[rows])
        if exit_index == last and policy.fallback == "most_confident":
            better = sure > confidence[rows]
        best = rows[better]
        answered[best], prediction[best], confidence[best] = exit_index, predicted[better], sure[better]
        computed[rows[leaves]] = exit_index
        return leaves

    run_stagewise(model, images, leave, batch_size=batch_size, cancel=cancel)
    return ExitDecisions(answered, computed, prediction, confidence)


@dataclass(frozen=True)
class Agreement:
    """How ``run_dynamic`` compares with deciding from all logits.

    Attributes:
        num_images: Images compared.
        num_near: Images with a confidence within ``NEAR_THRESHOLD`` of the threshold, left out.
        num_different: Images not near the threshold whose exit or prediction differs; 0 is right.
    """

    num_images: int
    num_near: int
    num_different: int


def dynamic_agreement(dynamic: ExitDecisions, logits: Tensor, policy: ExitPolicy) -> Agreement:
    """Compares the decisions of ``run_dynamic`` with those made from all logits (N, K, C)."""
    full = decide(logits, policy)
    scores = ExitAnswers.of(logits, policy).scores(policy)
    # Patience counts exits: whole numbers do not move with the batch size.
    room = NEAR_THRESHOLD if scores.is_floating_point() else 0
    near = ((scores[:, :-1] - policy.threshold).abs() < room).any(dim=1)
    different = (
        (dynamic.answered_exit != full.answered_exit)
        | (dynamic.computed_exit != full.computed_exit)
        | (dynamic.prediction != full.prediction)
    )
    return Agreement(len(logits), int(near.sum()), int((different & ~near).sum()))
