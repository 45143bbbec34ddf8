"""Attacks on efficiency: early exits are made unsure, so that images run on."""

from collections.abc import Callable

import torch
from torch import Tensor

from core.attacks.linf import walk
from core.attacks.slowdown_spec import SlowdownAttack
from core.attacks.steps import Step
from core.exits import ExitAnswers, ExitPolicy
from core.models import ExitModel

SAFELY_UNSURE = 0.95  # of the threshold: what is stored in 16 bits must not be sure again


def slowdown_loss(logits: Tensor, labels: Tensor, spec: SlowdownAttack, policy: ExitPolicy) -> Tensor:
    """What the attack climbs.

    ``uniform``: less the sum over early exits of the cross-entropy of p_k to equal probabilities of all classes,
    -(1 / C) sum over j of log p_k[j]; the final exit is left out. ``confidence``: less the log-confidence of the
    first early exit that is not yet safely unsure; 0 where all are, as nothing later can be computed.

    Args:
        logits: Of the current images, (N, K, C).
        labels: Not looked at.
        spec: The attack.
        policy: Its threshold says which exit is about to answer.

    Returns:
        (N,) losses.
    """
    surely = logits[:, :-1].log_softmax(dim=-1)
    if spec.loss == "uniform":
        return surely.mean(dim=-1).sum(dim=1)
    confidence = surely.amax(dim=-1)
    scores = ExitAnswers.of(logits.detach(), policy).scores(policy)[:, :-1]
    # Patience counts exits: just short of it is one exit less.
    sure = scores >= (policy.threshold if policy.score == "patience" else SAFELY_UNSURE * policy.threshold)
    first = sure.int().argmax(dim=1)
    return torch.where(sure.any(dim=1), -confidence.gather(1, first[:, None])[:, 0], 0.0)


def slowdown_steps(
    model: ExitModel,
    images: Tensor,
    labels: Tensor,
    spec: SlowdownAttack,
    policy: ExitPolicy,
    clean_logits: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Tensor, list[Step]]:
    """Runs the attack on one batch; arguments and results as in ``core.attacks.linf.sign_steps``.

    Source: ``uniform``: Hong et al., A Panda? No, It's a Sloth, ICLR 2021, section 4, per-sample attack.
    ``confidence``: after Haque et al., ILFO, CVPR 2020, which lowers the confidence of the output returned.
    Departures of the latter: sign steps in a ball of L-infinity instead of a penalty on distance.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return slowdown_loss(logits, labels, spec, policy)

    return walk(model, images, labels, spec, policy, loss, loss, clean_logits, on_step)
