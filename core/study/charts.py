"""What a study's tables are drawn as: each chart with its caption and its rows, for the page and for the report."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.attacks.spec import AttackSpec
from core.counted import RULE_WORDS, RuleWords, counted_words, transfer_words
from core.figures.directions import directions_figure
from core.figures.studies import attacks_figure, lines_figure, thresholds_figure
from core.figures.theme import KIND_GLYPHS
from core.figures.transfer import transfer_figure
from core.study.spec import policy_words
from core.study.store import Study
from core.study.summary import summary_rows

FEW = 3  # points that make a line worth drawing
MANY_LINES = 10  # of one chart: its legend and its markers tell no more apart


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
        strength: How far the attack may go, in words, where one chart shows one of several.
        objective: Of early-exit sources.
        images: Data set and split, such as ``cifar10:test``.
    """

    policy: str
    attack_name: str
    strength: str
    objective: str
    images: str


@dataclass(frozen=True)
class Offered:
    """What a study's settings can be chosen from, in its own order.

    Attributes:
        policies: By name.
        images: Data sets and splits.
        strengths: Of every preset, how far it may go, in words.
        objectives: Of every preset, what it aims at on early-exit sources; one at least.
    """

    policies: tuple[str, ...]
    images: tuple[str, ...]
    strengths: dict[str, tuple[str, ...]]
    objectives: dict[str, tuple[str, ...]]


def offered(study: Study, summary: pd.DataFrame) -> Offered:
    """What there is to choose from.

    Args:
        study: Whose tables they are.
        summary: Schema ``SUMMARY``.
    """
    running = summary[~summary.stop_when_fooled]
    of_attack = {name: running[running.attack_name == name] for name in attack_titles(study)}
    of_attack = {name: rows for name, rows in of_attack.items() if len(rows)}
    return Offered(
        tuple(policy.name for policy in study.spec.policies),
        tuple(dict.fromkeys(map(str, running.images))),
        {name: tuple(dict.fromkeys(map(str, rows.strength))) for name, rows in of_attack.items()},
        {name: _objectives(rows, {model.name for model in study.models if model.kind == "static"})
         for name, rows in of_attack.items()},
    )  # fmt: skip


_USUAL = ("taken", "final", "mean")


def _objectives(rows: pd.DataFrame, statics: set[str]) -> tuple[str, ...]:
    # What a static source has is its only one, and no choice where others have more.
    early = rows[~rows.source.isin(statics)]
    aims = [aim for aim in dict.fromkeys((early if len(early) else rows).objective) if not aim.startswith("exit-")]
    return tuple(sorted(aims, key=lambda aim: _USUAL.index(aim) if aim in _USUAL else len(_USUAL))) or ("taken",)


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
    summary = summary[summary.images == setting.images]
    one_attack = summary_rows(summary, setting.policy, attack_name=setting.attack_name, objective=setting.objective)
    at_strength = one_attack[one_attack.strength == setting.strength]
    yield from _matrix(study, at_strength, setting)
    yield from _directions(study, at_strength, setting)
    yield from _by_attack(study, summary, setting)
    yield from _over_strength(study, one_attack, setting)
    yield from _cost_over_strength(study, one_attack, setting)
    yield from _by_exit(study, summary, setting)
    yield from _thresholds(study, summary, setting)


def attack_titles(study: Study) -> dict[str, str]:
    """Name on screen of every attack."""
    return {name: spec.title + (" (L2)" if spec.norm == "l2" else "") for name, spec in _attacks(study).items()}


def strength_title(study: Study, attack_name: str) -> str:
    """What says how far an attack may go: ``epsilon`` or ``severity``."""
    return _attacks(study)[attack_name].strength_name


def attack_words(study: Study, setting: Setting) -> str:
    """The attack of a setting, such as ``PGD 8/255``."""
    return f"{_attacks(study)[setting.attack_name].title} {setting.strength}"


def _attacks(study: Study) -> dict[str, AttackSpec]:
    """One spec of every preset."""
    return {choice.spec.name: choice.spec for choice in study.spec.attacks}


