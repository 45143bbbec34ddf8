"""The L2 ball: projection, direction and random start; the loop is that of ``core.attacks.linf``."""

import torch
from torch import Tensor

from core.seeding import normal_noise, uniform_noise

BISECTIONS = 50


def project_l2(changes: Tensor, epsilon: float) -> Tensor:
    """The nearest changes (N, 3, H, W) whose length over the whole image is at most ``epsilon``."""
    lengths = _length(changes).clamp(min=torch.finfo(changes.dtype).tiny)
    shares: Tensor = (epsilon / lengths).clamp(max=1)
    return changes * shares[:, None, None, None]


def project_into_l2(moved: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """The nearest images that lie inside the L2 ball around ``images`` and inside [0, 1].

    By the conditions of Karush, Kuhn and Tucker they are ``images + share * (moved - images)``, cut to [0, 1], with
    the largest share in [0, 1] that keeps them in the ball; it is found by halving.
    """
    changes = moved - images

    def within(share: Tensor) -> Tensor:
        return (images + share[:, None, None, None] * changes).clamp(0, 1)

    ones = torch.ones(len(images), dtype=images.dtype, device=images.device)
    low, high = torch.where(_length(within(ones) - images) <= epsilon, ones, 0), ones
    for _ in range(BISECTIONS if (low < 1).any() else 0):
        middle = (low + high) / 2
        fits = _length(within(middle) - images) <= epsilon
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return within(low)


def unit_l2(gradient: Tensor) -> Tensor:
    """Each image's gradient over its length; a gradient of nought stays as it is."""
    length = _length(gradient)
    return gradient / torch.where(length > 0, length, 1)[:, None, None, None]


def start_in_l2(images: Tensor, epsilon: float, seed: int) -> Tensor:
    """Images moved to a place drawn uniformly from the ball around each, then cut to [0, 1]."""
    share = (uniform_noise(images, seed + 1)[:, 0, 0, 0] + 1) / 2  # drawn apart from the direction
    radius = epsilon * share ** (1 / images[0].numel())
    return (images + radius[:, None, None, None] * unit_l2(normal_noise(images, seed))).clamp(0, 1)


def _length(changes: Tensor) -> Tensor:
    length: Tensor = changes.flatten(1).norm(dim=1)
    return length
