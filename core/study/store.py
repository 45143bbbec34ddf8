"""A study's folder: what it is about, and its tables for DuckDB, pyarrow and pandas."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from core.errors import ExitLensError
from core.study import parts
from core.study.models import StudyModel
from core.study.spec import StudySpec

if TYPE_CHECKING:
    import duckdb

PROJECT = Path(__file__).parents[2]
SHIPPED = PROJECT / "results"
FOLDER_VARIABLE = "EXITLENS_STUDIES"
STUDY_FILE, SPEC_FILE = "study.json", "spec.toml"
CELLS_FILE, DECISIONS_FILE, STEPS_FILE, TIMINGS_FILE = (
    f"{name}.parquet" for name in ("cells", "decisions", "steps", "timings")
)
ANSWERS_FILE, SURROGATES_FILE = "answers.parquet", "surrogates.parquet"
_AGAIN = "{path} is {fault}. Restore it, or run the study again where its parts are: what is done stays."
TABLES = (CELLS_FILE, DECISIONS_FILE, STEPS_FILE, TIMINGS_FILE)


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a folder of tables is about.

    Attributes:
        spec: What was asked.
        models: That took part.
        num_images: Of each image set.
        cells: Keys of all cells, in order.
        num_done: Cells whose answers are in the tables.
        machine: That ran it last.
        versions: Of Python and packages there.
    """

    spec: StudySpec
    models: tuple[StudyModel, ...]
    num_images: dict[str, int]
    cells: tuple[str, ...]
    num_done: int = 0
    machine: dict[str, str]
    versions: dict[str, str]

    @property
    def is_complete(self) -> bool:
        """Whether every cell is done."""
        return self.num_done == len(self.cells)

    def model(self, name: str) -> StudyModel:
        """What is remembered of a model."""
        return next(model for model in self.models if model.name == name)


def read_study(folder: Path) -> Study:
    """What a study's folder is about.

    Raises:
        ExitLensError: If there is no study or its description is damaged; the message names the file.
    """
    path = folder / STUDY_FILE
    try:
        return TypeAdapter(Study).validate_json(path.read_bytes())
    except OSError as error:
        raise ExitLensError(f"There is no study in {folder} ({STUDY_FILE} is missing). Run one there first.") from error
    except (ValidationError, ExitLensError) as error:
        raise ExitLensError(f"{path} is not a study that this version reads. Run the study again there.") from error


def write_study(folder: Path, study: Study) -> None:
    """Puts the description of a study beside its tables."""
    parts.write_whole(folder / STUDY_FILE, TypeAdapter(Study).dump_json(study, indent=2) + b"\n")


def local_folder() -> Path:
    """Where the dashboard looks for this machine's studies: what ``EXITLENS_STUDIES`` names, else ``output/``."""
    return Path(os.environ.get(FOLDER_VARIABLE, "").strip() or PROJECT / "output").expanduser()


def study_folders() -> list[Path]:
    """Folders of all studies that ship, then of those run on this machine; both by name."""
    return [
        description.parent for root in (SHIPPED, local_folder()) for description in sorted(root.glob(f"*/{STUDY_FILE}"))
    ]


def read_table(path: Path, **options: Any) -> pa.Table:
    """A table of a study, or rows of it; options as ``pyarrow.parquet.read_table`` takes them.

    Raises:
        ExitLensError: If it is missing or damaged; the message names the file.
    """
    try:
        return pq.read_table(path, page_checksum_verification=True, **options)
    except (OSError, pa.ArrowException) as error:
        raise ExitLensError(_AGAIN.format(path=path, fault="damaged" if path.is_file() else "missing")) from error


def has_rows(folder: Path) -> bool:
    """Whether there is a decision in the tables of a study."""
    try:
        return bool(pq.read_metadata(folder / DECISIONS_FILE).num_rows)
    except (OSError, pa.ArrowException):
        return False


def ship(folder: Path, place: Path) -> None:
    """Copies the tables of a finished study, without perturbations: small enough for the repository.

    Confidences and distances are rounded to three decimals: verdicts were made before.

    Args:
        folder: Of the study.
        place: Where to; what is there is written over.

    Raises:
        ExitLensError: If the study is not finished, or a table is missing or damaged.
    """
    study = read_study(folder)
    if not study.is_complete:
        raise ExitLensError(f"{study.num_done} of {len(study.cells)} cells of {folder} are done. Finish it first.")
    optional = [ANSWERS_FILE] * bool(study.spec.placements) + [SURROGATES_FILE] * bool(study.spec.surrogates)
    for name in (STUDY_FILE, SPEC_FILE, *TABLES, *optional):
        if name not in (STUDY_FILE, SPEC_FILE):
            read_table(folder / name)  # nothing damaged ships
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise ExitLensError(_AGAIN.format(path=folder / name, fault="missing")) from error
        parts.write_whole(place / name, _rounded(content) if name in (DECISIONS_FILE, ANSWERS_FILE) else content)


def _rounded(content: bytes) -> bytes:
    table = parts.decode(content)
    for number, field in enumerate(table.schema):
        values = field.type.value_type if pa.types.is_list(field.type) else field.type
        if not pa.types.is_float32(values):
            continue
        column = table[field.name].combine_chunks()
        rounded = pc.round(column.flatten() if pa.types.is_list(field.type) else column, 3).cast(pa.float32())
        if pa.types.is_list(field.type):
            rounded = pa.ListArray.from_arrays(column.offsets, rounded)
        table = table.set_column(number, field, rounded)
    return parts.encode(table, (table.schema.metadata or {}).get(parts.KEY, b"").decode())


def connect(folder: Path) -> "duckdb.DuckDBPyConnection":
    """DuckDB over the tables of a study, one view each: ``cells``, ``decisions``, ``steps`` and ``timings``.

    Where the study has surrogates there is ``surrogates`` too.

    Raises:
        ExitLensError: If a table is missing or damaged.
    """
    import duckdb

    connection = duckdb.connect()
    for file in TABLES:
        path = folder / file
        if not path.is_file():
            raise ExitLensError(_AGAIN.format(path=path, fault="missing"))
        try:
            connection.read_parquet(str(path)).create_view(path.stem)
        except duckdb.Error as error:
            raise ExitLensError(_AGAIN.format(path=path, fault="damaged")) from error
    if (folder / SURROGATES_FILE).is_file():
        connection.read_parquet(str(folder / SURROGATES_FILE)).create_view("surrogates")
    return connection
