"""What making an example takes: multiply-adds of gradient passes, and the exits that they went through."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from core.attacks.spec import StepAttack
from core.data import parse_image_set_name
from core.metrics import NORMAL_QUANTILE, rate
from core.study.cells import read_attack, read_policy
from core.study.models import StudyModel
from core.study.store import Study, connect
from core.study.strengths import strengths
from core.tables import TableSchema

if TYPE_CHECKING:
    import duckdb

_ABOUT = {
    "images": "text",
    "source": "text",
    "attack_name": "text",
    "attack": "text",
    "epsilon": "number",
    "strength": "text",
    "objective": "text",
    "seed": "whole",
    "policy": "text",
}
MAKING = TableSchema(
    "making",
    "one attack on one source, made under one policy",
    {
        **_ABOUT,
        "kind": "text",
        "architecture": "text",
        "num_steps": "whole",
        "num_images": "whole",
        "num_made": "whole",
        "made_rate": "number",
        "made_low": "number",
        "made_high": "number",
        "making_cost": "number",
        "making_cost_low": "number",
        "making_cost_high": "number",
        "twin": "text",
        "num_shown": "whole",
        "num_useful": "whole",
        "whole_cost": "number",
        "useful_cost": "number",
        "useful_cost_low": "number",
        "useful_cost_high": "number",
    },
)
MADE_EXITS = TableSchema(
    "made_exits",
    "one exit of an early-exit source under one attack, made under one policy",
    {
        **_ABOUT,
        "exit_index": "whole",
        "exit_cost": "number",
        "num_images": "whole",
        "num_all_passes": "whole",
        "num_passes": "whole",
        "share": "number",
        "share_low": "number",
        "share_high": "number",
        "num_all_needed": "whole",
        "num_needed": "whole",
        "needed_share": "number",
        "needed_share_low": "number",
        "needed_share_high": "number",
    },
)


@dataclass(frozen=True, eq=False)
class Making:
    """What the steps of a study say of making examples.

    Attributes:
        costs: Schema ``MAKING``.
        exits: Schema ``MADE_EXITS``.
    """

    costs: pd.DataFrame
    exits: pd.DataFrame


@dataclass(frozen=True, eq=False)
class _Made:
    """One attack on one source: N images in S gradient passes.

    Attributes:
        about: The columns of ``_ABOUT``.
        model: The source.
        cells: Keys of the cells that made it.
        image_ids: N of them, in order.
        exits: Where each image was about to leave before each pass, (N, S); -1 where no computed exit was sure.
        wrong: Whether it was wrong there at the start and after each pass, (N, S + 1).
    """

    about: dict[str, Any]
    model: StudyModel
    cells: list[str]
    image_ids: pd.Index
    exits: np.ndarray
    wrong: np.ndarray

    @property
    def is_needed(self) -> np.ndarray:
        """Passes before an image is first wrong, (N, S); all of them where it never is."""
        needed: np.ndarray = np.cumsum(self.wrong, axis=1)[:, :-1] == 0
        return needed

    @property
    def costs(self) -> np.ndarray:
        """Multiply-adds of each pass over those of one through the network without early exits, (N, S).

        An attack on the exit taken goes no further than that, one on a chosen exit always up to there, and any other
        through the whole network. Forward and backward pass cost the same multiple of a forward one on both sides.
        """
        fractions, objective = np.asarray(self.model.gradient_costs), self.about["objective"]
        if objective == "taken":
            done = fractions[self.exits]  # -1 is the final exit: without a sure one, everything is computed
        else:
            last = int(objective.removeprefix("exit-")) - 1 if objective.startswith("exit-") else -1
            done = np.full(self.exits.shape, fractions[last])
        costs: np.ndarray = done * self.model.multiply_adds / _static_multiply_adds(self.model)
        return costs


def making_tables(folder: Path, study: Study) -> Making:
    """What making examples takes, and at which exits it happens; both empty where no steps were recorded.

    Attacks by steps on models with a backbone of their own, surrogates apart; none that stops when it fools, and none
    that keeps the best of several runs. Costs are in **gradient passes through the network without early exits**:
    multiply-adds of forward and backward passes over those of one such pass.

    ``MAKING`` counts images that all models of one architecture answer rightly where the attack starts
    (``num_images``), so that twins compare on identical images. ``making_cost`` is the mean until an image is first
    wrong at the exit taken; those that never are count with all steps (``num_made`` of them are). ``useful_cost`` is
    what it takes for each example that also fools the static twin (``num_useful`` of the ``num_shown`` that the twin
    answers rightly when clean): the mean of all passes, for the images shown are those after the last step
    (``whole_cost``), over the share of them that fool. A static source is its own twin. ``MADE_EXITS`` counts passes
    of all images by the exit that an image was about to leave at: all passes, and those needed until it was first
    wrong. Intervals are 95 %: Wilson's for ``made_rate``, otherwise normal ones of ratios of
    sums over images.

    Args:
        folder: Of the study.
        study: Its description.
    """
    connection, costs, exits = connect(folder), list[dict[str, Any]](), list[dict[str, Any]]()
    for made in _groups(folder, study, connection):
        counted = _right_at_start(made)
        costs += [_cost_row(study, connection, one, counted) for one in made if one.model.multiply_adds]
        exits += [
            _exit_row(one, exit_index)
            for one in made
            if one.model.num_exits > 1
            for exit_index in range(one.model.num_exits)
        ]
    return Making(_checked(MAKING, costs), _checked(MADE_EXITS, exits))


def _static_multiply_adds(model: StudyModel) -> int:
    """Of a model without its early exits, which are those of its static twin."""
    return sum(model.layer_multiply_adds) + model.classifier_multiply_adds[-1]


def _groups(folder: Path, study: Study, connection: "duckdb.DuckDBPyConnection") -> Iterator[list[_Made]]:
    """What is to be compared: one attack under one policy on all models of one architecture."""
    cells = connection.execute(
        "select * from cells where record_steps and not stop_when_fooled and source <> '' order by attack_name, epsilon"
    ).df()
    models = {model.name: model for model in study.models if model.shares is None and not model.surrogate}
    attacks = {text: read_attack(json.loads(text)) for text in cells.attack_json.unique()}
    by_steps = {text for text, one in attacks.items() if isinstance(one, StepAttack) and one.can_be_replayed}
    cells = cells[cells.source.isin(models) & cells.attack_json.isin(by_steps)]
    if cells.empty:
        return
    dataset = [parse_image_set_name(name) for name in cells.images]
    cells = cells.assign(
        images=[f"{name}:{split}" for name, split, _ in dataset],
        architecture=[models[name].architecture for name in cells.source],
        strength=cells.attack.map(strengths(folder)),
    )
    policies = study.spec.policies[: None if study.spec.made_anew else 1]
    for number, policy in enumerate(policies):
        under = [
            not attacks[text].depends_on_policy or read_policy(made_at) == models[source].policies[number]
            for source, text, made_at in cells[["source", "attack_json", "made_at_json"]].to_numpy().tolist()
        ]
        alike = ["images", "attack_name", "strength", "seed", "architecture"]
        for _, group in cells[under].groupby(alike, sort=False):
            made = [
                _read(connection, models[str(source)], own, policy.name)
                for (source, _), own in group.groupby(["source", "attack"], sort=False)
            ]
            if done := [one for one in made if one]:
                yield done


def _read(connection: "duckdb.DuckDBPyConnection", model: StudyModel, cells: pd.DataFrame, policy: str) -> _Made | None:
    """What cells of one attack on one source noted; None where none of them is done."""
    rows = connection.execute(
        "select image_id, step_exit, step_wrong from steps where source = ? and list_contains(?, made) "
        "order by image_id",
        [model.name, cells.made.tolist()],
    ).df()
    if rows.empty:
        return None
    first = cells.iloc[0]
    about = {name: first[name] for name in _ABOUT if name != "policy"} | {"policy": policy}
    exits, wrong = np.stack(rows.step_exit.tolist()), np.stack(rows.step_wrong.tolist()).astype(bool)
    return _Made(about, model, cells.cell.tolist(), pd.Index(rows.image_id), exits[:, :-1], wrong)


def _right_at_start(made: Sequence[_Made]) -> pd.Index:
    """Images that every one of these models answers rightly where the attack starts."""
    counted = made[0].image_ids
    for one in made:
        counted = counted.intersection(one.image_ids[~one.wrong[:, 0]], sort=False)
    return counted


def _cost_row(study: Study, connection: "duckdb.DuckDBPyConnection", made: _Made, counted: pd.Index) -> dict[str, Any]:
    is_counted = made.image_ids.isin(counted)
    needed, whole = (made.costs * made.is_needed).sum(axis=1), made.costs.sum(axis=1)
    num_images, num_made = int(is_counted.sum()), int(made.wrong[is_counted].any(axis=1).sum())
    share = rate(num_made, num_images)
    twin = _twin(study, made.model)
    shown, fools = _shown(study, connection, made, twin)
    shown = shown & is_counted
    return made.about | {
        "kind": made.model.kind,
        "architecture": made.model.architecture,
        "num_steps": made.exits.shape[1],
        "num_images": num_images,
        "num_made": num_made,
        "made_rate": share.value,
        "made_low": share.low,
        "made_high": share.high,
        **_ratio("making_cost", needed * is_counted, is_counted),
        "twin": twin.name if twin else "",
        "num_shown": int(shown.sum()),
        "num_useful": int((shown & fools).sum()),
        "whole_cost": _ratio("cost", whole * shown, shown)["cost"],
        **_ratio("useful_cost", whole * shown, shown & fools),
    }


def _exit_row(made: _Made, exit_index: int) -> dict[str, Any]:
    here, known = made.exits == exit_index, made.exits >= 0
    row: dict[str, Any] = made.about | {
        "exit_index": exit_index,
        "exit_cost": made.model.exit_costs[exit_index],
        "num_images": len(made.image_ids),
    }
    for share, all_passes, passes, counts in (
        ("share", "num_all_passes", "num_passes", known),
        ("needed_share", "num_all_needed", "num_needed", known & made.is_needed),
    ):
        among, hits = counts.sum(axis=1), (here & counts).sum(axis=1)
        row |= {all_passes: int(among.sum()), passes: int(hits.sum()), **_ratio(share, hits, among)}
    return row


def _twin(study: Study, model: StudyModel) -> StudyModel | None:
    """The static model of the same architecture, of several the one with the lowest seed; a static one itself."""
    if model.kind == "static":
        return model
    alike = [
        other for other in study.models
        if other.kind == "static" and not other.surrogate
        and (other.architecture, other.dataset) == (model.architecture, model.dataset)
    ]  # fmt: skip
    return min(alike, key=lambda other: other.seed, default=None)


def _shown(
    study: Study, connection: "duckdb.DuckDBPyConnection", made: _Made, twin: StudyModel | None
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each image was shown to a static model that answers it rightly when clean, and whether it fooled it.

    No policy changes what a static model answers, so the first one is asked.
    """
    rows = connection.execute(
        "select image_id, attackable, attackable and succeeded as fools from decisions "
        "where source = ? and target = ? and policy = ? and list_contains(?, cell)",
        [made.model.name, twin.name if twin else "", study.spec.policies[0].name, made.cells],
    ).df().set_index("image_id").reindex(made.image_ids, fill_value=False)  # fmt: skip
    return rows.attackable.to_numpy(dtype=bool), rows.fools.to_numpy(dtype=bool)


def _ratio(name: str, numerator: np.ndarray, denominator: np.ndarray) -> dict[str, float]:
    """A sum over images over another, with the ends of its interval; NaN where there is nothing to divide by.

    Source: the variance of a ratio estimator, Cochran, Sampling Techniques, 1977, section 2.11.
    """
    num_images, total = len(denominator), float(denominator.sum())
    if not total:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), float("nan"))
    value = float(numerator.sum()) / total
    squares = float(((numerator - value * denominator) ** 2).sum())
    half = NORMAL_QUANTILE * np.sqrt(squares * num_images / max(1, num_images - 1)) / total
    return {name: value, f"{name}_low": max(0.0, value - half), f"{name}_high": value + half}


def _checked(schema: TableSchema, rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    if not rows:
        return pd.DataFrame(columns=list(schema.columns))
    return schema.check(pd.DataFrame(rows))
