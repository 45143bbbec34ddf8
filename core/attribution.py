"""What an exit looked at: captum behind one function, always on a private copy of the model."""

import copy

import torch
from torch import Tensor, nn

from core.errors import ExitLensError


def saliency_maps(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Gradient of each exit's logit of its class with respect to the pixels, summed over colours.

    Args:
        model: An exit model; copied, so that nothing captum does touches a shared one.
        images: (N, 3, H, W) in [0, 1].
        classes: Class explained at each exit, (N, K).

    Returns:
        (N, K, H, W), signed: positive where more brightness would raise the logit.

    Raises:
        ExitLensError: If ``classes`` does not name one class per image and exit.
    """
    # Imported here: captum brings matplotlib, which no other page needs.
    from captum.attr import Saliency

    private = copy.deepcopy(model)
    num_exits: int = private.num_exits  # type: ignore[assignment]
    if classes.shape != (len(images), num_exits):
        raise ExitLensError(f"Classes have shape {tuple(classes.shape)}; one per image and exit is needed.")
    maps = []
    for exit_index in range(num_exits):

        def logits_at(pixels: Tensor, index: int = exit_index) -> Tensor:
            return private.run_until(pixels, index)  # type: ignore[operator,no-any-return]

        gradient = Saliency(logits_at).attribute(
            images.detach().clone().requires_grad_(True), target=classes[:, exit_index], abs=False
        )
        maps.append(gradient.detach().sum(dim=1))
    return torch.stack(maps, dim=1)
