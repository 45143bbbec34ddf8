"""Image sets with stable ids: hub-layout Parquet folders under a data root, or the bundled samples.

An image set is named ``dataset:split`` and a selection of it ``dataset:split:0-99,200``, where the numbers
are official indices, never row numbers. ``validation`` is the last tenth of the official training images
and ``train`` is the rest, so nothing can be trained on validation images by accident.
"""

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from core.datasets import DATASETS, Dataset
from core.errors import ExitLensError

SPLITS = ("train", "validation", "test", "samples")
DATA_ROOT_VARIABLE = "EXITLENS_DATA"
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")  # what the hub stores; Pillow's other readers are not needed


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
    """The folder named by ``EXITLENS_DATA``, or None when it is unset or empty.

    Raises:
        ExitLensError: If the variable names something that is not a folder.
    """
    value = os.environ.get(DATA_ROOT_VARIABLE, "").strip()
    if not value:
        return None
    try:
        root = Path(value).expanduser()
        is_folder = root.is_dir()
    except (OSError, RuntimeError):  # a name too long, a folder that may not be read, a home of no such user
        is_folder = False
    if not is_folder:
        raise ExitLensError(
            f"{DATA_ROOT_VARIABLE} is {value!r}, which is not a folder. Point it at a folder that holds "
            "cifar10/test.parquet, or unset it to work with the bundled samples."
        )
    return root


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
    image_set = _open_samples(dataset) if split == "samples" else _open_parquet(dataset, split, root or data_root())
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
    num_rows = sum(_parquet_file(shard).metadata.num_rows for shard in _shards(dataset, split, root or data_root()))
    return int(min(num_rows, dataset.num_validation) if split == "validation" else num_rows)


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
    images = torch.stack([_decode(file.read_bytes(), dataset, str(file.name)) for file in files])
    indices, labels = torch.tensor(numbers).T
    return ImageSet(
        dataset.name, "samples", images, labels.clone(), indices.clone(), dataset.test_file, dataset.class_names
    )


def _open_parquet(dataset: Dataset, split: str, root: Path | None) -> ImageSet:
    shards = _shards(dataset, split, root)
    paths: list[str | None] = []
    encoded: list[bytes] = []
    labels: list[int] = []
    files: list[Path] = []  # of each row
    for shard in shards:
        cells, shard_labels = _read_shard(shard)
        for cell in cells:
            if not isinstance(cell, dict) or not isinstance(cell.get("bytes"), bytes):
                raise ExitLensError(f"{shard} holds an image without bytes. Download the file again.")
            path = cell.get("path")
            encoded.append(cell["bytes"])
            paths.append(path if isinstance(path, str) else None)
        _check_labels(shard_labels, dataset, shard)
        labels.extend(shard_labels)
        files.extend([shard] * len(shard_labels))
    class_names = _class_names(dataset, shards[0])
    indices = _official_indices(paths, dataset, split, shards[0])
    keep = [row for row, index in enumerate(indices) if _belongs(index, dataset, split)]
    if not keep:
        raise ExitLensError(f"{shards[0]} holds no image of {dataset.name}:{split}. Use the complete set.")
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda row: _decode(encoded[row], dataset, f"{files[row]}, image {indices[row]}"), keep))
    order = sorted(range(len(keep)), key=lambda position: indices[keep[position]])
    rows = [keep[position] for position in order]
    return ImageSet(
        dataset=dataset.name,
        split=split,
        images=torch.stack([images[position] for position in order]),
        labels=torch.tensor([labels[row] for row in rows]),
        indices=torch.tensor([indices[row] for row in rows]),
        official_split=_official_split(dataset, split),
        class_names=class_names,
    )


def _official_split(dataset: Dataset, split: str) -> str:
    return dataset.test_file if split == "test" else "train"


def _belongs(index: int, dataset: Dataset, split: str) -> bool:
    if split == "test":
        return True
    return (index >= dataset.num_train - dataset.num_validation) == (split == "validation")


