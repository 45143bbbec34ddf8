"""The architectures by name, and the one function that builds them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.datasets import DATASETS
from core.errors import ExitLensError
from core.models import mobilenet, resnet, vgg
from core.models.classifiers import Backbone, ExitNetwork


@dataclass(frozen=True)
class Architecture:
    """How to build a backbone, and where its exits stand by default.

    Attributes:
        label: Name on screen.
        build: From number of classes and image side to a backbone.
        exit_positions: Blocks (0-based) after which the standard early-exit model has classifiers.
        num_blocks: Blocks in all.
    """

    label: str
    build: Callable[[int, int], Backbone]
    exit_positions: tuple[int, ...]
    num_blocks: int


# In the order in which models are offered: the first opens a fresh page.
ARCHITECTURES = {
    "resnet56": Architecture("ResNet-56", resnet.ResNet56, resnet.EXIT_POSITIONS, num_blocks=27),
    "mobilenet": Architecture("MobileNet", mobilenet.MobileNet, mobilenet.EXIT_POSITIONS, num_blocks=13),
    "vgg16": Architecture("VGG-16", vgg.VGG16, vgg.EXIT_POSITIONS, num_blocks=13),
}


def build_model(architecture: str, dataset: str, exit_positions: Sequence[int] = ()) -> ExitNetwork:
    """A network with freshly drawn weights.

    Args:
        architecture: A key of ``ARCHITECTURES``.
        dataset: A key of ``core.datasets.DATASETS``; gives classes, image side and normalisation.
        exit_positions: Blocks with an early exit after them; empty for the static network.

    Returns:
        The network in eval mode, parameters trainable.

    Raises:
        ExitLensError: If a name is unknown or a position is not a block with another one after it.
    """
    if architecture not in ARCHITECTURES:
        raise ExitLensError(f"Unknown architecture {architecture!r}. Choose one of {', '.join(ARCHITECTURES)}.")
    if dataset not in DATASETS:
        raise ExitLensError(f"Unknown data set {dataset!r}. Choose one of {', '.join(DATASETS)}.")
    facts = DATASETS[dataset]
    backbone = ARCHITECTURES[architecture].build(facts.num_classes, facts.image_size)
    positions = tuple(exit_positions)
    last = len(backbone.blocks) - 1
    if list(positions) != sorted(set(positions)) or not all(0 <= position < last for position in positions):
        raise ExitLensError(f"Exit positions {list(positions)} must rise and lie between 0 and {last - 1}.")
    return ExitNetwork(backbone, positions, facts.num_classes, facts.image_size, facts.mean, facts.std).eval()
