"""A network seen so that each activation of a pass is a module of its own, which captum's hooks need."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from core.errors import ExitLensError
from core.models import ExitModel


class SeparateActivations(nn.Module):
    """A network that sends the n-th activation of a pass through the n-th of its own modules.

    DeepLift and guided backpropagation hook modules, and a hooked module must run once in a pass. Networks reuse
    modules, or call functions such as ``F.relu``. Here it does not matter how they write it: calls are caught where
    torch dispatches them, in this thread alone. (``torch.fx`` could rewrite the network, but not every network can be
    traced.)

    Caught: ReLU, leaky ReLU, ELU, softplus, sigmoid, tanh and max pooling, the latter also as this project's exits
    write it.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], activations: Iterable[nn.Module]) -> None:
        """Takes a network and what ``stage_activations`` has found in it.

        Args:
            run: From images to logits (n, C).
            activations: A module for each activation of a pass, in order.
        """
        super().__init__()
        self._run = run
        self.activations = nn.ModuleList(activations)

    @property
    def num_relus(self) -> int:
        """ReLUs that run in a pass."""
        return sum(isinstance(module, nn.ReLU) for module in self.activations)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (n, C)."""
        catching = _Catching(self.activations)
        with catching:
            logits = self._run(pixels)
        if catching.count != len(self.activations):
            raise RuntimeError("it runs other activations from pass to pass")
        return logits


class StageActivations(NamedTuple):
    """The activations of a pass between two exits: a module for each, in order.

    Attributes:
        layers: Of the layers since the exit before; of the first exit the stem's too.
        classifier: Of the exit's classifier.
    """

    layers: list[nn.Module]
    classifier: list[nn.Module]


@torch.no_grad()
def stage_activations(model: ExitModel, example: Tensor) -> list[StageActivations]:
    """Runs a network once to see which activations lead to each exit.

    Args:
        model: A network that no other thread has.
        example: (1, 3, H, W) in [0, 1].

    Returns:
        What lies between each of the K exits and the exit before.

    Raises:
        ExitLensError: If the network says something else once its activations are replaced.
    """
    found = []
    layers = _Catching(nn.ModuleList(), is_rehearsal=True)
    with layers:
        features = model.begin(example)
    for exit_index in range(model.num_exits):
        with layers:
            features = model.advance(features, exit_index)
        classifier = _Catching(nn.ModuleList(), is_rehearsal=True)
        with classifier:
            logits = model.classify(features, exit_index)
        found.append(StageActivations([*layers.modules], [*classifier.modules]))
        # Modules here leave their input alone, which matters only where the network looks at that input again.
        met_inplace = layers.met_inplace or classifier.met_inplace
        if met_inplace and not torch.allclose(logits, model.run_until(example, exit_index), rtol=1e-3, atol=1e-3):
            raise ExitLensError(
                "This network goes on with what its activations have overwritten, so they cannot be replaced. Choose a "
                "method other than DeepLift and Guided Grad-CAM."
            )
        layers = _Catching(nn.ModuleList(), is_rehearsal=True, met_inplace=layers.met_inplace)
    return found


class _Catching(TorchFunctionMode):
    """While it is entered, activations called in this thread run through the given modules, in order."""

    def __init__(self, modules: nn.ModuleList, *, is_rehearsal: bool = False, met_inplace: bool = False) -> None:
        super().__init__()
        self.modules, self.is_rehearsal = modules, is_rehearsal
        self.count, self.met_inplace = 0, met_inplace

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        read = _ACTIVATIONS.get(func)
        call = read(*args, **(kwargs or {})) if read else None
        if call is None:
            return func(*args, **(kwargs or {}))
        self.met_inplace |= call.is_inplace or func in _INPLACE
        if self.is_rehearsal:
            self.modules.append(call.make())
        self.count += 1
        if self.count > len(self.modules):
            raise RuntimeError("it runs other activations from pass to pass")
        # An alias: captum replaces the gradient of the very tensor that enters, which other layers may look at too.
        return self.modules[self.count - 1](call.features.view_as(call.features))


class _Call(NamedTuple):
    """An activation that was called: on what, the module that does the same, and whether it overwrites its input."""

    features: Tensor
    make: Callable[[], nn.Module]
    is_inplace: bool = False


# The parameters are those of the functions caught.
def _relu(input: Tensor, inplace: bool = False) -> _Call:
    return _Call(input, nn.ReLU, inplace)


def _leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> _Call:
    return _Call(input, partial(nn.LeakyReLU, negative_slope), inplace)


def _elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> _Call:
    return _Call(input, partial(nn.ELU, alpha), inplace)


def _softplus(input: Tensor, beta: float = 1, threshold: float = 20) -> _Call:
    return _Call(input, partial(nn.Softplus, beta, threshold))


def _sigmoid(input: Tensor) -> _Call:
    return _Call(input, nn.Sigmoid)


def _tanh(input: Tensor) -> _Call:
    return _Call(input, nn.Tanh)


def _max_pool(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> _Call | None:
    if return_indices:
        return None
    return _Call(input, partial(nn.MaxPool2d, kernel_size, stride or None, padding, dilation, ceil_mode=ceil_mode))


def _amax(input: Tensor, dim: Any = (), keepdim: bool = False) -> _Call | None:
    """Max pooling as a reduction over unfolded windows (N, C, h, w, h, w): see ``core.models.classifiers``."""
    if input.ndim != 6 or dim not in ((3, 5), [3, 5]) or keepdim:
        return None
    return _Call(input.flatten(4, 5).flatten(2, 3), partial(nn.MaxPool2d, (input.shape[3], input.shape[5])))


_INPLACE = (torch.relu_, Tensor.relu_)
_ACTIVATIONS: dict[Callable[..., Any], Callable[..., _Call | None]] = {
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu, *_INPLACE), _relu),
    **dict.fromkeys((torch.sigmoid, Tensor.sigmoid, F.sigmoid), _sigmoid),
    **dict.fromkeys((torch.tanh, Tensor.tanh, F.tanh), _tanh),
    **dict.fromkeys((torch.amax, Tensor.amax), _amax),
    F.leaky_relu: _leaky_relu,
    F.elu: _elu,
    F.softplus: _softplus,
    **dict.fromkeys((torch.max_pool2d, F.max_pool2d), _max_pool),
}
