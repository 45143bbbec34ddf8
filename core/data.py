"""Image sets with stable ids: hub-layout Parquet folders under a data root, or the bundled samples.

An image set is named ``dataset:split`` and a selection of it ``dataset:split:0-99,200``, where the numbers
are official indices, never row numbers. ``validation`` is the last tenth of the official training images
and ``train`` is the rest, so nothing can be trained on validation images by accident.
"""

import hashlib
import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from core.datasets import DATASETS, Dataset
from core.errors import ExitLensError
from core.hub import count_images, decode, official_split, read_split, wanted_files

SPLITS = ("train", "validation", "test", "samples")
DATA_ROOT_VARIABLE = "EXITLENS_DATA"
DEFAULT_DATA_ROOT = Path("~/.cache/exitlens/data")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images in memory with their identity.

    Attributes:
        dataset: Name of the data set, such as ``cifar10``.
        split: One of ``SPLITS``.
        images: (N, 3, H, W) unsigned bytes, RGB.
        labels: (N,) class indices.
        indices: (N,) official index of each image inside its official file.
        official_split: Official file that ``indices`` count in: ``train``, ``test`` or ``valid``.
        class_names: One word or phrase per class.
    """

    dataset: str
    split: str
    images: Tensor
    labels: Tensor
    indices: Tensor
    official_split: str
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def name(self) -> str:
        """Name that opens this set again, such as ``cifar10:test``."""
        return f"{self.dataset}:{self.split}"

    @property
    def image_ids(self) -> list[str]:
        """Stable ids, such as ``cifar10/test/17``."""
        return [f"{self.dataset}/{self.official_split}/{index}" for index in self.indices.tolist()]

    @property
    def pixel_hashes(self) -> list[str]:
        """Sixteen hexadecimal digits per image, of its bytes: tells whether a stored row means this picture."""
        return [hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16] for image in self.images]

    def pixels(self) -> Tensor:
        """The images as float32 in [0, 1], (N, 3, H, W)."""
        return self.images.float() / 255

    def rows_of(self, indices: Sequence[int]) -> list[int]:
        """Row of each official index.

        Raises:
            ExitLensError: If an index is not in this set; the message names the missing ones.
        """
        row_of = {index: row for row, index in enumerate(self.indices.tolist())}
        missing = [index for index in indices if index not in row_of]
        if missing:
            raise ExitLensError(
                f"{self.name} has no image with official index {_shorten(missing)}; it holds {len(self)} images "
                f"between {int(self.indices.min())} and {int(self.indices.max())}. Ask for others."
            )
        return [row_of[index] for index in indices]

    def select(self, indices: Sequence[int]) -> "ImageSet":
        """The images with these official indices, in this order."""
        rows = torch.tensor(self.rows_of(indices), dtype=torch.long)
        return ImageSet(
            self.dataset,
            self.split,
            self.images[rows],
            self.labels[rows],
            self.indices[rows],
            self.official_split,
            self.class_names,
        )


@dataclass(frozen=True)
class ImageSetStatus:
    """Whether an image set can be opened on this machine.

    Attributes:
        name: Such as ``cifar10:test``.
        num_images: Images in it; 0 when it is not ready.
        problem: Why it is not ready, in one sentence; empty when it is.
    """

    name: str
    num_images: int
    problem: str = ""

    @property
    def is_ready(self) -> bool:
        """True when it can be opened."""
        return not self.problem


def data_root() -> Path | None:
    """The folder named by ``EXITLENS_DATA``; where that is unset or empty, ``~/.cache/exitlens/data`` if it is there.

    Raises:
        ExitLensError: If the variable names something that is not a folder.
    """
    value = os.environ.get(DATA_ROOT_VARIABLE, "").strip()
    try:
        root = Path(value or DEFAULT_DATA_ROOT).expanduser()
        is_folder = root.is_dir()
    except (OSError, RuntimeError):  # a name too long, a folder that may not be read, a home of no such user
        is_folder = False
    if is_folder or not value:
        return root if is_folder else None
    raise ExitLensError(
        f"{DATA_ROOT_VARIABLE} is {value!r}, which is not a folder. Point it at a folder that holds "
        "cifar10/test.parquet, or unset it to work with the bundled samples."
    )


def data_root_to_fill() -> Path:
    """The data root for a fetched data set; the default one need not be there yet.

    Raises:
        ExitLensError: If ``EXITLENS_DATA`` names something that is not a folder, or is unset where there is no home.
    """
    try:
        return data_root() or DEFAULT_DATA_ROOT.expanduser()
    except RuntimeError as error:
        raise ExitLensError(f"There is no home folder for data sets. Set {DATA_ROOT_VARIABLE} to a folder.") from error


def parse_image_set_name(name: str) -> tuple[str, str, list[int] | None]:
    """Splits ``dataset:split[:selection]``.

    Args:
        name: Such as ``cifar10:test`` or ``cifar10:test:0-9,42``.

    Returns:
        Data set, split, and the official indices asked for (None for all).

    Raises:
        ExitLensError: If a part is unknown or the selection is not made of numbers and ranges.
    """
    dataset, _, rest = name.partition(":")
    split, _, selection = rest.partition(":")
    if dataset not in DATASETS or split not in SPLITS:
        raise ExitLensError(
            f"Unknown image set {name!r}. Write DATASET:SPLIT or DATASET:SPLIT:0-99, with DATASET one of "
            f"{', '.join(DATASETS)} and SPLIT one of {', '.join(SPLITS)}."
        )
    return dataset, split, _parse_selection(selection) if ":" in rest else None


def selection_text(indices: Sequence[int]) -> str:
    """Rising indices as a selection reads: ``0-3,7``."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def open_image_set(name: str, root: Path | None = None) -> ImageSet:
    """Opens an image set, or a selection of one, by name.

    Args:
        name: ``dataset:split`` or ``dataset:split:0-99,200``; ``dataset:samples`` needs no data root.
        root: Folder with one sub-folder per data set; the default is ``data_root()``.

    Returns:
        The images in official order (a selection: in the order asked for).

    Raises:
        ExitLensError: If the name is unknown, files are missing or damaged, or an index is not there.
    """
    dataset_name, split, selection = parse_image_set_name(name)
    dataset = DATASETS[dataset_name]
    image_set = _open_samples(dataset) if split == "samples" else _open_split(dataset, split, root)
    return image_set if selection is None else image_set.select(selection)


