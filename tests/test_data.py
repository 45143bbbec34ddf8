"""Image sets: stable identity, splits that share nothing, and damage that ends in one clear error."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toys import TOY_CLASSES, TOY_DATASET, TOY_SIZE, png, write_hub_parquet

from core.data import (
    DATA_ROOT_VARIABLE,
    ImageSet,
    data_root,
    list_image_sets,
    open_image_set,
    parse_image_set_name,
)
from core.datasets import DATASETS
from core.errors import ExitLensError

NUM_TEST = TOY_DATASET.num_test


@pytest.fixture(autouse=True)
def no_data_root_by_accident(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.node.get_closest_marker("data"):
        monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
        monkeypatch.setattr("core.data.DEFAULT_DATA_ROOT", Path("no-such-folder"))


@pytest.fixture(scope="module")
def cifar10_test() -> ImageSet:
    return open_image_set("cifar10:test")


@pytest.fixture(scope="module")
def cifar10_validation() -> ImageSet:
    return open_image_set("cifar10:validation")


def pictures(count: int = NUM_TEST) -> Tensor:
    """Different images; the red channel's first pixel is the image's number."""
    images = torch.randint(256, (count, 3, TOY_SIZE, TOY_SIZE), generator=torch.Generator().manual_seed(0)).byte()
    images[:, 0, 0, 0] = torch.arange(count)
    return images


def labels_of(count: int = NUM_TEST) -> list[int]:
    return [index % len(TOY_CLASSES) for index in range(count)]


def stored_paths(count: int = NUM_TEST) -> list[str]:
    return [f"test_{index:05d}.png" for index in range(count)]


def write_rows(file: Path, rows: list[int], *, with_paths: bool = True) -> Path:
    """The rows with these official indices, in this order."""
    paths = [stored_paths()[row] for row in rows] if with_paths else None
    return write_hub_parquet(file, pictures()[rows], [labels_of()[row] for row in rows], paths)


# Names and selections


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 30)), min_size=1, max_size=8), st.randoms())
def test_selection_lists_every_index_of_its_ranges_in_the_order_written(
    steps: list[tuple[int, int]], order: random.Random
) -> None:
    # Mutant: range(first, last) loses the end of each range; sorted(indices) loses the order.
    start, parts = 0, []
    for gap, length in steps:
        first = start + gap
        parts.append(range(first, first + length + 1))
        start = first + length + 1
    order.shuffle(parts)
    text = ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
    assert parse_image_set_name(f"cifar10:test:{text}") == ("cifar10", "test", [i for part in parts for i in part])


@given(st.text(alphabet="0123456789-, x:²٣", max_size=40))
def test_any_selection_parses_or_gives_the_projects_error(text: str) -> None:
    # Mutant: int(part) without the pattern lets ValueError through.
    try:
        indices = parse_image_set_name(f"cifar10:test:{text}")[2]
    except ExitLensError:
        return
    assert indices and len(set(indices)) == len(indices) and min(indices) >= 0


def test_name_without_a_selection_means_all_images() -> None:
    # Mutant: an empty selection parsed as [].
    assert parse_image_set_name("cifar100:validation") == ("cifar100", "validation", None)


@pytest.mark.parametrize("name", ["", "cifar10", "cifar10:", "cifar10:tset", "mnist:test", "CIFAR10:test", ":test:0"])
def test_unknown_name_is_refused_with_what_is_allowed(name: str) -> None:
    # Mutant: no check of the split opens cifar10:tset as train.
    with pytest.raises(ExitLensError, match=r"cifar10, cifar100, tiny-imagenet.*train, validation, test, samples"):
        parse_image_set_name(name)


@pytest.mark.parametrize("selection", ["", "9-3", "-3", "1,", "1,,2", "a", "0-99-3", "1.5", "0x10", "9" * 5000])
def test_selection_that_is_not_numbers_and_ranges_is_refused(selection: str) -> None:
    # Mutant: range(9, 4) is empty, so 9-3 would select nothing; 5,000 digits make int() itself raise.
    with pytest.raises(ExitLensError, match="Cannot read the selection"):
        parse_image_set_name(f"cifar10:test:{selection}")


def test_selection_that_names_an_image_twice_is_refused() -> None:
    # Mutant: no check, and an image counts twice in every rate.
    with pytest.raises(ExitLensError, match="twice"):
        parse_image_set_name("cifar10:test:0-9,5")


def test_endless_range_is_refused_before_it_fills_the_memory() -> None:
    # Mutant: no bound.
    with pytest.raises(ExitLensError, match="longer than any image set"):
        parse_image_set_name("cifar10:test:0-999999999")


# Bundled samples


@pytest.mark.parametrize("dataset", [name for name, facts in DATASETS.items() if facts.has_samples])
def test_samples_are_the_first_twenty_test_images_by_id(dataset: str) -> None:
    # Mutant: ids from the split's name (cifar10/samples/0) would not match the same image in the test set.
    samples = open_image_set(f"{dataset}:samples")
    assert samples.image_ids == [f"{dataset}/test/{index}" for index in range(20)]
    assert samples.images.shape == (20, 3, 32, 32) and samples.images.dtype == torch.uint8
    assert len(samples.class_names) == DATASETS[dataset].num_classes == len(set(samples.class_names))


def test_sample_labels_are_those_of_the_official_test_set() -> None:
    # Mutant: the label read as the index. The words are what the pictures show.
    samples = open_image_set("cifar10:samples:0-3")
    assert [samples.class_names[label] for label in samples.labels] == ["cat", "ship", "ship", "airplane"]


@pytest.mark.data("cifar10:test")
def test_sample_pixels_and_labels_equal_the_test_set(cifar10_test: ImageSet) -> None:
    # Mutant: BGR decoding, or a transposed image, in either reader.
    samples = open_image_set("cifar10:samples")
    same = cifar10_test.select(range(20))
    assert torch.equal(samples.images, same.images) and torch.equal(samples.labels, same.labels)
    assert samples.pixel_hashes == same.pixel_hashes and samples.image_ids == same.image_ids


@pytest.mark.data("cifar100:test")
def test_cifar100_sample_pixels_and_labels_equal_the_test_set() -> None:
    # Mutant: the coarse label read in place of the fine one.
    samples, same = open_image_set("cifar100:samples"), open_image_set("cifar100:test:0-19")
    assert torch.equal(samples.images, same.images) and torch.equal(samples.labels, same.labels)


def test_samples_of_a_data_set_without_any_are_refused() -> None:
    # Mutant: glob of no files stacks an empty list.
    with pytest.raises(ExitLensError, match="tiny-imagenet:test"):
        open_image_set("tiny-imagenet:samples")


# Identity of Parquet images


@pytest.mark.usefixtures("toy_registry")
def test_official_index_comes_from_the_path_whatever_the_row(tmp_path: Path) -> None:
    # Mutant: return row numbers instead of official indices.
    rows = random.Random(0).sample(range(NUM_TEST), NUM_TEST)
    write_rows(tmp_path / "toy/test.parquet", rows)
    opened = open_image_set("toy:test", tmp_path)
    assert opened.indices.tolist() == list(range(NUM_TEST))
    assert torch.equal(opened.images, pictures()) and opened.labels.tolist() == labels_of()


@pytest.mark.usefixtures("toy_registry")
def test_incomplete_set_keeps_the_official_indices_of_its_paths(tmp_path: Path) -> None:
    # Mutant: return row numbers: image 7 would be called 5.
    rows = [0, 1, 2, 5, 6, 7, 11]
    write_rows(tmp_path / "toy/test.parquet", rows)
    opened = open_image_set("toy:test", tmp_path)
    assert opened.image_ids == [f"toy/test/{row}" for row in rows]
    assert torch.equal(opened.select([7, 2]).images, pictures()[[7, 2]])
    with pytest.raises(ExitLensError, match=r"toy:test has no image with official index 3, 4; it holds 7 images"):
        open_image_set("toy:test:2-5", tmp_path)


@pytest.mark.usefixtures("toy_registry")
def test_complete_set_without_paths_counts_rows(tmp_path: Path) -> None:
    # Mutant: refuse every file without paths.
    write_rows(tmp_path / "toy/test.parquet", list(range(NUM_TEST)), with_paths=False)
    opened = open_image_set("toy:test", tmp_path)
    assert opened.indices.tolist() == list(range(NUM_TEST)) and torch.equal(opened.images, pictures())


@pytest.mark.usefixtures("toy_registry")
def test_incomplete_set_without_paths_is_refused_with_what_to_do(tmp_path: Path) -> None:
    # Mutant: fall back to row numbers whatever the size.
    file = write_rows(tmp_path / "toy/test.parquet", [0, 1, 3], with_paths=False)
    with pytest.raises(ExitLensError, match=r"3 of 12 images.*Use the complete set") as raised:
        open_image_set("toy:test", tmp_path)
    assert str(file) in str(raised.value)


@pytest.mark.usefixtures("toy_registry")
@pytest.mark.parametrize("damage", ["missing", "double"])
def test_paths_that_contradict_the_rows_are_refused(tmp_path: Path, damage: str) -> None:
    # Mutant: one unusable path in a shuffled complete set, and every image silently gets its row as its index.
    rows = [*range(1, NUM_TEST), 0]
    paths: list[str | None] = [stored_paths()[row] for row in rows]
    paths[3] = None if damage == "missing" else paths[4]
    file = write_hub_parquet(tmp_path / "toy/test.parquet", pictures()[rows], labels_of(), paths)
    with pytest.raises(ExitLensError, match="contradict") as raised:
        open_image_set("toy:test", tmp_path)
    assert str(file) in str(raised.value)


@pytest.mark.usefixtures("toy_registry")
def test_selection_comes_back_in_the_order_asked_for(tmp_path: Path) -> None:
    # Mutant: sort the rows of a selection.
    write_rows(tmp_path / "toy/test.parquet", list(range(NUM_TEST)))
    opened = open_image_set("toy:test:7,2,9-10", tmp_path)
    assert opened.indices.tolist() == [7, 2, 9, 10]
    assert opened.images[:, 0, 0, 0].tolist() == [7, 2, 9, 10]
    assert opened.labels.tolist() == [labels_of()[index] for index in (7, 2, 9, 10)]
    assert (opened.name, opened.class_names) == ("toy:test", tuple(f"class {index}" for index in range(4)))


@pytest.mark.usefixtures("toy_registry")
@pytest.mark.parametrize("with_paths", [True, False])
@pytest.mark.parametrize(
    "names",
    [
        ("test-00000-of-00002.parquet", "test-00001-of-00002.parquet"),
        ("plain_text/test-00000-of-00002.parquet", "plain_text/test-00001-of-00002.parquet"),
        ("data/test-00000-of-00002-0123456789abcdef.parquet", "data/test-00001-of-00002-fedcba9876543210.parquet"),
    ],
)
def test_parts_in_any_hub_folder_make_one_set(tmp_path: Path, names: tuple[str, str], with_paths: bool) -> None:
    # Mutant: read the first part only, look in the top folder only, or number the rows of each part from 0.
    for name, rows in zip(names, (range(7), range(7, NUM_TEST)), strict=True):
        write_rows(tmp_path / "toy" / name, list(rows), with_paths=with_paths)
    opened = open_image_set("toy:test", tmp_path)
    assert opened.indices.tolist() == list(range(NUM_TEST)) and torch.equal(opened.images, pictures())
    assert opened.labels.tolist() == labels_of()


@pytest.mark.usefixtures("toy_registry")
def test_missing_part_is_an_error_that_counts_the_parts(tmp_path: Path) -> None:
    # Mutant: open whatever parts there are.
    write_rows(tmp_path / "toy/test-00000-of-00003.parquet", [0, 1, 2])
    write_rows(tmp_path / "toy/test-00002-of-00003.parquet", [3, 4])
    with pytest.raises(ExitLensError, match=r"2 of the 3 parts of test.*Download the missing parts") as raised:
        open_image_set("toy:test", tmp_path)
    assert str(tmp_path / "toy") in str(raised.value)


@pytest.mark.usefixtures("toy_registry")
def test_two_copies_at_one_depth_are_refused_by_name(tmp_path: Path) -> None:
    # Mutant: take the first folder found.
    for folder in ("one", "two"):
        write_rows(tmp_path / "toy" / folder / "test.parquet", list(range(NUM_TEST)))
    with pytest.raises(ExitLensError, match=r"2 folders.*one.*two.*Keep one"):
        open_image_set("toy:test", tmp_path)


@pytest.mark.usefixtures("toy_registry")
def test_columns_may_have_either_hub_name(tmp_path: Path) -> None:
    # Mutant: the label column found by position. The coarse label stands first here.
    file = write_hub_parquet(
        tmp_path / "toy/test.parquet", pictures(), labels_of(), image_column="image", label_column="fine_label"
    )
    table = pq.read_table(file)
    pq.write_table(table.add_column(0, "coarse_label", pa.array([0] * NUM_TEST)), file)
    assert open_image_set("toy:test", tmp_path).labels.tolist() == labels_of()


@pytest.mark.usefixtures("toy_registry")
def test_greyscale_image_becomes_three_equal_channels(tmp_path: Path) -> None:
    # Mutant: no conversion to RGB.
    encoded = [png(image) for image in pictures()]
    grey = pictures()[4, 1]
    encoded[4] = png(grey)
    write_hub_parquet(tmp_path / "toy/test.parquet", encoded, labels_of(), stored_paths())
    assert torch.equal(open_image_set("toy:test", tmp_path).images[4], grey.expand(3, -1, -1))


@pytest.mark.usefixtures("toy_registry")
def test_class_names_come_from_the_schema_and_the_words_beside_it(tmp_path: Path) -> None:
    # Mutant: always "class 0". WordNet ids become the first of their words.
    ids = ["n01", "n02", "n03", "n04"]
    file = write_hub_parquet(tmp_path / "toy/test.parquet", pictures(), labels_of(), stored_paths(), class_names=ids)
    assert open_image_set("toy:test", tmp_path).class_names == tuple(ids)
    words = {"n01": "goldfish, Carassius auratus", "n03": "bullfrog"}
    (file.parent / "class_names.json").write_text(json.dumps(words))
    assert open_image_set("toy:test", tmp_path).class_names == ("goldfish", "n02", "bullfrog", "n04")


# Splits


def write_training_images(root: Path, indices: list[int]) -> Path:
    count = TOY_DATASET.num_train
    paths = [f"train_{index:05d}.png" for index in indices]
    labels = [labels_of(count)[index] for index in indices]
    return write_hub_parquet(root / "toy/train.parquet", pictures(count)[indices], labels, paths)


@pytest.mark.usefixtures("toy_registry")
def test_validation_is_the_end_of_the_training_images_and_train_the_rest(tmp_path: Path) -> None:
    # Mutant: validation from the first images, or train that keeps them; rows taken for official indices.
    write_training_images(tmp_path, random.Random(1).sample(range(40), 40))
    train, validation = open_image_set("toy:train", tmp_path), open_image_set("toy:validation", tmp_path)
    assert train.image_ids == [f"toy/train/{index}" for index in range(32)]
    assert validation.image_ids == [f"toy/train/{index}" for index in range(32, 40)]
    assert torch.equal(torch.cat([train.images, validation.images]), pictures(40))
    assert torch.equal(torch.cat([train.labels, validation.labels]), torch.tensor(labels_of(40)))


@pytest.mark.usefixtures("toy_registry")
def test_training_file_without_validation_images_is_refused(tmp_path: Path) -> None:
    # Mutant: stack an empty list.
    file = write_training_images(tmp_path, list(range(10)))
    assert len(open_image_set("toy:train", tmp_path)) == 10
    with pytest.raises(ExitLensError, match="no image of toy:validation") as raised:
        open_image_set("toy:validation", tmp_path)
    assert str(file) in str(raised.value)


@pytest.mark.usefixtures("toy_registry")
def test_training_file_in_the_order_of_classes_is_read_across_them(tmp_path: Path) -> None:
    # Mutant: rows counted as they stand, and validation, their end, is of the last class alone.
    count, per_class = TOY_DATASET.num_train, TOY_DATASET.num_train // len(TOY_CLASSES)
    images, labels = pictures(count), [row // per_class for row in range(count)]
    write_hub_parquet(tmp_path / "toy" / "train.parquet", images, labels)
    validation = open_image_set("toy:validation", tmp_path)
    assert validation.labels.tolist() == list(range(len(TOY_CLASSES))) * 2
    # The ninth image of the second class, in row 18, has the index 8 x 4 + 1.
    assert validation.indices[1] == 33 and validation.images[1, 0, 0, 0] == 18
    train = open_image_set("toy:train", tmp_path)
    assert not set(train.indices.tolist()) & set(validation.indices.tolist())
    assert len(train) + len(validation) == count


@pytest.mark.usefixtures("toy_registry")
def test_validation_that_would_lack_classes_is_refused(tmp_path: Path) -> None:
    # Mutant: paths believed, though they count class by class.
    count, per_class = TOY_DATASET.num_train, TOY_DATASET.num_train // len(TOY_CLASSES)
    labels, paths = [row // per_class for row in range(count)], [f"train_{row}.png" for row in range(count)]
    write_hub_parquet(tmp_path / "toy" / "train.parquet", pictures(count), labels, paths)
    with pytest.raises(ExitLensError, match=r"1 of 4 classes.*data fetch toy"):
        open_image_set("toy:validation", tmp_path)


@pytest.mark.data("cifar10:validation")
def test_cifar10_validation_is_the_last_5000_training_images(cifar10_validation: ImageSet) -> None:
    # Mutant: the first 5,000, or a random tenth. The file's own rows are the oracle: it is in official order.
    assert cifar10_validation.indices.tolist() == list(range(45_000, 50_000))
    assert cifar10_validation.image_ids[0] == "cifar10/train/45000"
    table = pq.read_table(next((data_root() or Path()).glob("cifar10/**/train*.parquet")), columns=["label"])
    if len(table) == 50_000:
        assert cifar10_validation.labels.tolist() == table["label"].to_pylist()[45_000:]


@pytest.mark.slow
@pytest.mark.data("cifar10:validation")
def test_cifar10_train_and_validation_share_no_image(cifar10_validation: ImageSet) -> None:
    # Mutant: train without the cut. Hashes too, so that a copy under another index would show.
    train = open_image_set("cifar10:train")
    assert train.indices.tolist() == list(range(45_000))
    assert not set(train.pixel_hashes) & set(cifar10_validation.pixel_hashes)


@pytest.mark.data("cifar10:test")
def test_cifar10_test_rows_carry_the_index_of_their_path(cifar10_test: ImageSet) -> None:
    # Mutant: return row numbers; they differ from 1259 on where the file lacks images.
    file = next((data_root() or Path()).glob("cifar10/**/test*.parquet"))
    paths = [cell["path"] for cell in pq.read_table(file, columns=["img"])["img"].to_pylist()]
    if not all(paths):
        pytest.skip("this copy of cifar10:test stores no paths")
    assert cifar10_test.indices.tolist() == sorted(int(Path(path).stem.split("_")[1]) for path in paths)


@pytest.mark.data("cifar10:test")
def test_image_that_the_test_file_lacks_is_named(cifar10_test: ImageSet) -> None:
    # Mutant: return row numbers, and cifar10:test:1259 opens another image. A complete file lacks 10,000.
    held = set(cifar10_test.indices.tolist())
    lacking = next(index for index in range(10_001) if index not in held)
    with pytest.raises(ExitLensError, match=rf"no image with official index {lacking};"):
        open_image_set(f"cifar10:test:{lacking}")
    with pytest.raises(ExitLensError, match=rf"official index {lacking}, 10001;"):
        cifar10_test.select([0, lacking, 10_001])


@pytest.mark.data("tiny-imagenet:test")
def test_tiny_imagenet_opens_its_validation_file_as_the_test_set() -> None:
    # Mutant: ids tiny-imagenet/test/0 for images of the official validation set.
    opened = open_image_set("tiny-imagenet:test:0-299")
    assert opened.image_ids[7] == "tiny-imagenet/valid/7" and opened.images.shape == (300, 3, 64, 64)
    assert len(opened.class_names) == 200


# Pixels


@pytest.mark.usefixtures("toy_registry")
def test_pixel_hash_changes_with_any_single_pixel(tmp_path: Path) -> None:
    # Mutant: hash the label or the index, or a part of the image.
    write_rows(tmp_path / "toy/test.parquet", list(range(NUM_TEST)))
    opened = open_image_set("toy:test", tmp_path)
    before = opened.pixel_hashes
    assert len(set(before)) == NUM_TEST and all(len(digits) == 16 for digits in before)
    image = opened.images[5]
    for channel, row, column in [(0, 0, 1), (1, 3, 7), (2, 7, 7)]:
        image[channel, row, column] ^= 1
        after = opened.pixel_hashes
        assert [index for index in range(NUM_TEST) if after[index] != before[index]] == [5]
        image[channel, row, column] ^= 1
    assert opened.pixel_hashes == before


@pytest.mark.usefixtures("toy_registry")
def test_pixels_are_bytes_over_255(tmp_path: Path) -> None:
    # Mutant: divide by 256; white must be exactly 1.
    images = pictures()
    images[0, :, 0, :3] = torch.tensor([0, 51, 255], dtype=torch.uint8)
    write_hub_parquet(tmp_path / "toy/test.parquet", images, labels_of(), stored_paths())
    pixels = open_image_set("toy:test", tmp_path).pixels()
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels[0, 1, 0, :3], torch.tensor([0.0, 0.2, 1.0]))


# Damage and mistakes


def test_unset_data_root_is_named_with_what_to_set() -> None:
    # Mutant: look in the working folder.
    assert data_root() is None
    with pytest.raises(ExitLensError, match=r"Set EXITLENS_DATA to a folder that holds cifar10/test\.parquet"):
        open_image_set("cifar10:test")


@pytest.mark.parametrize("value", ["nowhere", "file.txt", "~no-such-user-here/data", "x" * 5000])
def test_data_root_that_is_no_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    # Mutant: no check, and everything below is only "missing"; an unknown home raises RuntimeError.
    (tmp_path / "file.txt").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(DATA_ROOT_VARIABLE, value)
    with pytest.raises(ExitLensError, match="not a folder") as raised:
        open_image_set("cifar10:test")
    assert value in str(raised.value) and DATA_ROOT_VARIABLE in str(raised.value)


def test_data_root_of_spaces_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: Path(" ") or Path("") is the working folder.
    monkeypatch.setenv(DATA_ROOT_VARIABLE, "  ")
    assert data_root() is None


def test_empty_data_root_names_the_file_it_should_hold(tmp_path: Path) -> None:
    # Mutant: an empty image set.
    with pytest.raises(ExitLensError, match=r"does not hold cifar10/test\.parquet") as raised:
        open_image_set("cifar10:test", tmp_path)
    assert str(tmp_path) in str(raised.value)


@pytest.mark.usefixtures("toy_registry")
def test_unreadable_picture_is_named_by_file_and_index(tmp_path: Path) -> None:
    # Mutant: name the first part whichever file the picture is in; SyntaxError not caught.
    write_rows(tmp_path / "toy/test-00000-of-00002.parquet", list(range(6)))
    encoded = [png(image) for image in pictures()[6:]]
    length = encoded[3].index(b"IDAT") - 1
    short_chunk = encoded[3][:length] + b"\x09" + encoded[3][length + 1 :]  # Pillow raises SyntaxError for it
    for garbage in (b"", b"not a picture", encoded[3][:60], short_chunk, b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        damaged = [*encoded[:3], garbage, *encoded[4:]]
        file = tmp_path / "toy/test-00001-of-00002.parquet"
        write_hub_parquet(file, damaged, labels_of()[6:], stored_paths()[6:])
        with pytest.raises(ExitLensError, match="image 9 is not a readable image") as raised:
            open_image_set("toy:test", tmp_path)
        assert str(file) in str(raised.value)


@pytest.mark.usefixtures("toy_registry")
@pytest.mark.parametrize("label", [-1, 4, None, 1.5])
def test_impossible_label_is_named_with_its_file(tmp_path: Path, label: float | None) -> None:
    # Mutant: no check; a label of 4 indexes past the class names much later.
    write_rows(tmp_path / "toy/test-00000-of-00002.parquet", list(range(6)))
    file = write_rows(tmp_path / "toy/test-00001-of-00002.parquet", list(range(6, NUM_TEST)))
    table = pq.read_table(file)
    labels = [*labels_of()[6:11], label]
    pq.write_table(table.set_column(1, "label", pa.array(labels)), file)
    with pytest.raises(ExitLensError, match=r"label.*toy has labels 0 to 3") as raised:
        open_image_set("toy:test", tmp_path)
    assert str(file) in str(raised.value)


@pytest.mark.usefixtures("toy_registry")
def test_picture_of_another_size_is_named_with_both_sizes(tmp_path: Path) -> None:
    # Mutant: no check; stacking fails with a tensor error, or every image of the wrong size passes.
    encoded = [png(image) for image in pictures()]
    encoded[2] = png(torch.zeros(3, 9, 7, dtype=torch.uint8))
    file = write_hub_parquet(tmp_path / "toy/test.parquet", encoded, labels_of(), stored_paths())
    with pytest.raises(ExitLensError, match=r"image 2 is 7x9 pixels; toy images are 8x8") as raised:
        open_image_set("toy:test", tmp_path)
    assert str(file) in str(raised.value)


@pytest.mark.usefixtures("toy_registry")
@pytest.mark.parametrize(("columns", "needed"), [({"label": "klass"}, "label"), ({"img": "picture"}, "img, image")])
def test_wrong_columns_are_named_with_those_needed(tmp_path: Path, columns: dict[str, str], needed: str) -> None:
    # Mutant: KeyError.
    file = write_rows(tmp_path / "toy/test.parquet", list(range(NUM_TEST)))
    table = pq.read_table(file)
    pq.write_table(table.rename_columns([columns.get(name, name) for name in table.column_names]), file)
    with pytest.raises(ExitLensError, match=f"has the columns .*; one of {needed}") as raised:
        open_image_set("toy:test", tmp_path)
    assert str(file) in str(raised.value)


@pytest.mark.usefixtures("toy_registry")
@pytest.mark.parametrize(
    "cells",
    [
        pa.array([b"bytes"] * NUM_TEST),
        pa.array([[1, 2]] * NUM_TEST),
        pa.array([{"path": "test_00000.png"}] * NUM_TEST),
        pa.array([{"bytes": "text", "path": None}] * NUM_TEST),
        pa.nulls(NUM_TEST),
    ],
)
def test_image_column_of_another_kind_is_refused(tmp_path: Path, cells: pa.Array) -> None:
    # Mutant: cell["bytes"] without looking at what the cell is.
    file = write_rows(tmp_path / "toy/test.parquet", list(range(NUM_TEST)))
    pq.write_table(pq.read_table(file).set_column(0, "img", cells), file)
    with pytest.raises(ExitLensError, match="holds an image without bytes") as raised:
        open_image_set("toy:test", tmp_path)
    assert str(file) in str(raised.value)


@pytest.mark.usefixtures("toy_registry")
def test_file_without_rows_is_refused(tmp_path: Path) -> None:
    # Mutant: min() or stack of nothing.
    file = write_rows(tmp_path / "toy/test.parquet", list(range(NUM_TEST)))
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    with pytest.raises(ExitLensError, match="holds no images"):
        open_image_set("toy:test", tmp_path)


@pytest.mark.usefixtures("toy_registry")
@pytest.mark.parametrize("kept", [0, 3, 4, 100, -1, -20])
def test_truncated_file_is_named(tmp_path: Path, kept: int) -> None:
    # Mutant: pyarrow's own error reaches the caller.
    file = write_rows(tmp_path / "toy/test.parquet", list(range(NUM_TEST)))
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ExitLensError, match="not a readable Parquet file") as raised:
        open_image_set("toy:test", tmp_path)
    assert str(file) in str(raised.value)


@pytest.mark.usefixtures("toy_registry")
def test_text_that_is_not_utf8_is_named_with_its_file(tmp_path: Path) -> None:
    # Mutant: UnicodeDecodeError from a stored path or a column's name reaches the caller.
    file = write_rows(tmp_path / "toy/test.parquet", list(range(NUM_TEST)))
    pq.write_table(pq.read_table(file), file, compression="none", use_dictionary=False)
    content = file.read_bytes()
    for text in (b"test_00003", b"label"):
        file.write_bytes(content.replace(text, b"\xff" * len(text)))
        with pytest.raises(ExitLensError) as raised:
            open_image_set("toy:test", tmp_path)
        assert str(file) in str(raised.value)


@pytest.mark.usefixtures("toy_registry")
def test_folder_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    # Mutant: IsADirectoryError reaches the caller.
    (tmp_path / "toy/test.parquet").mkdir(parents=True)
    with pytest.raises(ExitLensError, match=r"toy.test\.parquet"):
        open_image_set("toy:test", tmp_path)


@pytest.mark.usefixtures("toy_registry")
@pytest.mark.parametrize("content", ["{", "[]", '{"n01": 3}', "\udcff"])
def test_damaged_class_names_are_named(tmp_path: Path, content: str) -> None:
    # Mutant: JSONDecodeError reaches the caller.
    file = write_hub_parquet(
        tmp_path / "toy/test.parquet", pictures(), labels_of(), class_names=["n01", "n02", "n03", "n04"]
    )
    words = file.parent / "class_names.json"
    words.write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ExitLensError, match="class names") as raised:
        open_image_set("toy:test", tmp_path)
    assert str(words) in str(raised.value)


@pytest.mark.usefixtures("toy_registry")
def test_wrong_number_of_class_names_is_refused(tmp_path: Path) -> None:
    # Mutant: no check; the last label has no name.
    write_hub_parquet(tmp_path / "toy/test.parquet", pictures(), labels_of(), class_names=["a", "b", "c"])
    with pytest.raises(ExitLensError, match="names 3 classes; toy has 4"):
        open_image_set("toy:test", tmp_path)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Some bits flipped, some bytes overwritten, or the end cut off."""
    damage = bytearray(content)
    kind = chance.random()
    if kind < 0.15:
        return bytes(damage[: chance.randrange(len(damage))])
    if kind < 0.6:
        for _ in range(chance.choice([1, 2, 8])):
            damage[chance.randrange(len(damage))] ^= 1 << chance.randrange(8)
    else:
        start = chance.randrange(len(damage))
        length = chance.randrange(1, 40)
        damage[start : start + length] = chance.randbytes(length)
    return bytes(damage)


