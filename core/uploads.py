"""A user's own pictures, made into images that a model can take."""

import hashlib
import io
import struct
from collections.abc import Sequence

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from core.data import ImageSet
from core.datasets import DATASETS
from core.errors import ExitLensError

MAX_BYTES = 10_000_000
MAX_PIXELS = 50_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
RESIZING = "cut to the square in its middle, then resized by Lanczos"


# Pillow cuts off what lies beyond 255 when it converts other modes: a 16-bit photograph would come out white.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "La", "CMYK", "YCbCr")


# What undoes each value of the EXIF tag Orientation but 1.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _TooLarge(Exception):
    """A picture that is not decoded for its size."""


def read_picture(content: bytes, name: str, image_size: int) -> Tensor:
    """A picture of any size as a square image.

    The largest square in its middle is kept and resized by Lanczos; transparency is laid on white.

    Args:
        content: The file.
        name: Of the file, for the error.
        image_size: Side of the result.

    Returns:
        (3, image_size, image_size) unsigned bytes, RGB.

    Raises:
        ExitLensError: If the file is too large, damaged, or no picture of a known format and range.
    """
    if len(content) > MAX_BYTES:
        raise ExitLensError(f"{name} has {len(content) / 1e6:.0f} MB; at most {MAX_BYTES // 1_000_000} are taken.")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as checked:
            width, height = checked.size
            checked.verify()
        if width * height > MAX_PIXELS:
            raise _TooLarge
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            mode, decoded = opened.mode, _of_8_bits(_upright(opened))
    except (_TooLarge, Image.DecompressionBombError) as error:
        raise ExitLensError(
            f"{name} unfolds to more than {MAX_PIXELS // 1_000_000} million pixels. Scale it down first."
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, TypeError, struct.error) as error:
        raise ExitLensError(
            f"{name} cannot be read as a picture. Choose an undamaged file of one of {', '.join(FORMATS)}."
        ) from error
    if decoded is None:
        raise ExitLensError(
            f"{name} holds colours of a kind that is not taken ({mode}). Save it as a PNG of 8 bits a colour."
        )
    if decoded.has_transparency_data:
        decoded = decoded.convert("RGBA")
        decoded = Image.alpha_composite(Image.new("RGBA", decoded.size, "white"), decoded)
    square = ImageOps.fit(decoded.convert("RGB"), (image_size, image_size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


def _upright(picture: Image.Image) -> Image.Image:
    """The picture as the camera was held; as it is stored where its EXIF cannot be read.

    Pillow's own ``exif_transpose`` writes all tags anew, and any malformed one ends it.
    """
    picture.load()  # first: in doing so, Pillow turns a TIFF by itself and forgets the tag
    try:
        turn = TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except (struct.error, SyntaxError, ValueError, TypeError):
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _of_8_bits(picture: Image.Image) -> Image.Image | None:
    """The picture with 8 bits a colour; None where nothing says which numbers are black and white."""
    if picture.mode in MODES:
        return picture.copy()
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) // 256).astype(np.uint8))
    return None


def uploaded_images(
    dataset: str, pictures: Sequence[Tensor], labels: Sequence[int], class_names: Sequence[str] = ()
) -> ImageSet:
    """Uploaded pictures as an image set, numbered from 0.

    Its split, ``upload-`` and eight digits of a hash of the pixels and labels, makes it a key of its own: other
    pictures are another set.

    Args:
        dataset: Whose classes the labels are.
        pictures: (3, S, S) unsigned bytes each, one or more.
        labels: One class per picture, as its owner says.
        class_names: Of a data set whose own files bring them; those of the data set without.

    Raises:
        ExitLensError: If a label is no class of the data set.
    """
    facts = DATASETS[dataset]
    if not all(0 <= label < facts.num_classes for label in labels):
        raise ExitLensError(f"The labels {list(labels)} must lie between 0 and {facts.num_classes - 1}.")
    images, classes = torch.stack(list(pictures)), torch.tensor(list(labels))
    digest = hashlib.sha256(images.numpy().tobytes() + classes.numpy().tobytes()).hexdigest()[:8]
    split = f"upload-{digest}"
    return ImageSet(
        dataset, split, images, classes, torch.arange(len(classes)), split, tuple(class_names) or facts.class_names
    )
