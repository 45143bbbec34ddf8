"""Doing one cell, in whichever process it lands: attack, store, show."""

import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from core.attacks.run import AttackResult, apply_perturbations, attack
from core.attacks.spec import UniversalAttack
from core.attacks.universal import check_unseen
from core.checkpoints import LoadedModel, ModelCard
from core.data import ImageSet, data_root, open_image_set, parse_image_set_name
from core.errors import ExitLensError
from core.evaluation import logits_of
from core.exits import ExitAnswers
from core.machine import instructions
from core.models.prepared import prepared
from core.study import parts
from core.study.cells import Cell
from core.study.models import model_hash
from core.study.placements import load_placed, split_name
from core.study.surrogate_files import StoredModel
from core.study.threads import limited_to


@dataclass(frozen=True, eq=False)
class Task:
    """A cell to be done.

    Attributes:
        cell: What to do.
        made: The part with its perturbations, where an earlier run has made them.
        models: Surrogates among its models, which no machine has among its checkpoints.
    """

    cell: Cell
    made: bytes | None = None
    models: tuple[StoredModel, ...] = ()


@dataclass(frozen=True, eq=False)
class Done:
    """What came of a cell.

    Attributes:
        cell: That was done.
        files: The parts to be written, in this order: kind, key and content.
    """

    cell: Cell
    files: list[tuple[str, str, bytes]] = field(default_factory=list)


def do_cell(task: Task) -> Done:
    """Attacks the source and shows what was made to every target; what was made already is not made again.

    The targets judge the stored float16 perturbations, so a part made now and one found on disk come to the same.

    Raises:
        ExitLensError: If a model or image set is not what the cell was planned with.
    """
    cell = task.cell
    with limited_to(cell.num_threads):
        image_set = _images(cell)
        pixels, files = image_set.pixels(), list[tuple[str, str, bytes]]()
        started = time.perf_counter()
        if cell.attack:
            made = task.made or _make(task, image_set)
            pixels = apply_perturbations(pixels, read_perturbations(made, pixels.shape))
            if not task.made:
                files.append((parts.MADE, cell.made_key, made))
        made_at = time.perf_counter()
        answers = _show(task, image_set, pixels)
        timings = pa.table(
            [[cell.key], [len(image_set)], [made_at - started], [time.perf_counter() - made_at], [cell.num_threads],
             [instructions()]],
            schema=parts.TIMINGS_SCHEMA,
        )  # fmt: skip
        # The answers come last: where they are, the cell is done.
        files.append((parts.TIMINGS, cell.key, parts.encode(timings, cell.key)))
        files.append((parts.ANSWERS, cell.key, answers))
    return Done(cell, files)


def read_perturbations(made: bytes, shape: torch.Size) -> Tensor:
    """The perturbations of a part, float16, in the shape (N, 3, H, W) of its images."""
    values = parts.rows_of(parts.decode(made, ["perturbation"])["perturbation"])
    return torch.from_numpy(values.copy()).reshape(shape)


def _make(task: Task, image_set: ImageSet) -> bytes:
    """The attack of a cell as a part."""
    cell = task.cell
    assert cell.attack
    model, _ = _model(task, cell.source)
    if isinstance(cell.attack, UniversalAttack):
        check_unseen(cell.attack, image_set)
    result = attack(
        model,
        image_set.pixels(),
        image_set.labels,
        cell.attack,
        cell.made_at,
        search=prepared(model, cell.precision),
        watch="computed exits" if cell.record_steps else "nothing",
        batch_size=cell.batch_size,
    )
    change = (result.adversarial - result.images).flatten(1).double()
    flat = result.perturbations.flatten(1).numpy()
    columns = [
        *_image_columns(image_set),
        pa.array(change.abs().amax(1).numpy().astype(np.float32)),
        pa.array(change.norm(dim=1).numpy().astype(np.float32)),
        *map(parts.lists_of, _by_step(result)),
        pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1]),
    ]
    return parts.encode(
        pa.table(
            [*_constants(len(image_set), cell.made_key, cell.source, cell.attack.label), *columns],
            schema=parts.made_schema(flat.shape[1]),
        ),
        cell.made_key,
    )


