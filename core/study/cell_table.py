"""The table of a study's cells: what was planned, written and read again."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from core.errors import ExitLensError
from core.study import parts
from core.study.cells import Cell, attack_fields, policy_text, read_attack, read_policy
from core.study.store import CELLS_FILE, Study, read_table

CELLS_SCHEMA = pa.schema(
    [
        ("cell", pa.string()),
        ("made", pa.string()),
        ("images", pa.string()),
        ("num_images", pa.int32()),
        ("source", pa.string()),
        ("attack", pa.string()),
        ("attack_name", pa.string()),
        ("attack_json", pa.string()),
        ("epsilon", pa.float64()),
        ("objective", pa.string()),
        ("seed", pa.int32()),
        ("stop_when_fooled", pa.bool_()),
        ("made_at_json", pa.string()),
        ("targets", pa.list_(pa.string())),
        ("batch_size", pa.int32()),
        ("num_threads", pa.int16()),
        ("precision", pa.string()),
        ("record_steps", pa.bool_()),
    ]
)
"""One cell as it was planned; ``source`` and ``attack`` are empty in a clean cell."""


def write_cells(folder: Path, cells: Sequence[Cell]) -> None:
    """Writes the table of cells: schema ``CELLS_SCHEMA``."""
    rows = [
        {
            "cell": cell.key,
            "made": cell.made_key if cell.attack else "",
            "images": cell.images,
            "num_images": cell.num_images,
            "source": cell.source,
            "attack": cell.attack.label if cell.attack else "",
            "attack_name": cell.attack.name if cell.attack else "",
            "attack_json": json.dumps(attack_fields(cell.attack)) if cell.attack else "",
            "epsilon": cell.attack.epsilon if cell.attack else 0.0,
            "objective": cell.attack.aim if cell.attack else "",
            "seed": getattr(cell.attack, "seed", 0),
            "stop_when_fooled": getattr(cell.attack, "stop_when_fooled", False),
            "made_at_json": policy_text(cell.made_at),
            "targets": list(cell.targets),
            "batch_size": cell.batch_size,
            "num_threads": cell.num_threads,
            "precision": cell.precision,
            "record_steps": cell.record_steps,
        }
        for cell in cells
    ]
    parts.write_whole(folder / CELLS_FILE, parts.encode(pa.Table.from_pylist(rows, CELLS_SCHEMA), "cells"))


def read_cells(folder: Path, study: Study) -> list[Cell]:
    """The cells of a study as its table has them.

    Raises:
        ExitLensError: If the table is missing or damaged, or a cell does not bear the key that its content has.
    """
    path = folder / CELLS_FILE
    rows = read_table(path).to_pylist()
    cells = [_cell(row, study) for row in rows]
    if not tuple(cell.key for cell in cells) == tuple(row["cell"] for row in rows) == study.cells:
        raise ExitLensError(f"The cells in {path} are not those of the study beside it. Run the study again there.")
    return cells


def _cell(row: dict[str, Any], study: Study) -> Cell:
    hashes = {model.name: model.hash for model in study.models}
    named = [name for name in dict.fromkeys([row["source"], *row["targets"]]) if name]
    return Cell(
        images=row["images"],
        num_images=row["num_images"],
        source=row["source"],
        attack=read_attack(json.loads(row["attack_json"])) if row["attack_json"] else None,
        made_at=read_policy(row["made_at_json"]),
        targets=tuple(row["targets"]),
        hashes=tuple((name, hashes[name]) for name in named),
        batch_size=row["batch_size"],
        num_threads=row["num_threads"],
        precision=row["precision"],
        record_steps=row["record_steps"],
    )
