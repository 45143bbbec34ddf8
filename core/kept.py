"""Kept runs: experiments on disk that outlive the server, one folder each, written whole or not at all."""

import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from core.attacks.spec import AttackSpec
from core.attacks.success import SUCCESS_RULES
from core.checkpoints import ModelCard
from core.errors import ExitLensError
from core.examples import kept_table, short_hash
from core.experiment import Experiment, ExperimentSpec
from core.export import DECISIONS_FILE, EXITS_FILE, PERTURBATIONS_FILE, steps_file, write_experiment
from core.models import ExitModel
from core.tables import DECISIONS, EXITS, KEPT, STEPS, TableSchema

FOLDER_VARIABLE = "EXITLENS_KEPT"
RUN_FILE = "run.json"
EXAMPLES_FILE = "examples.parquet"
_PARTIAL = ".partial-"
_STALE_SECONDS = 3600


@dataclass(frozen=True)
class KeptModel:
    """What is remembered of a model, so that a run can be read without it.

    Attributes:
        name: A folder of ``checkpoints/`` when the run was kept.
        label: Name on screen.
        kind: ``static`` or ``early-exit``.
        num_exits: K.
        weights_sha256: Of the weights file; another one now means that the model was trained again.
    """

    name: str
    label: str
    kind: str
    num_exits: int
    weights_sha256: str


@dataclass(frozen=True)
class KeptRun:
    """One kept experiment.

    Attributes:
        key: Also the folder: a hash of the spec and of the weights of all models.
        spec: What was asked; its ``made_at`` is the policy that everything kept was judged under.
        attacks: On each source, as it applied there.
        models: The targets.
        class_names: One per class.
        kept_at: When, in UTC, as ISO 8601.
        image_ids: Of its images, in the order of its perturbations.
        files: sha256 of every other file in the folder.
    """

    key: str
    spec: ExperimentSpec
    attacks: dict[str, AttackSpec]
    models: tuple[KeptModel, ...]
    class_names: tuple[str, ...]
    kept_at: str
    image_ids: tuple[str, ...]
    files: dict[str, str]

    @property
    def num_examples(self) -> int:
        """Images times sources."""
        return len(self.image_ids) * len(self.spec.sources)

    def model(self, name: str) -> KeptModel:
        """What is remembered of one of the targets."""
        return next(model for model in self.models if model.name == name)


# Made once: each takes milliseconds.
_SPECS, _RUNS = TypeAdapter(ExperimentSpec), TypeAdapter(KeptRun)


@dataclass(frozen=True, eq=False)
class Kept:
    """All that is kept in a folder.

    Attributes:
        runs: By key.
        examples: Of all runs, schema ``KEPT``.
        problems: One sentence for each run that had to be skipped.
    """

    runs: dict[str, KeptRun]
    examples: pd.DataFrame
    problems: list[str]


def kept_folder() -> Path:
    """Where runs are kept: the folder that ``EXITLENS_KEPT`` names, or one in the user's data folder."""
    named = os.environ.get(FOLDER_VARIABLE, "").strip()
    if named:
        return Path(named).expanduser()
    data_home = os.environ.get("XDG_DATA_HOME", "").strip()
    return (Path(data_home) if data_home else Path.home() / ".local" / "share") / "exitlens" / "kept"


def run_key(spec: ExperimentSpec, weights: Mapping[str, str]) -> str:
    """Sixteen hexadecimal digits that stand for a spec and the weights (sha256 by name) of its targets."""
    asked = _SPECS.dump_python(spec, mode="json", exclude={"weights"})
    return short_hash({"spec": asked, "weights": {name: weights[name] for name in spec.targets}})


def is_kept(key: str, folder: Path | None = None) -> bool:
    """Whether a run with this key can be read; its perturbations, which can be remade, may be missing."""
    root = folder or kept_folder()
    try:
        run = read_run(key, root)
        for name in (EXAMPLES_FILE, DECISIONS_FILE, EXITS_FILE):
            _read_file(run, name, root)
    except ExitLensError:
        return False
    return True


_PUTTING_IN_PLACE = threading.Lock()


