"""ResNet-56 for small images.

Source: He et al., Deep Residual Learning, CVPR 2016, section 4.2; shortcuts that change shape are 1x1
projections, as in Kaya et al. (their 125.8 M multiply-adds at 32x32).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from core.models.classifiers import Backbone

EXIT_POSITIONS = (3, 7, 11, 15, 19, 23)
BLOCKS_PER_STAGE = 9


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, num_inputs: int, num_outputs: int, stride: int) -> None:
        """Maps (N, num_inputs, S, S) to (N, num_outputs, S / stride, S / stride)."""
        super().__init__()
        self.conv1 = nn.Conv2d(num_inputs, num_outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(num_outputs)
        self.conv2 = nn.Conv2d(num_outputs, num_outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(num_outputs)
        self.shortcut = (
            nn.Identity()
            if num_inputs == num_outputs and stride == 1
            else nn.Sequential(nn.Conv2d(num_inputs, num_outputs, 1, stride, bias=False), nn.BatchNorm2d(num_outputs))
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features of the block."""
        residual = F.relu(self.norm1(self.conv1(features)))
        return F.relu(self.norm2(self.conv2(residual)) + self.shortcut(features))


class ResNet56(Backbone):
    """27 basic blocks of 16, 32 and 64 channels; 64x64 images are halved in the stem."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        """Makes the network with freshly drawn weights."""
        super().__init__()
        stem_stride = 2 if image_size >= 64 else 1
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, stem_stride, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        blocks: list[nn.Module] = []
        num_inputs = 16
        for stage, num_outputs in enumerate((16, 32, 64)):
            for index in range(BLOCKS_PER_STAGE):
                blocks.append(BasicBlock(num_inputs, num_outputs, stride=2 if stage and not index else 1))
                num_inputs = num_outputs
        self.blocks = nn.ModuleList(blocks)
        self.tail = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
