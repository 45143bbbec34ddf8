"""Convolution, sum and ReLU in one pass over memory, where no gradient is asked for."""

import torch
from torch import Tensor, nn

from core.models.resnet import BasicBlock


def can_fuse(device: torch.device) -> bool:
    """Whether torch brings these operations in 16 bits here: on processors, as what its own compiler calls.

    Plain convolutions in 16 bits work on every processor; fused ones end in an error where it has no such instructions.
    """
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, _OPERATION)
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def fuse(network: nn.Module) -> None:
    """Makes the convolutions of a folded network fuse, in place: those of residual blocks, and those before a ReLU."""
    for module in [*network.modules()]:
        for name, child in module.named_children():
            if isinstance(child, BasicBlock):
                setattr(module, name, _FusedBlock(child))
            elif isinstance(child, nn.Sequential):
                setattr(module, name, _fused_sequence(child))


_OPERATION = "_convolution_pointwise"


class _FusedConvolution(nn.Module):
    """A convolution and ReLU."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, features: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            plain: Tensor = self.convolution(features)
            return plain.relu()
        made = self.convolution
        place = (made.padding, made.stride, made.dilation, made.groups)
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
            features, made.weight, made.bias, *place, "relu", [], ""
        )
        return fused


class _FusedBlock(nn.Module):
    """A residual block."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.first, self.second, self.shortcut = _FusedConvolution(block.conv1), block.conv2, block.shortcut

    def forward(self, features: Tensor) -> Tensor:
        residual = self.first(features)
        if torch.is_grad_enabled():
            summed: Tensor = self.second(residual) + self.shortcut(features)
            return summed.relu()
        made = self.second
        place = (made.padding, made.stride, made.dilation, made.groups)
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            residual, self.shortcut(features), made.weight, made.bias, *place, "add", 1.0, "relu", [], ""
        )
        return fused


def _fused_sequence(sequence: nn.Sequential) -> nn.Sequential:
    """The same layers, each convolution and the ReLU after it in one; folded norms, now identities, left out."""
    layers: list[nn.Module] = []
    for layer in sequence:
        if isinstance(layer, nn.Identity):
            continue
        if isinstance(layer, nn.ReLU) and layers and type(layers[-1]) is nn.Conv2d:
            layers[-1] = _FusedConvolution(layers[-1])
        else:
            layers.append(layer)
    return nn.Sequential(*layers)
