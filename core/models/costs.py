"""Multiply-adds up to each exit."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, chain

import torch
from torch import Tensor, nn
from torch.backends import mha
from torch.nn.attention import SDPBackend, sdpa_kernel

from core.errors import ExitLensError
from core.models.protocol import ExitModel


def multiply_adds(model: ExitModel, image_size: int) -> tuple[list[int], list[int]]:
    """Multiply-adds of one image, stage by stage: convolutions and matrix products.

    Args:
        model: In eval mode; its parameters are only read.
        image_size: Side of the images in pixels.

    Returns:
        For each of the K exits the multiply-adds of the layers since the exit before it, and those of its
        own classifier.
    """
    # Imported here: its imports take a second, which a card with counts spares.
    from torch.utils.flop_counter import FlopCounterMode

    layers, classifiers = [], []
    # torch's counter counts two operations per multiply-add.
    with torch.no_grad():
        image = torch.zeros(1, 3, image_size, image_size).to(_real_tensor_of(model))
        with _attention_in_the_open(), FlopCounterMode(display=False) as counter:
            features = model.begin(image)
            done = 0
            for exit_index in range(model.num_exits):
                features = model.advance(features, exit_index)
                layers.append(counter.get_total_flops() // 2 - done)
                model.classify(features, exit_index)
                classifiers.append(counter.get_total_flops() // 2 - done - layers[-1])
                done += layers[-1] + classifiers[-1]
    return layers, classifiers


def _real_tensor_of(model: ExitModel) -> Tensor:
    """A tensor in whose width and place the model takes images: networks may have buffers alone, or complex weights."""
    tensors = chain(model.parameters(), model.buffers()) if isinstance(model, nn.Module) else ()
    return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(()))


@contextmanager
def _attention_in_the_open() -> Iterator[None]:
    """Has attention computed product by product: torch counts none of what its fused operators do."""
    was_fast = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mha.set_fastpath_enabled(was_fast)


def exit_costs(model: ExitModel, image_size: int) -> tuple[float, ...]:
    """Cost fraction of each exit: multiply-adds done up to it over those of the whole network with its exits.

    The classifiers of the exit itself and of every earlier one are counted, as they were really computed.

    Args:
        model: In eval mode.
        image_size: Side of the images in pixels.

    Returns:
        K rising numbers in (0, 1]; the last is 1.
    """
    layers, classifiers = multiply_adds(model, image_size)
    return subset_costs(layers, classifiers, range(len(layers)))


def subset_costs(layers: Sequence[int], classifiers: Sequence[int], exit_indices: Sequence[int]) -> tuple[float, ...]:
    """Cost fractions of a network that has only some of the exits: classifiers left out are not counted.

    Args:
        layers: Multiply-adds of the layers since the exit before, K of them, as ``multiply_adds`` gives them.
        classifiers: Multiply-adds of each exit's classifier, K of them.
        exit_indices: The exits that are kept, 0-based, rising; the final one, K - 1, is last.

    Returns:
        As many rising numbers in (0, 1] as there are exits kept; the last is 1.

    Raises:
        ExitLensError: If the exits do not rise or do not end with the final one.
    """
    kept = check_subset(exit_indices, len(layers))
    total = sum(layers) + sum(classifiers[index] for index in kept)
    done = accumulate(classifiers[index] for index in kept)
    return tuple((sum(layers[: index + 1]) + own) / total for index, own in zip(kept, done, strict=True))


def check_subset(exit_indices: Sequence[int], num_exits: int) -> tuple[int, ...]:
    """The exits of a placement, checked.

    Raises:
        ExitLensError: If they do not rise within ``num_exits`` or do not end with the final one.
    """
    kept = tuple(exit_indices)
    if list(kept) != sorted(set(kept)) or kept[-1:] != (num_exits - 1,) or kept[0] < 0:
        raise ExitLensError(
            f"The exits {list(kept)} are no placement: give rising indices from 0 that end with the final exit, "
            f"{num_exits - 1}."
        )
    return kept


def backbone_fractions(model: ExitModel, image_size: int) -> tuple[float, ...]:
    """Share of the backbone's own multiply-adds done at each early exit, no exit classifier counted.

    This is the figure by which Kaya et al. place exits, (K - 1,) numbers in (0, 1).
    """
    layers, classifiers = multiply_adds(model, image_size)
    total = sum(layers) + classifiers[-1]
    return tuple(sum(layers[: index + 1]) / total for index in range(len(layers) - 1))


def static_fraction(layers: Sequence[int], classifiers: Sequence[int]) -> float:
    """Cost of the network without its early exits, as a fraction of the network with them, in (0, 1].

    These are the multiply-adds of the static twin.

    Args:
        layers: As ``multiply_adds`` returns them.
        classifiers: As ``multiply_adds`` returns them.
    """
    return (sum(layers) + classifiers[-1]) / (sum(layers) + sum(classifiers))
