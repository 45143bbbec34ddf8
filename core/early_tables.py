"""What each form of the Early Attack achieves on a model, and at what price."""

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd
import torch
from pydantic import TypeAdapter
from torch import Tensor

from core.attacks.run import AttackResult
from core.attacks.spec import AttackSpec, EarlyAttack, PublishedEarlyAttack, early
from core.attacks.success import SUCCESS_RULES, Case, StoredCase
from core.evaluation import logits_of
from core.examples import short_hash
from core.exits import ExitAnswers, decide
from core.metrics import Rate, rate_of
from core.models import ExitModel
from core.tables import TableSchema

ALPHAS = (0.001, 1.0, 40.0)
EARLY_FORMS = TableSchema(
    "early forms",
    "one form of the Early Attack on one model",
    {
        "form": "text",
        "attack": "text",
        "spec_hash": "text",
        "model": "text",
        "weights_sha256": "text",
        "images": "text",
        "threshold": "number",
        "success_rule": "text",
        # Of the images on which there was something to do.
        "num_succeeded": "whole",
        "num_eligible": "whole",
        "rate": "number",
        "low": "number",
        "high": "number",
        "num_images": "whole",
        "eligible_share": "number",
        "eligible_low": "number",
        "eligible_high": "number",
        # The rule on all images, attacked and clean, whatever they were before.
        "all_image_rate": "number",
        "all_image_low": "number",
        "all_image_high": "number",
        "clean_base_rate": "number",
        "clean_base_low": "number",
        "clean_base_high": "number",
        # Of the images that succeeded, in pixels of [0, 1]; none without one. Steps are those to the first success,
        # through the exit that gave way where several were tried.
        "median_linf": "number",
        "median_l2": "number",
        "median_steps": "number",
        "num_survive_rounding": "whole",
        "survive_rate": "number",
        "survive_low": "number",
        "survive_high": "number",
        "seconds": "number",
    },
)


def early_forms() -> dict[str, AttackSpec]:
    """The forms that are compared: the published one, its departures one at a time, and the deployed one."""
    published = PublishedEarlyAttack()
    return {
        **{f"published, α {alpha:g}": replace(published, alpha=alpha) for alpha in ALPHAS},
        "from the image on": replace(published, start="image"),
        "projected, 8/255": replace(published, epsilon=8 / 255),
        "margins on logits": replace(published, loss="logits"),
        "deployed, 8/255": deployed(8 / 255),
        "deployed, 2/255": deployed(2 / 255),
    }


def deployed(epsilon: float) -> EarlyAttack:
    """The deployed form with numbers chosen on validation; 48 gradient steps at most."""
    return early(epsilon)


def eligible(case: Case, rule_name: str) -> Tensor:
    """The images (N,) on which a form has something to do.

    The published rule: those that do not fulfil it when clean. The deployed ones: taken exit and final exit right
    when clean, and the exit taken is not the final one.
    """
    rule, clean = SUCCESS_RULES[rule_name], replace(case, adversarial_logits=case.clean_logits)
    if rule_name == "early_broken_final_kept":
        return rule.attackable(case) & ~rule.succeeded(clean)
    last = case.clean_logits.shape[1] - 1
    return rule.attackable(case) & (decide(case.clean_logits, case.policy).computed_exit < last)


def early_row(
    form: str,
    result: AttackResult,
    model: ExitModel,
    names: Mapping[str, str],
) -> pd.DataFrame:
    """What one form achieved: one row of schema ``EARLY_FORMS``.

    Every verdict is that of the model given, asked again, whatever network the search ran on.

    Args:
        form: Its name.
        result: The attack.
        model: Judges: the float32 network of the shipped weights.
        names: ``model``, ``weights_sha256`` and ``images``.
    """
    spec, policy = result.spec, result.made_at
    rule = SUCCESS_RULES[spec.success_rule]
    clean, adversarial = logits_of(model, result.images), logits_of(model, result.adversarial)
    rounded = logits_of(model, (result.adversarial * 255).round() / 255)
    case = Case(clean, adversarial, result.labels, policy, spec.goal_class)
    counted, hits = eligible(case, rule.name), rule.succeeded(case)
    succeeded = hits & counted
    share = rate_of(hits, counted)
    changes = (result.adversarial - result.images)[succeeded].flatten(1).double()
    num_images = len(result.labels)
    base = rule.succeeded(replace(case, adversarial_logits=clean))
    survivors = rate_of(rule.succeeded(replace(case, adversarial_logits=rounded)), succeeded)
    return EARLY_FORMS.check(
        pd.DataFrame(
            [
                {
                    "form": form,
                    "attack": spec.label,
                    "spec_hash": spec_hash(spec),
                    **names,
                    "threshold": float(policy.threshold),
                    "success_rule": rule.name,
                    "num_succeeded": share.num_hits,
                    "num_eligible": share.num_images,
                    "rate": share.value,
                    "low": share.low,
                    "high": share.high,
                    "num_images": num_images,
                    **_interval("eligible", rate_of(counted), "eligible_share"),
                    **_interval("all_image", rate_of(hits)),
                    **_interval("clean_base", rate_of(base)),
                    "median_linf": _median(changes.abs().amax(1) if len(changes) else changes),
                    "median_l2": _median(changes.norm(dim=1)),
                    "median_steps": _median(first_success(result)[succeeded].double()),
                    "num_survive_rounding": survivors.num_hits,
                    **_interval("survive", survivors),
                    "seconds": result.seconds,
                }
            ]
        )
    )


def first_success(result: AttackResult) -> Tensor:
    """The first step, (N,), at which the attack's rule held, by its own record; the number of steps where none."""
    first = torch.full(result.labels.shape, len(result.steps) - 1)
    rule, clean = SUCCESS_RULES[result.spec.success_rule], ExitAnswers.of(result.clean_logits, result.made_at)
    for number, step in reversed(list(enumerate(result.steps))):
        at_step = ExitAnswers(step.confidence, step.predicted)
        case = StoredCase(clean, at_step, result.labels, result.made_at, result.spec.goal_class)
        first[rule.succeeded(case)] = number
    return first


def spec_hash(spec: AttackSpec) -> str:
    """Sixteen hexadecimal digits that stand for a spec."""
    return short_hash(TypeAdapter(type(spec)).dump_python(spec, mode="json"))


def _interval(name: str, share: Rate, value: str = "") -> dict[str, float]:
    """A share with its interval, as three columns."""
    return {value or f"{name}_rate": share.value, f"{name}_low": share.low, f"{name}_high": share.high}


def _median(values: Tensor) -> float:
    return float(values.median()) if len(values) else float("nan")
