"""Doing some cells of a finished study again, and comparing every verdict."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from core.checkpoints import ModelCard
from core.errors import ExitLensError
from core.progress import Progress
from core.study import parts
from core.study.cell_table import read_cells
from core.study.cells import Cell
from core.study.gather import MADE_COLUMNS, answers_of, judged
from core.study.models import model_hash
from core.study.placements import with_placements
from core.study.store import DECISIONS_FILE, Study, read_study
from core.study.surrogate_files import stored_model
from core.study.work import Task, do_cell

ENOUGH = 0.99
_VERDICT = ["clean_prediction", "clean_computed_exit", "adversarial_prediction", "adversarial_computed_exit"]
_ROW = ["image_id", "target", "policy"]


@dataclass(frozen=True)
class Verified:
    """How a study's rows compare with those made again.

    Attributes:
        num_cells: Done again.
        num_rows: Compared: images times targets times policies.
        num_same: Of them, same answer and same exit, clean and adversarial.
    """

    num_cells: int
    num_rows: int
    num_same: int

    @property
    def share(self) -> float:
        """Part of the rows that came out the same."""
        return self.num_same / self.num_rows

    @property
    def agrees(self) -> bool:
        """Whether 99 % of the rows or more came out the same: float sums differ between machines."""
        return self.share >= ENOUGH


def changed_models(study: Study, cards: dict[str, ModelCard]) -> list[str]:
    """Names of a study's models that are gone, or other than those that it was run on; surrogates are its own.

    Args:
        study: Any.
        cards: Of all models there are.
    """
    here = with_placements(cards, study.spec.placements)
    hashes = {name: model_hash(card) for name, card in here.items()}
    return [model.name for model in study.models if not model.surrogate and hashes.get(model.name) != model.hash]


def verify_study(
    folder: Path,
    cards: dict[str, ModelCard],
    num_cells: int = 3,
    seed: int = 0,
    on_progress: Callable[[Progress], None] | None = None,
) -> Verified:
    """Does some cells again, from the images on, and compares what every target says under every policy.

    Args:
        folder: Of a study; its parts are not needed.
        cards: Of all models there are.
        num_cells: How many cells with an attack, at most.
        seed: Draws them.
        on_progress: Called after each cell.

    Raises:
        ExitLensError: If a model is another one now, or a table is missing.
    """
    study = read_study(folder)
    if changed := changed_models(study, cards):
        raise ExitLensError(
            f"{', '.join(changed)} changed since {folder} was run, or is gone. Run the study again: only what the "
            "models touch is done again."
        )
    cells = read_cells(folder, study)
    clean_of = {cell.images: cell for cell in cells if cell.attack is None}
    attacked = [cell for cell in cells if cell.attack]
    drawn = np.random.default_rng(seed).permutation(len(attacked))[:num_cells]
    compared = []
    for number, index in enumerate(sorted(drawn.tolist())):
        again = _rows_of(folder, study, attacked[index], clean_of[attacked[index].images])
        stored = pq.read_table(folder / DECISIONS_FILE, filters=[("cell", "=", attacked[index].key)]).to_pandas()
        compared.append(stored.merge(again, on=_ROW, suffixes=("", "_again"), validate="one_to_one"))
        if len(compared[-1]) != len(stored) or stored.empty:
            raise ExitLensError(f"{folder / DECISIONS_FILE} lacks rows of cell {attacked[index].key}.")
        if on_progress:
            on_progress(Progress((number + 1) / len(drawn), f"{number + 1} of {len(drawn)} cells"))
    rows = pd.concat(compared)
    same = np.logical_and.reduce([rows[name] == rows[f"{name}_again"] for name in _VERDICT])
    return Verified(len(drawn), len(rows), int(same.sum()))


def _rows_of(folder: Path, study: Study, cell: Cell, clean_cell: Cell) -> pd.DataFrame:
    """The decisions of one cell, made from nothing."""
    surrogates = {model.name for model in study.models if model.surrogate}
    tasks = [
        Task(each, models=tuple(stored_model(folder, name) for name, _ in each.hashes if name in surrogates))
        for each in (clean_cell, cell)
    ]
    clean, done = ({kind: content for kind, _, content in do_cell(task).files} for task in tasks)
    before, after = (answers_of(parts.decode(files[parts.ANSWERS])) for files in (clean, done))
    images = parts.decode(done[parts.MADE], MADE_COLUMNS)
    tables = [
        judged(study, cell, images, study.model(target), number, before[target], adversarial)
        for target, adversarial in after.items()
        for number in range(len(study.spec.policies))
    ]
    rows: pd.DataFrame = pa.concat_tables(tables).select([*_ROW, *_VERDICT]).to_pandas()
    return rows
