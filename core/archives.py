"""The official archives of the data sets, read in memory: nothing is unpacked to disk, and no pickle is read.

Only the members named here are looked at, and only so far as their official size; an archive may hold others,
whatever they are called.
"""

import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from lzma import LZMAError
from typing import IO

import numpy as np
from PIL import Image

from core.datasets import Dataset
from core.errors import ExitLensError
from core.hub import decode

# How tarfile and zipfile say that an archive is damaged; RuntimeError is zipfile's word for an encrypted member.
_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError),
    *(EOFError, OSError, RuntimeError, ValueError, struct.error),
)
_TINY_ROOT = "tiny-imagenet-200"
_MAX_TINY_MEMBER_BYTES = 16_000_000  # words.txt, the largest that is read, has 2.7 MB


@dataclass(frozen=True)
class Picture:
    """One image as the hub's layout stores it.

    Attributes:
        path: Holds the official index, such as ``train_00017.png``.
        encoded: Content of a PNG or JPEG file.
        label: Class index.
    """

    path: str
    encoded: bytes
    label: int


@dataclass(frozen=True, eq=False)
class Contents:
    """What an archive holds of one data set.

    Attributes:
        class_names: One name per class, in the order of the labels.
        train: Makes the official training images in official order, each read when it is asked for.
        test: Makes those of the official test file.
        words: What a class name means, where it is a WordNet id.
    """

    class_names: tuple[str, ...]
    train: Callable[[], Iterator[Picture]]
    test: Callable[[], Iterator[Picture]]
    words: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CifarLayout:
    """Where a binary CIFAR archive keeps its images.

    Attributes:
        train: Members with the training images, in official order.
        test: The member with the test images.
        num_label_bytes: Bytes before the pixels of each image; the last of them is the label.
    """

    train: tuple[str, ...]
    test: str
    num_label_bytes: int


def read_cifar(file: IO[bytes], dataset: Dataset, layout: CifarLayout) -> Contents:
    """Reads the binary version of CIFAR-10 or CIFAR-100: label bytes, then the red, green and blue planes.

    Args:
        file: A tar archive, compressed or not, at its start; some 190 MB of it are held in memory.
        dataset: How many images of which size and how many classes there must be.
        layout: Its members.

    Returns:
        The images, losslessly encoded as PNG.

    Raises:
        ExitLensError: If a member is missing or damaged, or holds other than the official number of images.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
    """
    num_images = {name: dataset.num_train // len(layout.train) for name in layout.train} | {
        layout.test: dataset.num_test
    }
    record_size = layout.num_label_bytes + 3 * dataset.image_size**2
    members = _tar_members(file, {name: count * record_size for name, count in num_images.items()})
    records = {name: np.frombuffer(content, np.uint8).reshape(-1, record_size) for name, content in members.items()}
    for name, rows in records.items():
        largest = int(rows[:, layout.num_label_bytes - 1].max())
        if largest >= dataset.num_classes:
            raise ExitLensError(
                f"{name} in the archive holds the label {largest}; {dataset.name} has labels 0 to "
                f"{dataset.num_classes - 1}. Use the official archive."
            )

    def pictures(stem: str, names: tuple[str, ...]) -> Iterator[Picture]:
        rows = (row for name in names for row in records[name])
        for index, row in enumerate(rows):
            planes = row[layout.num_label_bytes :].reshape(3, dataset.image_size, dataset.image_size)
            yield Picture(f"{stem}_{index:05d}.png", _png(planes), int(row[layout.num_label_bytes - 1]))

    return Contents(
        dataset.class_names,
        train=lambda: pictures("train", layout.train),
        test=lambda: pictures(dataset.test_file, (layout.test,)),
    )


def read_tiny_imagenet(file: IO[bytes], dataset: Dataset) -> Contents:
    """Reads Tiny-ImageNet; its JPEG files are passed on as they are, one at a time.

    Classes are the WordNet ids in alphabetical order, as in the copies that others use. The official training
    images have no common order, only numbers inside their class. Here the index of the n-th image of class c is
    n x classes + c, so that the last tenth, which is ``validation``, has every class equally often.

    Args:
        file: The zip archive.
        dataset: How many images and classes there must be.

    Raises:
        ExitLensError: If a member is missing or damaged, or the numbers of images or classes are not the official
            ones; for an image, when it is asked for.
    """
    try:
        archive = zipfile.ZipFile(file)
    except _DAMAGE as error:
        raise _damaged(error) from error
    class_names = tuple(sorted(set(_text(archive, "wnids.txt").split())))
    if len(class_names) != dataset.num_classes:
        raise ExitLensError(f"wnids.txt in the archive names {len(class_names)} classes, not {dataset.num_classes}.")
    label_of = {name: label for label, name in enumerate(class_names)}
    meanings = (line.partition("\t") for line in _text(archive, "words.txt").splitlines())
    train = _tiny_training_members(archive, dataset, class_names)
    test = _tiny_test_labels(archive, dataset, label_of)

    def training_pictures() -> Iterator[Picture]:
        for index, member in enumerate(train):
            yield Picture(f"train_{index}.JPEG", _jpeg(archive, member, dataset), index % len(class_names))

    def test_pictures() -> Iterator[Picture]:
        for index, label in enumerate(test):
            member = f"{_TINY_ROOT}/val/images/val_{index}.JPEG"
            yield Picture(f"val_{index}.JPEG", _jpeg(archive, member, dataset), label)

    words = {name: meaning for name, _, meaning in meanings if name in label_of}
    return Contents(class_names, training_pictures, test_pictures, words)


