"""Any subset of an all-exits model's exits, judged from what a study stored: no network runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from core.attacks.success import SUCCESS_RULES, StoredCase, SuccessRule, rule_elsewhere
from core.errors import ExitLensError
from core.exits import ExitAnswers, ExitPolicy
from core.metrics import rate, rate_of
from core.models.costs import subset_costs
from core.study.cell_table import read_cells
from core.study.gather import answers_of
from core.study.models import StudyModel
from core.study.placements import is_placement, split_name
from core.study.store import ANSWERS_FILE, Study
from core.study.summary import summary_rows
from core.tables import TableSchema, fooled_columns

PLACED = TableSchema(
    "placed",
    "one placement of exits under one policy: what it gets right and costs, and how often an attack fools it",
    {
        "placement": "text",
        "exits": "text",
        "how": "text",
        "made_on": "text",
        "attack": "text",
        "success_rule": "text",
        "threshold": "number",
        "clean_accuracy": "number",
        "clean_cost": "number",
        "num_fooled": "whole",
        "num_images": "whole",
        "rate": "number",
        "low": "number",
        "high": "number",
        "adversarial_cost": "number",
    },
)
FIXED, ANEW, TRAINED = "fixed examples", "made anew", "trained with these exits"


@dataclass(frozen=True, eq=False)
class WholeAnswers:
    """What all exits of an all-exits model say of a study's images, clean and attacked elsewhere.

    Attributes:
        model: The model with all its exits.
        labels: True classes, (N,).
        clean: Of the clean images.
        attacked: Of fixed examples, by source and attack in words: those made under the study's first policy, from the
            first of several random starts.
        rules: Success rule of each of these, on this model.
        goals: Goal class of each of these; None of an untargeted one.
    """

    model: StudyModel
    labels: Tensor
    clean: ExitAnswers
    attacked: dict[tuple[str, str], ExitAnswers]
    rules: dict[tuple[str, str], SuccessRule]
    goals: dict[tuple[str, str], int | None]


def all_exits_models(study: Study) -> list[StudyModel]:
    """The models of a study whose exits can be chosen from."""
    return [model for model in study.models if model.shares and not is_placement(model.name)]


def whole_answers(folder: Path, study: Study, model: StudyModel) -> WholeAnswers:
    """Reads what all exits of a model say.

    Args:
        folder: Of the study.
        study: Its description.
        model: One of ``all_exits_models``.

    Raises:
        ExitLensError: If the study keeps no answers of this model.
    """
    path = folder / ANSWERS_FILE
    try:
        table = pq.read_table(path, filters=[("target", "=", model.name)])
    except (OSError, pa.ArrowException) as error:
        raise ExitLensError(f"{path} cannot be read. Run a study with placements there.") from error
    cells, rules, goals = _fixed_cells(folder, study, model)
    groups: dict[tuple[str, str], list[pa.Table]] = {}
    for cell, key, rows in _runs(table):
        if cell in cells:
            groups.setdefault(key, []).append(rows)
    clean = groups.pop(("", ""), [])
    if not clean:
        raise ExitLensError(f"{path} holds no answers of {model.name}. Run a study with placements there.")
    images = pa.concat_tables(clean).select(["image_id", "label"]).to_pandas()
    return WholeAnswers(
        model,
        torch.from_numpy(images.label.to_numpy().astype(np.int64)),
        _joined(clean),
        {key: _joined(rows) for key, rows in groups.items() if sum(map(len, rows)) == len(images)},
        rules,
        goals,
    )


def _fixed_cells(
    folder: Path, study: Study, model: StudyModel
) -> tuple[set[str], dict[tuple[str, str], SuccessRule], dict[tuple[str, str], int | None]]:
    """Keys of clean cells and of fixed examples; the rule by which a model counts, and its goal, by attack."""
    rules: dict[tuple[str, str], SuccessRule] = {}
    goals: dict[tuple[str, str], int | None] = {}
    alike: dict[tuple[str, ...], dict[int, str]] = {}
    for cell in read_cells(folder, study):
        if cell.attack is None:
            alike[cell.images,] = {0: cell.key}
            continue
        first = study.model(cell.source).policies[0]
        if getattr(cell.attack, "stop_when_fooled", False) or (cell.attack.depends_on_policy and cell.made_at != first):
            continue
        key = (cell.source, cell.attack.label)
        own = cell.attack.success_rule
        name = own if cell.source == model.name else rule_elsewhere(own, cell.attack.goal_class)
        rules[key], goals[key] = SUCCESS_RULES[name], cell.attack.goal_class
        alike.setdefault((cell.images, *key), {})[getattr(cell.attack, "seed", 0)] = cell.key
    return {by_seed[min(by_seed)] for by_seed in alike.values()}, rules, goals


def _runs(table: pa.Table) -> list[tuple[str, tuple[str, str], pa.Table]]:
    """Stretches of rows that are of one cell, with its key, source and attack."""
    cells = table["cell"].to_numpy()
    starts = [0, *(np.flatnonzero(cells[1:] != cells[:-1]) + 1).tolist()] if len(cells) else []
    ends = [*starts[1:], len(cells)]
    return [
        (
            cells[first],
            (table["source"][first].as_py(), table["attack"][first].as_py()),
            table.slice(first, end - first),
        )
        for first, end in zip(starts, ends, strict=True)
    ]


def _joined(tables: Sequence[pa.Table]) -> ExitAnswers:
    found = [next(iter(answers_of(table).values())) for table in tables]
    return ExitAnswers(
        torch.cat([one.confidence for one in found]),
        torch.cat([one.predicted for one in found]),
        torch.cat([one.certainty for one in found if one.certainty is not None]),
    )


def placed_rows(whole: WholeAnswers, exits: Sequence[int], policy: ExitPolicy, name: str) -> pd.DataFrame:
    """A placement against all fixed examples: schema ``PLACED``.

    The rates are over images that are attackable on the placement by the rule of the row.

    Args:
        whole: What all exits say.
        exits: 0-based, rising, the final one last.
        policy: In force.
        name: Of the placement.
    """
    costs = subset_costs(whole.model.layer_multiply_adds, whole.model.classifier_multiply_adds, exits)
    clean = whole.clean.at(exits).decide(policy)
    right = clean.prediction == whole.labels
    rows = []
    for (source, attack), answers in whole.attacked.items():
        rule = whole.rules[source, attack]
        case = StoredCase(whole.clean.at(exits), answers.at(exits), whole.labels, policy, whole.goals[source, attack])
        adversarial = answers.at(exits).decide(policy)
        share = rate_of(rule.succeeded(case), rule.attackable(case))
        rows.append(
            {
                "placement": name,
                "exits": exit_words(exits),
                "how": FIXED,
                "made_on": source,
                "attack": attack,
                "success_rule": rule.name,
                "threshold": float(policy.threshold),
                "clean_accuracy": right.double().mean().item(),
                "clean_cost": clean.costs(costs).mean().item(),
                **fooled_columns(share),
                "adversarial_cost": adversarial.costs(costs).mean().item(),
            }
        )
    return PLACED.check(pd.DataFrame(rows, columns=list(PLACED.columns)))


def studied_rows(study: Study, summary: pd.DataFrame, model: StudyModel, policy: str, attack: str) -> pd.DataFrame:
    """What the study itself measured of the model's placements, and of models trained with their exits.

    Attacks made on each of them, under this policy where the study made them anew; rates by the attack's own rule.

    Args:
        study: With placements.
        summary: Its table, schema ``SUMMARY``.
        model: An all-exits model.
        policy: By its name.
        attack: In words, as the tables have it.
    """
    rows = summary_rows(summary, policy, objective=None)
    rows = rows[(rows.attack == attack) & (rows.source == rows.target)]
    found = []
    for row in rows.to_dict("records"):
        target = study.model(str(row["target"]))
        is_placed = split_name(target.name, 1)[0] == model.name and target.name != model.name
        is_trained = target.shares is None and target.kind == "early-exit" and target.architecture == model.architecture
        if not (is_placed or is_trained) or target.dataset != model.dataset:
            continue
        share = rate(int(row["num_fooled"]), int(row["num_images"]))
        found.append(
            {
                "placement": target.label.rpartition(": ")[2],
                "exits": exit_words(split_name(target.name, model.num_exits)[1]) if is_placed else "",
                "how": ANEW if is_placed else TRAINED,
                "made_on": target.name,
                "attack": attack,
                "success_rule": str(row["success_rule"]),
                "threshold": float(row["threshold"]),
                "clean_accuracy": float(row["clean_accuracy"]),
                "clean_cost": float(row["clean_cost"]),
                **fooled_columns(share),
                "adversarial_cost": float(row["adversarial_cost"]),
            }
        )
    return PLACED.check(pd.DataFrame(found)) if found else pd.DataFrame(columns=list(PLACED.columns))


def exit_rates(whole: WholeAnswers, key: tuple[str, str]) -> pd.DataFrame:
    """Share right at every exit, clean and attacked: columns ``exit_index``, ``cost``, ``state``, ``accuracy``."""
    states: Mapping[str, ExitAnswers] = {"clean": whole.clean, "adversarial": whole.attacked[key]}
    parts = [
        pd.DataFrame(
            {
                "exit_index": range(whole.model.num_exits),
                "cost": whole.model.exit_costs,
                "state": state,
                "accuracy": (answers.predicted == whole.labels[:, None]).double().mean(dim=0).tolist(),
            }
        )
        for state, answers in states.items()
    ]
    return pd.concat(parts, ignore_index=True)


def exit_words(exits: Sequence[int]) -> str:
    """Exits as people count them, the final one by name: ``4, 8, Final``."""
    return ", ".join([*(str(index + 1) for index in exits[:-1]), "Final"])
