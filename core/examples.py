"""Adversarial examples one by one: what a kept run says of each, and how one is made again and checked."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np
import pandas as pd
from pydantic import TypeAdapter
from torch import Tensor

from core.attacks.run import AttackResult, apply_perturbations, attack
from core.attacks.spec import AttackSpec
from core.attacks.success import SUCCESS_RULES, Case
from core.checkpoints import ModelCard
from core.data import ImageSet
from core.evaluation import exit_logits, logits_of
from core.exits import ExitPolicy, Fallback, decide
from core.experiment import Experiment
from core.models import ExitModel
from core.models.prepared import prepared
from core.tables import KEPT, decisions_table


class KeptExample(Protocol):
    """A row of schema ``KEPT``, as ``DataFrame.itertuples`` gives it."""

    run: str
    image_id: str
    pixel_hash: str
    label: int
    class_name: str
    source: str
    weights_sha256: str
    attack: str
    attack_name: str
    epsilon: float
    made_at: float
    fallback: Fallback
    kept_at: str
    clean_answered_exit: int
    clean_computed_exit: int
    clean_confidence: float
    clean_cost: float
    clean_class: str
    adversarial_answered_exit: int
    adversarial_computed_exit: int
    adversarial_prediction: int
    adversarial_confidence: float
    adversarial_cost: float
    adversarial_class: str
    exit_shift: int
    linf: float
    success_rule: str
    succeeded: bool
    survives_rounding: bool
    num_shown: int
    num_fooled: int
    is_here: bool
    is_current: bool


def kept_table(
    experiment: Experiment, models: Mapping[str, tuple[ExitModel, ModelCard]], run: str, kept_at: str
) -> pd.DataFrame:
    """One row per image and source, under the policy that the experiment was made at: schema ``KEPT``.

    A model counts as fooled where its answer was right on the clean image and is wrong now, whatever the attack
    aimed at. A rule holds where the image was attackable under it and it succeeded. ``survives_rounding``: the
    attack's own rule holds for the image rounded to 8 bits, too, judged by the source.

    Args:
        experiment: To be kept.
        models: At least its sources.
        run: Key of the run.
        kept_at: When, in UTC, as ISO 8601.
    """
    decisions = decisions_table(experiment, experiment.spec.made_at)
    right_before = decisions.clean_prediction == decisions.label
    decisions = decisions.assign(is_fooled=right_before & (decisions.adversarial_prediction != decisions.label))
    class_names = experiment.image_set.class_names
    parts = []
    for source, result in experiment.results.items():
        shown = decisions[decisions.source == source]
        own = shown[shown.target == source].reset_index(drop=True)
        targets = [target for target in experiment.cards if (source, target) in experiment.logits]
        fooled = shown.pivot(index="image_id", columns="target", values="is_fooled").loc[own.image_id, targets]
        weights = experiment.cards[source].weights_sha256
        parts.append(
            own[[name for name in KEPT.columns if name in own.columns]].assign(
                run=run,
                example=[_example_hash(pixel_hash, weights, result) for pixel_hash in own.pixel_hash],
                class_name=[class_names[label] for label in own.label],
                weights_sha256=weights,
                attack_name=result.spec.name,
                objective=result.spec.aim,
                kept_at=kept_at,
                clean_class=[class_names[answer] for answer in own.clean_prediction],
                adversarial_class=[class_names[answer] for answer in own.adversarial_prediction],
                **_successes(experiment, source, models[source][0]),
                num_shown=len(targets),
                num_fooled=fooled.sum(axis=1).to_numpy(),
                fooled=[", ".join(fooled.columns[row]) for row in fooled.to_numpy()],
            )
        )
    return KEPT.check(pd.concat(parts, ignore_index=True))


def _successes(experiment: Experiment, source: str, model: ExitModel) -> dict[str, np.ndarray]:
    """Every rule on the images of one source, and the attack's own rule once pixels are rounded."""
    result, policy = experiment.results[source], experiment.spec.made_at
    case = result.case(policy)
    rounded_images = replace(experiment.image_set, images=(result.adversarial * 255).round().byte())
    rounded = replace(case, adversarial_logits=exit_logits(model, rounded_images))

    def holds(name: str, case: Case) -> np.ndarray:
        rule = SUCCESS_RULES[name]
        held: np.ndarray = (rule.attackable(case) & rule.succeeded(case)).numpy()
        return held

    own = result.spec.success_rule
    return {name: holds(name, case) for name in SUCCESS_RULES} | {
        "succeeded": holds(own, case),
        "survives_rounding": holds(own, rounded),
    }


def remade_perturbation(model: ExitModel, image_set: ImageSet, spec: AttackSpec, made_at: ExitPolicy) -> Tensor:
    """The perturbations of a kept run made again, (N, 3, H, W) float16.

    Float sums move with the batch size, so single pixels may differ from the lost ones: check the verdict.

    Args:
        model: The source, with the weights of the run.
        image_set: The images to make again, some or all of the run's.
        spec: The attack as it applied to the source.
        made_at: The policy in force.
    """
    search = prepared(model, spec.search_precision)
    return attack(model, image_set.pixels(), image_set.labels, spec, made_at, search=search).perturbations


def same_verdict(model: ExitModel, image: Tensor, perturbation: Tensor, example: KeptExample) -> bool:
    """Whether the source still answers an adversarial image as its kept row says: same class at the same exit.

    Args:
        model: The source.
        image: Clean, (3, H, W) in [0, 1].
        perturbation: (3, H, W).
        example: Its kept row.
    """
    policy = ExitPolicy(example.made_at, example.fallback)
    now = decide(logits_of(model, apply_perturbations(image[None], perturbation[None])), policy)
    return (int(now.prediction), int(now.computed_exit), int(now.answered_exit)) == (
        example.adversarial_prediction,
        example.adversarial_computed_exit,
        example.adversarial_answered_exit,
    )


def short_hash(content: object) -> str:
    """Sixteen hexadecimal digits of anything that JSON can write."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


_ATTACKS, _POLICIES = TypeAdapter(AttackSpec), TypeAdapter(ExitPolicy)


def _example_hash(pixel_hash: str, weights: str, result: AttackResult) -> str:
    made = [_ATTACKS.dump_python(result.spec), _POLICIES.dump_python(result.made_at)]
    return short_hash([pixel_hash, weights, *made])
