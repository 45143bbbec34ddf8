"""Models made ready for gradient search: the same function, computed faster.

What is found with a prepared model is judged by the model itself: verdicts are those of the shipped float32 weights.
"""

import copy
import threading
from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from core.errors import ExitLensError
from core.foreign import foreign_code
from core.machine import Precision, search_precision
from core.models.classifiers import ExitNetwork
from core.models.fusing import can_fuse, fuse
from core.models.imported import ImportedNetwork
from core.models.mobilenet import StridedDepthwise
from core.models.protocol import ExitModel
from core.models.tracing import ThreadTracer

_AGREES = 1e-4
_CONVOLUTIONS = (nn.Conv2d, StridedDepthwise)


class PreparedModel(nn.Module):
    """A private copy of a model for gradient search; implements ``core.models.protocol.ExitModel``.

    Attributes:
        precision: Number format of most of its layers, such as ``bfloat16``; logits are as wide as the model's own.
        is_compiled: Whether ``__call__`` and ``run_until`` run compiled code; begin, advance and classify never do.
    """

    def __init__(self, network: ExitModel, precision: str, *, compiled: bool = False) -> None:
        """Wraps a network that is ready; ``prepare`` makes one so."""
        super().__init__()
        self.network = network
        self.precision = precision
        self.is_compiled = compiled
        self._compiled: dict[int | None, Callable[[Tensor], Tensor]] = {}
        self.eval()

    @property
    def num_exits(self) -> int:
        """K, the final exit counted."""
        return self.network.num_exits

    @property
    def num_classes(self) -> int:
        """C."""
        return self.network.num_classes

    @property
    def exit_layers(self) -> tuple[str, ...]:
        """As the model has them."""
        return self.network.exit_layers

    @property
    def exit_costs(self) -> tuple[float, ...]:
        """As the model has them."""
        return self.network.exit_costs

    @property
    def stops_early(self) -> bool:
        """As the model does."""
        return self.network.stops_early

    def forward(self, images: Tensor) -> Tensor:
        """Logits of all exits, (N, K, C)."""
        return self._run(None)(images) if self.is_compiled else self.network(images)

    def run_until(self, images: Tensor, exit_index: int) -> Tensor:
        """Logits (N, C) of one exit, computing no later layer."""
        return self._run(exit_index)(images) if self.is_compiled else self.network.run_until(images, exit_index)

    def begin(self, images: Tensor) -> Tensor:
        """Features before the first stage."""
        return self.network.begin(images)

    def advance(self, features: Tensor, exit_index: int) -> Tensor:
        """Features at an exit, from those at the exit before it (or from ``begin``)."""
        return self.network.advance(features, exit_index)

    def classify(self, features: Tensor, exit_index: int) -> Tensor:
        """Logits (N, C) of an exit from the features that feed it."""
        return self.network.classify(features, exit_index)

    def _run(self, exit_index: int | None) -> Callable[[Tensor], Tensor]:
        """The compiled pass through all exits, or up to one."""
        if exit_index not in self._compiled:
            network = self.network

            def run(images: Tensor) -> Tensor:
                return network(images) if exit_index is None else network.run_until(images, exit_index)

            self._compiled[exit_index] = torch.compile(run, dynamic=False, isolate_recompiles=True)  # type: ignore[call-overload]
        return self._compiled[exit_index]


_PREPARED: WeakKeyDictionary[nn.Module, dict[tuple[str, bool], ExitModel | None]] = WeakKeyDictionary()
_PREPARING = threading.Lock()


def prepared(model: ExitModel, precision: Precision | None = None, *, compiled: bool = False) -> PreparedModel:
    """The prepared copy of a loaded model, made on first use and shared from then on.

    Args:
        model: Frozen, in eval mode, and never changed afterwards.
        precision: Of the search; None asks ``core.machine.search_precision`` what pays on the model's device.
        compiled: Whether to compile it: half a minute once for every batch size and exit, worth it for many images.

    Returns:
        The copy; a model that cannot be prepared (an import of unusual build) is wrapped as it is.
    """
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    own = "float32" if parameter is None else str(parameter.dtype).removeprefix("torch.")
    if parameter is None or not isinstance(model, ExitNetwork | ImportedNetwork):
        return PreparedModel(model, own)
    chosen: str = precision or search_precision(parameter.device)
    if own != "float32" or isinstance(model, ImportedNetwork):
        chosen = own  # what another's layers make of 16 bits is not known
    key = (chosen, compiled)
    with _PREPARING:
        known = _PREPARED.setdefault(model, {})
        if key not in known:
            known[key] = prepare(model, chosen)
        network = known[key]
        if network is None:
            return PreparedModel(model, own)
        if not isinstance(network, PreparedModel):
            network = known[key] = PreparedModel(network, chosen, compiled=compiled)
        return network


