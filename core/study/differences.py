"""Two studies side by side: what they ask differently, and which of their rows differ."""

import numpy as np
import pandas as pd

from core.study.spec import AttackChoice
from core.study.store import Study

_SAME = [
    "images", "source", "target", "attack", "objective", "seed", "stop_when_fooled", "policy", "made_under",
]  # fmt: skip
# Fields of a spec that are told as they are; attacks, policies and images are told entry by entry.
_ASKED = (
    "sources", "targets", "seeds", "made_anew", "record_steps", "placements", "surrogates", "batch_size", "num_threads",
    "precision", "images_per_cell",
)  # fmt: skip
_SHOWN = ["num_fooled", "num_images", "rate", "low", "high", "adversarial_accuracy", "adversarial_cost"]


def spec_differences(one: Study, other: Study) -> list[str]:
    """What the two ask differently or were run on, a sentence each; empty where nothing differs."""
    lines = []
    models, others = ({model.name: model.hash for model in study.models} for study in (one, other))
    for here, there, words in ((models, others, "only here"), (others, models, "only there")):
        if missing := sorted(set(here) - set(there)):
            lines.append(f"Models {words}: {', '.join(missing)}")
    if changed := sorted(name for name in models if others.get(name, models[name]) != models[name]):
        lines.append(f"Trained again in between: {', '.join(changed)}")
    attacks, more = ([_attack_words(choice) for choice in study.spec.attacks] for study in (one, other))
    policies, rest = ([policy.name for policy in study.spec.policies] for study in (one, other))
    for what, here_list, there_list in (("Attacks", attacks, more), ("Policies", policies, rest)):
        for first, second, words in ((here_list, there_list, "only here"), (there_list, here_list, "only there")):
            if missing := [name for name in dict.fromkeys(first) if name not in second]:
                lines.append(f"{what} {words}: {'; '.join(missing)}")
    if one.num_images != other.num_images:
        lines.append(f"Images: {_counts(one)} here, {_counts(other)} there")
    for field in _ASKED:
        here, there = (getattr(study.spec, field) for study in (one, other))
        if here != there:
            lines.append(f"{field.replace('_', ' ').capitalize()}: {_words(here)} here, {_words(there)} there")
    return lines


def _words(value: object) -> str:
    """What a field asks, in words; choices by their names."""
    if not isinstance(value, tuple):
        return str(value)
    return ", ".join(str(getattr(each, "name", each)) for each in value) or "none"


def _attack_words(choice: AttackChoice) -> str:
    return choice.spec.label + (", at each exit" if choice.each_exit else "")


def _counts(study: Study) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in study.num_images.items())


def summary_differences(one: pd.DataFrame, other: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Rows that both have and that are not the same, the widest apart first.

    Args:
        one: Schema ``SUMMARY``.
        other: Another.

    Returns:
        What identifies a row, its numbers here and (``other_``) there, the ``difference`` in rate, and whether the
        two intervals lie ``apart``; and how many rows both have.
    """
    kept = [*_SAME, *_SHOWN]
    both = one[kept].merge(other[kept], on=_SAME, suffixes=("", "_there"))
    both = both.rename(columns={f"{name}_there": f"other_{name}" for name in _SHOWN})
    # A rate of no image is NaN on both sides, and so the same.
    same = [
        both[name].eq(both[f"other_{name}"]) | (both[name].isna() & both[f"other_{name}"].isna()) for name in _SHOWN
    ]
    rows: pd.DataFrame = both.loc[~np.logical_and.reduce(same)]
    apart = (rows.low > rows.other_high) | (rows.high < rows.other_low)
    rows = rows.assign(difference=rows.rate - rows.other_rate, apart=apart)
    rows = rows.sort_values("difference", key=lambda column: column.abs(), ascending=False).reset_index(drop=True)
    return rows, len(both)