def _where(
    study: Study,
    rows: pd.DataFrame,
    setting: Setting,
    attack: str,
    *,
    policy: bool = True,
    counted: str = "num_images",
) -> str:
    """Attack, policy, images and n in words, for captions."""
    if len(study.spec.seeds) > 1 and getattr(_attacks(study)[setting.attack_name], "random_start", False):
        attack += f" (start of seed {int(rows.seed.min())})"
    said = [attack, policy_words(setting.policy)] if policy else [attack]
    return " · ".join([*said, images_words(study, setting), n_words(rows[counted]), "95 % intervals"])


def images_words(study: Study, setting: Setting) -> str:
    """The image sets of a setting and how many images each has."""
    sets = {name: count for name, count in study.num_images.items() if f"{name}:".startswith(f"{setting.images}:")}
    return ", ".join(f"{name}, {count:,} images" for name, count in sets.items())


def n_words(counts: "pd.Series[int]") -> str:
    """How many images count in each of several rows: ``n = 859``, or ``n = 843 to 906``."""
    fewest, most = int(counts.min()), int(counts.max())
    return f"n = {fewest:,}" if fewest == most else f"n = {fewest:,} to {most:,}"


def _rule(study: Study, rows: pd.DataFrame) -> str:
    """Success rule of the attack in these rows at its source: of a static source every exit is the final one."""
    own = rows[rows.source == rows.target]
    early = own[own.source.isin([model.name for model in study.models if model.kind != "static"])]
    return str((early if len(early) else own if len(own) else rows).success_rule.iloc[0])


def _rule_words(study: Study, rows: pd.DataFrame) -> RuleWords:
    return RULE_WORDS[_rule(study, rows)]


def _matrix(study: Study, rows: pd.DataFrame, setting: Setting) -> Iterator[Chart]:
    # Every source is shown its own outcome: targets that were shown nothing else make no column.
    shown = {name for name in rows.target if (rows[rows.target == name].source != name).any()}
    rows = rows[rows.target.isin(shown)]
    if rows.target.nunique() < 2:
        return
    labels, rule = labels_of(study), _rule(study, rows)
    title = "Who fools whom" if RULE_WORDS[rule].does == "fool" else "From model to model"
    yield Chart(
        "matrix",
        f"{title}: {attack_words(study, setting)}",
        transfer_figure(rows, labels),
        "Transfer matrix. " + "; ".join(f"{_pair(row, labels)}: {_count(row)}" for row in records(rows)),
        f"{transfer_words(rows, 'attackable', rule)}. {_where(study, rows, setting, attack_words(study, setting))}.",
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
        direction=[f"{letters[row['source']]}2{letters[row['target']]}" for row in records(pairs)],
        same_architecture=[
            models[row["source"]].architecture == models[row["target"]].architecture for row in records(pairs)
        ],
    )
    labels, rule = labels_of(study), _rule(study, rows)
    why = {True: "no two models of one architecture", False: "one architecture only"}
    yield Chart(
        "directions",
        f"Between static and early-exit models: {attack_words(study, setting)}",
        directions_figure(pairs, labels, why, f"target {RULE_WORDS[rule].of_target}"),
        "Transfer by kind of source and target. "
        + "; ".join(f"{row['direction']} {_pair(row, labels)}: {_count(row)}" for row in records(pairs)),
        "One point a pair of models, never pooled; grey: made on a static model, purple: on an early-exit one; "
        "■ shown to a static model, ● to an early-exit one. "
        f"{counted_words('attackable', rule)}. "
        f"{_where(study, pairs, setting, attack_words(study, setting))}.",
        pairs,
    )  # fmt: skip


