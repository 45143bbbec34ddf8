"""A user's own pictures: whatever the file, an image of the right size or one sentence."""

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from core import uploads
from core.errors import ExitLensError
from core.uploads import read_picture, uploaded_images


def file_of(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_picture_of_the_right_size_comes_back_as_it_is() -> None:
    # Mutant: channels swapped, rows and columns transposed, or a resize that blurs.
    pixels = torch.randint(256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    read = read_picture(file_of(Image.fromarray(pixels.numpy())), "a.png", 32)
    assert torch.equal(read, pixels.permute(2, 0, 1))


def test_wide_picture_keeps_the_square_in_its_middle() -> None:
    # Mutant: squeezed instead of cut, or cut at the left.
    picture = Image.new("RGB", (300, 100), "red")
    picture.paste(Image.new("RGB", (100, 100), "blue"), (100, 0))
    read = read_picture(file_of(picture), "wide.png", 32)
    assert read.shape == (3, 32, 32)
    assert torch.equal(read[:, 16, 16], torch.tensor([0, 0, 255], dtype=torch.uint8))
    assert (read[2] > 200).float().mean() > 0.9


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_every_colour_mode_is_taken(mode: str) -> None:
    # Mutant: an array of (H, W) or of four channels goes on to the model.
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert read_picture(file_of(Image.new(mode, (40, 40)), kind), "x", 32).shape == (3, 32, 32)


def test_sixteen_bits_are_brought_to_eight() -> None:
    # Mutant: Pillow's own conversion, which cuts off at 255 and leaves a white picture.
    grey = Image.fromarray(np.full((40, 40), 100 * 256 + 7, dtype=np.uint16))
    assert (read_picture(file_of(grey), "scan.png", 32) == 100).all()


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_numbers_that_are_no_colours_are_refused(mode: str) -> None:
    # Mutant: a black or white picture, as if that had been uploaded.
    with pytest.raises(ExitLensError, match=rf"map\.tif holds colours of a kind that is not taken \({mode}\)"):
        read_picture(file_of(Image.new(mode, (40, 40)), "TIFF"), "map.tif", 32)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "WEBP", "TIFF"])
def test_smallest_and_longest_pictures_are_taken(kind: str) -> None:
    # Mutant: a resize that needs a square of more than one pixel.
    for size in ((1, 1), (1, 3000), (3000, 1)):
        read = read_picture(file_of(Image.new("RGB", size, "white"), kind), "thin", 32)
        assert read.shape == (3, 32, 32) and (read == 255).all()


def test_transparency_is_laid_on_white_and_the_cameras_rotation_undone() -> None:
    # Mutant: transparent pixels black; a portrait photograph lying on its side.
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert (read_picture(file_of(clear), "clear.png", 32) == 255).all()
    upright = Image.new("RGB", (64, 64), "black")
    upright.paste(Image.new("RGB", (64, 32), "white"), (0, 0))
    tags = Image.Exif()
    tags[0x0112] = 6  # stored turned; to be shown a quarter turn clockwise
    read = read_picture(file_of(upright, "JPEG", exif=tags, quality=95), "photo.jpg", 32)
    assert read[0, 16, 28] > 200 and read[0, 16, 3] < 50


def exif(*tags: tuple[int, int, int, bytes]) -> bytes:
    """EXIF of tags, each with its number, type, count and four bytes, right or wrong."""
    entries = b"".join(struct.pack("<HHI", *tag[:3]) + tag[3] for tag in sorted(tags))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


TURNED = (0x0112, 3, 1, struct.pack("<HH", 6, 0))
MALFORMED = {
    "a width that is text": (0x0100, 2, 4, b"abc\0"),
    "a description that is a number": (0x010E, 11, 1, struct.pack("<f", 1.5)),
    "a resolution that is text": (0x011A, 2, 4, b"abc\0"),
    "a maker's name that is a fraction": (0x0131, 5, 1, struct.pack("<I", 8)),
}


@pytest.mark.parametrize("tag", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_tag_of_a_camera_ends_nothing_and_the_picture_is_turned_all_the_same(
    tag: tuple[int, int, int, bytes],
) -> None:
    # Mutants: Pillow's own turning, which writes all tags anew and ends in errors of several kinds; no turning at all.
    upright = Image.new("RGB", (64, 64), "black")
    upright.paste(Image.new("RGB", (64, 32), "white"), (0, 0))
    read = read_picture(file_of(upright, "JPEG", exif=exif(TURNED, tag), quality=95), "photo.jpg", 32)
    assert read[0, 16, 28] > 200 and read[0, 16, 3] < 50


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_way_to_hold_a_camera_is_undone_once(kind: str, orientation: int) -> None:
    # Mutants: two turns exchanged; a TIFF, which Pillow turns by itself, turned twice.
    picture = Image.fromarray(np.kron([[0, 60], [120, 240]], np.ones((32, 32))).astype(np.uint8)).convert("RGB")
    tags = Image.Exif()
    tags[0x0112] = orientation
    content = file_of(picture, kind, exif=tags)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    assert torch.equal(read_picture(content, "x", 64), torch.from_numpy(np.array(expected)).permute(2, 0, 1))


GOOD = file_of(Image.new("RGB", (40, 40)))


@pytest.mark.parametrize("content", [b"", b"no picture", GOOD[: len(GOOD) // 2], GOOD[:20] + b"x" * 40, b"%PDF-1.4"])
def test_broken_upload_gets_one_kind_sentence(content: bytes) -> None:
    # Mutant: Pillow's own errors, of four kinds.
    with pytest.raises(ExitLensError, match=r"mine\.png cannot be read as a picture"):
        read_picture(content, "mine.png", 32)


def test_too_large_uploads_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: a small file that unfolds to gigabytes.
    with pytest.raises(ExitLensError, match="11 MB; at most 10"):
        read_picture(b"x" * 11_000_000, "big", 32)
    monkeypatch.setattr(uploads, "MAX_PIXELS", 1_000_000)
    bomb = file_of(Image.new("1", (4000, 4000)))
    assert len(bomb) < 100_000
    with pytest.raises(ExitLensError, match="bomb unfolds to more than 1 million pixels"):
        read_picture(bomb, "bomb", 32)


def test_uploads_are_an_image_set_with_a_key_of_their_own() -> None:
    # Mutant: one name for all uploads: the results of other pictures would be shown.
    first, second = (torch.full((3, 32, 32), value, dtype=torch.uint8) for value in (1, 2))
    image_set = uploaded_images("cifar10", [first, second], [3, 5])
    assert image_set.image_ids == [f"cifar10/{image_set.split}/0", f"cifar10/{image_set.split}/1"]
    assert image_set.class_names[image_set.labels[0]] == "cat" and len(image_set) == 2
    names = {uploaded_images("cifar10", *each).name for each in (([first], [3]), ([second], [3]), ([first], [4]))}
    assert len(names) == 3
    # Mutant: no names where a data set's own files bring them, and a page that looks one up.
    named = uploaded_images("tiny-imagenet", [torch.zeros(3, 64, 64, dtype=torch.uint8)], [1], ("goldfish", "shark"))
    assert named.class_names == ("goldfish", "shark")
    with pytest.raises(ExitLensError, match="between 0 and 9"):
        uploaded_images("cifar10", [first], [10])
