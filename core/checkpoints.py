"""Models on disk: ``weights.safetensors`` beside a ``card.json`` that says what they are and how good."""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from core.data import ImageSet
from core.datasets import DATASETS
from core.errors import ExitLensError
from core.evaluation import exit_logits
from core.foreign import build_network, check_trusted
from core.machine import compute_device
from core.metrics import OperatingPoint, Rate, rate
from core.models import ARCHITECTURES, build_model
from core.models.classifiers import ExitNetwork
from core.models.imported import NETWORK_PREFIX, Imported, ImportedNetwork
from core.models.weights import put_weights

FOLDER_VARIABLE = "EXITLENS_CHECKPOINTS"
WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "card.json"
BACKBONE = "backbone."
Storage = Literal["float32", "float16"]
LoadedModel = ExitNetwork | ImportedNetwork

# A card is right when re-measured accuracies agree to three decimals: float32 sums differ between machines.
ROUNDING = 5e-4


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Everything about a finished model that is not a weight.

    Attributes:
        name: Also the folder.
        dataset: Trained on.
        architecture: Key of the registry; of an imported model its own label.
        kind: ``static`` or ``early-exit``.
        exit_positions: Blocks with an early exit after them.
        exit_layers: Layer that feeds each exit, K of them; empty where an import did not name them.
        exit_costs: Cost fraction of each exit, K of them.
        layer_multiply_adds: Of the layers since the exit before, K of them; empty where they were not counted.
        classifier_multiply_adds: Of each exit's classifier, K of them; empty where they were not counted.
        num_parameters: Trainable numbers.
        num_classes: Classes.
        class_names: One per class.
        image_size: Side in pixels.
        mean: Per-channel mean that the network subtracts.
        std: Per-channel deviation that it divides by.
        storage: Number format of the weight matrices in the file; all the rest is float32.
        weights_sha256: Of the weights file.
        shares: Model whose file holds the backbone; None where the own file holds everything.
        shared_sha256: Of that model's weights file.
        test: Accuracy of every exit on the test images, measured once, after the round trip through the file.
        test_set: The image set of ``test``.
        validation_accuracy: Share right of every exit on the validation images; empty where an import lacked them.
        operating_points: Chosen on validation; none for static models.
        temperatures: Per exit, folded into its linear layer after training; empty when none were fitted.
        recipe: All fields of the recipe.
        seed: Of the recipe.
        training_seconds: Wall-clock of all epochs.
        versions: Of Python and the packages that made it.
        machine: Processor, cores and threads that made it.
        imported: Where its code is, when that is not part of this project.
    """

    name: str
    dataset: str
    architecture: str
    kind: Literal["static", "early-exit"]
    exit_positions: tuple[int, ...]
    exit_layers: tuple[str, ...]
    exit_costs: tuple[float, ...]
    num_parameters: int
    num_classes: int
    class_names: tuple[str, ...]
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    storage: Storage
    weights_sha256: str
    test: tuple[Rate, ...]
    test_set: str
    validation_accuracy: tuple[float, ...]
    operating_points: tuple[OperatingPoint, ...]
    temperatures: tuple[float, ...]
    recipe: dict[str, Any]
    seed: int
    training_seconds: float
    versions: dict[str, str]
    machine: dict[str, str]
    layer_multiply_adds: tuple[int, ...] = ()
    classifier_multiply_adds: tuple[int, ...] = ()
    shares: str | None = None
    shared_sha256: str | None = None
    imported: Imported | None = None

    @property
    def num_exits(self) -> int:
        """K, the final exit counted."""
        return len(self.exit_costs)

    @property
    def label(self) -> str:
        """Name on screen, such as ``ResNet-56 early-exit`` or ``ResNet-56 early-exit, all exits``."""
        if self.imported:
            return f"{self.architecture} {self.kind}"
        more = self.name
        for known in (self.dataset, self.architecture, self.kind):
            more = more.removeprefix(known).lstrip("-")
        label = f"{ARCHITECTURES[self.architecture].label} {self.kind}"
        return f"{label}, {more.replace('-', ' ')}" if more else label

    @property
    def stops_early(self) -> bool:
        """Whether leaving at an exit spares what comes after it."""
        return self.imported is None or self.imported.stops_early


@dataclass(frozen=True)
class Verification:
    """A card's accuracies measured again.

    Attributes:
        name: Of the model.
        image_set: Measured on.
        card: Accuracy of every exit as the card has it.
        measured: Accuracy of every exit now.
    """

    name: str
    image_set: str
    card: tuple[Rate, ...]
    measured: tuple[Rate, ...]

    @property
    def agrees(self) -> bool:
        """True when every exit agrees to three decimals on equally many images."""
        return all(
            old.num_images == new.num_images and abs(old.value - new.value) <= ROUNDING
            for old, new in zip(self.card, self.measured, strict=True)
        )


def checkpoints_folder() -> Path:
    """Where models lie: ``checkpoints/`` of the project, or the folder that ``EXITLENS_CHECKPOINTS`` names."""
    return Path(os.environ.get(FOLDER_VARIABLE) or Path(__file__).parents[1] / "checkpoints")


def list_models(folder: Path | None = None) -> list[str]:
    """Names of all models that have a card, sorted."""
    return sorted(card.parent.name for card in (folder or checkpoints_folder()).glob(f"*/{CARD_FILE}"))


@cache
def _card_reader() -> TypeAdapter[ModelCard]:
    # Making it takes ten times as long as reading a card with it, and every page reads all cards.
    return TypeAdapter(ModelCard)


def load_card(name: str, folder: Path | None = None) -> ModelCard:
    """Reads a model's card.

    Raises:
        ExitLensError: If there is no such model or its card is damaged; the message names the file.
    """
    root = folder or checkpoints_folder()
    path = root / name / CARD_FILE
    if name not in list_models(root):
        known = ", ".join(list_models(root)) or "none"
        raise ExitLensError(f"There is no model {name!r} ({path} is missing). Models here: {known}.")
    try:
        card = _card_reader().validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        problem = error.errors()[0] if isinstance(error, ValidationError) else None
        detail = f"{'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}" if problem else str(error)
        raise ExitLensError(f"{path} is damaged ({detail}). Restore the file or train the model again.") from error
    if card.name != name:
        raise ExitLensError(
            f"{path} is the card of {card.name!r}, not of {name!r}. Rename the folder or restore the file."
        )
    num_exits = card.num_exits if card.imported else len(card.exit_positions) + 1
    described = [card.exit_layers, card.exit_costs, card.test, card.validation_accuracy]
    if {len(each) for each in described if each or not card.imported} != {num_exits} or not card.test:
        raise ExitLensError(f"{path} is damaged (it does not describe {num_exits} exits). Restore the file.")
    if not (card.imported or card.architecture in ARCHITECTURES) or card.dataset not in DATASETS:
        raise ExitLensError(f"{path} asks for {card.architecture!r} on {card.dataset!r}, which this version lacks.")
    if broken := _broken_rules(card):
        raise ExitLensError(f"{path} is damaged (it needs {'; '.join(broken)}). Restore the file.")
    return card


def _broken_rules(card: ModelCard) -> list[str]:
    """What no card of a real model says otherwise."""
    num_exits, costs = card.num_exits, card.exit_costs
    rules = {
        "exit_costs that rise from above 0 to 1": all(0 < cost <= 1 for cost in costs)
        and list(costs) == sorted(set(costs))
        and costs[-1] == 1,
        f"a kind that fits {num_exits} exits": (card.kind == "early-exit") == (num_exits > 1),
        # Whether a share is that of its counts, and both are true, is what ``verify`` measures.
        "test accuracies in [0, 1] of some images": all(
            0 <= share.num_hits <= share.num_images > 0 and 0 <= share.value <= 1 for share in card.test
        ),
        "validation_accuracy in [0, 1]": all(0 <= value <= 1 for value in card.validation_accuracy),
        f"operating points within [0, 1] and with {num_exits} shares": all(
            len(point.exit_shares) == num_exits
            and all(0 <= value <= 1 for value in (point.threshold, point.accuracy, point.mean_cost, *point.exit_shares))
            for point in card.operating_points
        ),
        f"multiply-adds of {num_exits} exits, or none": {
            len(counts) for counts in (card.layer_multiply_adds, card.classifier_multiply_adds)
        }
        <= {0, num_exits},
        "class_names that differ": len(set(card.class_names)) == len(card.class_names),
    }
    return [rule for rule, holds in rules.items() if not holds]


def load_model(name: str, folder: Path | None = None) -> tuple[LoadedModel, ModelCard]:
    """Loads a model to be shared and never changed: eval mode, frozen, float32, where ``compute_device`` says.

    Args:
        name: A folder of ``checkpoints/``.
        folder: Another place than ``checkpoints_folder()``.

    Returns:
        The network and its card.

    Raises:
        ExitLensError: If a file is missing, damaged or belongs to another model (the message names it), or an
            imported model's factory cannot be run.
    """
    card = load_card(name, folder)
    path = (folder or checkpoints_folder()) / name / WEIGHTS_FILE
    payload = _read_weights(card, folder)
    backbone = None
    if card.shares:
        owner = load_card(card.shares, folder)
        if owner.weights_sha256 != card.shared_sha256:
            raise ExitLensError(
                f"{name} stands on the weights of {card.shares}, but on others than are here (sha256 "
                f"{owner.weights_sha256[:12]}… instead of {(card.shared_sha256 or '')[:12]}…). Train its exits again."
            )
        backbone = _read_weights(owner, folder)
    # Outside the try: what is wrong with a factory is not the fault of the weights file.
    network = _imported_network(card, card.imported) if card.imported else None
    try:
        if network is None:
            network = build_model(card.architecture, card.dataset, card.exit_positions)
        unpack_weights(network, payload, backbone)
    except (SafetensorError, ExitLensError) as error:
        raise ExitLensError(
            f"{path} does not fit {card.architecture} with {card.num_exits} exits ({error})."
        ) from error
    # Adapted once it is filled: cutting a network keeps what its code computes from buffers alone.
    is_own = isinstance(network, ExitNetwork) and not card.imported
    model: LoadedModel = network if is_own else _adapted(network, card)  # type: ignore[assignment]
    if (card.num_classes, len(card.class_names)) != (model.num_classes, model.num_classes):
        raise ExitLensError(
            f"{path.parent / CARD_FILE} names {len(card.class_names)} classes, the network has {model.num_classes}."
        )
    model.exit_costs = card.exit_costs  # a test counts them again
    if is_own:
        model.to(memory_format=torch.channels_last)  # the same numbers in the order that convolutions read fastest
    return model.to(compute_device()).eval().requires_grad_(False), card


def _read_weights(card: ModelCard, folder: Path | None) -> bytes:
    path = (folder or checkpoints_folder()) / card.name / WEIGHTS_FILE
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise ExitLensError(f"{path} cannot be read ({error.strerror}). Restore the file.") from error
    digest = hashlib.sha256(payload).hexdigest()
    # The format itself loads flipped bytes without complaint.
    if digest != card.weights_sha256:
        raise ExitLensError(
            f"{path} is damaged or belongs to another model: its sha256 is {digest[:12]}…, the card says "
            f"{card.weights_sha256[:12]}…. Restore the file."
        )
    return payload


def _imported_network(card: ModelCard, imported: Imported) -> nn.Module:
    check_trusted(imported.factory, card.name)
    return build_network(imported.factory)


def _adapted(network: nn.Module, card: ModelCard) -> ImportedNetwork:
    assert card.imported
    return ImportedNetwork(
        network,
        num_exits=card.num_exits,
        num_classes=card.num_classes,
        image_size=card.image_size,
        mean=card.mean,
        std=card.std,
        exit_layers=tuple(layer.removeprefix(NETWORK_PREFIX) for layer in card.exit_layers),
        class_order=card.imported.class_order,
    )


def pack_weights(model: nn.Module, storage: Storage, *, with_backbone: bool = True) -> bytes:
    """The model's state as a safetensors file; only weight matrices are narrowed, never norms or buffers.

    Args:
        model: The model.
        storage: Number format of the weight matrices.
        with_backbone: False where the backbone is another model's and stored with that one.
    """
    narrow = {
        name for name, parameter in model.named_parameters() if parameter.ndim > 1 and parameter.is_floating_point()
    }
    dtype = torch.float16 if storage == "float16" else torch.float32
    state = {
        # Cloned: the format refuses tensors that share memory, as tied weights do.
        key: (tensor.to(dtype) if key in narrow else tensor).detach().clone(memory_format=torch.contiguous_format)
        for key, tensor in model.state_dict().items()
        if with_backbone or not key.startswith(BACKBONE)
    }
    return save_tensors(state)


def unpack_weights(model: nn.Module, payload: bytes, backbone: bytes | None = None) -> None:
    """Puts a packed state into a model, as loading does; the backbone from another model's file where one is given.

    Raises:
        ExitLensError: If it does not fit.
        SafetensorError: If it is none.
    """
    state = load_tensors(payload)
    if backbone is not None:
        state |= {key: tensor for key, tensor in load_tensors(backbone).items() if key.startswith(BACKBONE)}
    put_weights(model, {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()})


def save_model(payload: bytes, card: ModelCard, folder: Path | None = None) -> Path:
    """Writes ``checkpoints/NAME/``: first the weights, then the card that makes them count.

    Returns:
        The model's folder.

    Raises:
        ExitLensError: If it cannot be written.
    """
    place = (folder or checkpoints_folder()) / card.name
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, content in ((WEIGHTS_FILE, payload), (CARD_FILE, card_json(card).encode())):
            partial = place / f"{name}.partial"
            partial.write_bytes(content)
            partial.replace(place / name)
    except OSError as error:
        with suppress(OSError):  # nothing half written stays; a folder that held a model before is kept
            for partial in place.glob("*.partial"):
                partial.unlink()
            if not (place / CARD_FILE).exists():
                (place / WEIGHTS_FILE).unlink(missing_ok=True)
                place.rmdir()
        raise ExitLensError(f"{place} cannot be written ({error.strerror}). Choose another place.") from error
    return place


def card_json(card: ModelCard) -> str:
    """A card as the text of its file."""
    return json.dumps(asdict(card), indent=2, ensure_ascii=False) + "\n"


def accuracies(logits: Tensor, labels: Tensor) -> tuple[Rate, ...]:
    """Accuracy of every exit, K rates, from logits (N, K, C)."""
    right = logits.argmax(dim=-1) == labels[:, None]
    return tuple(rate(int(count), len(labels)) for count in right.sum(dim=0))


def verify(name: str, image_set: ImageSet, folder: Path | None = None) -> Verification:
    """Measures a model's accuracies again.

    Raises:
        ExitLensError: If the card was measured on another image set.
    """
    model, card = load_model(name, folder)
    if image_set.name != card.test_set or len(image_set) != card.test[0].num_images:
        raise ExitLensError(
            f"The card of {name} was measured on {card.test[0].num_images} images of {card.test_set}; "
            f"{len(image_set)} images of {image_set.name} cannot verify it."
        )
    return Verification(name, image_set.name, card.test, accuracies(exit_logits(model, image_set), image_set.labels))
