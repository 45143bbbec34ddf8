"""How much attribution maps agree: rank correlation of all pixels, and overlap of the strongest ones."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

TOP_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Agreement:
    """How much each of E maps of an image agrees with each of F others.

    Attributes:
        rank_correlation: (N, E, F) in [-1, 1]; NaN where one of the two maps has one value everywhere, or any that is
            not finite.
        overlap: (N, E, F) in [0, 1], share of the strongest pixels that both have; two unrelated maps share
            ``TOP_SHARE`` of them by chance. A map of fewer pixels that are not zero has fewer to share, with itself
            too. NaN where ``rank_correlation`` is.
    """

    rank_correlation: Tensor
    overlap: Tensor


def agreement(first: Tensor, second: Tensor) -> Agreement:
    """Compares every map of an image with every other map of it.

    Args:
        first: (N, E, H, W), signed.
        second: (N, F, H, W), signed.

    Source: rank correlation and the intersection of the top pixels as in Ghorbani et al., Interpretation of Neural
    Networks Is Fragile, AAAI 2019, section 4; theirs takes the 1000 strongest pixels, here it is a share of them.
    """
    first, second = _comparable(first.flatten(2)), _comparable(second.flatten(2))
    ranks, others = _directions(_ranks(first)), _directions(_ranks(second))
    top, other_top = _strongest(first), _strongest(second)
    return Agreement(
        torch.einsum("nep,nfp->nef", ranks, others).clamp(-1, 1),
        torch.einsum("nep,nfp->nef", top, other_top) / math.ceil(TOP_SHARE * first.shape[2]),
    )


def _comparable(values: Tensor) -> Tensor:
    """Values of maps, (..., P), all NaN in those that nothing can be compared with."""
    is_known = torch.isfinite(values).all(dim=-1, keepdim=True) & (values != values[..., :1]).any(dim=-1, keepdim=True)
    return torch.where(is_known, values, torch.nan)


def _ranks(values: Tensor) -> Tensor:
    """Rank of each pixel among those of its map, equal ones sharing their mean rank, (..., P) from (..., P)."""
    # Written out: importing scipy.stats for it would take a second. A test compares the two.
    values = values.double().contiguous()
    ordered = values.sort(dim=-1).values
    below, up_to = (torch.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return torch.where(values.isnan(), torch.nan, (below + up_to + 1).double() / 2)


def _directions(ranks: Tensor) -> Tensor:
    centred = ranks - ranks.mean(dim=-1, keepdim=True)
    length: Tensor = centred.norm(dim=-1, keepdim=True)
    return centred / length


def _strongest(values: Tensor) -> Tensor:
    """1 at the ``TOP_SHARE`` of pixels that are largest in size, else 0; of equal ones the first, and none of zero."""
    order = values.abs().argsort(dim=-1, descending=True, stable=True)
    marked = torch.zeros_like(values, dtype=torch.float64)
    marked.scatter_(-1, order[..., : math.ceil(TOP_SHARE * values.shape[-1])], 1.0)
    marked = marked * (values != 0)  # or two maps of few pixels would share the zeros that fill them up
    return torch.where(values.isnan(), torch.nan, marked)
