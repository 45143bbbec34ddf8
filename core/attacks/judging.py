"""Verdicts as a model gives them, computed by its prepared copy wherever rounding could not turn them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.exits import ExitPolicy, run_dynamic
from core.models import ExitModel
from core.models.prepared import PreparedModel
from core.stagewise import run_stagewise

AT_ONCE = 128  # more images no longer fit the caches
_SAFETY = 3.0
# Thresholds above are met only by confidences that round to 1: the model itself has to say.
_HIGHEST_THRESHOLD = 1 - 1e-6


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What a model answers.

    Attributes:
        prediction: Class answered, (N,); of the final exit where that was asked for.
        computed_exit: Last exit computed, (N,); the final one where that was asked for.
        num_doubtful: How many images the model had to judge itself.
    """

    prediction: Tensor
    computed_exit: Tensor
    num_doubtful: int


@torch.no_grad()
def tolerances(model: ExitModel, search: PreparedModel, images: Tensor) -> Tensor:
    """How far a prepared copy may be from its model at each exit, (K,): three times what a few images show.

    What is compared is by how much the model's class leads: over the next one, and over all others together (the
    logarithm of its odds), which is all that decisions depend on.

    Args:
        model: As in ``judge``.
        search: Its prepared copy.
        images: Some, like those to be judged.
    """
    logits, copied = model(images), search(images)
    best = logits.argmax(dim=-1)
    apart = [(lead(copied, best) - lead(logits, best)).abs() for lead in (_margin, _log_odds)]
    return _SAFETY * torch.stack(apart).amax(dim=(0, 1))


@torch.no_grad()
def judge(
    model: ExitModel, images: Tensor, policy: ExitPolicy | None, search: PreparedModel | None, tolerance: Tensor | None
) -> Verdicts:
    """What the model answers, most of it by way of its prepared copy.

    The copy's answer counts where being off by the tolerance could not turn a decision on the way to it: neither
    whether the image leaves, at any exit that it passes, nor the class that it leaves with. All other images are
    shown to the model.

    Args:
        model: Its answers are what is asked.
        images: (N, 3, H, W) in [0, 1].
        policy: When an image leaves; None asks for the final exit.
        search: The model's prepared copy; None shows all images to the model.
        tolerance: As ``tolerances`` gives it.
    """
    last = model.num_exits - 1
    doubtful = torch.ones(len(images), dtype=torch.bool, device=images.device)
    prediction, computed = (torch.full(doubtful.shape, last, device=images.device) for _ in range(2))
    if search and tolerance is not None and _can_vouch(policy):
        if policy is None:
            logits = torch.cat([search.run_until(batch, last) for batch in images.split(AT_ONCE)])
            prediction = logits.argmax(dim=-1)
            doubtful = _margin(logits, prediction) <= tolerance[-1]
        else:
            doubtful = _by_copy(search, images, policy, tolerance, prediction, computed)
    rows = doubtful.nonzero()[:, 0]
    if not len(rows):
        return Verdicts(prediction, computed, 0)
    if policy is None:
        logits = torch.cat([model.run_until(images[some], last) for some in rows.split(AT_ONCE)])
        prediction[rows] = logits.argmax(dim=-1)
    else:
        decisions = run_dynamic(model, images[rows], policy, batch_size=AT_ONCE)
        prediction[rows], computed[rows] = decisions.prediction, decisions.computed_exit
    return Verdicts(prediction, computed, len(rows))


def _can_vouch(policy: ExitPolicy | None) -> bool:
    """Whether the tolerance, a bound on odds, says something of the score that a policy goes by."""
    return policy is None or (policy.score == "confidence" and policy.threshold <= _HIGHEST_THRESHOLD)


def _by_copy(
    search: PreparedModel, images: Tensor, policy: ExitPolicy, tolerance: Tensor, prediction: Tensor, computed: Tensor
) -> Tensor:
    """Fills in what the copy answers where it leaves; returns which images are doubtful, (N,)."""
    last = search.num_exits - 1
    needed = torch.tensor(policy.threshold, dtype=torch.float64).logit().item()
    doubtful = torch.zeros(len(images), dtype=torch.bool, device=images.device)

    def leave(exit_index: int, rows: Tensor, logits: Tensor) -> Tensor:
        best = logits.argmax(dim=-1)
        beyond = _log_odds(logits, best) - needed
        if exit_index == last:  # everything leaves here; another fallback may answer by any exit
            beyond = torch.full_like(beyond, torch.inf if policy.fallback == "final" else 0.0)
        is_near = beyond.abs() <= tolerance[exit_index]
        doubtful[rows] = is_near | ((beyond > 0) & (_margin(logits, best) <= tolerance[exit_index]))
        ends = (beyond > 0) | doubtful[rows]
        prediction[rows[ends]], computed[rows[ends]] = best[ends], exit_index
        return ends

    run_stagewise(search, images, leave, batch_size=AT_ONCE)
    return doubtful


def _margin(logits: Tensor, classes: Tensor) -> Tensor:
    """By how much a class leads over the next one, from logits (..., C) and classes (...)."""
    return logits.gather(-1, classes[..., None])[..., 0] - _without(logits, classes).amax(dim=-1)


def _log_odds(logits: Tensor, classes: Tensor) -> Tensor:
    """Logarithm of the odds that the softmax gives a class, from logits (..., C) and classes (...)."""
    return logits.gather(-1, classes[..., None])[..., 0] - _without(logits, classes).logsumexp(dim=-1)


def _without(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.scatter(-1, classes[..., None], -torch.inf)
