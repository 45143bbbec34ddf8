"""Logits of a whole image set, batch by batch."""

import torch
from torch import Tensor

from core.data import ImageSet
from core.models import ExitModel

BATCH_SIZE = 250


@torch.no_grad()
def exit_logits(model: ExitModel, image_set: ImageSet, batch_size: int = BATCH_SIZE) -> Tensor:
    """Logits of all exits on every image, (N, K, C) float32: the reference forward pass.

    Args:
        model: Any exit model in eval mode.
        image_set: The images.
        batch_size: Images at a time; moves float32 logits by about 2e-6.
    """
    batches = [model(batch.float() / 255) for batch in image_set.images.split(batch_size)]
    return torch.cat(batches)
