"""From trained weights to a finished model: calibration, storage, and everything its card says."""

import hashlib
import platform
from dataclasses import asdict
from importlib.metadata import version

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from core.checkpoints import ModelCard, accuracies, load_card, pack_weights, unpack_weights
from core.data import ImageSet
from core.evaluation import exit_logits
from core.machine import machine_facts
from core.metrics import operating_points
from core.models.classifiers import ExitNetwork
from core.models.costs import multiply_adds
from core.training.recipe import Recipe


def finish(
    recipe: Recipe, model: ExitNetwork, training_seconds: float, validation: ImageSet, test: ImageSet
) -> tuple[bytes, ModelCard]:
    """Makes weights file and card of a trained model.

    Args:
        recipe: How it was trained.
        model: As ``train`` returned it; calibrated and rounded to the storage format in place.
        training_seconds: What training took.
        validation: For temperatures and operating points.
        test: For the card's accuracies; looked at here and nowhere before.

    Returns:
        The content of ``weights.safetensors``, and the card.
    """
    temperatures = _calibrate(model, validation) if recipe.calibrate else ()
    # Taken over, the backbone is as its own file has it: only what is stored here is rounded.
    payload = pack_weights(model, recipe.storage, with_backbone=recipe.backbone_of is None)
    owner = load_card(recipe.backbone_of) if recipe.backbone_of else None
    unpack_weights(model, payload, pack_weights(model, "float32") if owner else None)
    layers, classifiers = multiply_adds(model, model.image_size)
    logits = exit_logits(model, validation)
    card = ModelCard(
        name=recipe.name,
        dataset=recipe.dataset,
        architecture=recipe.architecture,
        kind="early-exit" if recipe.exit_positions else "static",
        exit_positions=recipe.exit_positions,
        exit_layers=model.exit_layers,
        exit_costs=model.exit_costs,
        layer_multiply_adds=tuple(layers),
        classifier_multiply_adds=tuple(classifiers),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_classes=model.num_classes,
        class_names=test.class_names,
        image_size=model.image_size,
        mean=_triple(model.mean),
        std=_triple(model.std),
        storage=recipe.storage,
        weights_sha256=hashlib.sha256(payload).hexdigest(),
        shares=owner.name if owner else None,
        shared_sha256=owner.weights_sha256 if owner else None,
        test=accuracies(exit_logits(model, test), test.labels),
        test_set=test.name,
        validation_accuracy=tuple(exit_rate.value for exit_rate in accuracies(logits, validation.labels)),
        operating_points=operating_points(logits, validation.labels, model.exit_costs),
        temperatures=temperatures,
        recipe=asdict(recipe),
        seed=recipe.seed,
        training_seconds=round(training_seconds, 1),
        versions={"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy")}},
        machine=machine_facts(),
    )
    return payload, card


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature by which dividing logits (N, C) minimises the cross-entropy to labels (N,).

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2.
    """
    result = minimize_scalar(
        lambda log_temperature: F.cross_entropy(logits / 2.0**log_temperature, labels).item(),
        bounds=(-3, 3),
        method="bounded",
    )
    return float(2.0**result.x)


@torch.no_grad()
def _calibrate(model: ExitNetwork, validation: ImageSet) -> tuple[float, ...]:
    logits = exit_logits(model, validation)
    temperatures = []
    for exit_index in range(model.num_exits):
        temperature = fit_temperature(logits[:, exit_index], validation.labels)
        classifier = model.exits[exit_index] if exit_index < len(model.exits) else model.backbone.tail
        linear = [module for module in classifier.modules() if isinstance(module, nn.Linear)][-1]
        linear.weight.div_(temperature)
        linear.bias.div_(temperature)
        temperatures.append(temperature)
    return tuple(temperatures)


def _triple(buffer: Tensor) -> tuple[float, float, float]:
    first, second, third = (round(value, 6) for value in buffer.flatten().tolist())
    return first, second, third
