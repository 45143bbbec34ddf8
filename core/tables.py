"""Tidy tables with declared columns: what figures, downloads, reports and tests all read."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from core.attacks.run import AttackResult
from core.attacks.success import SUCCESS_RULES, Case, rule_elsewhere
from core.exits import ExitDecisions, ExitPolicy, decide
from core.experiment import Experiment
from core.metrics import Rate, exit_shift, rate


@dataclass(frozen=True)
class TableSchema:
    """The columns of a table, in order, with their kinds.

    Attributes:
        name: Of the table.
        row: What one row is.
        columns: Name to kind: ``text``, ``whole``, ``number`` or ``truth``.
    """

    name: str
    row: str
    columns: dict[str, str]

    def check(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Returns the frame with its columns in order.

        Raises:
            ValueError: If a column is missing, unknown or of another kind.
        """
        if set(frame.columns) != set(self.columns):
            difference = set(frame.columns) ^ set(self.columns)
            raise ValueError(f"Table {self.name}: columns {sorted(difference)} are missing or unknown.")
        for column, kind in self.columns.items():
            if not _KINDS[kind](frame[column]):
                raise ValueError(f"Table {self.name}: {column} is {frame[column].dtype}, not a {kind}.")
        return frame[list(self.columns)]


_KINDS = {
    # Given the column and not its dtype: of an object column, pandas then looks at the cells.
    "text": lambda column: pd.api.types.is_string_dtype(column),
    "whole": lambda column: pd.api.types.is_integer_dtype(column),
    "number": lambda column: pd.api.types.is_float_dtype(column),
    "truth": lambda column: pd.api.types.is_bool_dtype(column),
}
_STATE = {
    "answered_exit": "whole",
    "computed_exit": "whole",
    "prediction": "whole",
    "confidence": "number",
    "cost": "number",
}

DECISIONS = TableSchema(
    "decisions",
    "one image, attacked on one model (source) and shown to one model (target)",
    {
        "image_id": "text",
        "pixel_hash": "text",
        "label": "whole",
        "source": "text",
        "target": "text",
        "attack": "text",
        "epsilon": "number",
        "made_at": "number",
        "threshold": "number",
        "fallback": "text",
        **{f"clean_{field}": kind for field, kind in _STATE.items()},
        **{f"adversarial_{field}": kind for field, kind in _STATE.items()},
        "exit_shift": "whole",
        "success_rule": "text",
        "attackable": "truth",
        "succeeded": "truth",
        "linf": "number",
        "l2": "number",
        "precision": "text",
    },
)
EXITS = TableSchema(
    "exits",
    "one exit's view of one image, clean or adversarial",
    {
        "image_id": "text",
        "source": "text",
        "target": "text",
        "state": "text",
        "exit_index": "whole",
        "predicted": "whole",
        "confidence": "number",
        "true_probability": "number",
        "right": "truth",
    },
)
STEPS = TableSchema(
    "steps",
    "one exit's view of one image at one step of the attack; step 0 is the start",
    {
        "image_id": "text",
        "source": "text",
        "step": "whole",
        "exit_index": "whole",
        "predicted": "whole",
        "confidence": "number",
        "true_probability": "number",
        "loss": "number",
        "made_at_exit": "whole",
    },
)
DENOMINATORS = ("attackable", "common", "fooled the source")
_RATE = {"num_fooled": "whole", "num_images": "whole", "rate": "number", "low": "number", "high": "number"}
TRANSFER = TableSchema(
    "transfer",
    "one source and one target",
    {"source": "text", "target": "text", "success_rule": "text", "denominator": "text", **_RATE},
)
DIRECTIONS = TableSchema(
    "directions",
    "one source and another model as target, by the kinds of the two",
    {
        "direction": "text",
        "same_architecture": "truth",
        "source": "text",
        "target": "text",
        "denominator": "text",
        **_RATE,
    },
)
EXIT_TRANSFER = TableSchema(
    "exit transfer",
    "one exit of a model that was attacked, and one that was shown the outcome",
    {"source_exit": "whole", "target_exit": "whole", "denominator": "text", **_RATE},
)
LADDER = TableSchema(
    "ladder",
    "one image and the smallest radius at which the attack succeeds on it; none where it never does",
    {
        "image_id": "text",
        "attack": "text",
        "success_rule": "text",
        "attackable": "truth",
        "smallest_epsilon": "number",
        "largest_tried": "number",
    },
)
LADDER_STEPS = TableSchema(
    "ladder steps",
    "one radius, and the attackable images that succumb within it",
    {"epsilon": "number", **_RATE},
)
KEPT = TableSchema(
    "kept",
    "one image attacked on one model, from a run that was kept, judged under the policy that it was made at",
    {
        "run": "text",
        "example": "text",
        "image_id": "text",
        "pixel_hash": "text",
        "label": "whole",
        "class_name": "text",
        "source": "text",
        "weights_sha256": "text",
        "attack": "text",
        "attack_name": "text",
        "epsilon": "number",
        "objective": "text",
        "made_at": "number",
        "fallback": "text",
        "kept_at": "text",
        **{f"clean_{field}": kind for field, kind in _STATE.items()},
        **{f"adversarial_{field}": kind for field, kind in _STATE.items()},
        "clean_class": "text",
        "adversarial_class": "text",
        "exit_shift": "whole",
        "linf": "number",
        "success_rule": "text",
        "succeeded": "truth",
        # Whether each rule holds: False, too, where it has nothing to say of the image.
        **dict.fromkeys(SUCCESS_RULES, "truth"),
        "survives_rounding": "truth",
        "num_shown": "whole",
        "num_fooled": "whole",
        "fooled": "text",
    },
)
SCHEMAS = (DECISIONS, EXITS, STEPS, TRANSFER, DIRECTIONS, EXIT_TRANSFER, LADDER, LADDER_STEPS, KEPT)


