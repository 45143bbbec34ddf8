"""Which exit an image leaves at: a pure function of all logits, and its really-stopping twin."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from core.errors import ExitLensError
from core.models import ExitModel

Fallback = Literal["final", "most_confident"]
NEAR_THRESHOLD = 1e-5
_NOT_FINITE = "The model returned numbers that are not finite. Check its weights and the images."


@dataclass(frozen=True)
class ExitPolicy:
    """When an image leaves.

    An image leaves at the first non-final exit whose confidence reaches the threshold; where none does, the
    fallback answers.

    Attributes:
        threshold: Confidence in [0, 1] that is enough to leave.
        fallback: ``final``: the final exit answers; ``most_confident``: the most confident exit answers,
            though everything was computed.
    """

    threshold: float = 0.9
    fallback: Fallback = "final"

    def __post_init__(self) -> None:
        """Checks the fields."""
        if not 0 <= self.threshold <= 1:
            raise ExitLensError(f"The threshold is {self.threshold}; it must lie between 0 and 1.")
        if self.fallback not in get_args(Fallback):
            raise ExitLensError(f"Unknown fallback {self.fallback!r}. Choose one of {', '.join(get_args(Fallback))}.")


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
    if logits.ndim != 3:
        raise ExitLensError(f"Logits have shape {tuple(logits.shape)}; (images, exits, classes) is needed.")
    if not torch.isfinite(logits).all():
        raise ExitLensError(_NOT_FINITE)
    return decide_from_confidences(confidences(logits), logits.argmax(dim=-1), policy)


def decide_from_confidences(confidence: Tensor, predicted: Tensor, policy: ExitPolicy) -> ExitDecisions:
    """As ``decide``, from what tables keep of the logits.

    Args:
        confidence: (N, K) confidence of every exit.
        predicted: (N, K) class predicted by every exit.
        policy: When an image leaves.
    """
    num_images, num_exits = confidence.shape
    leaves = confidence >= policy.threshold
    leaves[:, -1] = True
    computed = leaves.int().argmax(dim=1)  # the first True
    answered = computed
    if policy.fallback == "most_confident":
        answered = torch.where(computed == num_exits - 1, confidence.argmax(dim=1), computed)
    rows = torch.arange(num_images, device=confidence.device)
    return ExitDecisions(answered, computed, predicted[rows, answered], confidence[rows, answered])


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
def run_dynamic(model: ExitModel, images: Tensor, policy: ExitPolicy) -> ExitDecisions:
    """Decides as deployed: each stage is computed only for the images that are still undecided.

    Args:
        model: Any exit model; one whose ``stops_early`` is False decides the same but saves nothing.
        images: (N, 3, H, W) in [0, 1].
        policy: When an image leaves.

    Returns:
        The same decisions as ``decide(model(images), policy)``, but where a confidence lies within
        ``NEAR_THRESHOLD`` of the threshold: float32 logits move with the batch size.

    Raises:
        ExitLensError: If a logit that was computed is not finite.
    """
    num_images, last = len(images), model.num_exits - 1
    whole = torch.zeros(num_images, dtype=torch.long, device=images.device)
    answered, computed, prediction = whole.clone(), whole.clone(), whole.clone()
    confidence = torch.full((num_images,), -1.0, dtype=images.dtype, device=images.device)
    undecided = torch.arange(num_images, device=images.device)
    features = model.begin(images)
    for exit_index in range(model.num_exits):
        features = model.advance(features, exit_index)
        logits = model.classify(features, exit_index)
        if not torch.isfinite(logits).all():
            raise ExitLensError(_NOT_FINITE)
        sure, predicted = logits.softmax(dim=-1).max(dim=-1)
        leaves = sure >= policy.threshold
        if exit_index == last:
            leaves = torch.ones_like(leaves)
        # Under most_confident an undecided image remembers its best exit so far; else the latest counts.
        better = leaves | (sure > confidence[undecided])
        if exit_index == last and policy.fallback == "most_confident":
            better = sure > confidence[undecided]
        rows = undecided[better]
        answered[rows], prediction[rows], confidence[rows] = exit_index, predicted[better], sure[better]
        computed[undecided[leaves]] = exit_index
        undecided, features = undecided[~leaves], features[~leaves]
        if not len(undecided):
            break
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
    near = ((confidences(logits)[:, :-1] - policy.threshold).abs() < NEAR_THRESHOLD).any(dim=1)
    different = (
        (dynamic.answered_exit != full.answered_exit)
        | (dynamic.computed_exit != full.computed_exit)
        | (dynamic.prediction != full.prediction)
    )
    return Agreement(len(logits), int(near.sum()), int((different & ~near).sum()))
