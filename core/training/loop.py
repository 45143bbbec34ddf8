"""The training loop: compiled, 16-bit where the processor has it, resumable after every epoch."""

import logging
import os
import pickle
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.checkpoints import load_card, load_model
from core.data import ImageSet
from core.errors import ExitLensError
from core.evaluation import exit_logits
from core.machine import compute_device, search_precision
from core.models import build_model
from core.models.classifiers import ExitNetwork
from core.training.recipe import Recipe

logger = logging.getLogger(__name__)
STATE_FOLDER = Path("~/.cache/exitlens/training")


@dataclass(frozen=True)
class Epoch:
    """What happened in one epoch.

    Attributes:
        number: 1-based.
        num_epochs: Epochs of the recipe.
        mean_loss: Mean training loss over the steps, exits weighted.
        validation_accuracy: Share of validation images right at every exit.
        seconds: Wall-clock of the epoch, validation included.
    """

    number: int
    num_epochs: int
    mean_loss: float
    validation_accuracy: tuple[float, ...]
    seconds: float


def train(
    recipe: Recipe,
    training: ImageSet,
    validation: ImageSet,
    *,
    state_folder: Path | None = None,
    compiled: bool = True,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> tuple[ExitNetwork, float]:
    """Trains a model, going on from the saved state of an earlier call where there is one.

    Every random choice of an epoch follows from the recipe's seed and the epoch's number, and the state is
    saved after each epoch: a run that was killed and started again ends with the same weights.

    Args:
        recipe: What to train and how.
        training: Images to learn from.
        validation: Images on which every exit's accuracy is reported after each epoch.
        state_folder: Where states are kept, one sub-folder per model; ``~/.cache/exitlens/training`` by default.
        compiled: Compile the network (needs a C++ compiler).
        on_step: Called with the step's number in its epoch and the steps per epoch.
        on_epoch: Called after each epoch.

    Returns:
        The network in eval mode on the processor, and the seconds that all its epochs took.

    Raises:
        ExitLensError: If the saved state is damaged or belongs to another recipe.
    """
    torch.manual_seed(recipe.seed)
    model = build_model(recipe.architecture, recipe.dataset, recipe.exit_positions)
    if recipe.backbone_of:
        take_backbone(model, recipe)
    model.to(memory_format=torch.channels_last)
    device = compute_device()
    model.to(device)
    optimizer = _optimizer(model, recipe)
    state_file = (state_folder or STATE_FOLDER.expanduser()) / recipe.name / "state.pt"
    first_epoch, seconds = _restore(state_file, recipe, model, optimizer)
    network = torch.compile(model) if compiled and _has_compiler() else model
    use_bf16 = search_precision(device) == "bfloat16"
    padding = recipe.crop_padding
    padded = F.pad(training.images.float(), (padding,) * 4, mode="reflect").byte().permute(0, 2, 3, 1).contiguous()
    num_steps = len(training) // recipe.batch_size
    if num_steps < 1:
        raise ExitLensError(f"{len(training)} images are fewer than one batch of {recipe.batch_size}.")

    for epoch in range(first_epoch, recipe.num_epochs):
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
        torch.manual_seed(recipe.seed * 100_003 + epoch)  # dropout draws from the global generator
        order = torch.randperm(len(training), generator=generator)
        weights = exit_loss_weights(recipe, epoch).to(device)
        loss_sum = 0.0
        model.train()
        model.backbone.train(recipe.backbone_of is None)
        for step in range(num_steps):
            rows = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            images = _augmented(padded, rows, model.image_size, generator).to(device)
            _set_learning_rate(optimizer, recipe, (epoch * num_steps + step) / (recipe.num_epochs * num_steps))
            with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16):
                logits = network(images)
            loss = _loss(logits.float(), training.labels[rows].to(device), weights)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss_sum += loss.item()
            if on_step:
                on_step(step + 1, num_steps)
        model.eval()
        with torch.autocast(
            device.type, torch.bfloat16, enabled=use_bf16
        ):  # for watching; the card measures in float32
            answers = exit_logits(model, validation).argmax(-1)
        accuracy = (answers == validation.labels[:, None]).double().mean(0)
        took = time.perf_counter() - started
        seconds += took
        _save(state_file, recipe, model, optimizer, epoch + 1, seconds)
        if on_epoch:
            on_epoch(Epoch(epoch + 1, recipe.num_epochs, loss_sum / num_steps, tuple(accuracy.tolist()), took))
    return model.cpu().eval(), seconds


