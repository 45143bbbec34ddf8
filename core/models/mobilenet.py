"""MobileNet (v1) for small images.

Source: Howard et al., MobileNets, 2017, table 1, with the stride of its first layer left out as is usual at 32x32;
exit positions as in Kaya et al., Shallow-Deep Networks, ICML 2019.
"""

from torch import Tensor, nn

from core.models.classifiers import Backbone

EXIT_POSITIONS = (2, 4, 6, 8, 11)
# Channels and stride of each depthwise-separable block.
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


class StridedDepthwise(nn.Conv2d):
    """A depthwise convolution of stride 2 that trains as one of stride 1 of which every other pixel is kept.

    The numbers are the same up to rounding. On processors the 16-bit gradient of the strided form takes 30 times
    as long (93 against 3 ms for 128 images of 64 channels at 32x32), most of a training step.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, channels, S, S) to (N, channels, S / 2, S / 2)."""
        if not self.training:
            return super().forward(input)
        whole = nn.functional.conv2d(input, self.weight, None, 1, self.padding, self.dilation, self.groups)
        return whole[:, :, ::2, ::2]


def _convolution(num_inputs: int, num_outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    kind = StridedDepthwise if groups > 1 and stride == 2 else nn.Conv2d
    return [
        kind(num_inputs, num_outputs, size, stride, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(num_outputs),
        nn.ReLU(),
    ]


class MobileNet(Backbone):
    """Thirteen depthwise-separable blocks; 64x64 images are halved in the stem."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        """Makes the network with freshly drawn weights."""
        super().__init__()
        self.stem = nn.Sequential(*_convolution(3, 32, 3, stride=2 if image_size >= 64 else 1))
        blocks: list[nn.Module] = []
        num_inputs = 32
        for num_outputs, stride in BLOCKS:
            depthwise = _convolution(num_inputs, num_inputs, 3, stride, groups=num_inputs)
            blocks.append(nn.Sequential(*depthwise, *_convolution(num_inputs, num_outputs, 1)))
            num_inputs = num_outputs
        self.blocks = nn.ModuleList(blocks)
        self.tail = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(num_inputs, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
