"""Parts: what a cell leaves on disk, as Parquet files that are written whole or not at all."""

import os
import tempfile
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import ExitLensError

MADE, ANSWERS, TIMINGS = "made", "answers", "timings"
KEY = b"exitlens_key"

_IMAGE = [("image_id", pa.string()), ("pixel_hash", pa.string()), ("label", pa.int16())]
ANSWERS_SCHEMA = pa.schema(
    [
        ("cell", pa.string()),
        ("source", pa.string()),
        ("attack", pa.string()),
        ("target", pa.string()),
        ("state", pa.string()),
        *_IMAGE,
        ("predicted", pa.list_(pa.int16())),
        ("confidence", pa.list_(pa.float32())),
        ("certainty", pa.list_(pa.float32())),
    ]
)
"""One image shown to one target, clean or adversarial: what each of its exits says."""

TIMINGS_SCHEMA = pa.schema(
    [
        ("cell", pa.string()),
        ("num_images", pa.int32()),
        ("seconds_making", pa.float64()),
        ("seconds_showing", pa.float64()),
        ("num_threads", pa.int16()),
        ("instructions", pa.string()),
    ]
)
"""One cell: how long it took, and on what."""


def made_schema(num_values: int) -> pa.Schema:
    """One attacked image with its perturbation of ``num_values`` float16 numbers, channels first.

    ``step_exit`` and ``step_wrong`` have one entry for the start and one after each step, or one for the end where
    steps were not recorded: the exit that the image was about to leave at, and whether that exit's answer was wrong.
    """
    return pa.schema(
        [
            ("made", pa.string()),
            ("source", pa.string()),
            ("attack", pa.string()),
            *_IMAGE,
            ("linf", pa.float32()),
            ("l2", pa.float32()),
            ("step_exit", pa.list_(pa.int16())),
            ("step_wrong", pa.list_(pa.bool_())),
            ("perturbation", pa.list_(pa.float16(), num_values)),
        ]
    )


def encode(table: pa.Table, key: str) -> bytes:
    """A table as the bytes of a part; the same table gives the same bytes."""
    buffer = BytesIO()
    pq.write_table(table.replace_schema_metadata({KEY: key}), buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def decode(content: bytes, columns: list[str] | None = None) -> pa.Table:
    """The table of a part."""
    return pq.read_table(BytesIO(content), columns=columns)


def lists_of(values: np.ndarray) -> pa.Array:
    """(N, K) numbers as a column of lists."""
    num_rows, length = values.shape
    offsets = pa.array(np.arange(0, num_rows * length + 1, length, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1)))


def rows_of(column: pa.ChunkedArray) -> np.ndarray:
    """A column of equally long lists as (N, K) numbers."""
    whole = column.combine_chunks()
    values: np.ndarray = whole.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(whole), -1)


def part_path(folder: Path, kind: str, key: str) -> Path:
    """Where a part lies in the folder of a study."""
    return folder / "parts" / kind / f"{key}.parquet"


def write_part(folder: Path, kind: str, key: str, content: bytes) -> None:
    """Puts a part in place: under another name first, so that a part is either whole or not there.

    Raises:
        ExitLensError: If the folder cannot be written.
    """
    write_whole(part_path(folder, kind, key), content)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all.

    Raises:
        ExitLensError: If its folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(partial).chmod(0o644)
            Path(partial).replace(path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ExitLensError(
            f"{path} cannot be written ({error.strerror}). Make room there, or choose another folder with --out."
        ) from error


def clear_partials(folder: Path) -> None:
    """Removes what a killed run left half written; call it while no other run writes there."""
    for partial in folder.glob("**/.partial-*"):
        partial.unlink(missing_ok=True)


def has_part(folder: Path, kind: str, key: str) -> bool:
    """Whether a part is there, whole and under its own key."""
    return is_whole(part_path(folder, kind, key), key)


def is_whole(path: Path, key: str) -> bool:
    """Whether a Parquet file is there, whole and marked with this key."""
    try:
        state = path.stat()
        return _key_of(path, state.st_size, state.st_mtime_ns) == key.encode()
    except (OSError, pa.ArrowException):
        return False


@lru_cache(maxsize=100_000)
def _key_of(path: Path, num_bytes: int, changed: int) -> bytes | None:
    """The key of a file, all of which can be read: a footer says nothing of the pages before it."""
    file = pq.ParquetFile(path, page_checksum_verification=True)
    for number in range(file.num_row_groups):
        file.read_row_group(number)
    return (file.metadata.metadata or {}).get(KEY)
