"""The epsilon ladder: the smallest radius at which an attack succeeds, image by image."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from core.attacks.run import AttackProgress, attack
from core.attacks.spec import AttackSpec
from core.attacks.success import SUCCESS_RULES
from core.errors import ExitLensError
from core.exits import ExitPolicy
from core.metrics import rate
from core.models import ExitModel
from core.models.prepared import prepared
from core.progress import CancelToken
from core.tables import LADDER, LADDER_STEPS, fooled_columns

EPSILONS = tuple(numerator / 255 for numerator in (0.25, 0.5, 1, 2, 4, 8, 16))
L2_EPSILONS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)


def rungs_of(spec: AttackSpec) -> tuple[float, ...]:
    """The radii that an attack is tried at, rising, each in the unit of its own ball."""
    return EPSILONS if spec.norm == "linf" else L2_EPSILONS


def climb_ladder(
    model: ExitModel,
    images: Tensor,
    labels: Tensor,
    spec: AttackSpec,
    policy: ExitPolicy,
    image_ids: Sequence[str],
    *,
    epsilons: Sequence[float] | None = None,
    on_progress: Callable[[AttackProgress], None] | None = None,
    cancel: CancelToken | None = None,
) -> pd.DataFrame:
    """Attacks each image at rising radii until it succumbs.

    Every rung is the same attack made anew, its step as long a part of the radius as in ``spec``. An image that
    has succumbed is attacked no further: the smallest radius is what is asked.

    Args:
        model: Any exit model, frozen and in eval mode.
        images: (N, 3, H, W) in [0, 1].
        labels: True classes, (N,).
        spec: The attack; its own epsilon only sets the length of a step.
        policy: In force while attacking.
        image_ids: One per image.
        epsilons: The rungs, rising, in pixels of [0, 1]; those of its ball without.
        on_progress: Called after each step with the progress over all rungs, as if none were spared.
        cancel: Checked after each step.

    Returns:
        One row per image: schema ``LADDER``.

    Raises:
        ExitLensError: If the rungs do not rise from above 0, or images, spec and model do not fit.
        Cancelled: Once ``cancel`` is set.
    """
    epsilons = rungs_of(spec) if epsilons is None else epsilons
    if not epsilons or list(epsilons) != sorted(set(epsilons)) or epsilons[0] <= 0 or not spec.epsilon:
        raise ExitLensError(f"The rungs {list(epsilons)} must rise from above 0, and so must the attack's epsilon.")
    smallest = np.full(len(images), np.nan)
    rows = torch.arange(len(images))
    attackable = torch.zeros(len(images), dtype=torch.bool)
    for rung, epsilon in enumerate(epsilons):

        def over_all(progress: AttackProgress, done: int = rung) -> None:
            if on_progress:
                on_progress(replace(progress, share=(done + progress.share) / len(epsilons)))

        at_rung = spec.at_epsilon(epsilon)
        result = attack(
            model,
            images[rows],
            labels[rows],
            at_rung,
            policy,
            search=prepared(model, spec.search_precision),
            watch="nothing",
            on_progress=over_all,
            cancel=cancel,
        )
        rule, case = SUCCESS_RULES[spec.success_rule], result.case(policy)
        if not rung:
            attackable = rule.attackable(case)
        fallen = rule.succeeded(case) & attackable[rows]
        smallest[rows[fallen].numpy()] = epsilon
        rows = rows[attackable[rows] & ~fallen]
        if not len(rows):
            break
    return LADDER.check(
        pd.DataFrame(
            {
                "image_id": list(image_ids),
                "attack": spec.name,
                "success_rule": spec.success_rule,
                "attackable": attackable.numpy(),
                "smallest_epsilon": smallest,
                "largest_tried": float(epsilons[-1]),
            }
        )
    )


def ladder_steps(ladder: pd.DataFrame, epsilons: Sequence[float] = EPSILONS) -> pd.DataFrame:
    """How many attackable images succumb within each radius: schema ``LADDER_STEPS``."""
    attackable = ladder[ladder.attackable]
    rows = []
    for epsilon in epsilons:
        share = rate(int((attackable.smallest_epsilon <= epsilon).sum()), len(attackable))
        rows.append({"epsilon": float(epsilon), **fooled_columns(share)})
    return LADDER_STEPS.check(pd.DataFrame(rows))


def median_epsilon(ladder: pd.DataFrame) -> float:
    """The smallest radius tried within which half of the attackable images or more succumb; NaN where none is.

    Images that hold at every radius count: the median of those that succumb would say less than it takes.
    """
    smallest = ladder.smallest_epsilon[ladder.attackable].sort_values(na_position="last")
    return float(smallest.iloc[(len(smallest) - 1) // 2]) if len(smallest) else float("nan")
