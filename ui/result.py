"""The result of an attack: headline, population, close-up of one image, and what to take away."""

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.attacks.success import DONE_WORDS
from core.counted import RULE_WORDS, transfer_words
from core.experiment import Experiment, twin_of
from core.export import PERTURBATIONS_FILE, command_of, perturbations_file
from core.figures import transfer_figure
from core.figures.theme import KIND_GLYPHS
from core.metrics import rate
from core.tables import transfer_table
from ui import bound, cache
from ui.captions import WILSON, images_words, judged_words, made_at_words, made_words
from ui.controls import Setting, glyph_label
from ui.filling import keep_button
from ui.panels import figure_panel, folded_table, rate_words
from ui.shift import link_parts, shift_counts_of, shift_panel
from ui.state import run_state
from ui.transfer import cells_of, linked_pair
from ui.words import meaning


def headline(experiment: Experiment, setting: Setting) -> pd.DataFrame:
    """The result in words and four numbers; returns the decisions on the model in question."""
    name = experiment.spec.model
    card = experiment.cards[name]
    table = cache.decisions(experiment.spec, setting.policy, experiment)
    own = table[(table.source == name) & (table.target == name)]
    attackable = own[own.attackable]
    success = rate(int(attackable.succeeded.sum()), len(attackable))
    counts = shift_counts_of(own)
    rule = str(own.success_rule.iloc[0])
    words = RULE_WORDS[rule]
    st.markdown(
        f"**{rate_words(success)} {DONE_WORDS[rule]}** · leave earlier {counts['earlier']}, same {counts['same']}, "
        f"later {counts['later']} · {glyph_label(card)}"
    )
    columns = st.columns(4)
    columns[0].metric(
        words.done.capitalize(),
        f"{success.num_hits} of {success.num_images}",
        help=meaning("attackable", "success rule", more=f"Here: {words.attackable}."),
    )
    columns[1].metric(
        "Mean cost",
        f"{100 * own.clean_cost.mean():.0f} % → {100 * own.adversarial_cost.mean():.0f} %",
        help=meaning("cost fraction", more="Clean → adversarial."),
    )
    columns[2].metric(
        "Mean exit",
        f"{own.clean_computed_exit.mean() + 1:.1f} → {own.adversarial_computed_exit.mean() + 1:.1f}",
        help=meaning("computed exit", more="Clean → adversarial."),
    )
    if rule == "slowed":
        right = [int((own[f"{state}_prediction"] == own.label).sum()) for state in ("clean", "adversarial")]
        columns[3].metric(
            "Answered rightly", f"{right[0]} → {right[1]} of {len(own)}", help="A slowdown asks for time."
        )
    else:
        _twin_metric(columns[3], table, experiment)
    st.caption(
        f"{made_words(experiment, setting.policy)} · {WILSON}"
        + ("" if card.stops_early else " · cannot stop early: costs as its owner gave them")
    )
    return own


def _twin_metric(column: DeltaGenerator, table: pd.DataFrame, experiment: Experiment) -> None:
    """How the twin fares: under its own attack where it was attacked, else under the same perturbations."""
    name = experiment.spec.model
    others = [card for card in experiment.cards.values() if card.name != name]
    if not others:
        return
    twin = twin_of(experiment.cards[name], others)
    other = twin or others[0]
    called, whole = f"{KIND_GLYPHS[other.kind]} {'Its twin' if twin else other.label}", glyph_label(other)
    on_other = table[table.target == other.name]
    own_attack, same = (on_other[on_other.source == source] for source in (other.name, name))
    if own_attack.empty:
        column.metric(
            f"{called}, same perturbations",
            _count(same),
            help=meaning("twins", "perturbation", more=f"{whole}, fooled by what was made on the model on the left."),
        )
    else:
        column.metric(
            f"{called}, attacked too",
            _count(own_attack),
            help=meaning(
                "twins",
                more=f"{whole} is under the same attack here, made on it. The very perturbations on the left fool "
                f"{_count(same)}: see Who fools whom.",
            ),
        )


def _count(rows: pd.DataFrame) -> str:
    attackable = rows[rows.attackable]
    return f"{int(attackable.succeeded.sum())} of {len(attackable)}"


def population(experiment: Experiment, setting: Setting, own: pd.DataFrame) -> None:
    """Exit shift and transfer over all picked images."""
    left, right = st.columns([3, 2])
    card = experiment.cards[experiment.spec.model]
    with left:
        st.subheader("Exit shift", help=meaning("exit shift"))
        if card.num_exits == 1:
            st.info("A static model has one exit, so nothing can shift. Choose its early-exit twin in the sidebar.")
        else:
            parts = shift_panel(own, f"Click a part to see its images. {made_words(experiment, setting.policy)}")
            link_parts(experiment, own, parts)
    with right:
        rule = experiment.spec.attack.success_rule
        st.subheader(
            "Who slows whom down" if rule == "slowed" else "Who fools whom", help=meaning("source", "attackable")
        )
        if len(cache.cards()[0]) > 2:
            bound.switch(
                st.toggle,
                "Try on every other model",
                key="everyone",
                on_change=_run_again,
                help="Shows what was made to every model of this data set; nothing is attacked anew.",
            )
        if len(experiment.cards) == 1:
            st.info("There is no twin of this model here yet, so there is nobody else to fool.")
            return
        transfer = transfer_table(cache.decisions(experiment.spec, setting.policy, experiment))
        shown = transfer[transfer.denominator == "attackable"]
        labels = {name: glyph_label(card) for name, card in experiment.cards.items()}
        selected = figure_panel(
            transfer_figure(shown, labels),
            key="transfer",
            alt="Transfer. "
            + "; ".join(
                f"{labels[str(row.source)]} to {labels[str(row.target)]}: {row.num_fooled} of {row.num_images}"
                for row in shown.itertuples()
            ),
            caption=f"{transfer_words(shown, 'attackable', rule)}. Under the pointer: "
            f"{WILSON}. Click a cell to see its images. {experiment.spec.attack.label} · {made_at_words(experiment)} · "
            f"{judged_words(setting.policy)} · {images_words(experiment)}.",
            table=transfer,
            selectable=True,
        )
        for source, target in cells_of(selected, shown, labels):
            linked_pair(experiment, setting, "attackable", source, target, "transfer-cell")


def _run_again() -> None:
    run_state().wants_run = True


def take_away(experiment: Experiment, setting: Setting) -> None:
    """Keep, the command, the perturbations and the table of everything; uploads have neither command nor link."""
    st.subheader("Take it with you")
    if ":upload-" not in experiment.spec.images:
        keep_button(experiment)
        st.caption("Command that remakes the attack on this model")
        st.code(command_of(experiment.spec), language="bash", wrap_lines=True)
    st.download_button(
        "Perturbations",
        lambda: perturbations_file(experiment),
        f"exitlens-{PERTURBATIONS_FILE}",
        "application/octet-stream",
        key="perturbations",
        on_click="ignore",
        help="As they were judged: float16, one tensor for each attacked model, in a safetensors file.",
    )
    decisions = cache.decisions(experiment.spec, setting.policy, experiment)
    folded_table(decisions, key="decisions", title="All decisions: every image, source and target")
