"""Natural corruptions of whole batches, in five severities.

Severities are our own: they make generated data, no published benchmark.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from numbers import Integral
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from core.errors import ExitLensError
from core.seeding import generator_of_each, normal_noise, uniform_noise

SEVERITIES = (1, 2, 3, 4, 5)
SMOOTH_SIDE = 5  # an elastic change is drawn on a grid of this side and smoothed between


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption.

    Attributes:
        label: On screen.
        unit: What its amounts are.
        amounts: One for each severity.
        corrupt: From images (N, 3, H, W) in [0, 1], an amount and a seed to images that may leave [0, 1].
    """

    label: str
    unit: str
    amounts: tuple[float, float, float, float, float]
    corrupt: Callable[[Tensor, float, int], Tensor]


def corrupt(images: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    """Corrupts images; neither batch size nor order changes the outcome of one.

    Args:
        images: (N, 3, H, W) in [0, 1].
        name: One of ``CORRUPTIONS``.
        severity: 1 to 5.
        seed: Draws what is random, together with each image's own pixels.

    Returns:
        (N, 3, H, W) in [0, 1].

    Raises:
        ExitLensError: If there is no such corruption or severity.
    """
    check_corruption(name, severity)
    corruption = CORRUPTIONS[name]
    return corruption.corrupt(images, corruption.amounts[severity - 1], seed).clamp(0, 1)


def check_corruption(name: str, severity: int) -> None:
    """Checks that there is such a corruption.

    Raises:
        ExitLensError: If there is not.
    """
    if name not in CORRUPTIONS:
        raise ExitLensError(f"Unknown corruption {name!r}. Choose one of {', '.join(CORRUPTIONS)}.")
    if not isinstance(severity, Integral) or isinstance(severity, bool) or severity not in SEVERITIES:
        raise ExitLensError(f"The severity is {severity}; it must be a whole number from 1 to 5.")


def _torchvision() -> ModuleType:
    # Imported here: it takes seconds, and only corruptions need it.
    import torchvision.transforms.v2.functional as functional

    return functional  # type: ignore[no-any-return]


def _gaussian_noise(images: Tensor, deviation: float, seed: int) -> Tensor:
    return images + deviation * normal_noise(images, seed)


def _shot_noise(images: Tensor, photons: float, seed: int) -> Tensor:
    pairs = zip(images, generator_of_each(images, seed), strict=True)
    draws = [torch.poisson(image.double().cpu() * photons, generator) / photons for image, generator in pairs]
    return torch.stack(draws).to(dtype=images.dtype, device=images.device)


def _impulse_noise(images: Tensor, share: float, seed: int) -> Tensor:
    # The same draw says which values are hit and whether they turn black or white: a severer one hits those too.
    draw = uniform_noise(images, seed)
    return torch.where(draw < share - 1, 0.0, torch.where(draw >= 1 - share, 1.0, images))


def _gaussian_blur(images: Tensor, sigma: float, seed: int) -> Tensor:
    side = 2 * round(3 * sigma + 0.5) + 1
    return _torchvision().gaussian_blur(images, [side, side], [sigma, sigma])  # type: ignore[no-any-return]


def _pixelate(images: Tensor, block: float, seed: int) -> Tensor:
    # Blocks are squares, or two squares side by side: each is made of whole blocks of the severity below.
    height, width = images.shape[2:]
    rows = 2 ** (int(math.log2(block)) // 2)
    small = (max(1, height // rows), max(1, width // (int(block) // rows)))
    return F.interpolate(F.interpolate(images, small, mode="area"), (height, width), mode="nearest")


def _jpeg(images: Tensor, quality: float, seed: int) -> Tensor:
    # By Pillow, image by image: torchvision gives up its own coding.
    decoded = []
    for image in (images * 255).round().byte().cpu():
        buffer = BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=int(quality))
        decoded.append(torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1))
    return torch.stack(decoded).to(dtype=images.dtype, device=images.device) / 255


def _brightness(images: Tensor, factor: float, seed: int) -> Tensor:
    return _torchvision().adjust_brightness(images, factor)  # type: ignore[no-any-return]


def _contrast(images: Tensor, factor: float, seed: int) -> Tensor:
    return _torchvision().adjust_contrast(images, factor)  # type: ignore[no-any-return]


def _saturation(images: Tensor, factor: float, seed: int) -> Tensor:
    return _torchvision().adjust_saturation(images, factor)  # type: ignore[no-any-return]


def _elastic(images: Tensor, pixels: float, seed: int) -> Tensor:
    height, width = images.shape[2:]
    draws = [
        torch.randn((1, 2, SMOOTH_SIDE, SMOOTH_SIDE), generator=generator)
        for generator in generator_of_each(images, seed)
    ]
    moves = F.interpolate(torch.cat(draws), (height, width), mode="bicubic", align_corners=True)
    moves = moves.to(dtype=images.dtype, device=images.device).permute(0, 2, 3, 1)  # (N, H, W, 2)
    scale = images.new_tensor([2 * pixels / width, 2 * pixels / height])
    identity = torch.eye(2, 3, dtype=images.dtype, device=images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(identity, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid + scale * moves, padding_mode="reflection", align_corners=False)


CORRUPTIONS = {
    "gaussian-noise": Corruption("Gaussian noise", "deviation", (0.02, 0.04, 0.06, 0.09, 0.13), _gaussian_noise),
    "shot-noise": Corruption("Shot noise", "photons", (1000, 400, 160, 80, 40), _shot_noise),
    "impulse-noise": Corruption("Impulse noise", "share hit", (0.005, 0.01, 0.02, 0.04, 0.08), _impulse_noise),
    "gaussian-blur": Corruption("Gaussian blur", "deviation in pixels", (0.4, 0.6, 0.8, 1.0, 1.4), _gaussian_blur),
    "pixelate": Corruption("Pixelate", "pixels in a block", (2, 4, 8, 16, 32), _pixelate),
    "jpeg": Corruption("JPEG", "quality", (80, 60, 40, 25, 15), _jpeg),
    "elastic": Corruption("Elastic", "pixels", (0.3, 0.6, 1.0, 1.4, 2.0), _elastic),
    "brighter": Corruption("Brighter", "factor", (1.2, 1.4, 1.7, 2.1, 2.6), _brightness),
    "darker": Corruption("Darker", "factor", (0.8, 0.6, 0.45, 0.3, 0.2), _brightness),
    "low-contrast": Corruption("Low contrast", "factor", (0.75, 0.5, 0.35, 0.25, 0.15), _contrast),
    "pale": Corruption("Pale colours", "factor", (0.7, 0.5, 0.3, 0.15, 0.0), _saturation),
}
