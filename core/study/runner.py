"""Runs a study: every surrogate and then every cell once, whatever was killed in between."""

import fcntl
import logging
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from core.checkpoints import ModelCard, list_models, load_card
from core.data import open_image_set
from core.errors import Cancelled, ExitLensError
from core.machine import machine_facts
from core.progress import CancelToken
from core.study import parts
from core.study.black_box import write_surrogates
from core.study.cell_table import write_cells
from core.study.cells import Cell, study_cells
from core.study.gather import gather, is_done
from core.study.models import StudyModel
from core.study.placements import placement_names, with_placements
from core.study.spec import StudySpec
from core.study.store import SPEC_FILE, STUDY_FILE, Study, has_rows
from core.study.surrogate_files import FOLDER, StoredModel, card_of, states_folder, stored_model, write_surrogate
from core.study.surrogate_plans import plan_surrogates
from core.study.surrogate_training import GRADIENT_COST, Trained, Training, training_multiply_adds
from core.study.surrogates import Surrogate, is_surrogate
from core.study.work import Done, Task
from core.study.workers import Workers

logger = logging.getLogger(__name__)
LOCK_FILE = ".lock"


@dataclass(frozen=True)
class StudyProgress:
    """How far a study has come with its surrogates, and after them with its cells.

    Attributes:
        num_done: Cells done, earlier runs' included.
        num_cells: All cells.
        share: Part of the whole work done, in [0, 1].
        seconds_left: About how long the rest takes at the speed so far; None before two cells are done.
        counted: What is counted: ``cells`` or ``surrogates``.
    """

    num_done: int
    num_cells: int
    share: float
    seconds_left: float | None
    counted: str = "cells"

    @property
    def words(self) -> str:
        """The same for the screen."""
        words = f"{self.num_done} of {self.num_cells} {self.counted}"
        if self.seconds_left is None:
            return words
        minutes, seconds = divmod(round(self.seconds_left), 60)
        hours, minutes = divmod(minutes, 60)
        left = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        return f"{words}, about {left} left"


def run_study(
    spec: StudySpec,
    text: str,
    folder: Path,
    workers: Workers,
    *,
    on_progress: Callable[[StudyProgress], None] | None = None,
    cancel: CancelToken,
) -> Study:
    """Trains all surrogates and does all cells of a study that are not done yet, and brings its tables up to date.

    Args:
        spec: What is asked.
        text: The TOML that the spec was read from; kept beside the tables.
        folder: Where parts and tables go; what another run has left there is used.
        workers: Where cells are done.
        on_progress: Called at the start and after each cell or surrogate.
        cancel: Checked before each cell or surrogate; those under way are finished.

    Returns:
        The study as it now lies in the folder, complete unless it was cancelled.

    Raises:
        ExitLensError: If the study names what is not there, another run works in the folder, or it cannot be written.
        Cancelled: If it was cancelled before all surrogates were trained; those that are stay.
    """
    _check_has_parts(folder)
    own_cards = available_cards()
    cards = with_placements(own_cards, spec.placements)
    placements = placement_names(own_cards, spec.placements)
    image_sets = {name: _image_indices(name, spec.num_images) for name in spec.images}
    surrogates = plan_surrogates(spec, cards)
    with _alone_in(folder):
        parts.clear_partials(folder)
        cards = cards | _trained(surrogates, folder, workers, on_progress, cancel)
        cells = study_cells(spec, cards, image_sets)
        study = _study(spec, cells, cards, placements, {name: len(indices) for name, indices in image_sets.items()})
        parts.write_whole(folder / SPEC_FILE, text.encode())
        write_cells(folder, cells)
        write_surrogates(folder, study, cards)
        gather(folder, study, cells)  # whenever this run ends, the tables are those of this study
        open_cells = [cell for cell in cells if not is_done(folder, cell)]
        work = {cell.key: _multiply_adds(cell, cards) for cell in cells}
        report = _reporter(work, [cell.key for cell in open_cells], on_progress)
        for done in workers(_tasks(open_cells, folder, cards), cancel):
            assert isinstance(done, Done)
            for kind, key, content in done.files:
                parts.write_part(folder, kind, key, content)
            report(done.cell.key)
        return gather(folder, study, cells)


def _check_has_parts(folder: Path) -> None:
    """Makes sure that what a folder holds can be gone on with.

    Raises:
        ExitLensError: If it holds tables alone, which a run that starts from nothing would write over.
    """
    if (folder / STUDY_FILE).is_file() and not (folder / "parts").is_dir() and has_rows(folder):
        raise ExitLensError(
            f"{folder} holds the tables of a study without the parts they are made of, as it ships; a run there would "
            "write over them. Choose another folder with --out, and ship from there."
        )


