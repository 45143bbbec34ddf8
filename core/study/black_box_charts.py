"""Surrogates as charts, one a target: with exits against without, at equal data, queries and epochs."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from core.figures.black_box import MEASURES, black_box_figure
from core.models import ARCHITECTURES
from core.study.charts import Chart, Setting, attack_words, labels_of, records
from core.study.store import Study
from core.study.surrogates import Surrogate

BLACK_BOX_KEY = "black-box-"  # begins the keys of these charts


def black_box_rows(study: Study, table: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """One row for each surrogate and target under one setting, in the study's order.

    ``learned`` says in words what a surrogate learned from.

    Args:
        study: Whose table it is.
        table: Schema ``BLACK_BOX``.
        setting: Which attack and policy.
    """
    chosen = (
        (table.images == setting.images) & (table.policy == setting.policy) & (table.attack_name == setting.attack_name)
    )
    chosen &= (table.strength == setting.strength) & ~table.stop_when_fooled.astype(bool)
    chosen &= (table.objective == setting.objective) | (table.kind == "static")
    rows = table[chosen]
    rows = rows[rows.made_anew] if rows.made_anew.any() and rows.made_under.nunique() > 1 else rows
    rows = rows.drop_duplicates(["images", "surrogate", "target"])
    order = {model.name: number for number, model in enumerate(study.models)}
    rows = rows.sort_values("surrogate", key=lambda names: names.map(order), kind="stable")
    surrogates = {model.name: model.surrogate for model in study.models if model.surrogate}
    words = [_learned(surrogates[str(name)], list(surrogates.values())) for name in rows.surrogate]
    return rows.assign(learned=pd.Series(words, index=rows.index, dtype="str"))


def _learned(surrogate: Surrogate, others: list[Surrogate]) -> str:
    """Such as ``ResNet-56, Gaussian noise 3, labels of the target (5,000 queries)``, and what else tells it apart."""
    labels = f"labels of the target ({surrogate.queries:,} queries)" if surrogate.queries else "true labels"
    words = [ARCHITECTURES[surrogate.architecture].label, surrogate.images_in_words, labels]
    told = {"num_images": f"{surrogate.num_images:,} images", "num_epochs": f"{surrogate.num_epochs} epochs",
            "seed": f"seed {surrogate.seed}"}  # fmt: skip
    words += [text for name, text in told.items() if len({getattr(other, name) for other in others}) > 1]
    return ", ".join(words)


def black_box_charts(study: Study, table: pd.DataFrame, setting: Setting) -> Iterator[Chart]:
    """One chart for each target that a surrogate stands in for.

    Args:
        study: Whose table it is.
        table: Schema ``BLACK_BOX``.
        setting: Which attack and policy.
    """
    rows, labels = black_box_rows(study, table, setting), labels_of(study)
    for (images, target), own in rows.groupby(["images", "target"], sort=False):
        attack = attack_words(study, setting)
        aim = "" if set(own.kind) == {"static"} else f", aimed at {setting.objective}"
        counted = f"n = {int(own.num_images.iloc[0]):,} for transfer, {int(own.num_all.iloc[0]):,} otherwise"
        yield Chart(
            f"{BLACK_BOX_KEY}{target}",
            f"Black-box: {labels[str(target)]} through surrogates, {attack}",
            black_box_figure(own),
            "Surrogates beside their target. "
            + "; ".join(f"{row['kind']}, {row['learned']}: {_spoken(row)}" for row in records(own)),
            "Each row: two surrogates that learned the same in as many epochs, one with exits and one without, on "
            f"{_learned_counts(own)} validation images. Fooled: of the images that the target answers rightly when "
            f"clean, the same for all. {attack}{aim} · {setting.policy} · {images} · {counted} · 95 % intervals.",
            own,
        )


def _learned_counts(rows: pd.DataFrame) -> str:
    fewest, most = int(rows.num_learned.min()), int(rows.num_learned.max())
    return f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"


def _spoken(row: dict[str, Any]) -> str:
    return ", ".join(f"{title} {100 * row[measure]:.0f} %" for measure, title in MEASURES.items())