def keep(
    experiment: Experiment, models: Mapping[str, tuple[ExitModel, ModelCard]], folder: Path | None = None
) -> KeptRun:
    """Keeps an experiment; one that is kept already stays as it is.

    Args:
        experiment: With its perturbations, judged under the policy that it was made at.
        models: At least its sources: they judge the images once more, rounded to 8 bits.
        folder: Another place than ``kept_folder()``.

    Returns:
        The kept run.

    Raises:
        ExitLensError: If the folder cannot be written.
    """
    root = folder or kept_folder()
    key = run_key(experiment.spec, {name: card.weights_sha256 for name, card in experiment.cards.items()})
    if is_kept(key, root):
        return read_run(key, root)
    kept_at = datetime.now(UTC).isoformat(timespec="seconds")
    examples = kept_table(experiment, models, key, kept_at)
    try:
        root.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(root)
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=root))
        try:
            write_experiment(experiment, experiment.spec.made_at, partial)
            examples.to_parquet(partial / EXAMPLES_FILE, index=False)
            run = KeptRun(
                key=key,
                spec=replace(experiment.spec, weights=()),  # the models below say theirs
                attacks={name: result.spec for name, result in experiment.results.items()},
                models=tuple(_remembered(card) for card in experiment.cards.values()),
                class_names=tuple(experiment.image_set.class_names),
                kept_at=kept_at,
                image_ids=tuple(experiment.image_set.image_ids),
                files={file.name: _digest(file.read_bytes()) for file in sorted(partial.iterdir())},
            )
            (partial / RUN_FILE).write_bytes(_RUNS.dump_json(run, exclude={"spec": {"weights"}}, indent=2))
            with _PUTTING_IN_PLACE:
                if not is_kept(key, root):  # somebody else may have kept the same meanwhile
                    shutil.rmtree(root / key, ignore_errors=True)  # a damaged one
                    try:
                        partial.replace(root / key)
                    except OSError:  # another process, which no lock holds, may have been quicker
                        if not is_kept(key, root):
                            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise ExitLensError(
            f"The run cannot be kept in {root} ({getattr(error, 'strerror', None) or error}). Make room there, or "
            f"name another folder in {FOLDER_VARIABLE}."
        ) from error
    return read_run(key, root)


def remove(key: str, folder: Path | None = None) -> None:
    """Removes a kept run; none with this key is no error.

    Raises:
        ExitLensError: If its folder cannot be removed.
    """
    place = (folder or kept_folder()) / key
    if not re.fullmatch("[0-9a-f]{16}", key):  # never a path that leads elsewhere
        raise ExitLensError(f"{key!r} is not the key of a kept run, which has 16 hexadecimal digits.")
    try:
        shutil.rmtree(place)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ExitLensError(f"{place} cannot be removed ({error.strerror}).") from error


def read_run(key: str, folder: Path | None = None) -> KeptRun:
    """Reads what a kept run is, without its tables.

    Raises:
        ExitLensError: If there is no such run or its description is damaged; the message names the folder.
    """
    place = (folder or kept_folder()) / key
    try:
        run = _RUNS.validate_json((place / RUN_FILE).read_bytes())
    except OSError as error:
        raise _damaged(place, f"{RUN_FILE} cannot be read: {error.strerror}") from error
    except (ValidationError, ExitLensError) as error:
        raise _damaged(place, f"{RUN_FILE} does not describe a run") from error
    names = sorted(model.name for model in run.models)
    if names != sorted(run.spec.targets) or not set(run.spec.sources) <= set(run.attacks) or not run.image_ids:
        raise _damaged(place, f"{RUN_FILE} contradicts itself")
    if key != run.key or key != run_key(run.spec, {model.name: model.weights_sha256 for model in run.models}):
        raise _damaged(place, f"{RUN_FILE} belongs to another run")
    return run


