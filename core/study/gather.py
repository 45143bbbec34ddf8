"""From parts to tables: everything that is done, judged under the study's policies, cell by cell."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from core.attacks.success import SUCCESS_RULES, StoredCase, rule_elsewhere
from core.data import parse_image_set_name
from core.errors import ExitLensError
from core.examples import short_hash
from core.exits import ExitAnswers, ExitDecisions
from core.metrics import exit_shift
from core.study import parts
from core.study.cells import FORMAT, Cell
from core.study.models import StudyModel
from core.study.placements import is_placement
from core.study.store import ANSWERS_FILE, DECISIONS_FILE, STEPS_FILE, TIMINGS_FILE, Study, write_study

# Raised when the same answers would be judged in another way: tables are then made again, without any attack.
JUDGEMENT = 3
ROW_GROUP = 100_000
MADE_COLUMNS = ["image_id", "pixel_hash", "label", "linf", "l2"]

_STATE = [
    ("answered_exit", pa.int16()),
    ("computed_exit", pa.int16()),
    ("prediction", pa.int16()),
    ("confidence", pa.float32()),
    ("cost", pa.float64()),
]
DECISIONS_SCHEMA = pa.schema(
    [
        ("cell", pa.string()),
        ("images", pa.string()),
        ("image_id", pa.string()),
        ("pixel_hash", pa.string()),
        ("label", pa.int16()),
        ("source", pa.string()),
        ("target", pa.string()),
        ("attack", pa.string()),
        ("attack_name", pa.string()),
        ("epsilon", pa.float64()),
        ("objective", pa.string()),
        ("seed", pa.int32()),
        ("stop_when_fooled", pa.bool_()),
        ("policy", pa.string()),
        ("made_anew", pa.bool_()),
        ("made_at", pa.float64()),
        ("threshold", pa.float64()),
        ("fallback", pa.string()),
        *((f"clean_{name}", kind) for name, kind in _STATE),
        *((f"adversarial_{name}", kind) for name, kind in _STATE),
        ("exit_shift", pa.int16()),
        ("success_rule", pa.string()),
        ("attackable", pa.bool_()),
        ("succeeded", pa.bool_()),
        ("linf", pa.float32()),
        ("l2", pa.float32()),
        ("precision", pa.string()),
    ]
)
"""One image attacked on one source, shown to one target and judged under one policy.

