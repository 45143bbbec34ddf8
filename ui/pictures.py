"""Pixels on their way to the screen or into a file."""

import base64
from io import BytesIO

import numpy as np
from PIL import Image
from torch import Tensor

from core.attacks.run import apply_perturbations
from core.data import ImageSet
from core.examples import KeptExample
from ui import cache
from ui.kept_cache import Gallery


def clean_image(example: KeptExample, gallery: Gallery) -> ImageSet | None:
    """The clean image of a kept example as a set of one; None where it is not on this machine."""
    place = gallery.places.get((example.image_id, example.pixel_hash))
    if place is None:
        return None
    whole = cache.image_set(place[0])
    return whole.select([int(whole.indices[place[1]])])


def adversarial_pixels(image: ImageSet, perturbation: Tensor) -> Tensor:
    """An adversarial image, (3, H, W) in [0, 1], from a set of one and the stored perturbation."""
    return apply_perturbations(image.pixels(), perturbation[None])[0]


def as_bytes(pixels: Tensor) -> np.ndarray:
    """An image (3, H, W) in [0, 1] as (H, W, 3) bytes."""
    return (pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def png(pixels: Tensor) -> bytes:
    """An image (3, H, W) in [0, 1] as a PNG file: rounded to 8 bits."""
    buffer = BytesIO()
    Image.fromarray(as_bytes(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def npy(pixels: Tensor) -> bytes:
    """An image (3, H, W) in [0, 1] as a NumPy file of 32-bit floating-point numbers: exactly what was judged."""
    buffer = BytesIO()
    np.save(buffer, pixels.numpy())
    return buffer.getvalue()


def data_url(pixels: Tensor) -> str:
    """An image (3, H, W) in [0, 1] as an address that holds the picture itself."""
    return f"data:image/png;base64,{base64.b64encode(png(pixels)).decode()}"
