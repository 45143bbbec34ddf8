"""Browsing kept examples: filters, orders, addresses, and which of their pictures are on this machine."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from core.attacks.common import Norm, norm_of
from core.data import ImageSet
from core.errors import ExitLensError
from core.examples import KeptExample

Shift = Literal["earlier", "same", "later"]
Fooled = int | Literal["every", "source"]
# Column and whether small values come first.
ORDERS = {
    "most models fooled": ("num_fooled", False),
    "newest": ("kept_at", False),
    "leaves earlier by most": ("exit_shift", True),
    "leaves later by most": ("exit_shift", False),
    "surest answer": ("adversarial_confidence", False),
    "smallest epsilon": ("epsilon", True),
}


@dataclass(frozen=True)
class KeptFilter:
    """Which kept examples are wanted; a field left alone lets all through.

    Attributes:
        source: Made on this model.
        attack_name: By this attack, such as ``pgd``.
        epsilon: Within this radius, in pixels of [0, 1].
        norm: Of the radius.
        class_name: Of this true class.
        success_rule: With this rule fulfilled.
        shift: Leaving ``earlier`` than the clean image, at the ``same`` exit, or ``later``.
        fooled: At least so many models fooled, ``every`` one that it was shown to, or the ``source`` alone.
        survives_rounding: Whether the attack's own rule also holds once pixels are rounded to 8 bits.
    """

    source: str | None = None
    attack_name: str | None = None
    epsilon: float | None = None
    norm: Norm | None = None
    class_name: str | None = None
    success_rule: str | None = None
    shift: Shift | None = None
    fooled: Fooled | None = None
    survives_rounding: bool | None = None


def distinct_examples(examples: pd.DataFrame) -> pd.DataFrame:
    """Each example once (schema ``KEPT``), from the run that showed it to the most models, in its order."""
    widest = examples.sort_values("num_shown", ascending=False, kind="stable").drop_duplicates("example")
    return widest.sort_index()


def filter_examples(examples: pd.DataFrame, wanted: KeptFilter) -> pd.DataFrame:
    """The rows (schema ``KEPT``, further columns allowed) that a filter lets through, in their order."""
    keep = np.ones(len(examples), dtype=bool)
    for column in ("source", "attack_name", "class_name", "survives_rounding"):
        value = getattr(wanted, column)
        if value is not None:
            keep &= (examples[column] == value).to_numpy()
    if wanted.epsilon is not None:
        keep &= np.isclose(examples.epsilon, wanted.epsilon, rtol=1e-4)
    if wanted.norm is not None:
        keep &= (examples.attack_name.map(norm_of) == wanted.norm).to_numpy()
    if wanted.success_rule is not None:
        keep &= examples[wanted.success_rule].to_numpy()
    if wanted.shift is not None:
        keep &= (np.sign(examples.exit_shift) == {"earlier": -1, "same": 0, "later": 1}[wanted.shift]).to_numpy()
    if wanted.fooled == "every":
        keep &= (examples.num_fooled == examples.num_shown).to_numpy()
    elif wanted.fooled == "source":
        keep &= (examples.fooled == examples.source).to_numpy()
    elif wanted.fooled is not None:
        keep &= (examples.num_fooled >= wanted.fooled).to_numpy()
    return examples[keep]


def sort_examples(examples: pd.DataFrame, order: str) -> pd.DataFrame:
    """Examples in one of ``ORDERS``, those whose picture is here (column ``is_here``) before all others."""
    column, ascending = ORDERS[order]
    return examples.sort_values(["is_here", column], ascending=[False, ascending], kind="stable")


def find_pictures(examples: pd.DataFrame, image_sets: Iterable[ImageSet]) -> dict[tuple[str, str], tuple[str, int]]:
    """Where the pictures of examples lie on this machine.

    Args:
        examples: Schema ``KEPT``.
        image_sets: To look in; the first that holds a picture counts.

    Returns:
        Image id and pixel hash to the image set's name and its row. A picture of other pixels is none.
    """
    wanted = set(zip(examples.image_id, examples.pixel_hash, strict=True))
    found: dict[tuple[str, str], tuple[str, int]] = {}
    for image_set in image_sets:
        if wanted <= found.keys():
            break
        identities = zip(image_set.image_ids, image_set.pixel_hashes, strict=True)
        for row, identity in enumerate(identities):
            if identity in wanted and identity not in found:
                found[identity] = (image_set.name, row)
    return found


def address_of(example: KeptExample) -> str:
    """What names an example in a link: ``run:image id:source``."""
    return f"{example.run}:{example.image_id}:{example.source}"


def parse_address(address: str) -> tuple[str, str, str]:
    """Run, image id and source of an example's address.

    Raises:
        ExitLensError: If it is none.
    """
    parts = address.split(":")
    if len(parts) != 3 or not all(parts):
        raise ExitLensError(f"{address!r} names no kept example. Write RUN:IMAGE:MODEL, as the gallery's links do.")
    return parts[0], parts[1], parts[2]
