"""Where the data sets officially come from, and how their archives are brought here and checked."""

import hashlib
import os
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from core.archives import CifarLayout, Contents, read_cifar, read_tiny_imagenet
from core.datasets import Dataset
from core.downloading import FAULTS, received
from core.errors import ExitLensError
from core.progress import Progress

TIMEOUT_SECONDS = 30.0  # without a single byte
MAX_ARCHIVE_BYTES = 1_000_000_000  # four times the largest: a server that never ends must not fill the disk
ARCHIVE_SHARE = 0.6  # of the progress of a fetch; the rest is for storing the images
_CHUNK_BYTES = 1 << 16
_MAX_WORDS = 120  # letters of what a server says of itself

Report = Callable[[Progress], None]


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


@contextmanager
def opened_archive(
    name: str, origin: str | None, download: Path, report: Report, *, any_checksum: bool = False
) -> Iterator[IO[bytes]]:
    """An archive, at its start, once its checksum has been compared.

    Args:
        name: One of ``SOURCES``.
        origin: A file, or an address that starts with ``http://`` or ``https://``; the official one by default.
        download: Where a download is kept; whoever calls removes it.
        report: Called with each chunk, with shares up to ``ARCHIVE_SHARE``; what it raises ends the download.
        any_checksum: Take the archive even if it is not the official one.

    Raises:
        ExitLensError: If the archive cannot be had, or is not the official one.
        OSError: If the download cannot be written.
    """
    source = SOURCES[name]
    address = origin or source.address
    is_remote = address.startswith(("http://", "https://"))
    with download.open("w+b") if is_remote else _local_file(address, source.file_name) as file:
        md5 = _download(name, address, file, report) if is_remote else _md5_of(file, report)
        if md5 != source.md5 and not any_checksum:
            advice = "add --any-checksum if you packed it anew yourself" if origin else "name another copy with --from"
            raise ExitLensError(
                f"{address} has the md5 {md5}; the official {source.file_name} has {source.md5}. "
                f"Download it again, or {advice}."
            )
        file.seek(0)
        yield file


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
    digest, done, total = hashlib.md5(usedforsecurity=False), 0, 0

    def say() -> None:
        _report_bytes(report, "downloading", done, total or SOURCES[name].num_bytes)

    pieces = received(address, TIMEOUT_SECONDS, say)
    # Closed by hand: what ends the download on this side must reach the other thread.
    with closing(pieces):
        while (piece := _next(pieces, name, address)) is not None:
            if isinstance(piece, int):
                total = piece
                continue
            file.write(piece)
            digest.update(piece)
            done += len(piece)
            say()
            if done > MAX_ARCHIVE_BYTES:
                raise ExitLensError(
                    f"{address} sends more than any of the archives holds. Use {SOURCES[name].address}."
                )
    if done < total:
        raise ExitLensError(
            f"The download from {address} ended after {done:,} of {total:,} bytes. Nothing was kept; try again."
        )
    return digest.hexdigest()


def _next(pieces: Iterator[int | bytes], name: str, address: str) -> int | bytes | None:
    try:
        return next(pieces, None)
    except FAULTS as error:
        raise _unreachable(name, address, error) from error


def _md5_of(file: IO[bytes], report: Report) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    total = file.seek(0, os.SEEK_END)
    file.seek(0)
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
        _report_bytes(report, "checking", file.tell(), total)
    return digest.hexdigest()


def _report_bytes(report: Report, doing: str, done: int, total: int) -> None:
    share = ARCHIVE_SHARE * min(1.0, done / total)
    report(Progress(share, f"{doing}: {done / 1e6:.0f} of {total / 1e6:.0f} MB"))


def _unreachable(name: str, address: str, error: Exception) -> ExitLensError:
    # A status such as 404 stands in the text of an HTTPError alone; other URLErrors wrap what happened.
    is_wrapper = isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError)
    reason = getattr(error, "reason", error) if is_wrapper else error
    words = " ".join(str(getattr(reason, "strerror", None) or reason).split())[:_MAX_WORDS]
    return ExitLensError(
        f"Cannot download {address} ({words}): check the connection, or bring "
        f"{SOURCES[name].file_name} from another machine and run `python -m core data fetch {name} --from FILE`."
    )