@pytest.mark.usefixtures("toy_registry")
@pytest.mark.parametrize("seed", range(4))
def test_damage_at_random_places_gives_an_image_set_or_the_projects_error(tmp_path: Path, seed: int) -> None:
    # Mutant: drop UnicodeDecodeError (paths, column names), SyntaxError (PNG chunks) or JSON errors from the excepts.
    chance = random.Random(seed)
    file = write_hub_parquet(
        tmp_path / "toy/test.parquet", pictures(), labels_of(), stored_paths(), class_names=TOY_CLASSES
    )
    content = file.read_bytes()
    num_refused = 0
    for _ in range(250):
        file.write_bytes(damaged(content, chance))
        try:
            opened = open_image_set("toy:test", tmp_path)
        except ExitLensError as error:
            num_refused += 1
            assert str(file) in str(error)
        else:
            assert len(opened) == NUM_TEST and opened.images.shape == (NUM_TEST, 3, TOY_SIZE, TOY_SIZE)
    assert 100 < num_refused < 250


@pytest.mark.parametrize("name", DATASETS)
def test_facts_of_every_data_set_fit_together(name: str) -> None:
    # Mutant: a class name lost from a list, or a mean on the 0-255 scale.
    facts = DATASETS[name]
    assert facts.name == name
    assert len(facts.class_names) in (0, facts.num_classes)
    assert 0 < facts.num_validation <= facts.num_train // 10
    assert all(0.2 < value < 0.6 for value in (*facts.mean, *facts.std))


