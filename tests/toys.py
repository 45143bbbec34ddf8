"""Models, images and files small enough to reason about, for every test that needs some.

All models are ``core.models.classifiers.ExitNetwork``, as shipped ones are: eval mode, frozen parameters.
"""

import hashlib
import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn

from core.checkpoints import ModelCard, accuracies, pack_weights
from core.data import ImageSet
from core.datasets import Dataset
from core.evaluation import exit_logits
from core.models.classifiers import Backbone, ExitNetwork
from core.models.costs import exit_costs
from core.models.registry import Architecture

TOY_SIZE = 8
TOY_CLASSES = ("red", "green", "blue", "grey")
TOY_DATASET = Dataset(
    "toy",
    num_classes=len(TOY_CLASSES),
    image_size=TOY_SIZE,
    num_train=40,
    num_validation=8,
    num_test=12,
    mean=(0.5, 0.4, 0.3),
    std=(0.25, 0.2, 0.5),
)


def _convolution(num_inputs: int, num_outputs: int, stride: int) -> nn.Module:
    convolution = nn.Conv2d(num_inputs, num_outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(num_outputs), nn.ReLU())


class ToyBackbone(Backbone):
    """Blocks of one 3x3 convolution, batch norm and ReLU; every second block halves the map.

    Dropout in the tail makes training depend on the global random state, as it does in VGG.
    """

    def __init__(self, num_classes: int, image_size: int, num_blocks: int = 4, width: int = 4) -> None:
        super().__init__()
        self.stem = _convolution(3, width, stride=1)
        self.blocks = nn.ModuleList(_convolution(width, width, stride=1 + index % 2) for index in range(num_blocks))
        self.tail = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(width, num_classes))


TOY_ARCHITECTURE = Architecture("Toy", ToyBackbone, exit_positions=(0, 1, 2), num_blocks=4)


def toy_model(
    *,
    num_exits: int = 3,
    num_classes: int = 4,
    image_size: int = TOY_SIZE,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    logit_std: float = 2.0,
) -> ExitNetwork:
    """A small convolutional network whose exits disagree and whose confidences spread.

    Args:
        num_exits: K; 1 makes the static twin.
        num_classes: C.
        image_size: Side of the images it takes.
        dtype: Of parameters and logits.
        seed: Draws the weights; the global random state is left alone.
        logit_std: Standard deviation of every logit over random images; larger is more confident.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = ToyBackbone(num_classes, image_size, num_blocks=max(4, num_exits))
        positions = tuple(range(num_exits - 1))
        model = ExitNetwork(backbone, positions, num_classes, image_size, TOY_DATASET.mean, TOY_DATASET.std).to(dtype)
    model.eval().requires_grad_(False)
    model.exit_costs = exit_costs(model, image_size)
    return settle(model, toy_images(64, image_size=image_size, dtype=dtype, seed=seed + 1), logit_std)


def linear_model(
    *, num_exits: int = 2, num_classes: int = 3, image_size: int = 2, dtype: torch.dtype = torch.float64, seed: int = 0
) -> ExitNetwork:
    """Every exit is linear in the flattened pixels, so gradients can be written down.

    Logits of exit k are ``layer.weight @ image.flatten() + layer.bias`` with ``layer = linear_layers(model)[k]``;
    the gradient of its cross-entropy is ``layer.weight.T @ (softmax - one_hot)``. Nothing is normalised.

    Args:
        num_exits: K.
        num_classes: C.
        image_size: Side of the images, 1 to 4 (exit classifiers pool larger maps).
        dtype: Of parameters and logits.
        seed: Draws weights and biases from a standard normal.
    """
    backbone = Backbone()
    backbone.stem = nn.Identity()
    backbone.blocks = nn.ModuleList(nn.Identity() for _ in range(num_exits))
    backbone.tail = nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, num_classes))
    positions = tuple(range(num_exits - 1))
    with torch.random.fork_rng():
        model = ExitNetwork(backbone, positions, num_classes, image_size, (0.0,) * 3, (1.0,) * 3).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.eval().requires_grad_(False).parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype))
    model.exit_costs = exit_costs(model, image_size)
    return model


def linear_layers(model: ExitNetwork) -> list[nn.Linear]:
    """The linear layer that ends each exit, the final one last."""
    return [*(classifier.linear for classifier in model.exits), model.backbone.tail[-1]]


@torch.no_grad()
def settle(model: ExitNetwork, images: Tensor, logit_std: float = 2.0) -> ExitNetwork:
    """Makes freshly drawn weights behave like trained ones on these images, and returns the model.

    Batch norms take the images' statistics; then every logit is shifted and scaled to mean 0 and standard
    deviation ``logit_std`` over the images, so that confidences spread and images leave at different exits.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 1.0
    model(images)
    for norm in norms:
        norm.eval().momentum = 0.1
    for layer, logits in zip(linear_layers(model), model(images).unbind(dim=1), strict=True):
        scale = logit_std / logits.std(dim=0)
        layer.weight.mul_(scale[:, None])
        layer.bias.sub_(logits.mean(dim=0)).mul_(scale)
    return model


