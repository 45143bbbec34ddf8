"""Bringing a model from elsewhere: a factory, a file of weights and a card file become a model like any other."""

import hashlib
import logging
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from core.checkpoints import (
    ModelCard,
    accuracies,
    checkpoints_folder,
    list_models,
    load_card,
    pack_weights,
    save_model,
    unpack_weights,
)
from core.data import ImageSet, open_image_set
from core.datasets import DATASETS
from core.errors import ExitLensError
from core.evaluation import exit_logits
from core.foreign import build_network, foreign_code, resolve_factory, trust
from core.importing.card_file import CardFile, load_card_file
from core.importing.weights import fill, read_state
from core.machine import machine_facts
from core.metrics import OperatingPoint, operating_points
from core.models.costs import multiply_adds, subset_costs
from core.models.imported import Imported, ImportedNetwork, check_behaviour, joined

NUM_PROBES = 4
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportedModel:
    """What came of an import.

    Attributes:
        place: The model's folder.
        card: As written there.
        notes: What the owner should know, each a sentence.
    """

    place: Path
    card: ModelCard
    notes: tuple[str, ...]


def import_model(factory: str, weights: Path, card_file: Path, folder: Path | None = None) -> ImportedModel:
    """Makes a model of this project out of somebody's network. Runs the factory's code.

    The network is measured as it is stored, on the test images where they are here, else on the samples.

    Args:
        factory: ``package.module:function`` or ``path/to/file.py:function``.
        weights: State dict as safetensors, or as ``torch.save`` wrote it.
        card_file: See ``CardFile``.
        folder: Another place than ``checkpoints_folder()``.

    Raises:
        ExitLensError: If anything does not fit, in one sentence.
    """
    told = load_card_file(card_file)
    place = (folder or checkpoints_folder()) / told.name
    if place.exists():
        raise ExitLensError(f"{place} is there already. Choose another name in the card file, or remove that folder.")
    reference = resolve_factory(factory)
    network = build_network(reference)
    fill(network, read_state(weights, told.state_key), told.rename)
    notes: list[str] = []
    images = _measured_images(told.dataset, notes)
    model, _ = _adapted(network, reference, told, images)
    _check_label(told, model, folder)
    payload = pack_weights(model.network, "float32")
    # What the card says is measured on what will be loaded.
    again = build_network(reference)
    unpack_weights(again, payload)
    stored, stated = _adapted(again, reference, told, images)
    _check_same(model, stored, _probes(images))
    card = _measured_card(told, stored, stated, images, notes, hashlib.sha256(payload).hexdigest())
    trust(reference)
    return ImportedModel(save_model(payload, card, folder), card, tuple(notes))


def _adapted(network: nn.Module, reference: str, told: CardFile, images: ImageSet) -> tuple[ImportedNetwork, Imported]:
    """The network behind its adapter, its behaviour checked on real images."""
    facts, probes = DATASETS[told.dataset], _probes(images)
    with torch.no_grad(), foreign_code(f"Running the network on images of {facts.image_size}x{facts.image_size}"):
        _, num_exits, num_classes = joined(network(probes)).shape
    if num_classes != facts.num_classes:
        raise ExitLensError(f"The network knows {num_classes} classes; {facts.name} has {facts.num_classes}.")
    order = _class_order(told, images.class_names)
    model = ImportedNetwork(
        network,
        num_exits=num_exits,
        num_classes=num_classes,
        image_size=facts.image_size,
        mean=told.mean,
        std=told.std,
        exit_layers=told.exit_layers,
        class_order=order,
    )
    model.eval().requires_grad_(False)
    check_behaviour(model, probes)
    return model, Imported(reference, order, model.stops_early)


def _probes(images: ImageSet) -> Tensor:
    return images.select(images.indices[:NUM_PROBES].tolist()).pixels()


@torch.no_grad()
def _check_same(model: ImportedNetwork, stored: ImportedNetwork, probes: Tensor) -> None:
    if not torch.allclose(model(probes), stored(probes), rtol=1e-4, atol=1e-4):
        raise ExitLensError(
            "Built anew and filled with the same weights, the network gives other logits: its factory draws or holds "
            "something that its state dict lacks. Make it a parameter or a persistent buffer, and save the weights "
            "again."
        )


def _class_order(told: CardFile, official: tuple[str, ...]) -> tuple[int, ...]:
    """Place of every official class among the network's outputs; empty where the order is the same."""
    names = told.class_names or official
    if len(names) != len(official):
        raise ExitLensError(f"class_names has {len(names)} names; {told.dataset} has {len(official)} classes.")
    strangers = sorted(set(names) - set(official))
    if strangers or len(set(names)) < len(names):
        what = f"{strangers[0]!r} is none" if strangers else "one stands there twice"
        raise ExitLensError(f"class_names must be the classes of {told.dataset} in the network's order; {what}.")
    order = tuple(names.index(name) for name in official)
    return () if order == tuple(range(len(order))) else order


