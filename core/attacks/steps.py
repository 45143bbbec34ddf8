"""What an attack remembers of its way: one record per step."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from core.exits import ExitPolicy, decide


@dataclass(frozen=True, eq=False)
class Step:
    """What every exit says of the images at one step; step 0 is the start.

    Attributes:
        loss: The objective of each image, (N,).
        predicted: Class predicted by every exit, (N, K).
        confidence: Confidence of every exit, (N, K).
        true_probability: Probability that every exit gives to the true class, (N, K).
        exit_taken: Computed exit under the policy of the attack, (N,); on the way, as the search saw it.
    """

    loss: Tensor
    predicted: Tensor
    confidence: Tensor
    true_probability: Tensor
    exit_taken: Tensor


# From model, images, labels, spec, policy, clean logits and a callback per step to the adversarial images and the
# records of the start and of every step but the last.
Steps = Callable[..., tuple[Tensor, list[Step]]]


def observe(logits: Tensor, labels: Tensor, loss: Tensor, policy: ExitPolicy) -> Step:
    """Makes the record of one step from its logits (N, K, C) and the loss of each image (N,)."""
    probabilities = logits.softmax(dim=-1)
    confidence, predicted = probabilities.max(dim=-1)
    index = labels[:, None, None].expand(-1, logits.shape[1], 1)
    true_probability = probabilities.gather(2, index)[..., 0]
    taken = decide(logits, policy).computed_exit
    return Step(loss, predicted, confidence, true_probability, taken)


def seen_in_full(step: Step, logits: Tensor, labels: Tensor, policy: ExitPolicy) -> Step:
    """A record in which exits say what logits (N, K, C) of full precision say, where they say anything.

    The search may have seen 0.8999 where the model itself says 0.9000, and the picture of the attack would begin at
    another exit than the clean image leaves at. Loss and exit taken stay: they are what the search went by.
    """
    seen = observe(logits, labels, step.loss, policy)
    was_computed = ~step.confidence.isnan()
    said = {
        name: torch.where(was_computed, getattr(seen, name), getattr(step, name))
        for name in ("predicted", "confidence", "true_probability")
    }
    return replace(step, **said)


def with_rows(old: Step, rows: Tensor, new: Step, chosen: Tensor | slice) -> Step:
    """A record in which these rows are the chosen ones of another."""
    columns = []
    for field in fields(Step):
        column = getattr(old, field.name).clone()
        column[rows] = getattr(new, field.name)[chosen]
        columns.append(column)
    return Step(*columns)
