"""Hub-layout Parquet folders: finding the files of a data set, and reading images out of them."""

import json
import re
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

from core.datasets import Dataset
from core.errors import ExitLensError

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")  # what the hub stores; Pillow's other readers are not needed
_OFFICIAL_NAME = re.compile(r"(?:^|/)(?:train|test|valid|val)_(\d{1,9})\.\w+$")


@dataclass(frozen=True, eq=False)
class HubImages:
    """What the files of one split hold, in official order.

    Attributes:
        images: (N, 3, H, W) unsigned bytes, RGB.
        labels: (N,) class indices.
        indices: (N,) official index of each image inside its official file.
        class_names: One word or phrase per class.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    class_names: tuple[str, ...]


def read_split(dataset: Dataset, split: str, root: Path) -> HubImages:
    """Reads ``train``, ``validation`` or ``test`` of a data set below a data root.

    Raises:
        ExitLensError: If files are missing, incomplete or damaged; the message names the file.
    """
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
    if split != "test":
        named = any(_OFFICIAL_NAME.search(path or "") for path in paths)
        indices = _across_classes(indices, labels, named, dataset, shards[0])
    keep = [row for row, index in enumerate(indices) if _belongs(index, dataset, split)]
    if not keep:
        raise ExitLensError(f"{shards[0]} holds no image of {dataset.name}:{split}. Use the complete set.")
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda row: decode(encoded[row], dataset, f"{files[row]}, image {indices[row]}"), keep))
    order = sorted(range(len(keep)), key=lambda position: indices[keep[position]])
    rows = [keep[position] for position in order]
    return HubImages(
        images=torch.stack([images[position] for position in order]),
        labels=torch.tensor([labels[row] for row in rows]),
        indices=torch.tensor([indices[row] for row in rows]),
        class_names=class_names,
    )


def count_images(dataset: Dataset, split: str, root: Path) -> int:
    """Images of a split, from the files' footers alone.

    Raises:
        ExitLensError: As ``read_split``, but for damage that only reading the rows would show.
    """
    num_rows = sum(_parquet_file(shard).metadata.num_rows for shard in _shards(dataset, split, root))
    return int(min(num_rows, dataset.num_validation) if split == "validation" else num_rows)


def official_split(dataset: Dataset, split: str) -> str:
    """Stem of the file that a split is read from: ``train``, ``test`` or ``valid``."""
    return dataset.test_file if split == "test" else "train"


def _belongs(index: int, dataset: Dataset, split: str) -> bool:
    if split == "test":
        return True
    return (index >= dataset.num_train - dataset.num_validation) == (split == "validation")


def wanted_files(dataset: Dataset, split: str) -> str:
    """The files of a split, in words, relative to the data root."""
    stem = official_split(dataset, split)
    return f"{dataset.name}/{stem}.parquet (or {stem}-00000-of-0000N.parquet)"


def _shards(dataset: Dataset, split: str, root: Path) -> list[Path]:
    """Parquet files of one official split, in order, wherever they lie below ROOT/DATASET."""
    stem = official_split(dataset, split)
    folder = root / dataset.name
    # Older uploads end in a fingerprint: valid-00000-of-00001-70d52db3c749a935.parquet.
    pattern = re.compile(rf"{stem}(?:-(\d+)-of-(\d+)(?:-[0-9a-f]{{16}})?)?\.parquet")
    by_folder: dict[Path, list[Path]] = {}
    for file in sorted(folder.rglob(f"{stem}*.parquet")) if folder.is_dir() else []:
        if pattern.fullmatch(file.name):
            by_folder.setdefault(file.parent, []).append(file)
    if not by_folder:
        raise ExitLensError(
            f"{root} does not hold {wanted_files(dataset, split)}. Put the file there, or run "
            f"`python -m core data fetch {dataset.name}`."
        )
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
    stem = official_split(dataset, split)
    found = [_OFFICIAL_NAME.search(path or "") for path in paths]
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


def _across_classes(indices: list[int], labels: list[int], named: bool, dataset: Dataset, file: Path) -> list[int]:
    """Official indices under which ``validation``, the end of the training images, holds every class.

    A complete file whose rows stand class by class and whose paths name no index, as in copies of Tiny-ImageNet, has
    no order of its own: the n-th image of class c gets the index n x classes + c, as a fetched one has.
    """
    if len(indices) < dataset.num_train:
        return indices
    if not named and labels == sorted(labels):
        counted: dict[int, int] = {}
        spread = []
        for label in labels:
            spread.append(counted.setdefault(label, 0) * dataset.num_classes + label)
            counted[label] += 1
        if sorted(spread) == indices:
            return spread
    held = {label for index, label in zip(indices, labels, strict=True) if _belongs(index, dataset, "validation")}
    if dataset.num_validation >= dataset.num_classes > len(held):
        raise ExitLensError(
            f"In the order of {file}, {dataset.name}:validation would hold {len(held)} of {dataset.num_classes} "
            f"classes. Run `python -m core data fetch {dataset.name}`, whose file mixes them."
        )
    return indices


def decode(encoded: bytes, dataset: Dataset, where: str) -> Tensor:
    """A stored picture as (3, H, W) unsigned bytes, RGB.

    Args:
        encoded: Content of a PNG, JPEG or WebP file.
        dataset: Says how large its images are.
        where: Names the picture in errors.

    Raises:
        ExitLensError: If it is no such picture or of another size.
    """
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
