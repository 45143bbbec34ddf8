"""Brings a data set to the data root: its official archive, checked, stored in the hub's layout."""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from core.archives import Contents, Picture
from core.data import DATA_ROOT_VARIABLE, data_root_to_fill
from core.datasets import DATASETS, Dataset
from core.errors import ExitLensError
from core.hub import count_images, official_split
from core.progress import CancelToken, Progress, end_if
from core.sources import ARCHIVE_SHARE, SOURCES, Report, opened_archive

SPLITS = ("train", "test")  # the official files; ``validation`` is cut from the first
_ROW_GROUP = 1000
_SCRATCH, _DAY_SECONDS = ".fetch-", 86_400
_SCHEMA = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())])


@dataclass(frozen=True)
class Fetched:
    """What a fetch left behind.

    Attributes:
        folder: Of the data set, below the data root.
        written: Images in each split that was written.
        kept: The splits that were there already and were left alone.
    """

    folder: Path
    written: dict[str, int]
    kept: tuple[str, ...]


def fetch(
    name: str,
    origin: str | None = None,
    root: Path | None = None,
    *,
    any_checksum: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: CancelToken | None = None,
) -> Fetched:
    """Stores the training and test images of a data set below the data root; what is there already is kept.

    Files appear under their names only when all of them are complete: an error or a cancellation leaves nothing.

    Args:
        name: One of ``SOURCES``.
        origin: The archive: a file, or an address that starts with ``http://`` or ``https://``; the official
            address by default.
        root: The data root; by default ``data_root_to_fill()``.
        any_checksum: Take the archive at ``origin`` even if it is not the official one byte for byte, as after
            packing it anew. Numbers and sizes of its images are checked all the same.
        on_progress: Called several times a second.
        cancel: Ends the work at the next chunk or group of images.

    Returns:
        What was written and what was kept.

    Raises:
        ExitLensError: If the name is unknown, the data set is complete already, the archive cannot be had or is
            not the right one, or the folder cannot be written.
        Cancelled: Once ``cancel`` is set.
    """
    if name not in SOURCES:
        raise ExitLensError(f"Unknown data set {name!r}. Fetch one of {', '.join(SOURCES)}.")
    if any_checksum and origin is None:
        raise ExitLensError("Only an archive of your own may have any checksum. Name it with --from.")
    dataset = DATASETS[name]
    root = root or data_root_to_fill()
    kept = tuple(split for split in SPLITS if _is_here(dataset, split, root))
    if kept == SPLITS:
        raise ExitLensError(f"{root / name} holds {name} already. To fetch it anew, move that folder away first.")

    def report(progress: Progress) -> None:
        end_if(cancel)
        if on_progress:
            on_progress(progress)

    folder = root / name
    with (
        _scratch_folder(folder) as scratch,
        opened_archive(name, origin, scratch / "archive", report, any_checksum=any_checksum) as archive,
    ):
        contents = SOURCES[name].read(archive, dataset)
        written = {
            split: _write_split(contents, split, dataset, scratch / split, report)
            for split in SPLITS
            if split not in kept
        }
        if contents.words:
            (scratch / "words").write_text(json.dumps(contents.words, indent=0), encoding="utf-8")
            (scratch / "words").replace(folder / "class_names.json")
        for split in written:
            (scratch / split).replace(folder / f"{official_split(dataset, split)}.parquet")
    return Fetched(folder, written, kept)


def missing_data_sets() -> list[str]:
    """The data sets that a fetch would bring or complete in the data root.

    Raises:
        ExitLensError: If the data root is not a folder.
    """
    root = data_root_to_fill()
    return [name for name in SOURCES if not all(_is_here(DATASETS[name], split, root) for split in SPLITS)]


def _is_here(dataset: Dataset, split: str, root: Path) -> bool:
    try:
        return count_images(dataset, split, root) > 0
    except ExitLensError:  # missing, incomplete or damaged
        return False


@contextmanager
def _scratch_folder(folder: Path) -> Iterator[Path]:
    """A folder inside ``folder`` for unfinished files, which goes whatever happens; ``folder`` too if it is empty."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        try:
            with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder) as scratch:
                yield Path(scratch)
        finally:
            with suppress(OSError):  # it holds files
                folder.rmdir()
    except OSError as error:
        raise ExitLensError(
            f"Cannot write to {folder} ({error.strerror or error}). Make room, or set {DATA_ROOT_VARIABLE} to a "
            "folder that can be written."
        ) from error


def _sweep(folder: Path) -> None:
    """Removes what fetches left that were killed; one that runs has touched its folder within a day."""
    for left in folder.glob(f"{_SCRATCH}*/"):
        with suppress(OSError):  # a fetch beside this one may end meanwhile
            if time.time() - max(file.stat().st_mtime for file in (left, *left.iterdir())) > _DAY_SECONDS:
                shutil.rmtree(left)


def _write_split(contents: Contents, split: str, dataset: Dataset, file: Path, report: Report) -> int:
    """Writes one split in the hub's layout, a group of rows at a time; the number of its images."""
    label = {"names": list(contents.class_names), "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "label": label}
    schema = _SCHEMA.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pictures = contents.train() if split == "train" else contents.test()
    total = dataset.num_train if split == "train" else dataset.num_test
    done = 0
    with pq.ParquetWriter(file, schema) as writer:
        while group := list(islice(pictures, _ROW_GROUP)):
            writer.write_batch(_batch(group, schema))
            done += len(group)
            share = (done + (dataset.num_train if split == "test" else 0)) / (dataset.num_train + dataset.num_test)
            words = f"storing {split}: {done:,} of {total:,} images"
            report(Progress(ARCHIVE_SHARE + (1 - ARCHIVE_SHARE) * share, words))
    return done


def _batch(pictures: list[Picture], schema: pa.Schema) -> pa.RecordBatch:
    cells = [{"bytes": picture.encoded, "path": picture.path} for picture in pictures]
    columns = [pa.array(cells, schema.field("image").type), pa.array([picture.label for picture in pictures])]
    return pa.record_batch(columns, schema=schema)