def _tiny_training_members(archive: zipfile.ZipFile, dataset: Dataset, class_names: tuple[str, ...]) -> list[str]:
    """The training images: the first of every class, then the second of every class, and so on."""
    members: dict[str, dict[int, str]] = {name: {} for name in class_names}
    pattern = re.compile(rf"{_TINY_ROOT}/train/(\w+)/images/\1_(\d{{1,9}})\.JPEG")
    for match in filter(None, map(pattern.fullmatch, archive.namelist())):
        members.get(match[1], {})[int(match[2])] = match[0]
    wanted = dataset.num_train // dataset.num_classes
    for name, found in members.items():
        if len(found) != wanted:
            raise ExitLensError(
                f"The archive holds {len(found)} training images of class {name}, not {wanted}. "
                "Use the official archive."
            )
    in_order = [[member for _, member in sorted(found.items())] for found in members.values()]
    return [member for group in zip(*in_order, strict=True) for member in group]


def _tiny_test_labels(archive: zipfile.ZipFile, dataset: Dataset, label_of: dict[str, int]) -> list[int]:
    lines = re.findall(r"^val_(\d{1,9})\.JPEG\t(\w+)", _text(archive, "val/val_annotations.txt"), re.MULTILINE)
    labels = {int(number): label_of[name] for number, name in lines if name in label_of}
    if sorted(labels) != list(range(dataset.num_test)):
        raise ExitLensError(
            f"val_annotations.txt in the archive names the classes of {len(labels)} images, not of the "
            f"{dataset.num_test} from val_0.JPEG on. Use the official archive."
        )
    return [labels[number] for number in range(dataset.num_test)]


def _tar_members(file: IO[bytes], sizes: dict[str, int]) -> dict[str, bytes]:
    """Content of the members with these names, each of which must have the given number of bytes."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:*") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if name in sizes:
                    # A link is not followed, and a file of another size not read.
                    stream = archive.extractfile(member) if member.isreg() and member.size == sizes[name] else None
                    found[name] = stream.read() if stream else b""
    except _DAMAGE as error:
        raise _damaged(error) from error
    for name, size in sizes.items():
        if name not in found:
            raise _lacks(name)
        if len(found[name]) != size:
            raise ExitLensError(f"{name} in the archive is not a file of {size:,} bytes. Use the official archive.")
    return found


def _text(archive: zipfile.ZipFile, name: str) -> str:
    return _zip_member(archive, f"{_TINY_ROOT}/{name}").decode("utf-8", errors="replace")


def _jpeg(archive: zipfile.ZipFile, name: str, dataset: Dataset) -> bytes:
    content = _zip_member(archive, name)
    decode(content, dataset, f"{name} in the archive")
    return content


def _zip_member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        with archive.open(name) as member:
            # Asking for a number of bytes also bounds what is inflated at once, whatever the header claims.
            content = member.read(_MAX_TINY_MEMBER_BYTES + 1)
    except KeyError as error:
        raise _lacks(name) from error
    except _DAMAGE as error:
        raise _damaged(error) from error
    if len(content) > _MAX_TINY_MEMBER_BYTES:
        raise ExitLensError(f"{name} in the archive is larger than any official file. Use the official archive.")
    return content


def _lacks(name: str) -> ExitLensError:
    return ExitLensError(f"The archive holds no {name}. Use the official archive.")


def _damaged(error: Exception) -> ExitLensError:
    reason = str(error).partition("\n")[0] or type(error).__name__  # tarfile lists all kinds it has tried
    return ExitLensError(f"The archive is damaged or of another kind ({reason.rstrip(':')}). Download it again.")


def _png(planes: np.ndarray) -> bytes:
    """An image, (3, H, W) unsigned bytes, as the bytes of a PNG file."""
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0))).save(buffer, "PNG")
    return buffer.getvalue()