def decisions_table(experiment: Experiment, policy: ExitPolicy) -> pd.DataFrame:
    """Every image under a policy, for every source and target: schema ``DECISIONS``.

    Distances are those of the stored perturbations, in pixels of [0, 1] (``l2``: over the whole image).
    """
    image_set = experiment.image_set
    columns: dict[str, list[np.ndarray]] = {name: [] for name in DECISIONS.columns}
    for (source, target), logits in experiment.logits.items():
        result = experiment.results[source]
        clean_logits = experiment.clean_logits[target]
        clean, adversarial = decide(clean_logits, policy), decide(logits, policy)
        own = result.spec.success_rule
        rule = SUCCESS_RULES[own if source == target else rule_elsewhere(own, result.spec.goal_class)]
        case = Case(clean_logits, logits, image_set.labels, policy, result.spec.goal_class)
        change = (result.adversarial - result.images).flatten(1).double()
        costs = experiment.cards[target].exit_costs
        part = {
            "image_id": image_set.image_ids,
            "pixel_hash": image_set.pixel_hashes,
            "label": image_set.labels.numpy(),
            "source": source,
            "target": target,
            "attack": result.spec.label,
            "epsilon": result.spec.epsilon,
            "made_at": result.made_at.threshold,
            "threshold": float(policy.threshold),
            "fallback": policy.fallback,
            **_decision_columns("clean", clean, costs),
            **_decision_columns("adversarial", adversarial, costs),
            "exit_shift": exit_shift(clean.computed_exit, adversarial.computed_exit).numpy(),
            "success_rule": rule.name,
            "attackable": rule.attackable(case).numpy(),
            "succeeded": rule.succeeded(case).numpy(),
            "linf": change.abs().amax(1).numpy(),
            "l2": change.norm(dim=1).numpy(),
            "precision": result.precision,
        }
        for name, values in part.items():
            columns[name].append(np.broadcast_to(np.asarray(values), len(image_set)))
    # One frame of all: a frame of each pair and their concatenation take 5 ms longer, at every threshold.
    return DECISIONS.check(pd.DataFrame({name: np.concatenate(parts) for name, parts in columns.items()}))


def exits_table(experiment: Experiment) -> pd.DataFrame:
    """What every exit says of every image, clean and adversarial, whatever the policy: schema ``EXITS``."""
    parts = []
    for (source, target), adversarial in experiment.logits.items():
        for state, logits in (("clean", experiment.clean_logits[target]), ("adversarial", adversarial)):
            probabilities = logits.softmax(dim=-1)
            confidence, predicted = probabilities.max(dim=-1)
            labels = experiment.image_set.labels[:, None].expand_as(predicted)
            parts.append(
                _long(
                    experiment.image_set.image_ids,
                    {
                        "predicted": predicted,
                        "confidence": confidence,
                        "true_probability": probabilities.gather(2, labels[..., None])[..., 0],
                        "right": predicted == labels,
                    },
                ).assign(source=source, target=target, state=state)
            )
    return EXITS.check(pd.concat(parts, ignore_index=True))


