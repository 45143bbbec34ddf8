"""Training one surrogate, in whichever process it lands: on validation images alone, by the project's own trainer."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from core.checkpoints import ModelCard
from core.corruptions import corrupt
from core.data import ImageSet, open_image_set
from core.datasets import DATASETS
from core.errors import ExitLensError
from core.evaluation import logits_of
from core.exits import decide
from core.models import build_model
from core.models.costs import multiply_adds
from core.study.models import model_hash
from core.study.placements import load_placed
from core.study.surrogates import UNCORRUPTED, Surrogate, with_surrogate
from core.study.threads import limited_to
from core.training.finish import finish
from core.training.loop import train

GRADIENT_COST = 3  # forward passes that a forward and a backward pass come to
PAYS_TO_COMPILE = 10**12  # multiply-adds of a whole training, from which compiling, half a minute, is worth it
WATCHED = 64  # images on which the loop reports after each epoch


@dataclass(frozen=True)
class Training:
    """A surrogate to be trained.

    Attributes:
        surrogate: Which.
        states: Folder for the state after each epoch, from which a killed training goes on.
    """

    surrogate: Surrogate
    states: Path


@dataclass(frozen=True, eq=False)
class Trained:
    """What came of a training.

    Attributes:
        surrogate: That was trained.
        card: It says what the surrogate is.
        weights: Content of its weights file.
    """

    surrogate: Surrogate
    card: ModelCard
    weights: bytes


def train_surrogate(training: Training) -> Trained:
    """Trains a surrogate, going on from its saved state where there is one.

    The same surrogate comes to the same weights on one machine. Its card is measured on the images that it learned,
    uncorrupted and with their true labels, as no other image is ever opened; an early-exit one's operating points are
    those of the very images that it has learned.

    Raises:
        ExitLensError: If its images are not here, or the model that labels them is not the one it was planned with.
    """
    surrogate = training.surrogate
    with limited_to(surrogate.num_threads), torch.random.fork_rng():
        validation = open_image_set(f"{surrogate.dataset}:validation")
        learned = learned_images(surrogate, validation)
        is_compiled = training_multiply_adds(surrogate) >= PAYS_TO_COMPILE
        if is_compiled:
            torch.compiler.reset()  # otherwise one of many networks in a process would quietly run uncompiled
        watched = learned.select(learned.indices[:WATCHED].tolist())
        states = training.states / surrogate.key
        model, seconds = train(surrogate.recipe, learned, watched, state_folder=states, compiled=is_compiled)
        uncorrupted = validation.select(learned.indices.tolist())
        weights, card = finish(surrogate.recipe, model, seconds, learned, uncorrupted)
        right = float((learned.labels == uncorrupted.labels).double().mean())
    return Trained(surrogate, replace(card, recipe=with_surrogate(card, surrogate, right)), weights)


def learned_images(surrogate: Surrogate, validation: ImageSet) -> ImageSet:
    """What a surrogate learns from: validation images, corrupted and labelled as it says, in 8 bits.

    Args:
        surrogate: Which.
        validation: All validation images of its data set.

    Raises:
        ExitLensError: If there are fewer images, or the model that labels is not the one it was planned with.
    """
    if len(validation) < surrogate.num_images:
        raise ExitLensError(
            f"The surrogate {surrogate.name} asks for {surrogate.num_images} images; {validation.name} holds "
            f"{len(validation)}. Ask for fewer."
        )
    chosen = validation.select(validation.indices[: surrogate.num_images].tolist())
    if surrogate.corruption != UNCORRUPTED:
        pixels = corrupt(chosen.pixels(), surrogate.corruption, surrogate.severity, surrogate.seed)
        chosen = replace(chosen, images=(255 * pixels).round().byte())
    return replace(chosen, labels=_answers(surrogate, chosen)) if surrogate.labels == "target" else chosen


def _answers(surrogate: Surrogate, images: ImageSet) -> Tensor:
    """What the target answers under its policy, (N,): one query an image."""
    assert surrogate.policy
    model, card = load_placed(surrogate.targets[0])
    if model_hash(card) != surrogate.target_hash:
        raise ExitLensError(
            f"The model {card.name} is not the one that the study was planned with. Bring the same checkpoints to "
            "every machine, or start the study again."
        )
    return decide(logits_of(model, images.pixels()), surrogate.policy).prediction


@cache
def training_multiply_adds(surrogate: Surrogate) -> int:
    """Multiply-adds that training a surrogate takes, forward and backward."""
    network = build_model(surrogate.architecture, surrogate.dataset, surrogate.recipe.exit_positions)
    an_image = sum(map(sum, multiply_adds(network, DATASETS[surrogate.dataset].image_size)))
    return GRADIENT_COST * an_image * surrogate.num_images * surrogate.num_epochs
