"""Facts about the data sets that the product knows: sizes, splits, class names and pixel statistics."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Dataset:
    """What is officially so about a data set.

    Attributes:
        name: Also the folder below the data root.
        num_classes: Classes.
        image_size: Side in pixels; images are square RGB.
        num_train: Official training images, ``validation`` among them.
        num_validation: How many of the last training images are ``validation``.
        num_test: Official test images.
        test_file: Stem of the file that ``test`` is read from.
        has_samples: Whether Foolbox bundles 20 of its test images.
        class_names: One name per class; empty where the files bring their own.
        mean: Per-channel mean of the training pixels in [0, 1].
        std: Per-channel standard deviation of the training pixels in [0, 1].
    """

    name: str
    num_classes: int
    image_size: int
    num_train: int
    num_validation: int
    num_test: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    test_file: str = "test"
    has_samples: bool = False
    class_names: tuple[str, ...] = field(default=(), repr=False)


_CIFAR10_CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
_CIFAR100_CLASSES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal
    shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
    telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()
)

DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "cifar10",
            num_classes=10,
            image_size=32,
            num_train=50_000,
            num_validation=5_000,
            num_test=10_000,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            has_samples=True,
            class_names=_CIFAR10_CLASSES,
        ),
        Dataset(
            "cifar100",
            num_classes=100,
            image_size=32,
            num_train=50_000,
            num_validation=5_000,
            num_test=10_000,
            mean=(0.5071, 0.4865, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
            has_samples=True,
            class_names=tuple(name.replace("_", " ") for name in _CIFAR100_CLASSES),
        ),
        Dataset(
            "tiny-imagenet",
            num_classes=200,
            image_size=64,
            num_train=100_000,
            num_validation=10_000,
            num_test=10_000,
            mean=(0.4802, 0.4481, 0.3975),
            std=(0.2770, 0.2691, 0.2821),
            # Its official test labels are not public: the official validation set serves as the test set.
            test_file="valid",
        ),
    )
}