def _multiply_adds(model: ImportedNetwork) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the layers up to each exit and of its classifier; without stages all is done before the first answer."""
    with foreign_code("Counting multiply-adds"):
        layers, classifiers = multiply_adds(model, model.image_size)
    if not sum(layers) + sum(classifiers):
        raise ExitLensError("The network does no convolution and no matrix product, so its cost cannot be counted.")
    if model.stops_early:
        return tuple(layers), tuple(classifiers)
    rest = (0,) * (model.num_exits - 1)
    return (classifiers[0], *rest), (0, *rest)


def _given_costs(told: CardFile, model: ImportedNetwork) -> tuple[float, ...]:
    """The costs of the card file; none where they are counted."""
    if model.stops_early:
        if told.exit_costs and model.num_exits > 1:
            raise ExitLensError("This network brings its own stages, so its costs are counted. Leave out exit_costs.")
        return ()
    if len(told.exit_costs) != model.num_exits:
        given = f"exit_costs has {len(told.exit_costs)} numbers" if told.exit_costs else "nothing says what each costs"
        raise ExitLensError(
            f"The network returns {model.num_exits} exits, and {given}. Name the {model.num_exits} exit_layers that "
            "feed them, or give as many exit_costs."
        )
    return told.exit_costs


def _check_label(told: CardFile, model: ImportedNetwork, folder: Path | None) -> None:
    """Links name models by what is on screen, so no two of a data set may look the same."""
    kind = _kind(model)
    for name in list_models(folder):
        try:
            other = load_card(name, folder)
        except ExitLensError:  # an unreadable card is not on screen
            continue
        if (other.dataset, other.label) == (told.dataset, f"{told.architecture} {kind}"):
            raise ExitLensError(f"{name} is shown as {other.label!r} already. Give another label in the card file.")


def _measured_images(dataset: str, notes: list[str]) -> ImageSet:
    """The images that the card is measured on."""
    try:
        return open_image_set(f"{dataset}:test")
    except ExitLensError as error:
        if not DATASETS[dataset].has_samples:
            raise ExitLensError(f"The card needs test images to be measured on. {error}") from error
        samples = open_image_set(f"{dataset}:samples")
        notes.append(f"Accuracy was measured on the {len(samples)} bundled samples only. {error}")
        return samples


def _measured_card(
    told: CardFile, model: ImportedNetwork, stated: Imported, images: ImageSet, notes: list[str], weights_sha256: str
) -> ModelCard:
    layers, classifiers = _multiply_adds(model)
    model.exit_costs = _given_costs(told, model) or subset_costs(layers, classifiers, range(model.num_exits))
    log.info("Measuring on %s images of %s …", f"{len(images):,}", images.name)
    test = accuracies(exit_logits(model, images), images.labels)
    points: tuple[OperatingPoint, ...] = ()
    validation_accuracy: tuple[float, ...] = ()
    try:
        validation = open_image_set(f"{told.dataset}:validation")
    except ExitLensError as error:
        notes.append(f"There are no operating points. {error}")
    else:
        log.info("Measuring on %s images of %s …", f"{len(validation):,}", validation.name)
        logits = exit_logits(model, validation)
        points = operating_points(logits, validation.labels, model.exit_costs)
        validation_accuracy = tuple(share.value for share in accuracies(logits, validation.labels))
        notes.append(f"If it was trained on {validation.name}, its figures there are too good.")
    if not model.stops_early:
        notes.append("It cannot stop early, as nothing says which layers feed its exits: its costs are those you gave.")
    return ModelCard(
        name=told.name,
        dataset=told.dataset,
        architecture=told.architecture,
        kind=_kind(model),
        exit_positions=(),
        exit_layers=model.exit_layers,
        exit_costs=model.exit_costs,
        layer_multiply_adds=layers,
        classifier_multiply_adds=classifiers,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_classes=model.num_classes,
        class_names=images.class_names,
        image_size=model.image_size,
        mean=told.mean,
        std=told.std,
        storage="float32",
        weights_sha256=weights_sha256,
        test=test,
        test_set=images.name,
        validation_accuracy=validation_accuracy,
        operating_points=points,
        temperatures=(),
        recipe={},
        seed=0,
        training_seconds=0.0,
        versions={"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy")}},
        machine=machine_facts(),
        imported=stated,
    )


def _kind(model: ImportedNetwork) -> Literal["static", "early-exit"]:
    return "early-exit" if model.num_exits > 1 else "static"
