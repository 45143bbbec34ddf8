"""What an attack remembers of its way: one record per step."""

from dataclasses import dataclass

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
        exit_taken: Computed exit under the policy of the attack, (N,).
    """

    loss: Tensor
    predicted: Tensor
    confidence: Tensor
    true_probability: Tensor
    exit_taken: Tensor


def observe(logits: Tensor, labels: Tensor, loss: Tensor, policy: ExitPolicy) -> Step:
    """Makes the record of one step from its logits (N, K, C) and the loss of each image (N,)."""
    probabilities = logits.softmax(dim=-1)
    confidence, predicted = probabilities.max(dim=-1)
    index = labels[:, None, None].expand(-1, logits.shape[1], 1)
    true_probability = probabilities.gather(2, index)[..., 0]
    taken = decide(logits, policy).computed_exit
    return Step(loss, predicted, confidence, true_probability, taken)
