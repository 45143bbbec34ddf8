"""Networks with classifiers on exits: any list of blocks, a classifier after some of them."""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import ExitLensError
from core.models.costs import check_subset, exit_costs

POOLED_SIDE = 4


class ExitClassifier(nn.Module):
    """The classifier of an early exit: mixed pooling to 4x4, then one linear layer.

    The mix is a * max + (1 - a) * average with one learned, unconstrained scalar a that starts uniform in
    (0, 1). Maps of 4x4 and below go to the linear layer as they are.

    Source: Kaya et al., Shallow-Deep Networks, ICML 2019, section 4 (feature reduction).
    """

    def __init__(self, num_channels: int, side: int, num_classes: int) -> None:
        """Makes the classifier for features of (N, num_channels, side, side)."""
        super().__init__()
        pooled_side = min(side, POOLED_SIDE)
        self.window = side // pooled_side
        self.mix = nn.Parameter(torch.rand(())) if self.window > 1 else None
        self.linear = nn.Linear(num_channels * pooled_side**2, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, C), as wide as the weights, from features (N, channels, side, side) of any width."""
        width = self.linear.weight.dtype
        if self.mix is not None:
            if self.training:
                # Reductions over unfolded windows: compiled, they train faster than the pooling kernels.
                windows = features.unflatten(3, (-1, self.window)).unflatten(2, (-1, self.window))
                highest, average = windows.amax((3, 5)), windows.mean((3, 5))
            else:
                highest, average = F.max_pool2d(features, self.window), F.avg_pool2d(features, self.window)
            features = self.mix * highest.to(width) + (1 - self.mix) * average.to(width)
        logits: Tensor = self.linear(features.to(width).flatten(1))
        return logits


class Backbone(nn.Module):
    """A network cut into blocks: what an architecture has to bring.

    Attributes:
        stem: From normalised images to the first block's input.
        blocks: In order; an exit can stand after any but the last.
        tail: The architecture's own classifier, from the last block's output to logits: the final exit.
    """

    stem: nn.Module
    blocks: nn.ModuleList
    tail: nn.Module


class ExitNetwork(nn.Module):
    """A backbone with exit classifiers after chosen blocks; with none of them, the static network.

    Implements ``core.models.protocol.ExitModel``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        exit_positions: tuple[int, ...],
        num_classes: int,
        image_size: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        """Puts a classifier after each block in ``exit_positions`` (0-based, rising, never the last block)."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.backbone = backbone
        self.exit_positions = exit_positions
        self.num_classes = num_classes
        self.image_size = image_size
        self._ends = (*exit_positions, len(backbone.blocks) - 1)
        self.exits = nn.ModuleList(self._exit_classifiers(num_classes, image_size))
        self._exit_costs: tuple[float, ...] | None = None

    @property
    def num_exits(self) -> int:
        """K, the final exit counted."""
        return len(self._ends)

    @property
    def exit_costs(self) -> tuple[float, ...]:
        """Cost fraction of leaving at each exit, K of them, counted once on first use."""
        if self._exit_costs is None:
            self._exit_costs = exit_costs(self, self.image_size)
        return self._exit_costs

    @exit_costs.setter
    def exit_costs(self, costs: tuple[float, ...]) -> None:
        self._exit_costs = costs

    @property
    def exit_layers(self) -> tuple[str, ...]:
        """Module name of the block that feeds each exit."""
        return tuple(f"backbone.blocks.{position}" for position in self._ends)

    @property
    def stops_early(self) -> bool:
        """Always: it is made of stages."""
        return True

    def forward(self, images: Tensor) -> Tensor:
        """Logits of all exits, (N, K, C), from images (N, 3, H, W) in [0, 1]."""
        features = self.begin(images)
        logits = []
        for exit_index in range(self.num_exits):
            features = self.advance(features, exit_index)
            logits.append(self.classify(features, exit_index))
        return torch.stack(logits, dim=1)

    def run_until(self, images: Tensor, exit_index: int) -> Tensor:
        """Logits (N, C) of one exit; later layers and the other exits' classifiers are not computed."""
        if not 0 <= exit_index < self.num_exits:
            raise ExitLensError(f"There is no exit with index {exit_index}; give one of 0 to {self.num_exits - 1}.")
        features = self.begin(images)
        for index in range(exit_index + 1):
            features = self.advance(features, index)
        return self.classify(features, exit_index)

    def begin(self, images: Tensor) -> Tensor:
        """Normalised images through the stem."""
        features: Tensor = self.backbone.stem((images - self.mean) / self.std)
        return features

    def advance(self, features: Tensor, exit_index: int) -> Tensor:
        """Runs the blocks between the exit before ``exit_index`` and that exit."""
        first = self._ends[exit_index - 1] + 1 if exit_index else 0
        for block in self.backbone.blocks[first : self._ends[exit_index] + 1]:
            features = block(features)
        return features

    def classify(self, features: Tensor, exit_index: int) -> Tensor:
        """Logits (N, C) of an exit from its features."""
        classifier = self.exits[exit_index] if exit_index < len(self.exits) else self.backbone.tail
        logits: Tensor = classifier(features)
        return logits

    def subset(self, exit_indices: Sequence[int]) -> "ExitNetwork":
        """The same network with only some of its exits: another placement, weights shared and not copied.

        Its logits are the columns ``exit_indices`` of this network's.

        Args:
            exit_indices: 0-based, rising, the final exit (``num_exits - 1``) last.

        Raises:
            ExitLensError: If the exits do not rise or do not end with the final one.
        """
        kept = check_subset(exit_indices, self.num_exits)
        chosen = copy.copy(self)
        chosen._modules = {**self._modules, "exits": nn.ModuleList(self.exits[index] for index in kept[:-1])}
        chosen._ends = tuple(self._ends[index] for index in kept)
        chosen.exit_positions = chosen._ends[:-1]
        chosen._exit_costs = None
        return chosen

    @torch.no_grad()
    def _exit_classifiers(self, num_classes: int, image_size: int) -> list[ExitClassifier]:
        was_training = self.backbone.training
        self.backbone.eval()
        features = self.begin(torch.zeros(1, 3, image_size, image_size))
        classifiers = []
        for exit_index in range(len(self.exit_positions)):
            features = self.advance(features, exit_index)
            classifiers.append(ExitClassifier(features.shape[1], features.shape[2], num_classes))
        self.backbone.train(was_training)
        return classifiers
