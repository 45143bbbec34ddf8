"""A natural corruption in the place of an attack: the same tables, no gradients."""

from collections.abc import Callable

import torch
from torch import Tensor

from core.attacks.corruption_spec import CorruptionAttack
from core.attacks.steps import Step, observe
from core.corruptions import corrupt
from core.exits import ExitPolicy, decide
from core.models import ExitModel


def answer_loss(logits: Tensor, labels: Tensor, spec: CorruptionAttack, policy: ExitPolicy) -> Tensor:
    """Cross-entropy of the exit that answers, (N,): nothing climbs it, the record shows it."""
    answered = logits[torch.arange(len(logits), device=logits.device), decide(logits, policy).answered_exit]
    return torch.nn.functional.cross_entropy(answered, labels, reduction="none")


def corruption_steps(
    model: ExitModel,
    images: Tensor,
    labels: Tensor,
    spec: CorruptionAttack,
    policy: ExitPolicy,
    clean_logits: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Tensor, list[Step]]:
    """Corrupts one batch; arguments as in ``core.attacks.linf.sign_steps``. The record holds the clean images."""
    if clean_logits is None:
        with torch.no_grad():
            clean_logits = model(images)
    corrupted = corrupt(images, spec.name, spec.severity, spec.seed)
    if on_step:
        on_step(1)
    return corrupted, [observe(clean_logits, labels, answer_loss(clean_logits, labels, spec, policy), policy)]
