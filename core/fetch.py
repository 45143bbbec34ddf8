"""Brings a data set to the data root: download its official archive, check it, store it in the hub's layout."""

import hashlib
import json
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.archives import CifarLayout, Contents, Picture, read_cifar, read_tiny_imagenet
from core.data import DATA_ROOT_VARIABLE, data_root_to_fill
from core.datasets import DATASETS, Dataset
from core.errors import Cancelled, ExitLensError
from core.hub import count_images, official_split
from core.progress import CancelToken, Progress

TIMEOUT_SECONDS = 30.0  # without a single byte
MAX_ARCHIVE_BYTES = 1_000_000_000  # four times the largest: a server that never ends must not fill the disk
SPLITS = ("train", "test")  # the official files; ``validation`` is cut from the first
ARCHIVE_SHARE = 0.6  # of the progress; the rest is for storing the images
_CHUNK_BYTES = 1 << 16
_ROW_GROUP = 1000
_SCHEMA = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())])


Report = Callable[[float, str], None]  # the arguments of core.progress.Progress; raises Cancelled


@dataclass(frozen=True)
class Source:
    """Where a data set officially comes from.

    Attributes:
        address: Of the archive.
        md5: Checksum of the archive, as its authors or the common loaders give it.
        num_bytes: Size of the archive.
        read: Reads the archive.
    """

    address: str
    md5: str
    num_bytes: int
    read: Callable[[IO[bytes], Dataset], Contents]

    @property
    def file_name(self) -> str:
        """Name of the archive."""
        return self.address.rpartition("/")[2]


SOURCES = {
    "cifar10": Source(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        170_052_171,
        partial(
            read_cifar,
            layout=CifarLayout(
                train=tuple(f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6)),
                test="cifar-10-batches-bin/test_batch.bin",
                num_label_bytes=1,
            ),
        ),
    ),
    "cifar100": Source(
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        168_513_733,
        partial(
            read_cifar,
            # Two label bytes: the superclass, then the class.
            layout=CifarLayout(("cifar-100-binary/train.bin",), "cifar-100-binary/test.bin", num_label_bytes=2),
        ),
    ),
    "tiny-imagenet": Source(
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "90528d7ca1a48142e341f4ef8d21d0de",
        248_100_043,
        read_tiny_imagenet,
    ),
}


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
    source, dataset = SOURCES[name], DATASETS[name]
    root = root or data_root_to_fill()
    kept = tuple(split for split in SPLITS if _is_here(dataset, split, root))
    if kept == SPLITS:
        raise ExitLensError(f"{root / name} holds {name} already. To fetch it anew, move that folder away first.")

    def report(share: float, words: str) -> None:
        if cancel and cancel.is_set():
            raise Cancelled
        if on_progress:
            on_progress(Progress(share, words))

    folder = root / name
    with _scratch_folder(folder) as scratch, _archive(name, origin, scratch, report) as (archive, md5):
        if md5 != source.md5 and not any_checksum:
            raise _wrong_checksum(source, origin, md5)
        contents = source.read(archive, dataset)
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
        try:
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
                yield Path(scratch)
        finally:
            with suppress(OSError):  # it holds files
                folder.rmdir()
    except OSError as error:
        raise ExitLensError(
            f"Cannot write to {folder} ({error.strerror or error}). Make room, or set {DATA_ROOT_VARIABLE} to a "
            "folder that can be written."
        ) from error


@contextmanager
def _archive(name: str, origin: str | None, scratch: Path, report: Report) -> Iterator[tuple[IO[bytes], str]]:
    """The archive, at its start, and its md5."""
    address = origin or SOURCES[name].address
    if address.startswith(("http://", "https://")):
        with (scratch / "archive").open("w+b") as file:
            md5 = _download(name, address, file, report)
            file.seek(0)
            yield file, md5
        return
    with _local_file(address, SOURCES[name].file_name) as file:
        yield file, _md5_of(file, report)


def _local_file(path: str, wanted: str) -> IO[bytes]:
    reason = "there is no such file"
    try:
        if Path(path).expanduser().is_file():
            return Path(path).expanduser().open("rb")
    except (OSError, RuntimeError, ValueError) as error:  # a home of no such user, a null byte
        reason = getattr(error, "strerror", None) or str(error)
    raise ExitLensError(
        f"Cannot read {path!r}: {reason}. Name {wanted} on this machine, or an address that starts with http:// or "
        "https://."
    )


def _download(name: str, address: str, file: IO[bytes], report: Report) -> str:
    """Writes what is at an address to a file; its md5."""
    digest = hashlib.md5(usedforsecurity=False)
    done = 0
    try:
        response = urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS)
    except (OSError, HTTPException, ValueError) as error:
        raise _unreachable(name, address, error) from error
    with response:
        total = response.length or 0
        while chunk := _received(response, name, address):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            _report_bytes(report, "downloading", done, total or SOURCES[name].num_bytes)
            if done > MAX_ARCHIVE_BYTES:
                raise ExitLensError(
                    f"{address} sends more than any of the archives holds. Use {SOURCES[name].address}."
                )
    if done < total:
        raise ExitLensError(
            f"The download from {address} ended after {done:,} of {total:,} bytes. Nothing was kept; try again."
        )
    return digest.hexdigest()


def _received(response: Any, name: str, address: str) -> bytes:
    try:
        chunk: bytes = response.read1(_CHUNK_BYTES)
    except (OSError, HTTPException) as error:
        raise _unreachable(name, address, error) from error
    return chunk


def _md5_of(file: IO[bytes], report: Report) -> str:
    """The md5 of a file, which is left at its start."""
    digest = hashlib.md5(usedforsecurity=False)
    total = file.seek(0, os.SEEK_END)
    file.seek(0)
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
        _report_bytes(report, "checking", file.tell(), total)
    file.seek(0)
    return digest.hexdigest()


def _report_bytes(report: Report, doing: str, done: int, total: int) -> None:
    report(ARCHIVE_SHARE * min(1.0, done / total), f"{doing}: {done / 1e6:.0f} of {total / 1e6:.0f} MB")


def _unreachable(name: str, address: str, error: Exception) -> ExitLensError:
    # A status such as 404 stands in the text of an HTTPError alone; other URLErrors wrap what happened.
    is_wrapper = isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError)
    reason = getattr(error, "reason", error) if is_wrapper else error
    return ExitLensError(
        f"Cannot download {address} ({getattr(reason, 'strerror', None) or reason}): check the connection, or bring "
        f"{SOURCES[name].file_name} from another machine and run `python -m core data fetch {name} --from FILE`."
    )


def _wrong_checksum(source: Source, origin: str | None, md5: str) -> ExitLensError:
    advice = "or add --any-checksum if you packed it anew yourself" if origin else "or name another copy with --from"
    return ExitLensError(
        f"{origin or source.address} has the md5 {md5}; the official {source.file_name} has {source.md5}. "
        f"Download it again, {advice}."
    )


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
            report(ARCHIVE_SHARE + (1 - ARCHIVE_SHARE) * share, f"storing {split}: {done:,} of {total:,} images")
    return done


def _batch(pictures: list[Picture], schema: pa.Schema) -> pa.RecordBatch:
    cells = [{"bytes": picture.encoded, "path": picture.path} for picture in pictures]
    columns = [pa.array(cells, schema.field("image").type), pa.array([picture.label for picture in pictures])]
    return pa.record_batch(columns, schema=schema)