# What is ready


@pytest.mark.usefixtures("toy_registry")
def test_list_tells_ready_sets_from_missing_and_damaged_ones(tmp_path: Path) -> None:
    # Mutant: every set ready; or the first problem ends the list.
    write_rows(tmp_path / "toy/test.parquet", [0, 1, 5])
    write_training_images(tmp_path, list(range(40)))
    (tmp_path / "cifar100").mkdir()
    (tmp_path / "cifar100/test.parquet").write_bytes(b"PAR1 damaged")
    status_of = {status.name: status for status in list_image_sets(tmp_path)}
    assert status_of["cifar10:samples"].num_images == 20 and status_of["cifar10:samples"].is_ready
    assert status_of["toy:test"].num_images == 3 and status_of["toy:validation"].num_images == 8
    for name in ("cifar10:test", "cifar100:test", "cifar10:validation"):
        assert not status_of[name].is_ready and status_of[name].num_images == 0
    assert "cifar10/test.parquet" in status_of["cifar10:test"].problem
    assert "not a readable Parquet file" in status_of["cifar100:test"].problem


def test_list_offers_the_samples_when_the_data_root_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: raise, and a wrong EXITLENS_DATA leaves nothing to show.
    monkeypatch.setenv(DATA_ROOT_VARIABLE, "no-such-folder")
    ready = [status.name for status in list_image_sets() if status.is_ready]
    assert ready == ["cifar10:samples", "cifar100:samples"]


def test_list_survives_a_missing_foolbox(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: raise outside the loop.
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    statuses = list_image_sets()
    assert not any(status.is_ready for status in statuses)
    assert "foolbox" in next(status.problem for status in statuses if status.name == "cifar10:samples")
