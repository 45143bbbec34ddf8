"""The transfer page in parts: what is compared, model by model, kind by kind, and exit by exit."""

from dataclasses import dataclass

import pandas as pd
import streamlit as st

from core.checkpoints import ModelCard
from core.data import ImageSet
from core.experiment import Experiment, ExperimentSpec
from core.figures import directions_figure, transfer_figure
from core.metrics import rate
from core.tables import DENOMINATORS, transfer_images, transfer_table
from core.transfer import directions_table
from ui import cache
from ui.controls import Setting, attack_controls, glyph_label
from ui.linked import linked_images
from ui.panels import figure_panel, rate_words
from ui.picking import selection_line, selection_text

IN_WORDS = {
    "attackable": "Of the images that source and target answer rightly when clean",
    "common": "Of the images that every model here answers rightly when clean, so that cells compare",
    "fooled the source": "Of the images that fooled their own source",
}


@dataclass(frozen=True)
class Asked:
    """What the controls say.

    Attributes:
        spec: The experiment.
        targets: Models whose columns are shown.
    """

    spec: ExperimentSpec
    targets: tuple[str, ...]


def controls(setting: Setting) -> Asked:
    """Which models, images and attack.

    Raises:
        ExitLensError: If the selection of images cannot be used.
    """
    cards = {card.name: card for card in cache.cards()[0] if card.dataset == setting.card.dataset}
    whole = cache.image_set(setting.set_name)
    with st.expander("What is attacked, and how"):
        picked = selection_line(setting, whole)
        columns = st.columns(2)
        with columns[0]:
            sources = _models("Made on", cards, "sources")
        with columns[1]:
            targets = _models("Shown to", cards, "targets")
        early = [cards[name] for name in sources if cards[name].num_exits > 1]
        # An exit that is offered must exist on every source.
        fewest = min(early or [setting.card], key=lambda card: card.num_exits)
        attack, made_at = attack_controls(fewest, whole.class_names)
        st.caption("A static source has one exit, so only early-exit sources are moved by what the attack aims at.")
    images = f"{setting.set_name}:{selection_text(sorted(picked))}"
    shown = tuple(dict.fromkeys([*sources, *targets]))
    return Asked(ExperimentSpec(images, sources, shown, attack, made_at), targets)


def _models(label: str, cards: dict[str, ModelCard], key: str) -> tuple[str, ...]:
    chosen = st.multiselect(
        label,
        list(cards),
        format_func=lambda name: glyph_label(cards[name]),
        placeholder="all models",
        key=key,
        bind="query-params",
        persist_state="session",
    )
    return tuple(chosen or cards)


def denominator_control() -> str:
    """Of which images shares are taken."""
    chosen = st.segmented_control(
        "Counted images",
        list(DENOMINATORS),
        default=DENOMINATORS[0],
        required=True,
        key="counted",
        bind="query-params",
        persist_state="session",
        help=". ".join(f"{name}: {words[0].lower()}{words[1:]}" for name, words in IN_WORDS.items()) + ".",
    )
    return str(chosen)


def matrix(experiment: Experiment, setting: Setting, targets: tuple[str, ...], denominator: str) -> pd.DataFrame:
    """Source by target, with the images behind a clicked cell; returns the table of all denominators."""
    decisions = cache.decisions(experiment.spec, setting.policy, experiment)
    table = transfer_table(decisions)
    kept = [name for name in targets if name in experiment.cards] or list(experiment.cards)
    shown = table[(table.denominator == denominator) & table.target.isin(kept)]
    labels = {name: glyph_label(card) for name, card in experiment.cards.items()}
    others = shown[shown.source != shown.target]
    if others.num_images.sum():
        best = max(others[others.num_images > 0].to_dict("records"), key=lambda row: row["rate"])
        st.markdown(
            f"**{rate_words(rate(best['num_fooled'], best['num_images']))} of what was made on "
            f"{labels[best['source']]} fool {labels[best['target']]}**: the most that any model passes on to another."
        )
    else:
        st.markdown("**Only attacks on the models themselves are shown**: there is no pair of two models to count.")
    selected = figure_panel(
        transfer_figure(shown, labels),
        key="transfer-matrix",
        alt="Transfer matrix. "
        + "; ".join(
            f"{labels[row['source']]} to {labels[row['target']]}: {row['num_fooled']} of {row['num_images']}"
            for row in shown.to_dict("records")
        ),
        caption=f"{IN_WORDS[denominator]}. Outlined: an attack shown to its own source. {_where(experiment, setting)}.",
        table=table,
        selectable=True,
    )
    images = transfer_images(decisions)
    sources = [name for name in labels if name in set(shown.source)]
    columns = [name for name in labels if name in set(shown.target)]
    for row, column in selected[:1]:
        source, target = sources[row], columns[column]
        cell = images[(images.source == source) & (images.target == target) & images[denominator] & images.fooled]
        linked_images(
            indices_of(cell.image_id, experiment.image_set),
            experiment.image_set,
            title=f"Made on {labels[source]}, fooled {labels[target]}",
            key="transfer-cell",
        )
    if not selected:
        st.caption("Click a cell to see its images.")
    return table


def directions(experiment: Experiment, setting: Setting, transfer: pd.DataFrame, denominator: str) -> None:
    """Static to early-exit and back, every pair a point."""
    table = directions_table(transfer, experiment.cards)
    shown = table[table.denominator == denominator]
    labels = {name: glyph_label(card) for name, card in experiment.cards.items()}
    architectures = {card.architecture for card in experiment.cards.values()}
    why = {
        True: "no two models of one architecture here" if len(architectures) > 1 else "there is one model only",
        False: "only one architecture is here" if len(architectures) == 1 else "no pair with an image to count",
    }
    words = [
        f"{'same' if same else 'different'} architecture{'' if same else 's'}, {direction}: "
        + ", ".join(f"{row.num_fooled} of {row.num_images}" for row in group.itertuples())
        for (same, direction), group in shown.groupby(["same_architecture", "direction"], sort=False)
    ]
    figure_panel(
        directions_figure(shown, labels, why),
        key="transfer-directions",
        alt="Transfer by kind of source and target. " + "; ".join(words),
        caption="One point a pair of models, never pooled. Grey: made on a static model, purple: on an early-exit one; "
        "■ shown to a static model, ● to an early-exit one. Dotted: the two ways of one pair. "
        f"{IN_WORDS[denominator]}; 95 % Wilson intervals. {_where(experiment, setting)}.",
        table=shown,
    )


def _where(experiment: Experiment, setting: Setting) -> str:
    return (
        f"{experiment.spec.attack.label}, made at T = {experiment.spec.made_at.threshold:.2f}, judged at "
        f"T = {setting.policy.threshold:.2f}; {experiment.spec.images}, n = {len(experiment.image_set)}"
    )


def indices_of(image_ids: "pd.Series[str]", image_set: ImageSet) -> list[int]:
    """Official indices of images by their ids."""
    index_of = dict(zip(image_set.image_ids, image_set.indices.tolist(), strict=True))
    return [index_of[image_id] for image_id in image_ids]
