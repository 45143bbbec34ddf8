"""Surrogates in brief: what each learned, how good it is, how much it answers like its target, and what it fools."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from core.checkpoints import ModelCard
from core.metrics import rate
from core.study import parts
from core.study.models import StudyModel
from core.study.store import SURROGATES_FILE, Study, connect
from core.study.strengths import strengths
from core.study.summary import policy_names
from core.study.surrogates import Surrogate, labels_right
from core.tables import TableSchema

SURROGATES_SCHEMA = pa.schema(
    [
        ("surrogate", pa.string()),
        ("dataset", pa.string()),
        ("architecture", pa.string()),
        ("kind", pa.string()),
        ("targets", pa.list_(pa.string())),
        ("labels", pa.string()),
        ("corruption", pa.string()),
        ("severity", pa.int16()),
        ("num_learned", pa.int32()),
        ("queries", pa.int32()),
        ("num_epochs", pa.int32()),
        ("training_seed", pa.int32()),
        ("labels_right", pa.float64()),
        ("hash", pa.string()),
    ]
)
"""One surrogate and what it learned from; ``labels_right`` is the share of its labels that are the truth."""

_SHARES = {"accuracy": "num_right", "agreement": "num_agreeing", "rate": "num_fooled", "rate_of_attackable": "num_both"}
BLACK_BOX = TableSchema(
    "black_box",
    "one attack made on one surrogate, shown to a target in whose place it stands, under one policy",
    {
        "images": "text",
        "surrogate": "text",
        "target": "text",
        "architecture": "text",
        "kind": "text",
        "same_architecture": "truth",
        "labels": "text",
        "corruption": "text",
        "severity": "whole",
        "num_learned": "whole",
        "queries": "whole",
        "num_epochs": "whole",
        "training_seed": "whole",
        "labels_right": "number",
        "attack_name": "text",
        "attack": "text",
        "epsilon": "number",
        "strength": "text",
        "objective": "text",
        "seed": "whole",
        "stop_when_fooled": "truth",
        "policy": "text",
        "made_at": "number",
        "made_under": "text",
        "made_anew": "truth",
        "num_all": "whole",
        "num_right": "whole",
        "accuracy": "number",
        "accuracy_low": "number",
        "accuracy_high": "number",
        "num_agreeing": "whole",
        "agreement": "number",
        "agreement_low": "number",
        "agreement_high": "number",
        "num_images": "whole",
        "num_fooled": "whole",
        "rate": "number",
        "rate_low": "number",
        "rate_high": "number",
        "num_attackable": "whole",
        "num_both": "whole",
        "rate_of_attackable": "number",
        "rate_of_attackable_low": "number",
        "rate_of_attackable_high": "number",
    },
)

_QUERY = """
with own as (
    select cell, image_id, policy, attackable as surrogate_attackable, clean_prediction as own_prediction
    from decisions where source = target
)
select images, surrogate, target, architecture, kind, labels, corruption, severity, num_learned, queries, num_epochs,
    training_seed, labels_right, attack_name, attack, epsilon, objective, seed, stop_when_fooled, policy, made_at,
    made_at_json,
    any_value(made_anew) as made_anew,
    count(*) as num_all,
    count(*) filter (own_prediction = label) as num_right,
    count(*) filter (own_prediction = clean_prediction) as num_agreeing,
    count(*) filter (attackable) as num_images,
    count(*) filter (attackable and succeeded) as num_fooled,
    count(*) filter (attackable and surrogate_attackable) as num_attackable,
    count(*) filter (attackable and surrogate_attackable and succeeded) as num_both,
from decisions join own using (cell, image_id, policy)
    join surrogates on source = surrogate and list_contains(targets, target)
    join (select cell, made_at_json from cells) using (cell)
group by all
order by images, attack_name, stop_when_fooled, epsilon, target, surrogate, objective, seed, made_at, policy
"""


def write_surrogates(folder: Path, study: Study, cards: Mapping[str, ModelCard]) -> None:
    """Writes what the surrogates of a study learned from, schema ``SURROGATES_SCHEMA``; no file where it has none.

    Args:
        folder: Of the study.
        study: Its description.
        cards: Of its models.
    """
    rows = [_row(model, model.surrogate, cards[model.name]) for model in study.models if model.surrogate]
    if rows:
        table = pa.Table.from_pylist(rows, SURROGATES_SCHEMA)
        parts.write_whole(folder / SURROGATES_FILE, parts.encode(table, "surrogates"))
    else:
        (folder / SURROGATES_FILE).unlink(missing_ok=True)


def _row(model: StudyModel, surrogate: Surrogate, card: ModelCard) -> dict[str, Any]:
    return {
        "surrogate": surrogate.name,
        "dataset": surrogate.dataset,
        "architecture": surrogate.architecture,
        "kind": surrogate.kind,
        "targets": list(surrogate.targets),
        "labels": surrogate.labels,
        "corruption": surrogate.corruption,
        "severity": surrogate.severity,
        "num_learned": surrogate.num_images,
        "queries": surrogate.queries,
        "num_epochs": surrogate.num_epochs,
        "training_seed": surrogate.seed,
        "labels_right": labels_right(card),
        "hash": model.hash,
    }


def black_box_table(folder: Path, study: Study) -> pd.DataFrame:
    """Every surrogate beside its target: schema ``BLACK_BOX``; empty where the study has no surrogates.

    ``accuracy`` and ``agreement`` (the same answer as the target's) are over all clean images (``num_all``), both
    models under the row's policy. ``rate`` is the share fooled of images that the target answers rightly when clean
    (``num_images``): the same images for every surrogate. ``rate_of_attackable`` is over those that the surrogate
    answers rightly too, as in ``SUMMARY``. Intervals are Wilson's, 95 %.

    Args:
        folder: Of the study.
        study: Its description.
    """
    if not any(model.surrogate for model in study.models):
        return pd.DataFrame(columns=list(BLACK_BOX.columns))
    rows = connect(folder).execute(_QUERY).df()
    architectures = {model.name: model.architecture for model in study.models}
    among = {"rate": "num_images", "rate_of_attackable": "num_attackable"}
    for share, count in _SHARES.items():
        rates = [
            rate(int(hits), int(of)) for hits, of in zip(rows[count], rows[among.get(share, "num_all")], strict=True)
        ]
        rows[share] = pd.Series([one.value for one in rates], dtype=float)
        rows[f"{share}_low"] = pd.Series([one.low for one in rates], dtype=float)
        rows[f"{share}_high"] = pd.Series([one.high for one in rates], dtype=float)
    names = policy_names(study)
    made = [names[key] for key in zip(rows.surrogate, rows.pop("made_at_json"), strict=True)]
    rows["made_under"] = pd.Series(made, index=rows.index, dtype="str")
    rows["strength"] = rows.attack.map(strengths(folder)).astype("str")
    rows["same_architecture"] = rows.architecture == rows.target.map(architectures)
    return BLACK_BOX.check(rows)
