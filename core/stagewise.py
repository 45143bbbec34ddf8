"""A model stage by stage, each stage computed only for the images that have not left yet."""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from core.errors import ExitLensError
from core.models import ExitModel
from core.progress import CancelToken, end_if

Leave: TypeAlias = Callable[[int, Tensor, Tensor], Tensor]
"""From an exit, images by number (n,) and their logits (n, C) to which of them leave there, (n,)."""
_Waiting: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Images by number, features of these and of others, and which rows of the features are theirs."""


@torch.no_grad()
def run_stagewise(
    model: ExitModel,
    images: Tensor,
    leave: Leave,
    *,
    batch_size: int | None = None,
    cancel: CancelToken | None = None,
) -> None:
    """Shows images to a model until each has left; at the final exit all do, whatever ``leave`` says.

    What stays of one batch waits at the next stage until it is a whole batch again: layers take longer per image on
    the few that are left of one.

    Args:
        model: Any exit model; one whose ``stops_early`` is False saves nothing.
        images: (N, 3, H, W) in [0, 1].
        leave: Called once for every exit and batch that reaches it.
        batch_size: Images at a time at every stage; all of them without it.
        cancel: Looked at before each batch of a stage.

    Raises:
        ExitLensError: If the batch size is below 1.
        Cancelled: Once ``cancel`` is set.
    """
    if batch_size is not None and batch_size < 1:
        raise ExitLensError(f"The batch size is {batch_size}; one image or more is needed.")
    size, last = batch_size or max(1, len(images)), model.num_exits - 1
    waiting: list[list[_Waiting]] = [[] for _ in range(model.num_exits)]

    def stage(exit_index: int, rows: Tensor, features: Tensor) -> None:
        end_if(cancel)
        features = model.advance(features, exit_index)
        leaves = leave(exit_index, rows, model.classify(features, exit_index))
        stays = (~leaves).nonzero()[:, 0]
        if exit_index < last and len(stays):
            left = (rows[stays], features, stays)
            # Copied now or once they are a batch; the few of a large batch would keep all of its features till then.
            is_few = 2 * len(stays) < len(rows)
            waiting[exit_index + 1].append(_all_of(*_gathered([left])) if is_few else left)

    def work_off(exit_index: int, least: int) -> None:
        """Runs what waits at a stage in whole batches, and what is left over if it is ``least`` images or more."""
        num_waiting = sum(len(rows) for rows, _, _ in waiting[exit_index])
        if num_waiting < least:
            return
        rows, features = _gathered(waiting[exit_index])
        waiting[exit_index] = []
        # At last in batches that are alike: a small one would take longer per image.
        at_once = size if least > 1 else math.ceil(num_waiting / math.ceil(num_waiting / size))
        for some, theirs in zip(rows.split(at_once), features.split(at_once), strict=True):
            if len(some) < least:
                waiting[exit_index] = [_all_of(some, theirs)]
            else:
                stage(exit_index, some, theirs)

    for rows, batch in zip(
        torch.arange(len(images), device=images.device).split(size), images.split(size), strict=True
    ):
        if len(rows):
            stage(0, rows, model.begin(batch))
        for exit_index in range(1, model.num_exits):
            work_off(exit_index, size)
    for exit_index in range(1, model.num_exits):
        work_off(exit_index, 1)


def _all_of(rows: Tensor, features: Tensor) -> _Waiting:
    return rows, features, torch.arange(len(rows), device=rows.device)


def _gathered(waiting: Sequence[_Waiting]) -> tuple[Tensor, Tensor]:
    """Images by number and their features, copied once and in their memory order."""
    rows = torch.cat([some for some, _, _ in waiting])
    _, first, chosen = waiting[0]
    if len(waiting) == 1 and len(chosen) == len(first):
        return rows, first
    # Images whose channels lie last in memory are copied five times faster if channels are last in the shape as well.
    moved = first.dim() == 4 and first.is_contiguous(memory_format=torch.channels_last)
    sources = [features.permute(0, 2, 3, 1) if moved else features for _, features, _ in waiting]
    gathered = sources[0].new_empty(len(rows), *sources[0].shape[1:])
    parts = gathered.split([len(some) for some, _, _ in waiting])
    for part, features, (_, _, chosen) in zip(parts, sources, waiting, strict=True):
        torch.index_select(features, 0, chosen, out=part)
    return rows, gathered.permute(0, 3, 1, 2) if moved else gathered