def _shards(dataset: Dataset, split: str, root: Path | None) -> list[Path]:
    """Parquet files of one official split, in order, wherever they lie below ROOT/DATASET."""
    stem = _official_split(dataset, split)
    wanted = f"{dataset.name}/{stem}.parquet (or {stem}-00000-of-0000N.parquet)"
    if root is None:
        raise ExitLensError(
            f"{dataset.name}:{split} needs a data root. Set {DATA_ROOT_VARIABLE} to a folder that holds {wanted}."
        )
    folder = root / dataset.name
    # Older uploads end in a fingerprint: valid-00000-of-00001-70d52db3c749a935.parquet.
    pattern = re.compile(rf"{stem}(?:-(\d+)-of-(\d+)(?:-[0-9a-f]{{16}})?)?\.parquet")
    by_folder: dict[Path, list[Path]] = {}
    for file in sorted(folder.rglob(f"{stem}*.parquet")) if folder.is_dir() else []:
        if pattern.fullmatch(file.name):
            by_folder.setdefault(file.parent, []).append(file)
    if not by_folder:
        raise ExitLensError(f"{root} does not hold {wanted}. Put the file there, or choose another image set.")
    shallowest = min(len(place.parts) for place in by_folder)
    places = [place for place in by_folder if len(place.parts) == shallowest]
    if len(places) > 1:
        raise ExitLensError(
            f"{dataset.name}:{split} stands in {len(places)} folders ({', '.join(map(str, places))}). Keep one."
        )
    files = by_folder[places[0]]
    whole = [file for file in files if file.name == f"{stem}.parquet"]
    if whole:
        return whole
    matches = [match for file in files if (match := pattern.fullmatch(file.name))]
    totals = {int(match[2]) for match in matches}
    if len(totals) != 1 or {int(match[1]) for match in matches} != set(range(max(totals))):
        raise ExitLensError(
            f"{places[0]} holds {len(files)} of the {max(totals)} parts of {stem}. Download the missing parts."
        )
    return sorted(files)


def _parquet_file(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ExitLensError(f"{path} is not a readable Parquet file ({error}). Download it again.") from error


def _read_shard(path: Path) -> tuple[list[Any], list[Any]]:
    """Image cells and labels of one file, as Python values whose types are still to be checked."""
    try:
        table = _parquet_file(path).read()
        image_column = _column(table, ("img", "image"), path)
        label_column = _column(table, ("label", "fine_label", "labels"), path)
        return table[image_column].to_pylist(), table[label_column].to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ExitLensError(f"{path} is damaged ({error}). Download it again.") from error


def _column(table: pa.Table, names: tuple[str, ...], path: Path) -> str:
    for name in names:
        if name in table.column_names:
            return name
    raise ExitLensError(f"{path} has the columns {', '.join(table.column_names)}; one of {', '.join(names)} is needed.")


def _check_labels(labels: list[Any], dataset: Dataset, path: Path) -> None:
    wrong = [label for label in labels if not isinstance(label, int) or not 0 <= label < dataset.num_classes]
    if wrong or not labels:
        raise ExitLensError(
            f"{path} holds {f'the label {wrong[0]}' if wrong else 'no images'}; {dataset.name} has labels 0 to "
            f"{dataset.num_classes - 1}. Download it again."
        )


def _official_indices(paths: list[str | None], dataset: Dataset, split: str, file: Path) -> list[int]:
    """Official index of every row: from the stored path where there is one, else from the row of a complete set."""
    stem = _official_split(dataset, split)
    found = [re.search(r"(?:^|/)(?:train|test|valid|val)_(\d{1,9})\.\w+$", path or "") for path in paths]
    indices = [int(match[1]) for match in found if match]
    num_official = dataset.num_test if split == "test" else dataset.num_train
    if len(indices) == len(paths) == len(set(indices)) and max(indices) < num_official:
        return indices
    if len(paths) != num_official:
        raise ExitLensError(
            f"{file} holds {len(paths)} of {num_official} images and no paths such as {stem}_17.png that would say "
            "which. Use the complete set, or one whose paths hold the official index."
        )
    if any(match and int(match[1]) != row for row, match in enumerate(found)):
        raise ExitLensError(f"The image paths in {file} contradict the order of its rows. Download the file again.")
    return list(range(num_official))


def _decode(encoded: bytes, dataset: Dataset, where: str) -> Tensor:
    try:
        picture = Image.open(BytesIO(encoded), formats=IMAGE_FORMATS)
        # The header's size is checked before a pixel is decoded: a damaged one may ask for gigabytes.
        if picture.size != (dataset.image_size, dataset.image_size):
            raise ExitLensError(
                f"{where} is {picture.size[0]}x{picture.size[1]} pixels; {dataset.name} images are "
                f"{dataset.image_size}x{dataset.image_size}. Use the original data set."
            )
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()
    except ExitLensError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: a broken PNG
        raise ExitLensError(f"{where} is not a readable image ({error}). Download the file again.") from error


def _class_names(dataset: Dataset, file: Path) -> tuple[str, ...]:
    if dataset.class_names:
        return dataset.class_names
    metadata = _parquet_file(file).schema_arrow.metadata or {}
    place = file
    try:
        info = json.loads(metadata.get(b"huggingface", b"{}"))
        label = info.get("info", {}).get("features", {}).get("label", {})
        names = label.get("names") or [f"class {index}" for index in range(dataset.num_classes)]
        place = file.parent / "class_names.json"
        words = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
        class_names = tuple(words.get(name, name).split(",")[0] for name in names)
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise ExitLensError(f"The class names in {place} cannot be read ({error}). Download it again.") from error
    if len(class_names) != dataset.num_classes:
        raise ExitLensError(
            f"{file} names {len(class_names)} classes; {dataset.name} has {dataset.num_classes}. Download it again."
        )
    return class_names
