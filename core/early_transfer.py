"""Where an early-exit model is weakest, and whether what breaks its early exits breaks those of others."""

from collections.abc import Mapping

import pandas as pd
from torch import Tensor

from core.attacks.run import AttackResult, attack
from core.attacks.spec import AttackSpec, early, mi_fgsm, pgd
from core.attacks.success import SUCCESS_RULES, Case
from core.early_tables import eligible
from core.evaluation import logits_of
from core.exits import ExitPolicy
from core.metrics import Rate, rate_of
from core.models import ExitModel
from core.models.prepared import prepared
from core.tables import TableSchema

RULES = ("taken_broken_final_kept", "misclassified_taken")
_RATE = {
    "num_succeeded": "whole",
    "num_eligible": "whole",
    "rate": "number",
    "low": "number",
    "high": "number",
}
EARLY_EXITS = TableSchema(
    "early exits",
    "one early exit, and the eligible images that the deployed Early Attack turns at it alone",
    {"model": "text", "exit_index": "whole", "epsilon": "number", **_RATE},
)
EARLY_TRANSFER = TableSchema(
    "early transfer",
    "one attack made on one early-exit model and shown to another, or to itself, by one rule",
    {"form": "text", "source": "text", "target": "text", "success_rule": "text", "epsilon": "number", **_RATE},
)


def transfer_forms(epsilon: float) -> dict[str, AttackSpec]:
    """What is tried to make broken early exits pass on: the deployed attack, and more general ones."""
    size = {"step_size": epsilon / 4}
    return {
        "early": early(epsilon),
        "early, no momentum": early(epsilon, decay=0.0),
        "early, one step across the ball": early(epsilon, step_size=epsilon),
        "PGD at the exit taken": pgd(epsilon, **size),
        "MI-FGSM at the mean of all exits": mi_fgsm(epsilon, objective="mean", **size),
    }


def early_exits_table(
    name: str, model: ExitModel, images: Tensor, labels: Tensor, epsilon: float, policy: ExitPolicy
) -> pd.DataFrame:
    """How many eligible images fall through each early exit alone: schema ``EARLY_EXITS``; the weak one has most.

    Args:
        name: Of the model.
        model: Any model with an early exit, frozen and in eval mode; only read.
        images: (N, 3, H, W) in [0, 1].
        labels: True classes, (N,).
        epsilon: Radius in pixels of [0, 1].
        policy: In force.
    """
    rows = []
    for exit_index in range(model.num_exits - 1):
        spec = early(epsilon, exit_index=exit_index)
        result = attack(model, images, labels, spec, policy, search=prepared(model, "float32"), watch="nothing")
        case = result.case(policy)
        rule = SUCCESS_RULES[result.spec.success_rule]
        share = rate_of(rule.succeeded(case), eligible(case, rule.name))
        rows.append({"model": name, "exit_index": exit_index, "epsilon": epsilon, **_columns(share)})
    return EARLY_EXITS.check(pd.DataFrame(rows))


def early_transfer_table(
    form: str, source: str, result: AttackResult, targets: Mapping[str, ExitModel]
) -> pd.DataFrame:
    """What an attack on one model does to others, by both rules: schema ``EARLY_TRANSFER``.

    Counted are the images that are eligible on source and target alike: each one's taken exit is an early one,
    and right there and at the final exit when clean. A target keeps its own final exit.

    Args:
        form: Name of the attack.
        source: Name of the model that it was made on.
        result: The attack.
        targets: By name, the source among them where its own rate is wanted; all with early exits.
    """
    rows = []
    at_source = eligible(result.case(result.made_at), RULES[0])
    for target, model in targets.items():
        clean, adversarial = logits_of(model, result.images), logits_of(model, result.adversarial)
        case = Case(clean, adversarial, result.labels, result.made_at)
        counted = at_source & eligible(case, RULES[0])
        for name in RULES:
            share = rate_of(SUCCESS_RULES[name].succeeded(case), counted)
            where = {"form": form, "source": source, "target": target, "success_rule": name}
            rows.append({**where, "epsilon": result.spec.epsilon, **_columns(share)})
    return EARLY_TRANSFER.check(pd.DataFrame(rows))


def _columns(share: Rate) -> dict[str, int | float]:
    return {
        "num_succeeded": share.num_hits,
        "num_eligible": share.num_images,
        "rate": share.value,
        "low": share.low,
        "high": share.high,
    }