def _by_attack(study: Study, summary: pd.DataFrame, setting: Setting) -> Iterator[Chart]:
    """Every attack of one success rule and strength on the model it was made on: which of them does most."""
    rows = summary_rows(summary, setting.policy, strength=setting.strength, objective=setting.objective)
    rows = rows[rows.source == rows.target]
    rows = rows[rows.success_rule.isin(rows[rows.attack_name == setting.attack_name].success_rule)]
    if rows.attack_name.nunique() < FEW:
        return
    titles, words = attack_titles(study), _rule_words(study, rows)
    lines = _as_lines(study, rows, "rate", "low", "high", by="source")
    lines = lines.assign(attack_title=lines.attack_name.map(titles).astype("str"))
    attacks = f"{lines.attack_name.nunique()} attacks, {setting.strength}"
    yield Chart(
        "attacks",
        f"Which attack does most to the model itself: {setting.strength}",
        attacks_figure(lines, _kinds(study), words.done),
        f"Share {words.done} by attack, {setting.strength}. "
        + "; ".join(f"{row['attack_title']}, {row['words']}" for row in records(lines)),
        f"Of the images attacked, {words.attackable}; the most harmful attack on top. "
        f"{_where(study, lines, setting, attacks)}.",
        lines,
    )


def _over_strength(study: Study, rows: pd.DataFrame, setting: Setting) -> Iterator[Chart]:
    own = _as_lines(study, rows[rows.source == rows.target], "rate", "low", "high", by="source")
    if own.strength.nunique() < FEW:
        return
    attack, strength = attack_titles(study)[setting.attack_name], strength_title(study, setting.attack_name)
    words = _rule_words(study, rows)
    yield Chart(
        "strength",
        f"How much it takes on the model itself: {attack}",
        lines_figure(
            own.assign(x=_ticks(own.strength, strength)), x="x", x_title=strength, y_title=words.done,
            kinds=_kinds(study), as_category=True,
        ),
        f"Share {words.done} over {strength}. " + _spoken(own),
        f"Of the images attacked, {words.attackable}. {_where(study, own, setting, attack)}.",
        own,
    )  # fmt: skip


def _cost_over_strength(study: Study, rows: pd.DataFrame, setting: Setting) -> Iterator[Chart]:
    kinds = _kinds(study)
    early = rows[rows.target.isin([name for name, kind in kinds.items() if kind == "early-exit"])]
    early = early.assign(change=early.adversarial_cost - early.clean_cost)
    every = _as_lines(study, early, "change", "cost_change_low", "cost_change_high", by="pair")
    for target, lines in _in_readable_parts(every, "target"):
        if lines.strength.nunique() < FEW:
            continue
        attack, strength = attack_titles(study)[setting.attack_name], strength_title(study, setting.attack_name)
        yield Chart(
            f"cost-{target}" if target else "cost",
            f"What attacks do to cost: {attack}" + (f", shown to {labels_of(study)[target]}" if target else ""),
            lines_figure(
                lines.assign(x=_ticks(lines.strength, strength)), x="x", x_title=strength, kinds=kinds,
                y_title="change in mean cost", of_whole=False, as_category=True,
            ),
            f"Change in mean cost over {strength}. " + _spoken(lines),
            "Mean cost of attacked minus clean images, all of them, in points of the whole network's multiply-adds: "
            f"below 0 they leave earlier. {_where(study, lines, setting, attack, counted='num_all')}.",
            lines,
        )  # fmt: skip


