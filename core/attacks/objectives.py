"""What an attack raises or lowers: a loss over exits, one number per image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from core.attacks.spec import StepAttack
from core.exits import ExitPolicy, decide


def exit_cross_entropies(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of every exit to one class per image, (N, K), from logits (N, K, C) and classes (N,)."""
    num_images, num_exits, num_classes = logits.shape
    flat = F.cross_entropy(logits.reshape(-1, num_classes), classes.repeat_interleave(num_exits), reduction="none")
    return flat.view(num_images, num_exits)


def objective_loss(logits: Tensor, labels: Tensor, spec: StepAttack, policy: ExitPolicy) -> Tensor:
    """The loss that the attack climbs.

    Args:
        logits: Of the current images, (N, K, C).
        labels: True classes, (N,).
        spec: Says whose loss counts; with a goal class, the loss to that class is lowered instead.
        policy: Decides the exit taken from these very logits.

    Returns:
        (N,) cross-entropies, negative ones for a targeted attack.
    """
    classes = labels if spec.goal_class is None else torch.full_like(labels, spec.goal_class)
    per_exit = exit_cross_entropies(logits, classes)
    if spec.objective == "mean":
        loss = per_exit.mean(dim=1)
    elif spec.objective == "max-average":
        loss = per_exit.sum(dim=1)
    elif spec.objective == "taken":
        loss = per_exit.gather(1, decide(logits.detach(), policy).answered_exit[:, None])[:, 0]
    else:
        loss = per_exit[:, -1 if spec.exit_index is None else spec.exit_index]
    return loss if spec.goal_class is None else -loss
