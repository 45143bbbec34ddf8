"""VGG-16 with batch norm for small images.

Source: Simonyan & Zisserman, ICLR 2015, configuration D; batch norm, the small classifier and the exit
positions as in Kaya et al., Shallow-Deep Networks, ICML 2019.
"""

from torch import nn

from core.models.classifiers import Backbone

EXIT_POSITIONS = (1, 3, 5, 6, 8, 9)
CHANNELS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
POOLED = (1, 3, 6, 9, 12)
DROPOUT = 0.5


class VGG16(Backbone):
    """Thirteen blocks of one 3x3 convolution, batch norm and ReLU, five of them pooled, and three linear layers."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        """Makes the network with freshly drawn weights."""
        super().__init__()
        self.stem = nn.Identity()
        blocks: list[nn.Module] = []
        for index, (num_inputs, num_outputs) in enumerate(zip((3, *CHANNELS[:-1]), CHANNELS, strict=True)):
            layers = [
                nn.Conv2d(num_inputs, num_outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(num_outputs),
                nn.ReLU(),
            ]
            blocks.append(nn.Sequential(*layers, *([nn.MaxPool2d(2)] if index in POOLED else [])))
        self.blocks = nn.ModuleList(blocks)
        num_features = CHANNELS[-1] * (image_size // 2 ** len(POOLED)) ** 2
        first, second = (512, 512) if image_size < 64 else (2048, 1024)
        self.tail = nn.Sequential(
            nn.Flatten(),
            nn.Linear(num_features, first),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(second, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