def _in_readable_parts(lines: pd.DataFrame, by: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """All lines as one chart, with an empty name; where they are too many to be told apart, one for each model."""
    if lines.line.nunique() <= MANY_LINES:
        yield "", lines
    else:
        yield from ((str(name), part) for name, part in lines.groupby(by, sort=False))


def _ticks(strengths: pd.Series, title: str) -> list[str]:
    """Strengths as an axis of that title shows them: ``3`` of ``severity 3``."""
    return [strength.removeprefix(f"{title} ") for strength in strengths]


def _by_exit(study: Study, summary: pd.DataFrame, setting: Setting) -> Iterator[Chart]:
    chosen = (summary.policy == setting.policy) & (summary.attack_name == setting.attack_name)
    rows = summary[chosen & (summary.strength == setting.strength) & summary.objective.str.startswith("exit-")]
    words = counted_words("attackable", _rule(study, rows)) if len(rows) else ""
    rows = rows[rows.source != rows.target]
    if rows.objective.nunique() < FEW:
        return
    costs = [
        study.model(row["source"]).exit_costs[int(row["objective"].removeprefix("exit-")) - 1] for row in records(rows)
    ]
    every = _as_lines(study, rows.assign(cost=costs), "rate", "low", "high", by="pair").sort_values(["line", "cost"])
    for source, lines in _in_readable_parts(every, "source"):
        yield Chart(
            f"exit-{source}" if source else "exit",
            f"From which exit it carries furthest: {attack_words(study, setting)}"
            + (f", made on {labels_of(study)[source]}" if source else ""),
            lines_figure(
                lines.assign(cost=100 * lines.cost), x="cost", x_title="made on this part of the network (% of cost)",
                y_title="target fooled", kinds=_kinds(study),
            ),
            "Transfer over the exit that an example was made on. " + _spoken(lines),
            f"{words}. "
            f"{_where(study, lines, setting, attack_words(study, setting))}.",
            lines,
        )  # fmt: skip


def _thresholds(study: Study, summary: pd.DataFrame, setting: Setting) -> Iterator[Chart]:
    first = study.spec.policies[0]
    alike = [each.name for each in study.spec.policies if (each.score, each.fallback) == (first.score, first.fallback)]
    rows = summary[
        (summary.attack_name == setting.attack_name)
        & (summary.strength == setting.strength)
        & summary.policy.isin(alike)
        & ~summary.stop_when_fooled
        & (summary.objective == "taken")
        & (summary.source == summary.target)
    ]
    for source, own in rows.groupby("source"):
        fixed_at = study.model(str(source)).policies[0].threshold
        fixed, anew = own[own.made_under == first.name], own[own.made_anew]
        if anew.made_under.nunique() < FEW:
            continue
        both = pd.concat([fixed.assign(made_anew=False), anew.assign(made_anew=True)])
        words = _rule_words(study, own)
        both = both.assign(
            value=both.rate, words=[f"T = {row['threshold']:.2f}: {_count(row)}" for row in records(both)]
        )
        label = labels_of(study)[str(source)]
        yield Chart(
            f"thresholds-{source}",
            f"Other thresholds: {label}, {attack_words(study, setting)}",
            thresholds_figure(both, fixed_at),
            "Share fooled over the threshold. "
            + "; ".join(f"{'anew' if row['made_anew'] else 'fixed'} {row['words']}" for row in records(both)),
            f"Of the images attacked, {words.attackable}; an attack on the exit taken depends on the threshold. "
            f"{_where(study, both, setting, attack_words(study, setting), policy=False)}.",
            both,
        )


def _as_lines(study: Study, rows: pd.DataFrame, value: str, low: str, high: str, *, by: str) -> pd.DataFrame:
    """Rows as ``lines_figure`` takes them, one line a source or a pair of source and target."""
    labels = labels_of(study)
    lines = [
        labels[row["source"]]
        if by == "source" or row["source"] == row["target"]
        else f"{labels[row['source']]} → {labels[row['target']]}"
        for row in records(rows)
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
                for line, row in zip(lines, records(rows), strict=True)
            ],
            index=rows.index,
            dtype="str",
        ),
    )


def _kinds(study: Study) -> dict[str, str]:
    return {model.name: model.kind for model in study.models}


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries by column."""
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def _pair(row: dict[str, Any], labels: dict[str, str]) -> str:
    return f"{labels[row['source']]} to {labels[row['target']]}"


def _count(row: dict[str, Any]) -> str:
    fooled, among = row["num_fooled"], row["num_images"]
    return f"{fooled:,} of {among:,}" + (f" ({100 * fooled / among:.0f} %)" if among else "")


def _spoken(lines: pd.DataFrame) -> str:
    return "; ".join(f"{row['strength']} {row['words']}" for row in records(lines)) + "."
