"""White-box accuracy: what each objective leaves standing, and what their worst case does, image by image."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from core.attacks.objectives import exit_cross_entropies
from core.attacks.run import AttackProgress, attack
from core.attacks.spec import WorstCaseAttack
from core.attacks.worst_case import members
from core.exits import ExitPolicy, decide
from core.metrics import rate_of
from core.models import ExitModel
from core.models.prepared import prepared
from core.progress import CancelToken
from core.tables import TableSchema

WORST, CLEAN, MAX_AVERAGE = "worst case", "clean", "max-average"
WHITE_BOX = TableSchema(
    "white box",
    "one objective, or the worst case over all, and the images that are still answered rightly under it",
    {
        "objective": "text",
        "num_starts": "whole",
        "epsilon": "number",
        "threshold": "number",
        "num_right": "whole",
        "num_images": "whole",
        "accuracy": "number",
        "low": "number",
        "high": "number",
    },
)


@dataclass(frozen=True, eq=False)
class WhiteBox:
    """What came of it.

    Attributes:
        table: Schema ``WHITE_BOX``: clean, every objective, max-average, and the worst case last.
        standing: (N,) whether the policy answers an image rightly, clean and under every attack.
    """

    table: pd.DataFrame
    standing: Tensor


def white_box(
    model: ExitModel,
    images: Tensor,
    labels: Tensor,
    spec: WorstCaseAttack,
    policy: ExitPolicy,
    *,
    on_progress: Callable[[AttackProgress], None] | None = None,
    cancel: CancelToken | None = None,
) -> WhiteBox:
    """Makes every attack of the worst case on all images, so that each objective has its own accuracy.

    The worst case counts an image as right where it is right when clean and under each attack and restart. The
    max-average attack costs nothing more: of the attacks on single exits (same start), it is the one with the
    largest loss summed over exits. The ``attack`` of the same spec finds the same worst case with less work.

    Args:
        model: Any exit model, frozen and in eval mode; only read.
        images: (N, 3, H, W) in [0, 1].
        labels: True classes, (N,).
        spec: Radius, steps and starts; without a goal class.
        policy: In force while attacking and judging.
        on_progress: Called after each step with the progress over all attacks.
        cancel: Checked after each step.

    Raises:
        ExitLensError: If images, labels and model do not fit.
        Cancelled: Once ``cancel`` is set.
    """
    attacks = members(replace(spec, goal_class=None), model.num_exits)
    right: dict[str, Tensor] = {}
    largest: dict[int, Tensor] = {}
    num_starts: dict[str, int] = {}
    for number, (name, member) in enumerate(attacks.items()):

        def over_all(progress: AttackProgress, done: int = number) -> None:
            if on_progress:
                on_progress(replace(progress, share=(done + progress.share) / len(attacks)))

        search = prepared(model, spec.search_precision)
        result = attack(model, images, labels, member, policy, search=search, on_progress=over_all, cancel=cancel)
        objective, _, again = name.partition(", start ")
        answers = decide(result.adversarial_logits, policy).prediction == labels
        right.setdefault(CLEAN, decide(result.clean_logits, policy).prediction == labels)
        right[objective] = right.get(objective, torch.ones_like(answers)) & answers
        num_starts[objective] = num_starts.get(objective, 0) + 1
        if objective == "final" or objective.startswith("exit-"):
            # Summed over exits: the loss by which max-average chooses among the exits' attacks of one start.
            start = int(again or 1)
            loss = exit_cross_entropies(result.adversarial_logits, labels).sum(dim=1)
            best, kept = largest.get(start, torch.full_like(loss, -torch.inf)), right.get(f"{MAX_AVERAGE} {start}")
            kept = answers if kept is None else torch.where(loss > best, answers, kept)
            largest[start], right[f"{MAX_AVERAGE} {start}"] = torch.maximum(best, loss), kept
    chosen = torch.stack([right.pop(f"{MAX_AVERAGE} {start}") for start in largest])
    if model.num_exits > 1:
        right[MAX_AVERAGE], num_starts[MAX_AVERAGE] = chosen.all(dim=0), len(chosen)
    standing = torch.stack(list(right.values())).all(dim=0)
    rows = []
    for objective, answers in (right | {WORST: standing}).items():
        share = rate_of(answers)
        rows.append(
            {
                "objective": objective,
                "num_starts": num_starts.get(objective, 0 if objective == CLEAN else spec.num_restarts),
                "epsilon": 0.0 if objective == CLEAN else spec.epsilon,
                "threshold": float(policy.threshold),
                "num_right": share.num_hits,
                "num_images": share.num_images,
                "accuracy": share.value,
                "low": share.low,
                "high": share.high,
            }
        )
    return WhiteBox(WHITE_BOX.check(pd.DataFrame(rows)), standing)