def prepare(model: ExitNetwork | ImportedNetwork, precision: str) -> ExitModel | None:
    """A private copy with batch norms folded into convolutions and channels last, 16 bits wide where asked.

    Args:
        model: Frozen and in eval mode; only read.
        precision: ``bfloat16``, or the model's own.

    Returns:
        The copy; None where an imported network cannot be traced or its copy says something else.
    """
    if isinstance(model, ExitNetwork):
        ready = copy.deepcopy(model).eval().requires_grad_(False)
        fold_norms(ready, ready)
        ready.to(memory_format=torch.channels_last)
        if precision == "bfloat16":
            _narrow(ready)
        return ready
    try:
        with foreign_code("Preparing the network"):
            return _prepare_imported(model)
    except ExitLensError:
        return None


def _prepare_imported(model: ImportedNetwork) -> ImportedNetwork | None:
    ready = copy.deepcopy(model).eval().requires_grad_(False)
    fold_norms(ready.network, ready)
    ready.to(memory_format=torch.channels_last)
    return ready if _agree(model, ready) else None


def fold_norms(network: nn.Module, holder: nn.Module) -> int:
    """Folds each batch norm into the convolution before it, in place, where nothing else reads the convolution.

    Args:
        network: Traceable by ``torch.fx``, frozen and in eval mode.
        holder: Where the norms are replaced by identities: the network, or what holds it and shares its layers.

    Returns:
        How many were folded.
    """
    graph = _Tracer().trace(network)
    modules = dict(network.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    num_calls = {node.target: sum(other.target == node.target for other in calls) for node in calls}
    folded = {}
    for node in calls:
        before = node.args[0]
        if not (isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1):
            continue
        norm, convolution = modules[str(node.target)], modules[str(before.target)]
        if type(norm) is not nn.BatchNorm2d or type(convolution) not in _CONVOLUTIONS:
            continue
        if norm.running_mean is None or norm.running_var is None or norm.training:  # it goes by the batch
            continue
        if num_calls[node.target] > 1 or num_calls[before.target] > 1:
            continue
        weight, bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        convolution.weight, convolution.bias = (nn.Parameter(part, requires_grad=False) for part in (weight, bias))
        folded[norm] = nn.Identity()
    for module in holder.modules():
        for name, child in module.named_children():
            if child in folded:
                setattr(module, name, folded[child])
    return len(folded)


class _Tracer(ThreadTracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in _CONVOLUTIONS or super().is_leaf_module(m, module_qualified_name)


class _Cast(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, features: Tensor) -> Tensor:
        return features.to(self.dtype)


class _WholeDepthwise(nn.Module):
    """A strided depthwise convolution as one without stride, of which every other pixel is kept.

    So its 16-bit gradient is quick; see ``StridedDepthwise``, which does the same in training.
    """

    def __init__(self, convolution: StridedDepthwise) -> None:
        super().__init__()
        self.weight, self.bias, self.padding = convolution.weight, convolution.bias, convolution.padding

    def forward(self, features: Tensor) -> Tensor:
        whole = F.conv2d(features, self.weight, self.bias, 1, self.padding, groups=len(self.weight))
        return whole[:, :, ::2, ::2]


def _narrow(network: ExitNetwork) -> None:
    """Makes all blocks 16 bits wide, in place, but for the first convolution and the classifiers.

    Pixels of 16 bits would not hold a perturbation of 0.5/255, so what reads them stays 32 bits wide.
    """
    backbone = network.backbone
    first = 0 if any(True for _ in backbone.stem.parameters()) else 1
    for block in backbone.blocks[first:]:
        block.to(torch.bfloat16)
        for module in [*block.modules()]:
            for name, child in module.named_children():
                if isinstance(child, StridedDepthwise):
                    setattr(module, name, _WholeDepthwise(child))
    if can_fuse(network.mean.device):
        fuse(backbone)
    backbone.blocks[first] = nn.Sequential(_Cast(torch.bfloat16), backbone.blocks[first])
    backbone.tail = nn.Sequential(_Cast(torch.float32), backbone.tail)


@torch.no_grad()
def _agree(model: ImportedNetwork, ready: ImportedNetwork) -> bool:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, model.image_size, model.image_size, generator=generator).to(model.mean)
    expected, last = model(images), model.num_exits - 1
    found = ready(images)
    scale = expected.abs().max().clamp(min=1)
    stopped = ready.run_until(images, last)
    return bool(
        (found - expected).abs().max() < _AGREES * scale and (stopped - expected[:, last]).abs().max() < _AGREES * scale
    )
