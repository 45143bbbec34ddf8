"""A study in brief: for every attack, source, target and policy, how many images were fooled and what they cost."""

from pathlib import Path

import numpy as np
import pandas as pd

from core.metrics import NORMAL_QUANTILE, rate
from core.study.cells import policy_text
from core.study.store import Study, connect, read_study
from core.study.strengths import strengths
from core.tables import TableSchema, fooled_columns

SUMMARY = TableSchema(
    "summary",
    "one attack on one source, shown to one target under one policy",
    {
        "images": "text",
        "source": "text",
        "target": "text",
        "attack_name": "text",
        "attack": "text",
        "epsilon": "number",
        "strength": "text",
        "objective": "text",
        "seed": "whole",
        "stop_when_fooled": "truth",
        "policy": "text",
        "threshold": "number",
        "made_at": "number",
        "made_under": "text",
        "made_anew": "truth",
        "success_rule": "text",
        "num_fooled": "whole",
        "num_images": "whole",
        "rate": "number",
        "low": "number",
        "high": "number",
        "num_all": "whole",
        "clean_accuracy": "number",
        "adversarial_accuracy": "number",
        "clean_cost": "number",
        "adversarial_cost": "number",
        "cost_change_low": "number",
        "cost_change_high": "number",
        "num_earlier": "whole",
        "num_same": "whole",
        "num_later": "whole",
    },
)

_QUERY = """
with at_source as (
    select cell, image_id, policy, attackable as source_attackable from decisions where source = target
),
made as (
    select cell, made_at_json from cells
)
select images, source, target, attack_name, attack, epsilon, objective, seed, stop_when_fooled, policy,
    any_value(threshold) as threshold, made_at, any_value(made_anew) as made_anew,
    any_value(success_rule) as success_rule,
    made_at_json,
    count(*) filter (attackable and source_attackable and succeeded) as num_fooled,
    count(*) filter (attackable and source_attackable) as num_images,
    count(*) as num_all,
    avg((clean_prediction = label)::int) as clean_accuracy,
    avg((adversarial_prediction = label)::int) as adversarial_accuracy,
    avg(clean_cost) as clean_cost, avg(adversarial_cost) as adversarial_cost,
    coalesce(stddev_samp(adversarial_cost - clean_cost), 0) as deviation,
    count(*) filter (exit_shift < 0) as num_earlier,
    count(*) filter (exit_shift = 0) as num_same,
    count(*) filter (exit_shift > 0) as num_later,
from decisions join at_source using (cell, image_id, policy) join made using (cell)
group by images, source, target, attack_name, attack, epsilon, objective, seed, stop_when_fooled, policy, made_at,
    made_at_json
order by images, attack_name, stop_when_fooled, epsilon, source, objective, seed, made_at, target, policy
"""


def summary_table(folder: Path) -> pd.DataFrame:
    """All of a study in brief: schema ``SUMMARY``.

    The rate is over images that are attackable at the source by the rule of the attack and at the target by its own
    (mostly: answered rightly when clean by both); its interval is Wilson's. Accuracies and costs are over all
    images; the interval of the change in mean cost is the normal one of paired differences. Everything at 95 %.
    ``strength`` is how far the attack may go, in words, and ``made_under`` the policy in force while attacking, by
    its name in the study.

    Args:
        folder: Of the study.
    """
    rows = connect(folder).execute(_QUERY).df()
    names = policy_names(read_study(folder))
    rows = rows.assign(
        strength=rows.attack.map(strengths(folder)).astype("str"),
        made_under=pd.Series(
            [names[made] for made in zip(rows.source, rows.pop("made_at_json"), strict=True)],
            index=rows.index, dtype="str",
        ),
    )  # fmt: skip
    rows = rows.sort_values(["images", "attack_name", "stop_when_fooled", "epsilon", "strength"], kind="stable")
    rows = rows.reset_index(drop=True)
    shares = [rate(int(hits), int(among)) for hits, among in zip(rows.num_fooled, rows.num_images, strict=True)]
    change = rows.adversarial_cost - rows.clean_cost
    half = NORMAL_QUANTILE * rows.deviation / np.sqrt(rows.num_all.clip(lower=1))
    rows = rows.drop(columns="deviation").assign(
        **pd.DataFrame([fooled_columns(share) for share in shares], columns=["rate", "low", "high"], dtype="float64"),
        cost_change_low=change - half,
        cost_change_high=change + half,
    )
    return SUMMARY.check(rows)


def policy_names(study: Study) -> dict[tuple[str, str], str]:
    """Name of the first of a study's policies that is the same on a model, by model and policy as the cells have it."""
    names: dict[tuple[str, str], str] = {}
    for model in study.models:
        for choice, policy in zip(study.spec.policies, model.policies, strict=True):
            names.setdefault((model.name, policy_text(policy)), choice.name)
    return names


def summary_rows(
    table: pd.DataFrame, policy: str, *, attack_name: str = "", strength: str = "", objective: str | None = "taken"
) -> pd.DataFrame:
    """The rows of one setting: attacks made anew where there are some, else fixed examples; none that stop when fooled.

    Of several seeds of a random start the first counts.

    Args:
        table: Schema ``SUMMARY``.
        policy: By its name.
        attack_name: A preset; all without.
        strength: How far it may go, in words; all without.
        objective: Of early-exit sources; a static one's only objective always counts. None for all.
    """
    chosen = (table.policy == policy) & ~table.stop_when_fooled
    if objective is not None:
        chosen &= _aims_at(table, objective)
    chosen &= (table.attack_name == attack_name) | (not attack_name)
    chosen &= (table.strength == strength) | (not strength)
    rows = table[chosen]
    rows = rows[rows.seed == rows.groupby(["attack_name", "strength"]).seed.transform("min")]
    return rows[rows.made_anew] if rows.made_anew.any() and rows.made_under.nunique() > 1 else rows


def _aims_at(table: pd.DataFrame, objective: str) -> "pd.Series[bool]":
    # A static source has one objective, which is called final; a corruption has none on any.
    only_final = table.groupby(["source", "attack_name"]).objective.transform(lambda aims: set(aims) == {"final"})
    return (table.objective == objective) | only_final.astype(bool)
