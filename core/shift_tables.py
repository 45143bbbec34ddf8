"""Tables about exit shift: who moved where, what it costs, and which exits an attack passed through."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from core.attacks.run import AttackResult
from core.metrics import eec_floor, eec_trapezoid, exit_shares, mean_change, mean_saving, rate
from core.tables import TableSchema

STATES = ("clean", "adversarial")
_SHARE = {"num_images": "whole", "num_all": "whole", "share": "number", "low": "number", "high": "number"}

EXIT_FLOW = TableSchema(
    "exit_flow",
    "the images that leave at one exit when clean and at one exit when attacked, of those that leave there when clean",
    {"clean_exit": "whole", "adversarial_exit": "whole", **_SHARE},
)
EFFICIENCY = TableSchema(
    "efficiency",
    "all images, those on which the attack succeeded or the rest: their cost and right answers, clean and adversarial",
    {
        "group": "text",
        "num_images": "whole",
        **{
            f"{state}_{column}": kind
            for state in STATES
            for column, kind in {
                "num_right": "whole",
                "accuracy": "number",
                "low": "number",
                "high": "number",
                "mean_cost": "number",
                "mean_saving": "number",
                "eec_trapezoid": "number",
            }.items()
        },
        "eec_floor": "number",
        "cost_change": "number",
        "cost_change_low": "number",
        "cost_change_high": "number",
    },
)
SHARE_OUT = TableSchema(
    "share_out",
    "one exit of clean or adversarial images: how many have left by then",
    {"state": "text", "exit_index": "whole", "cost": "number", **_SHARE},
)
EXITS_MADE_AT = TableSchema(
    "exits_made_at",
    "one exit at one step of an attack: how many images were about to leave there; step 0 is the start",
    {"step": "whole", "exit_index": "whole", **_SHARE},
)


def shift_groups(decisions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """All images, those on which the attack ``succeeded`` (and that were attackable), and the others.

    Groups without an image are left out. What "succeeded" means is for the success rule to say.

    Args:
        decisions: Rows of one source and one target (schema ``DECISIONS``).
    """
    succeeded = decisions.attackable & decisions.succeeded
    groups = {"all": decisions, "succeeded": decisions[succeeded], "not succeeded": decisions[~succeeded]}
    return {name: rows for name, rows in groups.items() if len(rows)}


def exit_flow_table(decisions: pd.DataFrame, num_exits: int) -> pd.DataFrame:
    """How many images go from each exit to each exit once attacked, K * K rows: schema ``EXIT_FLOW``.

    Args:
        decisions: Rows of one source and one target (schema ``DECISIONS``).
        num_exits: K of the target.
    """
    cells = np.bincount(
        decisions.clean_computed_exit * num_exits + decisions.adversarial_computed_exit, minlength=num_exits**2
    )
    totals = cells.reshape(num_exits, num_exits).sum(axis=1).tolist()
    rows = [
        (*divmod(cell, num_exits), *_share(count, totals[cell // num_exits]))
        for cell, count in enumerate(cells.tolist())
    ]
    return EXIT_FLOW.check(pd.DataFrame(rows, columns=list(EXIT_FLOW.columns)))


def efficiency_table(decisions: pd.DataFrame, exit_costs: Sequence[float]) -> pd.DataFrame:
    """Cost and accuracy of each of the ``shift_groups``, clean and adversarial: schema ``EFFICIENCY``.

    Args:
        decisions: Rows of one source and one target (schema ``DECISIONS``).
        exit_costs: Of the target.
    """
    table = []
    for group, rows in shift_groups(decisions).items():
        cost = {state: torch.from_numpy(rows[f"{state}_cost"].to_numpy(copy=True)) for state in STATES}
        change = mean_change(cost["clean"], cost["adversarial"])
        row: dict[str, object] = {"group": group, "num_images": len(rows)}
        for state in STATES:
            right = rate(int((rows[f"{state}_prediction"] == rows.label).sum()), len(rows))
            computed_exit = torch.from_numpy(rows[f"{state}_computed_exit"].to_numpy(copy=True))
            row |= {
                f"{state}_num_right": right.num_hits,
                f"{state}_accuracy": right.value,
                f"{state}_low": right.low,
                f"{state}_high": right.high,
                f"{state}_mean_cost": cost[state].mean().item(),
                f"{state}_mean_saving": mean_saving(computed_exit, exit_costs),
                f"{state}_eec_trapezoid": eec_trapezoid(computed_exit, exit_costs),
            }
        row |= {"eec_floor": eec_floor(exit_costs), "cost_change": change.value}
        table.append(row | {"cost_change_low": change.low, "cost_change_high": change.high})
    return EFFICIENCY.check(pd.DataFrame(table))


def share_out_table(decisions: pd.DataFrame, exit_costs: Sequence[float]) -> pd.DataFrame:
    """How many images have left by each exit, clean and adversarial: schema ``SHARE_OUT``.

    Args:
        decisions: Rows of one source and one target (schema ``DECISIONS``).
        exit_costs: Of the target.
    """
    rows = []
    for state in STATES:
        out = np.bincount(decisions[f"{state}_computed_exit"], minlength=len(exit_costs)).cumsum().tolist()
        rows += [
            (state, exit_index, cost, *_share(out[exit_index], len(decisions)))
            for exit_index, cost in enumerate(exit_costs)
        ]
    return SHARE_OUT.check(pd.DataFrame(rows, columns=list(SHARE_OUT.columns)))


def exits_made_at_table(result: AttackResult) -> pd.DataFrame:
    """Where images were about to leave at each step, under the policy of the attack: schema ``EXITS_MADE_AT``."""
    num_exits, num_images = result.clean_logits.shape[1], len(result.labels)
    rows = []
    for number, step in enumerate(result.steps):
        counts = [round(share * num_images) for share in exit_shares(step.exit_taken, num_exits)]
        rows += [(number, exit_index, *_share(count, num_images)) for exit_index, count in enumerate(counts)]
    return EXITS_MADE_AT.check(pd.DataFrame(rows, columns=list(EXITS_MADE_AT.columns)))


def _share(count: int, num_all: int) -> tuple[int, int, float, float, float]:
    share = rate(count, num_all)
    return count, num_all, share.value, share.low, share.high