The columns of ``core.tables.DECISIONS`` and more: ``policy`` names the study's policy, and ``made_anew`` says that the
attack was made under it, too, or would have been the same under any.
"""

STEPS_SCHEMA = pa.schema([field for field in parts.made_schema(1) if field.name not in ("perturbation", "linf", "l2")])
"""One attacked image: the exit that it was about to leave at after each step, and whether it was wrong there."""


def _answers_of_whole(folder: Path, study: Study, cell: Cell) -> pa.Table:
    """What all-exits models say, of which any placement can be judged."""
    table = pq.read_table(parts.part_path(folder, parts.ANSWERS, cell.key)).replace_schema_metadata(None)
    whole = [name for name in cell.targets if study.model(name).shares and not is_placement(name)]
    return table.filter(pc.is_in(table["target"], pa.array(whole, pa.string())))


def is_done(folder: Path, cell: Cell) -> bool:
    """Whether all parts that the tables need of a cell are there."""
    is_made = cell.attack is None or parts.has_part(folder, parts.MADE, cell.made_key)
    return is_made and parts.has_part(folder, parts.ANSWERS, cell.key)


def gather(folder: Path, study: Study, cells: Sequence[Cell]) -> Study:
    """Writes the tables of all cells that are done, under the study's policies, cell by cell.

    Args:
        folder: Of the study.
        study: Its description.
        cells: All cells, in order.

    Returns:
        The description with the number of cells done, as it is now in the folder.
    """
    done = [cell for cell in cells if is_done(folder, cell)]
    policies = [str(model.policies) for model in study.models]
    names = [choice.name for choice in study.spec.policies]
    state = short_hash([FORMAT, JUDGEMENT, [cell.key for cell in done], policies, names])
    _write_table(folder / DECISIONS_FILE, DECISIONS_SCHEMA, _decisions(folder, study, done), state)
    made = [cell for cell in done if cell.attack]
    for file, schema, kind, keys in (
        (STEPS_FILE, STEPS_SCHEMA, parts.MADE, [cell.made_key for cell in made]),
        (TIMINGS_FILE, parts.TIMINGS_SCHEMA, parts.TIMINGS, [cell.key for cell in done]),
    ):
        present = [parts.part_path(folder, kind, key) for key in keys if parts.has_part(folder, kind, key)]
        tables = (pq.read_table(path, columns=schema.names).cast(schema) for path in present)
        _write_table(folder / file, schema, tables, state)
    if study.spec.placements:
        whole = (_answers_of_whole(folder, study, cell) for cell in done)
        _write_table(folder / ANSWERS_FILE, parts.ANSWERS_SCHEMA, whole, state)
    study = replace(study, num_done=len(done))
    write_study(folder, study)
    return study


def _write_table(path: Path, schema: pa.Schema, tables: Iterable[pa.Table], state: str) -> None:
    """Writes a table piece by piece, so that memory does not grow with it; nothing where it is there already."""
    if parts.is_whole(path, state):
        return
    partial = path.with_name(f".partial-{path.name}")
    waiting: list[pa.Table] = []
    marked = schema.with_metadata({parts.KEY: state})
    try:
        with pq.ParquetWriter(partial, marked, compression="zstd", write_page_checksum=True) as writer:
            for table in tables:
                waiting.append(table)
                if sum(map(len, waiting)) >= ROW_GROUP:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
            if waiting:
                writer.write_table(pa.concat_tables(waiting))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ExitLensError(
            f"{path} cannot be written ({error.strerror or error}). Make room there; what is done stays."
        ) from error


def _decisions(folder: Path, study: Study, cells: Sequence[Cell]) -> Iterator[pa.Table]:
    clean: dict[str, ExitAnswers] = {}
    clean_of = ""
    for cell in cells:
        answers = parts.part_path(folder, parts.ANSWERS, cell.key)
        if cell.attack is None:
            clean, clean_of = _answers_in(answers), cell.images
        elif cell.images == clean_of:  # without its clean cell, a cell cannot be judged yet
            images = pq.read_table(
                parts.part_path(folder, parts.MADE, cell.made_key),
                columns=MADE_COLUMNS,
            )
            for target, adversarial in _answers_in(answers).items():
                for number in range(len(study.spec.policies)):
                    yield judged(study, cell, images, study.model(target), number, clean[target], adversarial)


def _answers_in(path: Path) -> dict[str, ExitAnswers]:
    return answers_of(pq.read_table(path, columns=["target", "predicted", "confidence", "certainty"]))


def answers_of(table: pa.Table) -> dict[str, ExitAnswers]:
    """What the exits of every target say, by its name, from rows of ``ANSWERS_SCHEMA`` ordered by target."""
    targets = table["target"].to_numpy()
    starts = [0, *(np.flatnonzero(targets[1:] != targets[:-1]) + 1).tolist(), len(targets)]
    answers = {}
    for first, end in pairwise(starts):
        rows = table.slice(first, end - first)
        answers[str(targets[first])] = ExitAnswers(
            torch.from_numpy(parts.rows_of(rows["confidence"]).copy()),
            torch.from_numpy(parts.rows_of(rows["predicted"]).astype(np.int64)),
            torch.from_numpy(parts.rows_of(rows["certainty"]).copy()),
        )
    return answers


def judged(
    study: Study,
    cell: Cell,
    images: pa.Table,
    target: StudyModel,
    number: int,
    clean: ExitAnswers,
    adversarial: ExitAnswers,
) -> pa.Table:
    """One cell and target under the policy of that number: schema ``DECISIONS_SCHEMA``."""
    assert cell.attack
    policy, made_under = target.policies[number], study.model(cell.source).policies[number]
    labels = torch.from_numpy(images["label"].to_numpy().astype(np.int64))
    case = StoredCase(clean, adversarial, labels, policy, cell.attack.goal_class)
    own = cell.attack.success_rule
    rule = SUCCESS_RULES[own if target.name == cell.source else rule_elsewhere(own, cell.attack.goal_class)]
    before, after = clean.decide(policy), adversarial.decide(policy)
    dataset, split, _ = parse_image_set_name(cell.images)
    values: dict[str, object] = {
        "cell": cell.key,
        "images": f"{dataset}:{split}",
        **{name: images[name].combine_chunks() for name in ("image_id", "pixel_hash", "label", "linf", "l2")},
        "source": cell.source,
        "target": target.name,
        "attack": cell.attack.label,
        "attack_name": cell.attack.name,
        "epsilon": cell.attack.epsilon,
        "objective": cell.attack.aim,
        "seed": getattr(cell.attack, "seed", 0),
        "stop_when_fooled": getattr(cell.attack, "stop_when_fooled", False),
        "policy": study.spec.policies[number].name,
        "made_anew": made_under == cell.made_at or not cell.attack.depends_on_policy,
        "made_at": cell.made_at.threshold,
        "threshold": policy.threshold,
        "fallback": policy.fallback,
        **_state("clean", before, target),
        **_state("adversarial", after, target),
        "exit_shift": exit_shift(before.computed_exit, after.computed_exit).numpy(),
        "success_rule": rule.name,
        "attackable": rule.attackable(case).numpy(),
        "succeeded": rule.succeeded(case).numpy(),
        "precision": cell.precision,
    }
    return pa.table(
        [_column(values[field.name], field.type, len(labels)) for field in DECISIONS_SCHEMA], DECISIONS_SCHEMA
    )


def _state(name: str, decisions: ExitDecisions, target: StudyModel) -> dict[str, np.ndarray]:
    return {
        f"{name}_answered_exit": decisions.answered_exit.numpy(),
        f"{name}_computed_exit": decisions.computed_exit.numpy(),
        f"{name}_prediction": decisions.prediction.numpy(),
        f"{name}_confidence": decisions.confidence.numpy(),
        f"{name}_cost": decisions.costs(target.exit_costs).numpy(),
    }


def _column(value: object, kind: pa.DataType, num_rows: int) -> pa.Array:
    if isinstance(value, pa.Array):
        return value.cast(kind)
    if isinstance(value, np.ndarray):
        return pa.array(value).cast(kind)
    return pa.repeat(pa.scalar(value, kind), num_rows)
