"""What a study's tables are drawn as: each chart with its caption and its rows, for the page and for the report."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.attacks.spec import as_255
from core.figures.directions import directions_figure
from core.figures.studies import lines_figure, thresholds_figure
from core.figures.theme import KIND_GLYPHS
from core.figures.transfer import transfer_figure
from core.study.spec import policy_words
from core.study.store import Study
from core.study.summary import summary_rows

FEW = 3  # points that make a line worth drawing


@dataclass(frozen=True, eq=False)
class Chart:
    """A drawn table.

    Attributes:
        key: Short, for files.
        title: What it shows.
        figure: The drawing.
        alt: The same in words.
        caption: Setting, n and interval.
        table: The rows that were drawn.
    """

    key: str
    title: str
    figure: go.Figure
    alt: str
    caption: str
    table: pd.DataFrame


@dataclass(frozen=True)
class Setting:
    """Which rows of a study are drawn.

    Attributes:
        policy: By its name.
        attack_name: A preset.
        epsilon: In pixels of [0, 1], where one chart shows one of several.
        objective: Of early-exit sources.
    """

    policy: str
    attack_name: str
    epsilon: float
    objective: str


@dataclass(frozen=True)
class Offered:
    """What a study's settings can be chosen from, in its own order.

    Attributes:
        policies: By name.
        attack_names: Presets.
        epsilons: In pixels of [0, 1].
        objectives: Of early-exit sources; one at least.
    """

    policies: tuple[str, ...]
    attack_names: tuple[str, ...]
    epsilons: tuple[float, ...]
    objectives: tuple[str, ...]


def offered(study: Study, summary: pd.DataFrame) -> Offered:
    """What there is to choose from.

    Args:
        study: Whose tables they are.
        summary: Schema ``SUMMARY``.
    """
    running = summary[~summary.stop_when_fooled]
    aims = [aim for aim in dict.fromkeys(map(str, running.objective)) if not aim.startswith("exit-")]
    return Offered(
        tuple(policy.name for policy in study.spec.policies),
        tuple(attack_titles(study)),
        tuple(sorted(set(running.epsilon))),
        tuple(sorted(aims, key=lambda aim: _USUAL.index(aim) if aim in _USUAL else len(_USUAL))) or ("taken",),
    )


_USUAL = ("taken", "final", "mean")


def labels_of(study: Study) -> dict[str, str]:
    """Name on screen of every model, its glyph before it."""
    return {model.name: f"{KIND_GLYPHS[model.kind]} {model.label}" for model in study.models}


def charts(study: Study, summary: pd.DataFrame, setting: Setting) -> Iterator[Chart]:
    """The charts that a study's tables are enough for; what was made on surrogates is in ``black_box_charts``.

    Args:
        study: Whose tables they are.
        summary: Schema ``SUMMARY``.
        setting: Which rows.
    """
    summary = summary[~summary.source.isin([model.name for model in study.models if model.surrogate])]
    one_attack = summary_rows(summary, setting.policy, attack_name=setting.attack_name, objective=setting.objective)
    at_epsilon = one_attack[one_attack.epsilon == setting.epsilon]
    yield from _matrix(study, at_epsilon, setting)
    yield from _directions(study, at_epsilon, setting)
    yield from _over_epsilon(study, one_attack, setting)
    yield from _cost_over_epsilon(study, one_attack, setting)
    yield from _by_exit(study, summary, setting)
    yield from _thresholds(study, summary, setting)


def attack_titles(study: Study) -> dict[str, str]:
    """Name on screen of every attack."""
    specs = [choice.spec for choice in study.spec.attacks]
    return {spec.name: spec.title + (" (L2)" if spec.norm == "l2" else "") for spec in specs}


def _attack(study: Study, setting: Setting) -> str:
    return f"{attack_titles(study)[setting.attack_name]} {as_255(setting.epsilon)}"


def _where(study: Study, rows: pd.DataFrame, setting: Setting, *, with_epsilon: bool = True) -> str:
    """Attack, policy, images and n in words, for captions."""
    attack = _attack(study, setting) if with_epsilon else attack_titles(study)[setting.attack_name]
    images = ", ".join(f"{name}, {count:,} images" for name, count in study.num_images.items())
    fewest, most = (f"{count:,}" for count in (int(rows.num_images.min()), int(rows.num_images.max())))
    counted = f"n = {fewest}" if fewest == most else f"n = {fewest} to {most}"
    return f"{attack} · {policy_words(setting.policy)} · {images} · {counted} · 95 % intervals"


def _matrix(study: Study, rows: pd.DataFrame, setting: Setting) -> Iterator[Chart]:
    # Every source is shown its own outcome: targets that were shown nothing else make no column.
    shown = {name for name in rows.target if (rows[rows.target == name].source != name).any()}
    rows = rows[rows.target.isin(shown)]
    if rows.target.nunique() < 2:
        return
    labels = labels_of(study)
    yield Chart(
        "matrix",
        f"Who fools whom: {_attack(study, setting)}",
        transfer_figure(rows, labels),
        "Transfer matrix. " + "; ".join(f"{_pair(row, labels)}: {_count(row)}" for row in _records(rows)),
        f"Of images that source and target answer rightly when clean; outlined: shown to its own source. "
        f"{_where(study, rows, setting)}.",
        rows,
    )


def _directions(study: Study, rows: pd.DataFrame, setting: Setting) -> Iterator[Chart]:
    models = {model.name: model for model in study.models}
    pairs = rows[rows.source != rows.target]
    kinds = {models[name].kind for name in {*pairs.source, *pairs.target}}
    if len(kinds) < 2:
        return
    letters = {name: "S" if model.kind == "static" else "D" for name, model in models.items()}
    pairs = pairs.assign(
        direction=[f"{letters[row['source']]}2{letters[row['target']]}" for row in _records(pairs)],
        same_architecture=[
            models[row["source"]].architecture == models[row["target"]].architecture for row in _records(pairs)
        ],
    )
    labels = labels_of(study)
    why = {True: "no two models of one architecture", False: "one architecture only"}
    yield Chart(
        "directions",
        f"Between static and early-exit models: {_attack(study, setting)}",
        directions_figure(pairs, labels, why),
        "Transfer by kind of source and target. "
        + "; ".join(f"{row['direction']} {_pair(row, labels)}: {_count(row)}" for row in _records(pairs)),
        "One point a pair of models, never pooled; grey: made on a static model, purple: on an early-exit one; "
        f"■ shown to a static model, ● to an early-exit one. {_where(study, pairs, setting)}.",
        pairs,
    )  # fmt: skip


def _over_epsilon(study: Study, rows: pd.DataFrame, setting: Setting) -> Iterator[Chart]:
    own = _as_lines(study, rows[rows.source == rows.target], "rate", "low", "high", by="source")
    if own.epsilon.nunique() < FEW:
        return
    yield Chart(
        "epsilon",
        f"How much it takes to fool the model itself: {attack_titles(study)[setting.attack_name]}",
        lines_figure(
            own.assign(x=[as_255(epsilon) for epsilon in own.epsilon]), x="x", x_title="epsilon", y_title="fooled",
            kinds=_kinds(study), as_category=True,
        ),
        "Share fooled over epsilon. " + _spoken(own),
        f"Of attackable images. {_where(study, own, setting, with_epsilon=False)}.",
        own,
    )  # fmt: skip


def _cost_over_epsilon(study: Study, rows: pd.DataFrame, setting: Setting) -> Iterator[Chart]:
    kinds = _kinds(study)
    early = rows[rows.target.isin([name for name, kind in kinds.items() if kind == "early-exit"])]
    early = early.assign(change=early.adversarial_cost - early.clean_cost)
    lines = _as_lines(study, early, "change", "cost_change_low", "cost_change_high", by="pair")
    if lines.epsilon.nunique() < FEW:
        return
    yield Chart(
        "cost",
        f"What attacks do to cost: {attack_titles(study)[setting.attack_name]}",
        lines_figure(
            lines.assign(x=[as_255(epsilon) for epsilon in lines.epsilon]), x="x", x_title="epsilon",
            y_title="change in mean cost", kinds=kinds, of_whole=False, as_category=True,
        ),
        "Change in mean cost over epsilon. " + _spoken(lines),
        f"Mean cost of attacked minus clean images, all of them, in points of the whole network's multiply-adds: "
        f"below 0 they leave earlier. {_where(study, lines, setting, with_epsilon=False)}.",
        lines,
    )  # fmt: skip


def _by_exit(study: Study, summary: pd.DataFrame, setting: Setting) -> Iterator[Chart]:
    chosen = (summary.policy == setting.policy) & (summary.attack_name == setting.attack_name)
    rows = summary[chosen & (summary.epsilon == setting.epsilon) & summary.objective.str.startswith("exit-")]
    rows = rows[rows.source != rows.target]
    if rows.objective.nunique() < FEW:
        return
    costs = [
        study.model(row["source"]).exit_costs[int(row["objective"].removeprefix("exit-")) - 1] for row in _records(rows)
    ]
    lines = _as_lines(study, rows.assign(cost=costs), "rate", "low", "high", by="pair").sort_values(["line", "cost"])
    yield Chart(
        "exit",
        f"From which exit it carries furthest: {_attack(study, setting)}",
        lines_figure(
            lines.assign(cost=100 * lines.cost), x="cost", x_title="made on this part of the network (% of cost)",
            y_title="target fooled", kinds=_kinds(study),
        ),
        "Transfer over the exit that an example was made on. " + _spoken(lines),
        f"Of images that source and target answer rightly when clean. {_where(study, lines, setting)}.",
        lines,
    )  # fmt: skip


def _thresholds(study: Study, summary: pd.DataFrame, setting: Setting) -> Iterator[Chart]:
    rows = summary[
        (summary.attack_name == setting.attack_name)
        & (summary.epsilon == setting.epsilon)
        & (summary.objective == "taken")
        & (summary.source == summary.target)
    ]
    for source, own in rows.groupby("source"):
        fixed_at = study.model(str(source)).policies[0].threshold
        fixed, anew = own[own.made_at == fixed_at], own[own.made_anew]
        if anew.made_at.nunique() < FEW:
            continue
        both = pd.concat([fixed.assign(made_anew=False), anew.assign(made_anew=True)])
        both = both.assign(
            value=both.rate, words=[f"T = {row['threshold']:.2f}: {_count(row)}" for row in _records(both)]
        )
        label = labels_of(study)[str(source)]
        yield Chart(
            f"thresholds-{source}",
            f"Other thresholds: {label}, {_attack(study, setting)}",
            thresholds_figure(both, fixed_at),
            "Share fooled over the threshold. "
            + "; ".join(f"{'anew' if row['made_anew'] else 'fixed'} {row['words']}" for row in _records(both)),
            f"Of attackable images; an attack on the exit taken depends on the threshold. "
            f"{attack_titles(study)[setting.attack_name]} {as_255(setting.epsilon)} · 95 % intervals.",
            both,
        )


def _as_lines(study: Study, rows: pd.DataFrame, value: str, low: str, high: str, *, by: str) -> pd.DataFrame:
    """Rows as ``lines_figure`` takes them, one line a source or a pair of source and target."""
    labels = labels_of(study)
    lines = [
        labels[row["source"]]
        if by == "source" or row["source"] == row["target"]
        else f"{labels[row['source']]} → {labels[row['target']]}"
        for row in _records(rows)
    ]
    made_on = [study.model(str(name)) for name in rows.source]
    return rows.assign(
        line=pd.Series(lines, index=rows.index, dtype="str"),
        architecture=pd.Series([model.architecture for model in made_on], index=rows.index, dtype="str"),
        value=rows[value],
        low=rows[low],
        high=rows[high],
        words=pd.Series(
            [
                f"{line}: {100 * row[value]:+.1f} %" if value == "change" else f"{line}: {_count(row)}"
                for line, row in zip(lines, _records(rows), strict=True)
            ],
            index=rows.index,
            dtype="str",
        ),
    )


def _kinds(study: Study) -> dict[str, str]:
    return {model.name: model.kind for model in study.models}


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def _pair(row: dict[str, Any], labels: dict[str, str]) -> str:
    return f"{labels[row['source']]} to {labels[row['target']]}"


def _count(row: dict[str, Any]) -> str:
    fooled, among = row["num_fooled"], row["num_images"]
    return f"{fooled:,} of {among:,}" + (f" ({100 * fooled / among:.0f} %)" if among else "")


def _spoken(lines: pd.DataFrame) -> str:
    return "; ".join(f"{as_255(row['epsilon'])} {row['words']}" for row in _records(lines)) + "."
