"""The result of an attack: headline, population, close-up of one image, and what to take away."""

from urllib.parse import urlencode

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.experiment import Experiment
from core.export import command_of
from core.figures import transfer_figure
from core.metrics import rate
from core.tables import transfer_table
from ui import cache
from ui.controls import Setting, glyph_label
from ui.filling import keep_button
from ui.panels import figure_panel, rate_words, table_panel
from ui.shift import shift_counts_of, shift_panel
from ui.state import run_state


def headline(experiment: Experiment, setting: Setting) -> pd.DataFrame:
    """The result in words and four numbers; returns the decisions on the model in question."""
    name = experiment.spec.model
    card = experiment.cards[name]
    table = cache.decisions(experiment.spec, setting.policy, experiment)
    own = table[(table.source == name) & (table.target == name)]
    attackable = own[own.attackable]
    success = rate(int(attackable.succeeded.sum()), len(attackable))
    counts = shift_counts_of(own)
    fooled = "reach the goal" if own.success_rule.iloc[0] == "goal_reached" else "fooled"
    st.markdown(
        f"**{rate_words(success)} {fooled}** · leave earlier {counts['earlier']}, same {counts['same']}, "
        f"later {counts['later']} · {glyph_label(card)}"
    )
    columns = st.columns(4)
    columns[0].metric(
        fooled.capitalize(),
        f"{success.num_hits} of {success.num_images}",
        help="Of the attackable images: those answered rightly when clean.",
    )
    columns[1].metric(
        "Mean cost",
        f"{100 * own.clean_cost.mean():.0f} % → {100 * own.adversarial_cost.mean():.0f} %",
        help="Multiply-adds done, over those of the whole network; clean → adversarial.",
    )
    columns[2].metric(
        "Mean exit", f"{own.clean_computed_exit.mean() + 1:.1f} → {own.adversarial_computed_exit.mean() + 1:.1f}"
    )
    _twin_metric(columns[3], table, experiment)
    st.caption(
        f"{experiment.results[name].spec.label} · made at T = {experiment.spec.made_at.threshold:.2f} · judged at "
        f"T = {setting.policy.threshold:.2f} · {experiment.spec.images} · n = {len(own)} · 95 % Wilson interval"
        + ("" if card.stops_early else " · cannot stop early: costs as its owner gave them")
    )
    return own


def _twin_metric(column: DeltaGenerator, table: pd.DataFrame, experiment: Experiment) -> None:
    """How the twin fares: under its own attack where it was attacked, else under the same perturbations."""
    name = experiment.spec.model
    others = [card for card in experiment.cards.values() if card.name != name]
    if not others:
        return
    twin = glyph_label(others[0])
    on_twin = table[table.target == others[0].name]
    own_attack, same = (on_twin[on_twin.source == source] for source in (others[0].name, name))
    if own_attack.empty:
        column.metric(
            f"{twin}, same perturbations", _count(same), help="Fooled by what was made on the model on the left."
        )
    else:
        column.metric(
            f"{twin}, attacked too",
            _count(own_attack),
            help=f"Its twin under the same attack, made on it. The very perturbations on the left fool "
            f"{_count(same)}: see Who fools whom.",
        )


def _count(rows: pd.DataFrame) -> str:
    attackable = rows[rows.attackable]
    return f"{int(attackable.succeeded.sum())} of {len(attackable)}"


def population(experiment: Experiment, setting: Setting, own: pd.DataFrame) -> None:
    """Exit shift and transfer over all picked images."""
    left, right = st.columns([3, 2])
    card = experiment.cards[experiment.spec.model]
    where = f"{glyph_label(card)}, {experiment.spec.images}, T = {setting.policy.threshold:.2f}"
    with left:
        st.subheader("Exit shift")
        if card.num_exits == 1:
            st.info("A static model has one exit, so nothing can shift. Choose its early-exit twin in the sidebar.")
        else:
            shift_panel(own, where)
    with right:
        st.subheader("Who fools whom")
        if len(cache.cards()[0]) > 2:
            st.toggle(
                "Try on every other model",
                key="everyone",
                bind="query-params",
                persist_state="session",
                on_change=_run_again,
                help="Shows what was made to every model of this data set; nothing is attacked anew.",
            )
        if len(experiment.cards) == 1:
            st.info("There is no twin of this model here yet, so there is nobody else to fool.")
            return
        transfer = transfer_table(cache.decisions(experiment.spec, setting.policy, experiment))
        shown = transfer[transfer.denominator == "attackable"]
        labels = {name: glyph_label(card) for name, card in experiment.cards.items()}
        figure_panel(
            transfer_figure(shown, labels),
            key="transfer",
            alt="Transfer. "
            + "; ".join(
                f"{row.source} to {row.target}: {row.num_fooled} of {row.num_images}" for row in shown.itertuples()
            ),
            caption="Fooled, of the images that source and target answer rightly when clean. "
            f"n = {len(own)}, T = {setting.policy.threshold:.2f}.",
            table=transfer,
        )


def _run_again() -> None:
    run_state().wants_run = True


def take_away(experiment: Experiment, setting: Setting) -> None:
    """The link, the command and the tables."""
    st.subheader("Take it with you")
    if ":upload-" in experiment.spec.images:
        st.info("Your own pictures are in no link and no command; take the tables and the perturbations instead.")
        _all_decisions(experiment, setting)
        return
    keep_button(experiment)
    st.caption("Link that opens this page with its result")
    query = urlencode([(key, value) for key in st.query_params for value in st.query_params.get_all(key)])
    st.code(f"{(st.context.url or '').split('?')[0]}?{query}".rstrip("?"), language=None, wrap_lines=True)
    st.caption("Command that remakes the attack on this model")
    st.code(command_of(experiment.spec), language="bash", wrap_lines=True)
    _all_decisions(experiment, setting)


def _all_decisions(experiment: Experiment, setting: Setting) -> None:
    with st.expander("All decisions: every image, source and target"):
        table_panel(cache.decisions(experiment.spec, setting.policy, experiment), key="decisions")