def steps_table(result: AttackResult, image_ids: list[str], source: str) -> pd.DataFrame:
    """How every exit gave way step by step: schema ``STEPS``."""
    parts = []
    for number, step in enumerate(result.steps):
        num_exits = step.predicted.shape[1]
        columns = {
            "predicted": step.predicted,
            "confidence": step.confidence,
            "true_probability": step.true_probability,
            "loss": step.loss[:, None].expand(-1, num_exits),
            "made_at_exit": step.exit_taken[:, None].expand(-1, num_exits),
        }
        parts.append(_long(image_ids, columns).assign(source=source, step=number))
    return STEPS.check(pd.concat(parts, ignore_index=True))


def transfer_images(decisions: pd.DataFrame) -> pd.DataFrame:
    """For every source, target and image, whether it counts in each denominator and whether the target is fooled.

    Args:
        decisions: Schema ``DECISIONS``, each source among its own targets.

    Returns:
        The columns ``source``, ``target``, ``image_id``, ``success_rule``, ``fooled`` and one truth for each of
        ``DENOMINATORS``: ``attackable`` (attackable at the source and at the target), ``common`` (attackable in every
        row of the image) and ``fooled the source`` (attackable, and the attack succeeded at its source).

    Each row's own success rule says what is attackable: at the source that of the attack, at another target that by
    which targets count. So under a slowdown ``attackable`` is what leaves early on both; under the deployed Early
    Attack what the source, its final exit and the target answer rightly; and under the published one what the target
    answers rightly, and all images at the source itself, as that rule asks for no true label.
    """
    sources, images = pd.factorize(decisions.source)[0], pd.factorize(decisions.image_id)[0]
    own = (decisions.source == decisions.target).to_numpy()
    attackable, succeeded = decisions.attackable.to_numpy(), decisions.succeeded.to_numpy()
    at_source = np.zeros((2, sources.max(initial=-1) + 1, images.max(initial=-1) + 1), dtype=bool)
    at_source[:, sources[own], images[own]] = attackable[own], succeeded[own]
    attackable_there, succeeded_there = at_source[:, sources, images]
    return pd.DataFrame(
        {
            **{column: decisions[column] for column in ("source", "target", "image_id", "success_rule")},
            "fooled": succeeded,
            "attackable": attackable & attackable_there,
            "common": np.bincount(images, ~attackable)[images] == 0,
            "fooled the source": attackable & attackable_there & succeeded_there,
        }
    )


def transfer_table(decisions: pd.DataFrame) -> pd.DataFrame:
    """How often what was made on each source fools each target: schema ``TRANSFER``.

    One row for each source, target and denominator of ``transfer_images``; denominators are never mixed.
    """
    rows = []
    for (source, target), group in transfer_images(decisions).groupby(["source", "target"], sort=False):
        for denominator in DENOMINATORS:
            share = rate(int((group.fooled & group[denominator]).sum()), int(group[denominator].sum()))
            rows.append(
                {
                    "source": source,
                    "target": target,
                    "success_rule": group.success_rule.iloc[0],
                    "denominator": denominator,
                    **fooled_columns(share),
                }
            )
    return TRANSFER.check(pd.DataFrame(rows))


def fooled_columns(share: Rate) -> dict[str, int | float]:
    """A rate as the columns that all tables of fooled images share."""
    return {
        "num_fooled": share.num_hits,
        "num_images": share.num_images,
        "rate": share.value,
        "low": share.low,
        "high": share.high,
    }


def _decision_columns(state: str, decisions: ExitDecisions, costs: tuple[float, ...]) -> dict[str, np.ndarray]:
    return {
        f"{state}_answered_exit": decisions.answered_exit.numpy(),
        f"{state}_computed_exit": decisions.computed_exit.numpy(),
        f"{state}_prediction": decisions.prediction.numpy(),
        f"{state}_confidence": decisions.confidence.double().numpy(),
        f"{state}_cost": decisions.costs(costs).numpy(),
    }


def _long(image_ids: list[str], columns: dict[str, Tensor]) -> pd.DataFrame:
    """One row per image and exit from columns of (N, K)."""
    num_images, num_exits = next(iter(columns.values())).shape
    return pd.DataFrame(
        {
            "image_id": np.repeat(image_ids, num_exits),
            "exit_index": np.tile(np.arange(num_exits), num_images),
            **{name: _plain(values).reshape(-1) for name, values in columns.items()},
        }
    )


def _plain(values: Tensor) -> np.ndarray:
    return (values.double() if torch.is_floating_point(values) else values).numpy()