def _by_step(result: AttackResult) -> tuple[np.ndarray, np.ndarray]:
    """The exit that each image was about to leave at, at the start and after every step, and whether it is wrong there.

    Both are (N, steps + 1), or (N, 1) where only the end was noted; -1 and False where no exit computed was sure.
    """
    taken = torch.stack([step.exit_taken for step in result.steps], 1)
    predicted = torch.stack([step.predicted for step in result.steps], 1)  # (N, steps + 1, K)
    wrong = predicted.gather(2, taken.clamp(min=0)[..., None])[..., 0] != result.labels[:, None]
    return taken.numpy().astype(np.int16), (wrong & (taken >= 0)).numpy()


def _show(task: Task, image_set: ImageSet, pixels: Tensor) -> bytes:
    """What every target says of the (adversarial) images, as a part."""
    cell = task.cell
    state, label = ("adversarial", cell.attack.label) if cell.attack else ("clean", "")
    tables, whole = [], dict[str, ExitAnswers]()
    for target in cell.targets:
        model, _ = _model(task, target)
        base = target.partition("@")[0]
        if base != target:  # a placement: the exits of a model that is asked once for all of them
            whole[base] = whole.get(base) or _answers(_base(base), pixels, cell.batch_size)
            answers = whole[base].at(split_name(target, whole[base].predicted.shape[1])[1])
        else:
            answers = whole[base] = whole.get(base) or _answers(model, pixels, cell.batch_size)
        assert answers.certainty is not None
        columns = [
            *_constants(len(image_set), cell.key, cell.source, label, target, state),
            *_image_columns(image_set),
            parts.lists_of(answers.predicted.numpy().astype(np.int16)),
            parts.lists_of(answers.confidence.float().numpy()),
            parts.lists_of(answers.certainty.float().numpy()),
        ]
        tables.append(pa.table(columns, schema=parts.ANSWERS_SCHEMA))
    return parts.encode(pa.concat_tables(tables), cell.key)


def _answers(model: LoadedModel, pixels: Tensor, batch_size: int) -> ExitAnswers:
    return ExitAnswers.of(logits_of(model, pixels, batch_size))


def _image_columns(image_set: ImageSet) -> list[pa.Array]:
    labels = pa.array(image_set.labels.numpy().astype(np.int16))
    return [pa.array(image_set.image_ids), pa.array(image_set.pixel_hashes), labels]


def _constants(num_rows: int, *values: str) -> list[pa.Array]:
    return [pa.repeat(pa.scalar(value), num_rows) for value in values]


def _images(cell: Cell) -> ImageSet:
    dataset, split, indices = parse_image_set_name(cell.images)
    whole = _whole_set(f"{dataset}:{split}", data_root())
    return whole if indices is None else whole.select(indices)


@lru_cache(maxsize=2)
def _whole_set(name: str, root: Path | None) -> ImageSet:
    return open_image_set(name, root)


def _model(task: Task, name: str) -> tuple[LoadedModel, ModelCard]:
    stored = next((model for model in task.models if model.name == name), None)
    return _loaded(name, dict(task.cell.hashes)[name], stored)


@lru_cache(maxsize=32)
def _loaded(name: str, planned_hash: str, stored: StoredModel | None) -> tuple[LoadedModel, ModelCard]:
    model, card = stored.load() if stored else load_placed(name)
    if model_hash(card) != planned_hash:
        raise ExitLensError(
            f"The model {name} is not the one that the study was planned with. Bring the same checkpoints to every "
            "machine, or start the study again."
        )
    return model, card


@lru_cache(maxsize=8)
def _base(name: str) -> LoadedModel:
    return load_placed(name)[0]
