"""What the rest of the product may ask of a model."""

from typing import Protocol

from torch import Tensor


class ExitModel(Protocol):
    """An image classifier that answers at ``num_exits`` places; a static one answers at one.

    Images are (N, 3, H, W) in [0, 1]; normalisation happens inside. Loaded models are shared between
    threads: eval mode, frozen parameters, never changed.
    """

    @property
    def num_exits(self) -> int:
        """K, the final exit counted."""
        ...

    @property
    def num_classes(self) -> int:
        """C."""
        ...

    @property
    def exit_layers(self) -> tuple[str, ...]:
        """Name of the layer that feeds each exit, K of them; empty where that is not known."""
        ...

    @property
    def exit_costs(self) -> tuple[float, ...]:
        """Cost fraction of leaving at each exit, K of them, rising to 1."""
        ...

    @property
    def stops_early(self) -> bool:
        """Whether leaving at an exit spares what comes after it: False for networks that cannot be cut."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of all exits, (N, K, C)."""
        ...

    def run_until(self, images: Tensor, exit_index: int) -> Tensor:
        """Logits of one exit, (N, C), computing no later layer and no other exit's classifier if it stops early."""
        ...

    def begin(self, images: Tensor) -> Tensor:
        """Features before the first stage: normalised images through the stem."""
        ...

    def advance(self, features: Tensor, exit_index: int) -> Tensor:
        """Features at an exit, from those at the exit before it (or from ``begin``)."""
        ...

    def classify(self, features: Tensor, exit_index: int) -> Tensor:
        """Logits (N, C) of an exit from the features that feed it."""
        ...