class _Recorded(nn.Module):
    def __init__(self, inner: nn.Module, inputs: list[Tensor]) -> None:
        super().__init__()
        self.inner, self.inputs = inner, inputs

    def forward(self, features: Tensor) -> Tensor:
        self.inputs.append(features)
        return self.inner(features)


def record_inputs(model: ExitNetwork) -> dict[str, list[Tensor]]:
    """Wraps the parts of a model, and returns what will have entered each: one tensor per call.

    Keys are ``stem``, ``block 0`` ..., ``exit 0`` ... (the classifiers of early exits) and ``tail``.
    """
    inputs: dict[str, list[Tensor]] = {}

    def recorded(name: str, module: nn.Module) -> nn.Module:
        return _Recorded(module, inputs.setdefault(name, []))

    backbone = model.backbone
    backbone.stem = recorded("stem", backbone.stem)
    backbone.tail = recorded("tail", backbone.tail)
    for index, block in enumerate(backbone.blocks):
        backbone.blocks[index] = recorded(f"block {index}", block)
    for index, classifier in enumerate(model.exits):
        model.exits[index] = recorded(f"exit {index}", classifier)
    return inputs


def toy_images(
    num_images: int = 6, *, image_size: int = TOY_SIZE, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Tensor:
    """Random images in [0, 1], (N, 3, image_size, image_size)."""
    return torch.rand(num_images, 3, image_size, image_size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def toy_image_set(num_images: int, *, split: str = "train", seed: int = 0) -> ImageSet:
    """Images of the data set ``toy``, each class of its own colour under noise, so that they can be learned."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_images) % len(TOY_CLASSES)
    colours = torch.tensor([[180, 60, 60], [60, 180, 60], [60, 60, 180], [120, 120, 120]])
    noise = torch.randint(-60, 61, (num_images, 3, TOY_SIZE, TOY_SIZE), generator=generator)
    images = (colours[labels][:, :, None, None] + noise).to(torch.uint8)
    return ImageSet("toy", split, images, labels, torch.arange(num_images), split, TOY_CLASSES)


def write_hub_parquet(
    file: Path,
    images: Tensor | Sequence[bytes],
    labels: Sequence[int],
    paths: Sequence[str | None] | None = None,
    *,
    image_column: str = "img",
    label_column: str = "label",
    class_names: Sequence[str] = (),
) -> Path:
    """Writes images in the layout of the Hugging Face hub.

    Args:
        file: Where to; folders are made.
        images: (N, 3, H, W) unsigned bytes, stored as PNG, or N encoded images stored as they are.
        labels: N class indices.
        paths: N stored file names; none by default.
        image_column: Name of the column of images.
        label_column: Name of the column of labels.
        class_names: Written to the schema's ``huggingface`` metadata when given.

    Returns:
        ``file``.
    """
    encoded = [png(image) for image in images] if isinstance(images, Tensor) else images
    cells = [
        {"bytes": content, "path": path} for content, path in zip(encoded, paths or [None] * len(encoded), strict=True)
    ]
    columns = {
        image_column: pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        label_column: pa.array(list(labels), pa.int64()),
    }
    table = pa.table(columns)
    if class_names:
        features = {label_column: {"names": list(class_names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)
    return file


def png(image: Tensor) -> bytes:
    """An image, (3, H, W) or greyscale (H, W) unsigned bytes, as the bytes of a PNG file."""
    array = image.permute(1, 2, 0).numpy() if image.ndim == 3 else image.numpy()
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def answered_image_set(model: ExitNetwork, num_images: int = 12, seed: int = 0) -> ImageSet:
    """Test images of the data set ``toy`` whose labels are what the final exit says, but for every fourth image."""
    plain = toy_image_set(num_images, split="test", seed=seed)
    labels = exit_logits(model, plain)[:, -1].argmax(dim=-1)
    labels[::4] = (labels[::4] + 1) % len(TOY_CLASSES)
    return ImageSet("toy", "test", plain.images, labels, plain.indices, "test", TOY_CLASSES)


def toy_card(model: ExitNetwork, name: str, image_set: ImageSet, **changes: object) -> ModelCard:
    """A true card of a float32 ``toy_model`` of at most four exits, measured on these images, but for the changes."""
    measured = accuracies(exit_logits(model, image_set), image_set.labels)
    storage = str(changes.get("storage", "float32"))
    fields: dict[str, object] = {
        "name": name,
        "dataset": "toy",
        "architecture": "toy",
        "kind": "static" if model.num_exits == 1 else "early-exit",
        "exit_positions": model.exit_positions,
        "exit_layers": model.exit_layers,
        "exit_costs": model.exit_costs,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_classes": model.num_classes,
        "class_names": TOY_CLASSES,
        "image_size": model.image_size,
        "mean": TOY_DATASET.mean,
        "std": TOY_DATASET.std,
        "storage": storage,
        "weights_sha256": hashlib.sha256(pack_weights(model, storage)).hexdigest(),  # type: ignore[arg-type]
        "test": measured,
        "test_set": image_set.name,
        "validation_accuracy": tuple(share.value for share in measured),
        "operating_points": (),
        "temperatures": (),
        "recipe": {},
        "seed": 0,
        "training_seconds": 1.0,
        "versions": {},
        "machine": {},
    }
    return ModelCard(**(fields | changes))  # type: ignore[arg-type]
