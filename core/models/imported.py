"""Networks from elsewhere: an adapter that makes any module of the right shape an exit model."""

import copy
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from core.errors import ExitLensError
from core.foreign import foreign_code
from core.models.cutting import CutNetwork

NETWORK_PREFIX = "network."
ALLOWED_OUTPUT = "(N, C), a list or tuple of (N, C), or (N, K, C)"


@dataclass(frozen=True)
class Imported:
    """What a card says of a network whose code is not part of this project.

    Attributes:
        factory: The function that builds it, as ``core.foreign.resolve_factory`` writes it.
        class_order: Place of each class among the network's outputs; empty where it is the official order.
        stops_early: Whether it can stop at an exit; a network that cannot computes all its exits always.
    """

    factory: str
    class_order: tuple[int, ...]
    stops_early: bool


class Stages(Protocol):
    """A network from exit to exit, on normalised images; see ``core.models.protocol.ExitModel``."""

    def begin(self, images: Tensor) -> Tensor:
        """Features before the first stage."""
        ...

    def advance(self, features: Tensor, exit_index: int) -> Tensor:
        """Features at an exit."""
        ...

    def classify(self, features: Tensor, exit_index: int) -> Tensor:
        """Logits (N, C) of an exit."""
        ...


class OwnStages:
    """The stages that a network brings itself."""

    def __init__(self, network: nn.Module) -> None:
        """Takes a network with the methods ``begin``, ``advance`` and ``classify``."""
        self.network = network

    def begin(self, images: Tensor) -> Tensor:
        """As the network does it."""
        features: Tensor = self.network.begin(images)  # type: ignore[operator]
        return features

    def advance(self, features: Tensor, exit_index: int) -> Tensor:
        """As the network does it."""
        reached: Tensor = self.network.advance(features, exit_index)  # type: ignore[operator]
        return reached

    def classify(self, features: Tensor, exit_index: int) -> Tensor:
        """As the network does it."""
        logits: Tensor = self.network.classify(features, exit_index)  # type: ignore[operator]
        return logits


class NoStages:
    """A network that nothing is known of but its output: every exit costs the whole pass."""

    def __init__(self, network: nn.Module) -> None:
        """Takes any network of an allowed output."""
        self.network = network

    def begin(self, images: Tensor) -> Tensor:
        """The images."""
        return images

    def advance(self, features: Tensor, exit_index: int) -> Tensor:
        """The images still."""
        return features

    def classify(self, features: Tensor, exit_index: int) -> Tensor:
        """One column of all logits."""
        return joined(self.network(features))[:, exit_index]