def exit_loss_weights(recipe: Recipe, epoch: int) -> Tensor:
    """Weight of every exit's cross-entropy in one epoch, (K,); the final exit weighs 1.

    Source: Kaya et al. 2019, section 5.2: weights of early exits grow linearly over training up to a maximum. On
    a frozen backbone every early exit weighs 1 and the final exit, which is not trained, 0.
    """
    if recipe.backbone_of:  # nothing is shared, so no exit takes anything from another
        return torch.cat([torch.ones(len(recipe.exit_positions)), torch.zeros(1)])
    grown = 0.01 + epoch / recipe.num_epochs * torch.tensor(recipe.exit_weights[: len(recipe.exit_positions)])
    ceiling = torch.tensor(recipe.exit_weights[: len(recipe.exit_positions)])
    return torch.cat([torch.minimum(grown, ceiling), torch.ones(1)])


def _loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    num_images, num_exits, num_classes = logits.shape
    per_exit = F.cross_entropy(
        logits.reshape(-1, num_classes), labels.repeat_interleave(num_exits), reduction="none"
    ).view(num_images, num_exits)
    return per_exit.mean(0) @ weights


def _augmented(padded: Tensor, rows: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Random crops and flips of a whole batch as one gather, (N, 3, side, side) in [0, 1], channels last."""
    room = padded.shape[1] - side + 1
    tops = torch.randint(room, (len(rows), 1), generator=generator)
    lefts = torch.randint(room, (len(rows), 1), generator=generator)
    flips = torch.rand(len(rows), 1, generator=generator) < 0.5
    steps = torch.arange(side)
    columns = lefts + torch.where(flips, side - 1 - steps, steps)
    batch = padded[rows[:, None, None], (tops + steps)[:, :, None], columns[:, None, :]]  # (N, side, side, 3)
    return batch.permute(0, 3, 1, 2).float() / 255


def take_backbone(model: ExitNetwork, recipe: Recipe) -> None:
    """Copies the backbone of the finished model ``recipe.backbone_of`` into a new one and freezes it there.

    Raises:
        ExitLensError: If there is no such model, it is of another architecture or data set, or its backbone is
            another's.
    """
    finished, card = load_model(recipe.backbone_of or "")
    alike = (card.architecture, card.dataset) == (recipe.architecture, recipe.dataset)
    if not alike or not isinstance(finished, ExitNetwork):
        raise ExitLensError(
            f"Recipe {recipe.name!r} needs a backbone of {recipe.architecture} on {recipe.dataset}; {card.name} is "
            f"{card.architecture} on {card.dataset}."
        )
    if card.shares:
        raise ExitLensError(
            f"Recipe {recipe.name!r} takes the backbone of {card.name}, which itself stands on that of {card.shares}. "
            f"Write backbone_of = {card.shares!r}."
        )
    model.backbone.load_state_dict(finished.backbone.state_dict())
    model.backbone.requires_grad_(False)


def _optimizer(model: ExitNetwork, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.backbone_of:
        return torch.optim.Adam(model.exits.parameters(), lr=recipe.peak_learning_rate)
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=recipe.peak_learning_rate, momentum=recipe.momentum, nesterov=True)


def _set_learning_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, progress: float) -> None:
    if progress < recipe.warmup_share:
        share = 0.1 + 0.9 * progress / recipe.warmup_share
    else:
        rest = (progress - recipe.warmup_share) / (1 - recipe.warmup_share)
        share = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * rest)).item())
    for group in optimizer.param_groups:
        group["lr"] = recipe.peak_learning_rate * share


def _has_compiler() -> bool:
    if shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++"):
        return True
    logger.warning("There is no C++ compiler here, so training runs uncompiled and several times slower.")
    return False


def _state_key(recipe: Recipe) -> str:
    """All that a saved state depends on: the recipe, and the weights of the model whose backbone it takes."""
    owner = load_card(recipe.backbone_of).weights_sha256 if recipe.backbone_of else ""
    return recipe.training_key + owner


def _restore(
    state_file: Path, recipe: Recipe, model: ExitNetwork, optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    if not state_file.is_file():
        return 0, 0.0
    try:
        state: dict[str, Any] = torch.load(state_file, weights_only=True, map_location="cpu")
    except (RuntimeError, OSError, EOFError, LookupError, ValueError, pickle.UnpicklingError) as error:
        raise ExitLensError(
            f"{state_file} is damaged ({type(error).__name__}). Remove that folder to start the training over."
        ) from error
    if state["recipe"] != _state_key(recipe):
        on_others = f", or on other weights of {recipe.backbone_of}" if recipe.backbone_of else ""
        raise ExitLensError(
            f"{state_file} was made by another recipe of the same name{on_others}. Remove that folder to start over, "
            "or give the changed recipe another name."
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    logger.info("%s: going on after epoch %d", recipe.name, state["epoch"])
    return state["epoch"], state["seconds"]


def _save(
    state_file: Path, recipe: Recipe, model: ExitNetwork, optimizer: torch.optim.Optimizer, epoch: int, seconds: float
) -> None:
    state_file.parent.mkdir(parents=True, exist_ok=True)
    partial = state_file.with_suffix(".partial")
    state = {
        "recipe": _state_key(recipe),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": epoch,
        "seconds": seconds,
    }
    torch.save(state, partial)
    partial.replace(state_file)
