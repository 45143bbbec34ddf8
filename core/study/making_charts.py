"""What making an example takes as charts: its cost, the exits it went through, and what stopping at success does."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd

from core.attacks.spec import AIM_WORDS
from core.figures.making import made_exits_figure, making_figure, stopping_figure
from core.figures.theme import exit_names
from core.models import ARCHITECTURES
from core.study.charts import (
    Chart,
    Setting,
    attack_titles,
    attack_words,
    images_words,
    labels_of,
    n_words,
    records,
)
from core.study.making import Making
from core.study.spec import policy_words
from core.study.store import Study

MANY = 12  # rows of a chart; of more, those of the chosen attack are drawn
_SAME = ["images", "source", "target", "attack_name", "epsilon", "strength", "objective", "seed", "policy"]
_CHANGE = ["change", "cost_change_low", "cost_change_high", "num_all", "num_fooled", "num_images"]


def making_charts(study: Study, making: Making, setting: Setting) -> Iterator[Chart]:
    """What an example takes on either kind of model, and for each early-exit source the exits that passes went through.

    Args:
        study: Whose tables they are.
        making: Its tables.
        setting: Which rows; costs are drawn of all attacks where they are few.
    """
    yield from _costs(study, making.costs, setting)
    yield from _exits(study, making.exits, setting)


def _chosen(rows: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """Of a data set and objective, made under the policy or else under the first; the first seed."""
    if rows.empty:
        return rows
    policy = setting.policy if setting.policy in set(rows.policy) else rows.policy.iloc[0]
    rows = rows[(rows.images == setting.images) & (rows.policy == policy)]
    return rows[rows.seed == rows.groupby(["attack_name", "strength"]).seed.transform("min")]


def _costs(study: Study, costs: pd.DataFrame, setting: Setting) -> Iterator[Chart]:
    rows = _chosen(costs, setting)
    if rows.empty:
        return
    rows = rows[(rows.objective == setting.objective) | (rows.kind == "static")]
    rows = rows[rows.architecture.isin(rows[rows.kind == "early-exit"].architecture)]
    if rows.groupby(["attack_name", "strength", "architecture"]).ngroups > MANY:
        rows = rows[rows.attack_name == setting.attack_name]
    if rows.empty:
        return
    labels = labels_of(study)
    rows = _in_order(study, rows).assign(
        label=rows.source.map(labels),
        words=_texts(rows, [_row_words(study, row, rows, setting) for row in records(rows)]),
        told=_texts(rows, [_cost_words(row, labels) for row in records(rows)]),
    )
    shown = " Right: all passes made, as the images shown are those after the last step, over the examples that fool "
    shown += "the static model of the same architecture (itself, where they were made on it)."
    yield Chart(
        "making",
        "What making an example takes",
        making_figure(rows),
        "Gradient passes that an example takes. "
        + "; ".join(f"{row['words']}, {row['told']}" for row in records(rows))
        + ".",
        "Multiply-adds of forward and backward passes, 1 = one gradient pass of the static model. Until first wrong: "
        "mean over images that all models of a row answer rightly at the start; those that never are wrong count with "
        f"all steps.{shown if rows.useful_cost.notna().any() else ''} "
        f"Aimed {_aim(setting)} on early-exit models · made under {policy_words(rows.policy.iloc[0])} · "
        f"{images_words(study, setting)} · {n_words(rows.num_images)} · 95 % intervals.",
        rows.drop(columns=["label", "words", "told"]),
    )


def _exits(study: Study, exits: pd.DataFrame, setting: Setting) -> Iterator[Chart]:
    rows = _chosen(exits, setting)
    if rows.empty:
        return
    rows = rows[(rows.attack_name == setting.attack_name) & (rows.strength == setting.strength)]
    for source, own in rows[rows.objective == setting.objective].groupby("source", sort=False):
        label, first = labels_of(study)[str(source)], own.iloc[0]
        names = exit_names(len(own))
        yield Chart(
            f"made-exits-{source}",
            f"Where images were about to leave while made: {label}, {attack_words(study, setting)}",
            made_exits_figure(own),
            "Share of gradient passes by exit. "
            + "; ".join(
                f"{name}: {100 * row['share']:.0f} % of all, {100 * row['needed_share']:.0f} % until first wrong"
                for name, row in zip(names, records(own), strict=True)
            )
            + ".",
            f"Of {first.num_all_passes:,} gradient passes, {first.num_all_needed:,} of them before an image was first "
            f"wrong, by the exit that the image was about to leave at. {attack_words(study, setting)}, aimed "
            f"{_aim(setting)} · made under {policy_words(first.policy)} · {images_words(study, setting)} · "
            f"n = {first.num_images:,} · 95 % intervals over images.",
            own,
        )


def stopping_charts(study: Study, summary: pd.DataFrame, setting: Setting) -> Iterator[Chart]:
    """What it does to the cost of an early-exit target that an attack stops once it fools its source.

    Args:
        study: Whose table it is.
        summary: Schema ``SUMMARY``.
        setting: Which policy, images and objective; all attacks that a study has both ways are drawn.
    """
    kinds = {model.name: model.kind for model in study.models}
    chosen = (summary.policy == setting.policy) & (summary.images == setting.images)
    chosen &= summary.target.map(kinds) == "early-exit"
    chosen &= (summary.objective == setting.objective) | (summary.source.map(kinds) == "static")
    both = _in_order(study, _both_ways(summary[chosen]))
    labels = labels_of(study)
    for target, own in both.groupby("target", sort=False):
        rows = own if len(own) <= MANY else own[own.attack_name == setting.attack_name]
        if rows.empty:
            continue
        texts = [_stop_words(study, row, labels, setting) for row in records(rows)]
        yield Chart(
            f"stopping-{target}",
            f"Stopping when fooled: what {labels[str(target)]} computes",
            stopping_figure(rows.assign(words=_texts(rows, texts))),
            "Change in mean cost. "
            + "; ".join(
                f"{text}: {100 * row['running']:+.1f} % running on, {100 * row['stopping']:+.1f} % stopped"
                for text, row in zip(texts, records(rows), strict=True)
            )
            + ".",
            "Mean cost of attacked minus clean images, all of them, in points of the whole network's multiply-adds: "
            "above 0 they leave later. Filled: the attack makes all its steps; hollow: it leaves an image alone once "
            f"its source is fooled. {policy_words(setting.policy)} · {images_words(study, setting)} · "
            f"{n_words(rows.num_all_running)} · 95 % intervals.",
            rows,
        )


def _both_ways(summary: pd.DataFrame) -> pd.DataFrame:
    """Attacks that a study has running on and stopping, one row each; made under the policy where there are some."""
    rows = summary.assign(change=summary.adversarial_cost - summary.clean_cost)
    rows = rows.sort_values("made_anew", ascending=False, kind="stable")
    runs, stops = (
        rows[rows.stop_when_fooled == stopped].drop_duplicates(_SAME).set_index(_SAME)[_CHANGE]
        for stopped in (False, True)
    )
    both = runs.merge(stops, left_index=True, right_index=True, suffixes=("_running", "_stopping")).reset_index()
    both = both[both.seed == both.groupby(["attack_name", "strength"]).seed.transform("min")]
    return both.rename(
        columns={
            f"{old}_{way}": f"{way}{new}"
            for way in ("running", "stopping")
            for old, new in (("change", ""), ("cost_change_low", "_low"), ("cost_change_high", "_high"))
        }
    )


def _in_order(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """Attacks in the study's order and each from its weakest on, then models in the study's order, twins together."""
    attacks, models = list(attack_titles(study)), [model.name for model in study.models]
    architectures = list(dict.fromkeys(model.architecture for model in study.models))
    places = pd.DataFrame(
        {
            "attack": rows.attack_name.map(attacks.index),
            "epsilon": rows.epsilon,
            "strength": rows.strength,
            "architecture": rows.source.map(
                {model.name: architectures.index(model.architecture) for model in study.models}
            ),
            "model": rows.source.map(models.index),
        }
    )
    return rows.loc[places.sort_values(list(places.columns), kind="stable").index]


def _row_words(study: Study, row: dict[str, Any], rows: pd.DataFrame, setting: Setting) -> str:
    words = _attack_of(study, row, setting)
    if rows.architecture.nunique() > 1:
        known = ARCHITECTURES.get(row["architecture"])
        words = f"{known.label if known else row['architecture']}, {words}"
    return words


def _stop_words(study: Study, row: dict[str, Any], labels: dict[str, str], setting: Setting) -> str:
    made_on = "itself" if row["source"] == row["target"] else labels[row["source"]]
    return f"{_attack_of(study, row, setting)}, made on {made_on}"


def _attack_of(study: Study, row: dict[str, Any], setting: Setting) -> str:
    return attack_words(study, replace(setting, attack_name=row["attack_name"], strength=row["strength"]))


def _cost_words(row: dict[str, Any], labels: dict[str, str]) -> str:
    words = f"{labels[row['source']]}: {_passes(row, 'making_cost')} until first wrong"
    words += f" ({row['num_made']:,} of {row['num_images']:,} within {_steps(row['num_steps'])})"
    if pd.notna(row["useful_cost"]):
        words += f", {_passes(row, 'useful_cost')} per example that fools the static model"
        words += f" ({row['num_useful']:,} of {row['num_shown']:,} do)"
    return words


def _passes(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.2f} passes ({row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f})"


def _aim(setting: Setting) -> str:
    return AIM_WORDS.get(setting.objective, f"at {setting.objective}")


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _texts(rows: pd.DataFrame, texts: list[str]) -> "pd.Series[str]":
    return pd.Series(texts, index=rows.index, dtype="str")