def list_image_sets(root: Path | None = None) -> list[ImageSetStatus]:
    """Every image set that could be attacked here, ready or not, without decoding an image.

    Args:
        root: As in ``open_image_set``; a data root that is wrong is the problem of every set that needs one.
    """
    statuses = []
    for name, dataset in DATASETS.items():
        for split in ("samples", "test", "validation"):
            if split == "samples" and not dataset.has_samples:
                continue
            try:
                statuses.append(ImageSetStatus(f"{name}:{split}", _count(dataset, split, root)))
            except ExitLensError as error:
                statuses.append(ImageSetStatus(f"{name}:{split}", 0, str(error)))
    return statuses


def _count(dataset: Dataset, split: str, root: Path | None) -> int:
    if split == "samples":
        return len(_sample_files(dataset))
    return count_images(dataset, split, _needed_root(dataset, split, root))


def _needed_root(dataset: Dataset, split: str, root: Path | None) -> Path:
    found = root or data_root()
    if found is None:
        raise ExitLensError(
            f"{dataset.name}:{split} needs a data root. Set {DATA_ROOT_VARIABLE} to a folder that holds "
            f"{wanted_files(dataset, split)}, or run `python -m core data fetch {dataset.name}`."
        )
    return found


def _parse_selection(selection: str) -> list[int]:
    indices: list[int] = []
    for part in selection.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise ExitLensError(
                f"Cannot read the selection {selection!r}. Write official indices, such as 0-99 or 3,7,20-29."
            )
        if last - first > 1_000_000:
            raise ExitLensError(f"The range {part.strip()} is longer than any image set. Ask for fewer images.")
        indices.extend(range(first, last + 1))
    if len(set(indices)) < len(indices):
        raise ExitLensError(f"The selection {selection!r} names an image twice. Name each once.")
    return indices


def _shorten(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return shown if len(numbers) <= 8 else f"{shown} and {len(numbers) - 8} more"


def _sample_files(dataset: Dataset) -> list[Path]:
    # find_spec locates the package without running it: importing Foolbox costs seconds and needs its backends.
    spec = importlib.util.find_spec("foolbox")
    if not spec or not spec.submodule_search_locations:
        raise ExitLensError(
            "The bundled samples come with the package foolbox, which is not installed. Run `make app`."
        )
    folder = Path(spec.submodule_search_locations[0]) / "data"
    files = sorted(folder.glob(f"{dataset.name}_[0-9][0-9]_*.png"))
    if not files:
        raise ExitLensError(
            f"The installed foolbox holds no {dataset.name} samples. Install the version in requirements.txt."
        )
    return files


def _open_samples(dataset: Dataset) -> ImageSet:
    if not dataset.has_samples:
        raise ExitLensError(f"No samples of {dataset.name} are bundled. Open {dataset.name}:test with a data root.")
    files = _sample_files(dataset)
    # File names read cifar10_<index>_<label>.png; the indices are those of the official test set.
    numbers = [[int(part) for part in file.stem.split("_")[1:3]] for file in files]
    images = torch.stack([decode(file.read_bytes(), dataset, str(file.name)) for file in files])
    indices, labels = torch.tensor(numbers).T
    return ImageSet(
        dataset.name, "samples", images, labels.clone(), indices.clone(), dataset.test_file, dataset.class_names
    )


def _open_split(dataset: Dataset, split: str, root: Path | None) -> ImageSet:
    read = read_split(dataset, split, _needed_root(dataset, split, root))
    official = official_split(dataset, split)
    return ImageSet(dataset.name, split, read.images, read.labels, read.indices, official, read.class_names)