def _trained(
    surrogates: Sequence[Surrogate],
    folder: Path,
    workers: Workers,
    on_progress: Callable[[StudyProgress], None] | None,
    cancel: CancelToken,
) -> dict[str, ModelCard]:
    """Cards of all surrogates, by name, once those that are not there are trained."""
    there = {surrogate.name: card_of(folder, surrogate) for surrogate in surrogates}
    missing = [surrogate for surrogate in surrogates if there[surrogate.name] is None]
    if missing:
        states = states_folder(folder)
        work = {surrogate.key: float(training_multiply_adds(surrogate)) for surrogate in surrogates}
        report = _reporter(work, [surrogate.key for surrogate in missing], on_progress, "surrogates")
        for trained in workers((Training(surrogate, states) for surrogate in missing), cancel):
            assert isinstance(trained, Trained)
            write_surrogate(folder, trained.card, trained.weights)
            shutil.rmtree(states / trained.surrogate.key, ignore_errors=True)
            there[trained.card.name] = trained.card
            report(trained.surrogate.key)
    cards = {name: card for name, card in there.items() if card}
    if len(cards) < len(surrogates):
        raise Cancelled(f"{len(cards)} of {len(surrogates)} surrogates are trained, in {folder / FOLDER}.")
    shutil.rmtree(states_folder(folder), ignore_errors=True)
    return cards


def available_cards() -> dict[str, ModelCard]:
    """Of all models that can be read; the others are no part of any study."""
    cards = {}
    for name in list_models():
        try:
            cards[name] = load_card(name)
        except ExitLensError as error:
            logger.warning("%s", error)
    return cards


def _image_indices(name: str, num_images: int | None) -> list[int]:
    indices: list[int] = open_image_set(name).indices.tolist()
    if num_images is not None and num_images > len(indices):
        raise ExitLensError(f"{name} holds {len(indices)} images; the study asks for {num_images}. Ask for fewer.")
    return indices[:num_images]


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Holds the folder for one run; the lock goes with the process, however that ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("w")
    except OSError as error:
        raise ExitLensError(f"{folder} cannot be written ({error.strerror}). Choose another place.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ExitLensError(
                f"Another run is at work in {folder}. Wait for it, or choose another folder."
            ) from error
        yield


def _tasks(cells: list[Cell], folder: Path, cards: Mapping[str, ModelCard]) -> Iterator[Task]:
    for cell in cells:
        made = None
        if cell.attack and parts.has_part(folder, parts.MADE, cell.made_key):
            made = parts.part_path(folder, parts.MADE, cell.made_key).read_bytes()
        yield Task(cell, made, tuple(_carried(cell, folder, cards)))


def _carried(cell: Cell, folder: Path, cards: Mapping[str, ModelCard]) -> Iterator[StoredModel]:
    for name, _ in cell.hashes:
        if is_surrogate(cards[name]):
            yield stored_model(folder, name)


def _study(
    spec: StudySpec,
    cells: list[Cell],
    cards: Mapping[str, ModelCard],
    placements: Mapping[str, str],
    num_images: dict[str, int],
) -> Study:
    named = dict.fromkeys(name for cell in cells for name in (cell.source, *cell.targets) if name)
    return Study(
        spec=spec,
        models=tuple(
            StudyModel.of(cards[name], (policy.on(cards[name]) for policy in spec.policies), placements.get(name, ""))
            for name in named
        ),
        num_images=num_images,
        cells=tuple(cell.key for cell in cells),
        machine=machine_facts(),
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "pyarrow")},
        },
    )


def _reporter(
    work: Mapping[str, float],
    open_keys: Sequence[str],
    on_progress: Callable[[StudyProgress], None] | None,
    counted: str = "cells",
) -> Callable[[str], None]:
    """Counts what is finished, by its key, and tells how long the rest will take by its multiply-adds."""
    all_work, left = sum(work.values()), sum(work[key] for key in open_keys)
    num_done = len(work) - len(open_keys)
    measured_from: tuple[float, float] | None = None  # the first that was done, as starting workers takes a while

    def report(key: str) -> None:
        nonlocal num_done, left, measured_from
        seconds = None
        if key:
            num_done, left = num_done + 1, left - work[key]
            if measured_from is None:
                measured_from = time.monotonic(), left
            else:
                started, then = measured_from
                seconds = (time.monotonic() - started) * left / (then - left)
        if on_progress:
            share = 1 - left / all_work if all_work else 1.0
            on_progress(StudyProgress(num_done, len(work), share, seconds, counted))

    report("")
    return report


def _multiply_adds(cell: Cell, cards: Mapping[str, ModelCard]) -> float:
    def of_one(name: str) -> int:
        # An imported network's may not have been counted.
        return sum(cards[name].layer_multiply_adds) + sum(cards[name].classifier_multiply_adds) or 1

    passes = cell.attack.passes(cards[cell.source].num_exits) if cell.attack else 0
    making = of_one(cell.source) * (GRADIENT_COST * passes + 2) if cell.attack else 0
    return float(cell.num_images * (making + sum(map(of_one, cell.targets))))
