"""The transfer page in parts: what is compared, model by model, kind by kind, and exit by exit."""

from dataclasses import dataclass

import pandas as pd
import streamlit as st

from core.checkpoints import ModelCard
from core.counted import RULE_WORDS, counted_words, transfer_words
from core.data import ImageSet, selection_text
from core.errors import ExitLensError
from core.experiment import Experiment, ExperimentSpec
from core.figures import directions_figure, transfer_figure
from core.metrics import rate
from core.tables import DENOMINATORS, transfer_images, transfer_table
from core.transfer import directions_table
from ui import bound, cache
from ui.attack_controls import attack_controls
from ui.captions import WILSON, images_words, judged_words, made_at_words
from ui.controls import Setting, glyph_label
from ui.linked import linked_images
from ui.links import copy_link
from ui.panels import figure_panel, rate_words
from ui.picking import selection_line
from ui.state import TRANSFER_RUN
from ui.words import meaning


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
        if attack.needs_early_exits:
            sources = tuple(card.name for card in early)
            if not sources:
                raise ExitLensError(
                    f"{attack.title} goes through early exits. Choose an early-exit model to make it on."
                )
        st.caption("A static source has one exit, so only early-exit sources are moved by what the attack aims at.")
    images = f"{setting.set_name}:{selection_text(sorted(picked))}"
    shown = tuple(dict.fromkeys([*sources, *targets]))
    return Asked(ExperimentSpec(images, sources, shown, attack, made_at), targets)


def _models(label: str, cards: dict[str, ModelCard], key: str) -> tuple[str, ...]:
    chosen = bound.choose(
        st.multiselect,
        label,
        list(cards),
        format_func=lambda name: glyph_label(cards[name]),
        placeholder="all models trained as a whole",
        help=meaning("source"),
        key=key,
    )
    # Exits on another model's backbone fall with it, so they add to the wait more than to the answer.
    return tuple(chosen or [name for name, card in cards.items() if card.shares is None] or cards)


def denominator_control(success_rule: str) -> str:
    """Of which images shares are taken, under the success rule of the attack."""
    said = {name: counted_words(name, success_rule) for name in DENOMINATORS}
    chosen = bound.choose(
        st.segmented_control,
        "Counted images",
        list(DENOMINATORS),
        default=DENOMINATORS[0],
        required=True,
        key="counted",
        help=meaning(
            "denominator",
            more=". ".join(f"{name}: {words[0].lower()}{words[1:]}" for name, words in said.items()) + ".",
        ),
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
    rule = RULE_WORDS[experiment.spec.attack.success_rule]
    if others.num_images.sum():
        best = max(others[others.num_images > 0].to_dict("records"), key=lambda row: row["rate"])
        st.markdown(
            f"**{rate_words(rate(best['num_fooled'], best['num_images']))} of what was made on "
            f"{labels[best['source']]} {rule.does} {labels[best['target']]}**: the most that any model passes on to "
            "another."
        )
    else:
        st.markdown("**Only attacks on the models themselves are shown**: there is no pair of two models to count.")
    copy_link(experiment.spec, TRANSFER_RUN)
    selected = figure_panel(
        transfer_figure(shown, labels),
        key="transfer-matrix",
        alt="Transfer matrix. "
        + "; ".join(
            f"{labels[row['source']]} to {labels[row['target']]}: {row['num_fooled']} of {row['num_images']}"
            for row in shown.to_dict("records")
        ),
        caption=f"{transfer_words(shown, denominator, experiment.spec.attack.success_rule)}. "
        f"{_where(experiment, setting)}.",
        table=table,
        selectable=True,
    )
    for source, target in cells_of(selected, shown, labels):
        linked_pair(experiment, setting, denominator, source, target, "transfer-cell")
    if not selected:
        st.caption("Click a cell to see its images.")
    return table


def cells_of(selected: list[list[int]], shown: pd.DataFrame, labels: dict[str, str]) -> list[tuple[str, str]]:
    """Source and target of the selected cell of a transfer matrix, none or one.

    Args:
        selected: Row and column of each selected cell.
        shown: The rows that were drawn (schema ``TRANSFER``).
        labels: Name on screen of each model, in the order of rows and columns.
    """
    sources = [name for name in labels if name in set(shown.source)]
    targets = [name for name in labels if name in set(shown.target)]
    return [(sources[row], targets[column]) for row, column in selected[:1]]


def linked_pair(experiment: Experiment, setting: Setting, denominator: str, source: str, target: str, key: str) -> None:
    """The images that were made on one model and fooled another."""
    images = transfer_images(cache.decisions(experiment.spec, setting.policy, experiment))
    fooled = images[(images.source == source) & (images.target == target) & images[denominator] & images.fooled]
    linked_images(
        indices_of(fooled.image_id, experiment.image_set),
        experiment.image_set,
        title=f"Made on {glyph_label(experiment.cards[source])}, "
        f"{RULE_WORDS[experiment.spec.attack.success_rule].did} {glyph_label(experiment.cards[target])}",
        key=key,
    )


def directions(experiment: Experiment, setting: Setting, transfer: pd.DataFrame, denominator: str) -> None:
    """Static to early-exit and back, every pair a point."""
    table, rule = directions_table(transfer, experiment.cards), experiment.spec.attack.success_rule
    shown = table[table.denominator == denominator]
    labels = {name: glyph_label(card) for name, card in experiment.cards.items()}
    architectures = {card.architecture for card in experiment.cards.values()}
    why = {
        True: "no two models<br>of one architecture here" if len(architectures) > 1 else "there is one<br>model only",
        False: "only one<br>architecture is here" if len(architectures) == 1 else "no pair with<br>an image to count",
    }
    words = [
        f"{'same' if same else 'different'} architecture{'' if same else 's'}, {direction}: "
        + ", ".join(f"{row.num_fooled} of {row.num_images}" for row in group.itertuples())
        for (same, direction), group in shown.groupby(["same_architecture", "direction"], sort=False)
    ]
    selected = figure_panel(
        directions_figure(shown, labels, why, f"target {RULE_WORDS[rule].of_target}"),
        key="transfer-directions",
        alt="Transfer by kind of source and target. " + "; ".join(words),
        caption="One point a pair of models, never pooled: made on → shown to. Grey: made on a static model, purple: "
        "on an early-exit one; "
        "■ shown to a static model, ● to an early-exit one. Dotted: the two ways of one pair. Click "
        "a point to see its images. "
        f"{counted_words(denominator, rule)}; {WILSON}. {_where(experiment, setting)}.",
        table=shown,
        selectable=True,
    )
    for source, target in selected[:1]:
        linked_pair(experiment, setting, denominator, source, target, "direction")


def _where(experiment: Experiment, setting: Setting) -> str:
    policies = f"{made_at_words(experiment)} · {judged_words(setting.policy)}"
    return f"{experiment.spec.attack.label} · {policies} · {images_words(experiment)}"


def indices_of(image_ids: "pd.Series[str]", image_set: ImageSet) -> list[int]:
    """Official indices of images by their ids."""
    index_of = dict(zip(image_set.image_ids, image_set.indices.tolist(), strict=True))
    return [index_of[image_id] for image_id in image_ids]