class ImportedNetwork(nn.Module):
    """A network from elsewhere; implements ``core.models.protocol.ExitModel``.

    Attributes:
        network: As its owner made it.
        stages: The same from exit to exit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        num_exits: int,
        num_classes: int,
        image_size: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        exit_layers: tuple[str, ...] = (),
        class_order: tuple[int, ...] = (),
    ) -> None:
        """Puts normalisation before a network and the official class order behind it.

        Args:
            network: In eval mode. Its own ``begin``, ``advance`` and ``classify`` are used where it has them.
            num_exits: K that it returns.
            num_classes: C that it returns.
            image_size: Side of the images in pixels.
            mean: Per channel, subtracted from pixels in [0, 1].
            std: Per channel, divided by.
            exit_layers: Names of the network's layers that feed its exits, K of them, or none.
            class_order: Place of each class among the network's outputs; empty where it is the official order.

        Raises:
            ExitLensError: If there are other than K exit layers, or the network cannot be cut behind them.
        """
        super().__init__()
        _check_layers(network, exit_layers, num_exits)
        # Buffers, so that they move with the network; not stored, as the card has them.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.network = network
        self.num_exits = num_exits
        self.num_classes = num_classes
        self.image_size = image_size
        self.exit_layers = tuple(f"{NETWORK_PREFIX}{layer}" for layer in exit_layers)
        self.class_order = class_order
        self.exit_costs: tuple[float, ...] = ()
        self.stages = _stages_of(network, exit_layers if num_exits > 1 else ())

    @property
    def stops_early(self) -> bool:
        """Whether leaving at an exit spares what comes after it; a static network has nothing to spare."""
        return self.num_exits == 1 or not isinstance(self.stages, NoStages)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of all exits, (N, K, C), from images (N, 3, H, W) in [0, 1]."""
        logits = joined(self.network(self._normalised(images)))
        if logits.shape != (len(images), self.num_exits, self.num_classes):
            raise ExitLensError(
                f"The network returned {tuple(logits.shape)} for {len(images)} images, not {self.num_exits} exits of "
                f"{self.num_classes} classes. Has its code changed since it was imported?"
            )
        return self._official(logits)

    def run_until(self, images: Tensor, exit_index: int) -> Tensor:
        """Logits (N, C) of one exit; computes everything where the network does not stop early."""
        if not 0 <= exit_index < self.num_exits:
            raise ExitLensError(f"There is no exit with index {exit_index}; give one of 0 to {self.num_exits - 1}.")
        features = self.begin(images)
        for index in range(exit_index + 1):
            features = self.advance(features, index)
        return self.classify(features, exit_index)

    def begin(self, images: Tensor) -> Tensor:
        """Features before the first stage, from images (N, 3, H, W) in [0, 1]."""
        return self.stages.begin(self._normalised(images))

    def advance(self, features: Tensor, exit_index: int) -> Tensor:
        """Features at an exit, from those at the exit before it (or from ``begin``)."""
        return self.stages.advance(features, exit_index)

    def classify(self, features: Tensor, exit_index: int) -> Tensor:
        """Logits (N, C) of an exit from the features that feed it."""
        return self._official(self.stages.classify(features, exit_index))

    def _normalised(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def _official(self, logits: Tensor) -> Tensor:
        logits = logits.to(self.mean.dtype)  # a network may answer in another width, as under autocast
        return logits[..., list(self.class_order)] if self.class_order else logits


def joined(output: object) -> Tensor:
    """The logits of all exits, (N, K, C), from what a network returned.

    Raises:
        ExitLensError: If that is none of the allowed shapes.
    """
    if isinstance(output, Tensor) and output.ndim in (2, 3):
        return output if output.ndim == 3 else output[:, None]
    if isinstance(output, list | tuple) and output and all(isinstance(part, Tensor) for part in output):
        shapes = {tuple(part.shape) for part in output}
        if len(shapes) == 1 and output[0].ndim == 2:
            return torch.stack(tuple(output), dim=1)
    raise ExitLensError(f"The network returned {_in_words(output)}; {ALLOWED_OUTPUT} is needed.")


def check_behaviour(model: ImportedNetwork, images: Tensor) -> None:
    """Makes sure that a network behaves as every page needs it to.

    Args:
        model: In eval mode.
        images: Two images or more, (N, 3, H, W) in [0, 1].

    Raises:
        ExitLensError: If logits are not finite, depend on the batch, have no gradient, or differ from the stages'.
    """
    pixels = images.clone().requires_grad_(True)
    with foreign_code("Running the network"):
        logits = model(pixels)
        alone = torch.cat([model(image[None]) for image in images])
    if not torch.isfinite(logits).all():
        raise ExitLensError("The network returned numbers that are not finite. Check its weights, mean and std.")
    if not _agree(logits, alone):
        raise ExitLensError(
            "The network says something else of an image when it is alone than when it is one of a batch. Leave out "
            "dropout and statistics of the batch in eval mode."
        )
    slope = torch.autograd.grad(logits.sum(), pixels, allow_unused=True)[0] if logits.requires_grad else None
    if slope is None or not slope.any():
        raise ExitLensError("The network's logits have no gradient at its images, and attacks need one.")
    with torch.no_grad(), foreign_code("Running the network from exit to exit"):
        features = model.begin(images)
        for exit_index in range(model.num_exits):
            features = model.advance(features, exit_index)
            if not isinstance(features, Tensor) or len(features) != len(images):
                raise ExitLensError(f"What feeds exit {exit_index + 1} is no tensor with one entry per image.")
            if not _agree(model.classify(features, exit_index), logits[:, exit_index]):
                raise ExitLensError(f"Stopping at exit {exit_index + 1} gives other logits than the whole network.")
        for exit_index in range(model.num_exits):  # earlier exits are passed over here: none may change what it reads
            if not _agree(model.run_until(images, exit_index), logits[:, exit_index]):
                raise ExitLensError(
                    f"Running to exit {exit_index + 1} alone gives other logits than the whole network: an earlier "
                    "exit changes what it reads. Leave out layers that work in place at the start of an exit."
                )
    with foreign_code("Copying the network", "Keep what cannot be copied, such as locks and open files, out of it."):
        copy.deepcopy(model)


def _check_layers(network: nn.Module, exit_layers: tuple[str, ...], num_exits: int) -> None:
    if exit_layers and len(exit_layers) != num_exits:
        raise ExitLensError(f"exit_layers names {len(exit_layers)} layers; the network returns {num_exits} exits.")
    known = [name for name, _ in network.named_modules() if name]
    missing = [layer for layer in exit_layers if layer not in known]
    if missing:
        outermost = ", ".join([name for name in known if "." not in name][:12])
        raise ExitLensError(f"The network has no layer {missing[0]!r}. Its outermost layers are {outermost}.")


def _stages_of(network: nn.Module, exit_layers: tuple[str, ...]) -> Stages:
    if all(callable(getattr(network, name, None)) for name in ("begin", "advance", "classify")):
        return OwnStages(network)
    return CutNetwork(network, exit_layers) if exit_layers else NoStages(network)


def _agree(first: Tensor, second: Tensor) -> bool:
    # Float32 sums move with the batch size; anything real is far larger.
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-3, atol=1e-3)


def _in_words(output: object) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, list | tuple) and output:
        parts = [str(tuple(part.shape)) if isinstance(part, Tensor) else type(part).__name__ for part in output]
        return f"a {type(output).__name__} of {', '.join(parts[:4])}{' …' if len(parts) > 4 else ''}"
    return f"an empty {type(output).__name__}" if isinstance(output, list | tuple) else f"a {type(output).__name__}"
