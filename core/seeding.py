"""Random numbers that belong to one image: neither batch size nor order changes them."""

import zlib
from collections.abc import Iterator

import torch
from torch import Tensor


def generator_of_each(images: Tensor, seed: int) -> Iterator[torch.Generator]:
    """A generator for each image (3, H, W), seeded by the seed and the image's own pixels."""
    for image in images:
        content = (image * 255).round().byte().cpu().numpy().tobytes()
        # The checksum takes the seed in, for torch's generator reads the lowest 32 bits only.
        yield torch.Generator().manual_seed(zlib.crc32(content, seed))


def uniform_noise(images: Tensor, seed: int) -> Tensor:
    """Noise of the shape and type of the images, uniform in [-1, 1), each image's own."""
    draws = [
        torch.rand(images.shape[1:], generator=generator, dtype=torch.float64) * 2 - 1
        for generator in generator_of_each(images, seed)
    ]
    return torch.stack(draws).to(dtype=images.dtype, device=images.device)


def normal_noise(images: Tensor, seed: int) -> Tensor:
    """The same from the standard normal distribution."""
    draws = [
        torch.randn(images.shape[1:], generator=generator, dtype=torch.float64)
        for generator in generator_of_each(images, seed)
    ]
    return torch.stack(draws).to(dtype=images.dtype, device=images.device)
