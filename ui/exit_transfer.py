"""Transfer between the exits of one model: each attacked by itself, all others shown the outcome."""

import streamlit as st

from core.attacks.spec import L2Attack, LinfAttack
from core.checkpoints import ModelCard
from core.figures import exit_transfer_figure
from core.figures.theme import exit_names
from core.metrics import rate
from core.tables import DENOMINATORS
from core.transfer import ExitTransfer, ExitTransferSpec, evenly_spread, exit_transfer_images, exit_transfer_table
from ui import cache, running
from ui.captions import WILSON
from ui.controls import Setting, glyph_label
from ui.linked import linked_images
from ui.panels import figure_panel, rate_words
from ui.state import wait_only_for
from ui.transfer import Asked, indices_of

OF_EXITS = {
    "attackable": "of the images that both exits answer rightly when clean",
    "common": "of the images that all these exits answer rightly when clean",
    "fooled the source": "of the images that fooled the exit they were made on",
}


def exit_to_exit(asked: Asked, setting: Setting) -> None:
    """Each exit of one model attacked by itself, and what all others make of it."""
    card = _early_exit_card(setting)
    if card is None:
        st.info("A static model has one exit, so nothing can pass between exits. Choose an early-exit model.")
        return
    attack = asked.spec.attack
    if not isinstance(attack, LinfAttack | L2Attack):
        st.info(f"{attack.title} does not aim at one exit. Choose FGSM, PGD or MI-FGSM to attack exits one by one.")
        return
    exits = evenly_spread(card.num_exits)
    spec = ExitTransferSpec(asked.spec.images, card.name, card.weights_sha256, exits, attack)
    job = cache.job_board().find(spec)
    seconds = cache.exit_transfer_seconds(spec)
    if job is None and seconds > running.PATIENCE_SECONDS:
        label = f"Attack {len(exits)} exits of {glyph_label(card)} (about {seconds:.0f} s)"
        if not st.button(label, key="run-exits"):
            return
    job = job or cache.start_exit_transfer(spec)
    wait_only_for("exit-transfer", job)
    if not job.is_over:
        st.caption(f"Attacking {len(exits)} exits of {glyph_label(card)}, one after the other")
        running.progress(job, key="cancel-exits")
    elif running.came_to_nothing(job, "run"):
        st.button("Attack the exits again", on_click=_start, args=(spec,))
    else:
        _exit_matrix(job.result(), card)


def _start(spec: ExitTransferSpec) -> None:
    cache.start_exit_transfer(spec)


def _early_exit_card(setting: Setting) -> ModelCard | None:
    """The chosen model, or its twin where that is the one with exits."""
    names = cache.pair_names(setting.card)
    cards = [card for name in names for card in cache.cards()[0] if card.name == name]
    return next((card for card in cards if card.num_exits > 1), None)


def _exit_matrix(outcome: ExitTransfer, card: ModelCard) -> None:
    denominator = str(st.session_state.get("counted") or DENOMINATORS[0])
    table = exit_transfer_table(outcome)
    shown = table[table.denominator == denominator]
    names, exits = exit_names(card.num_exits), outcome.spec.exits
    some = f" {len(exits)} of its {card.num_exits} exits, evenly spread." if len(exits) < card.num_exits else ""
    others = shown[(shown.source_exit != shown.target_exit) & (shown.num_images > 0)]
    if not others.empty:
        best = max(others.to_dict("records"), key=lambda row: row["rate"])
        share = rate_words(rate(best["num_fooled"], best["num_images"]))
        st.markdown(
            f"**Of all other exits, {names[best['target_exit']]} is fooled most by what was made on "
            f"{names[best['source_exit']]}: {share}**, {OF_EXITS[denominator]}."
        )
    selected = figure_panel(
        exit_transfer_figure(shown, card.num_exits),
        key="exit-transfer",
        alt="Transfer between exits. "
        + "; ".join(
            f"{names[row['source_exit']]} to {names[row['target_exit']]}: {row['num_fooled']} of {row['num_images']}"
            for row in shown.to_dict("records")
        ),
        caption=f"Percent of images that an exit gets wrong, {OF_EXITS[denominator]}, whatever the threshold.{some} "
        f"{glyph_label(card)} · {_exits_words(outcome)} · {outcome.spec.images} · n = {len(outcome.image_set)}; "
        f"under the pointer: {WILSON}.",
        table=table,
        selectable=True,
    )
    images = exit_transfer_images(outcome)
    for row, column in selected[:1]:
        source, target = exits[row], exits[column]
        pair = (images.source_exit == source) & (images.target_exit == target)
        cell = images[pair & images[denominator] & images.fooled]
        linked_images(
            indices_of(cell.image_id, outcome.image_set),
            outcome.image_set,
            title=f"Made at {names[source]}, fooled {names[target]}",
            key="exit-cell",
        )


def _exits_words(outcome: ExitTransfer) -> str:
    return outcome.spec.attack.label.replace("at the final exit", "at one exit at a time")