def read_kept(folder: Path | None = None) -> Kept:
    """Reads every kept run and its examples; those that are damaged are named and skipped."""
    root = folder or kept_folder()
    runs: dict[str, KeptRun] = {}
    tables, problems = [], []
    for name, _ in kept_signature(root):
        try:
            run = read_run(name, root)
            tables.append(read_examples(run, root))
        except ExitLensError as error:
            problems.append(str(error))
        else:
            runs[name] = run
    if not tables:
        return Kept({}, pd.DataFrame(columns=list(KEPT.columns)), problems)
    return Kept(runs, pd.concat(tables, ignore_index=True), problems)


def kept_signature(folder: Path | None = None) -> tuple[tuple[str, int], ...]:
    """The folders of all runs with their times of change: as long as it stays, so does what ``read_kept`` says."""
    root = folder or kept_folder()
    try:
        with os.scandir(root) as entries:
            found = [(entry.name, entry.stat().st_mtime_ns) for entry in entries if entry.is_dir()]
    except OSError:
        return ()
    # Folders being written begin with a dot.
    return tuple(sorted((name, time) for name, time in found if not name.startswith(".")))


def read_examples(run: KeptRun, folder: Path | None = None) -> pd.DataFrame:
    """The examples of one run, those too that other runs hold: schema ``KEPT``.

    Raises:
        ExitLensError: If the file is missing or damaged.
    """
    return _read_table(run, EXAMPLES_FILE, KEPT, folder or kept_folder())


def read_decisions(run: KeptRun, folder: Path | None = None) -> pd.DataFrame:
    """Every image, source and target of a run: schema ``DECISIONS``.

    Raises:
        ExitLensError: If the file is missing or damaged.
    """
    return _read_table(run, DECISIONS_FILE, DECISIONS, folder or kept_folder())


def read_exits(run: KeptRun, folder: Path | None = None) -> pd.DataFrame:
    """What every exit said: schema ``EXITS``.

    Raises:
        ExitLensError: If the file is missing or damaged.
    """
    return _read_table(run, EXITS_FILE, EXITS, folder or kept_folder())


def read_steps(run: KeptRun, source: str, folder: Path | None = None) -> pd.DataFrame:
    """How every exit of a source gave way step by step: schema ``STEPS``.

    Raises:
        ExitLensError: If the file is missing or damaged.
    """
    return _read_table(run, steps_file(source), STEPS, folder or kept_folder())


def read_perturbations(run: KeptRun, folder: Path | None = None) -> dict[str, Tensor]:
    """The stored perturbations of each source, (N, 3, H, W) float16, in the order of the run's images.

    Raises:
        ExitLensError: If the file is missing or damaged: they can be remade from spec and weights.
    """
    root = folder or kept_folder()
    return load_tensors(_read_file(run, PERTURBATIONS_FILE, root))


def _remembered(card: ModelCard) -> KeptModel:
    return KeptModel(card.name, card.label, card.kind, card.num_exits, card.weights_sha256)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _clear_abandoned(root: Path) -> None:
    """Removes what a process left that ended while it wrote."""
    for place in root.glob(f"{_PARTIAL}*"):
        if time.time() - place.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(place, ignore_errors=True)


def _damaged(place: Path, why: str) -> ExitLensError:
    return ExitLensError(f"The kept run {place} is damaged ({why}). Delete the folder, or keep the run again.")


def _read_file(run: KeptRun, name: str, root: Path) -> bytes:
    place = root / run.key
    try:
        content = (place / name).read_bytes()
    except OSError as error:
        raise _damaged(place, f"{name} cannot be read: {error.strerror}") from error
    if _digest(content) != run.files.get(name):
        raise _damaged(place, f"{name} is not the file that was written")
    return content


def _read_table(run: KeptRun, name: str, schema: TableSchema, root: Path) -> pd.DataFrame:
    content = _read_file(run, name, root)
    try:
        frame = pq.read_table(BytesIO(content)).to_pandas()
        # A rule that came after a run was kept: nothing in it was judged by that one.
        later = [rule for rule in SUCCESS_RULES if rule in schema.columns and rule not in frame.columns]
        return schema.check(frame.assign(**dict.fromkeys(later, False)))
    except (ValueError, OSError, pa.ArrowException) as error:
        raise _damaged(root / run.key, f"{name} has other columns than this version reads") from error
