"""Doing some cells of a finished study again, and comparing every verdict."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from core.checkpoints import ModelCard
from core.errors import ExitLensError
from core.progress import Progress
from core.study import parts
from core.study.cell_table import read_cells
from core.study.cells import Cell
from core.study.gather import MADE_COLUMNS, answers_of, judged
from core.study.models import model_hash
from core.study.placements import with_placements
from core.study.store import DECISIONS_FILE, Study, read_study, read_table
from core.study.surrogate_files import stored_model
from core.study.work import Task, do_cell

ENOUGH = 0.99
_ROUNDING = 1e-6
_VERDICT = [
    "clean_prediction", "clean_computed_exit", "adversarial_prediction", "adversarial_computed_exit", "attackable",
    "succeeded",
]  # fmt: skip
_COSTS = ["clean_cost", "adversarial_cost"]
# What no float sum moves: it is the same, or the table is not that of this study.
_ASKED = [
    "images", "label", "source", "attack", "epsilon", "objective", "seed", "threshold", "fallback", "success_rule",
]  # fmt: skip
_ROW = ["image_id", "target", "policy"]


@dataclass(frozen=True)
class Verified:
    """How a study's rows compare with those made again.

    Attributes:
        num_cells: Done again.
        num_rows: Compared: images times targets times policies.
        num_same: Of them, same answer, exit and cost, clean and adversarial, and same outcome of the attack.
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
        ExitLensError: If a model is another one now, or a table is missing, lacks rows, has some twice, or says that
            other things were asked.
    """
    study = read_study(folder)
    if changed := changed_models(study, cards):
        raise ExitLensError(
            f"{', '.join(changed)} changed since {folder} was run, or is gone. Run the study again where its parts "
            "are: only what the models touch is done again."
        )
    cells = read_cells(folder, study)
    clean_of = {cell.images: cell for cell in cells if cell.attack is None}
    attacked = [cell for cell in cells if cell.attack]
    drawn = np.random.default_rng(seed).permutation(len(attacked))[:num_cells]
    compared = []
    for number, index in enumerate(sorted(drawn.tolist())):
        again = _rows_of(folder, study, attacked[index], clean_of[attacked[index].images])
        stored = read_table(folder / DECISIONS_FILE, filters=[("cell", "=", attacked[index].key)]).to_pandas()
        compared.append(_side_by_side(stored, again, f"{folder / DECISIONS_FILE}, cell {attacked[index].key}"))
        if on_progress:
            on_progress(Progress((number + 1) / len(drawn), f"{number + 1} of {len(drawn)} cells"))
    rows = pd.concat(compared)
    same = np.logical_and.reduce(
        [rows[name] == rows[f"{name}_again"] for name in _VERDICT]
        + [np.isclose(rows[name], rows[f"{name}_again"], rtol=0, atol=_ROUNDING) for name in _COSTS]
    )
    return Verified(len(drawn), len(rows), int(same.sum()))


def _side_by_side(stored: pd.DataFrame, again: pd.DataFrame, where: str) -> pd.DataFrame:
    """Every row beside the one made again."""
    if stored.duplicated(_ROW).any():
        raise ExitLensError(f"{where} has rows twice. Restore it, or run the study again where its parts are.")
    both = stored.merge(again, on=_ROW, suffixes=("", "_again"))
    if not len(both) == len(stored) == len(again):
        raise ExitLensError(
            f"{where} has {len(stored)} rows, of which {len(both)} are among the {len(again)} of the cell."
        )
    if changed := [name for name in _ASKED if (both[name] != both[f"{name}_again"]).any()]:
        raise ExitLensError(f"{where} says otherwise what was asked: {', '.join(changed)}.")
    return both


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
    rows: pd.DataFrame = pa.concat_tables(tables).select([*_ROW, *_VERDICT, *_COSTS, *_ASKED]).to_pandas()
    return rows
