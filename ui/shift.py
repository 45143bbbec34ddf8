"""Exit shift in parts: the headline, who moves where, what it costs, and which exits the attack passed through."""

import numpy as np
import pandas as pd
import streamlit as st

from core.checkpoints import ModelCard
from core.counted import RULE_WORDS
from core.experiment import Experiment
from core.figures import cost_change_figure, exit_flow_figure, flow_figure, share_out_figure, shift_figure
from core.figures.theme import SHIFT_GLYPHS, exit_names, signed
from core.metrics import rate
from core.shift_tables import exit_flow_table, share_out_table, shift_groups
from ui import cache
from ui.captions import WILSON, made_words
from ui.controls import Setting, glyph_label
from ui.linked import linked_images
from ui.panels import figure_panel, folded_table, rate_words
from ui.words import meaning

IN_WORDS = {"earlier": "leave earlier", "same": "leave at the same exit", "later": "leave later"}


def nothing_to_shift(card: ModelCard) -> None:
    """Says why a static model has no exit shift, and offers its twin."""
    st.info("A static model has one exit: every image computes everything, attacked or not, so nothing can shift.")
    twin = next((other for other in cache.cards()[0] if other.name in cache.pair_names(card)[1:]), None)
    if twin is None:
        st.caption("There is no early-exit twin of this model here yet. Choose another model in the sidebar.")
    else:
        st.button(f"Look at its twin: {glyph_label(twin)}", on_click=_choose, args=(twin.name,), type="primary")


def _choose(name: str) -> None:
    st.session_state["model"] = name


def headline(experiment: Experiment, setting: Setting, own: pd.DataFrame, efficiency: pd.DataFrame) -> None:
    """What the attack did to exits, cost and answers, in words and numbers."""
    counts = shift_counts_of(own)
    most = max(counts, key=counts.__getitem__)
    others = ", ".join(f"{counts[word]} {word}" for word in counts if word != most)
    row = efficiency.iloc[0]
    st.markdown(
        f"**{rate_words(rate(counts[most], len(own)))} {IN_WORDS[most]} once attacked**, {others} · mean cost "
        f"{_percent(row.clean_mean_cost)} → {_percent(row.adversarial_mean_cost)}, {_change_words(row)} · "
        f"right answers {_right_words(row, 'clean')} → {_right_words(row, 'adversarial')}"
    )
    columns = st.columns(4)
    columns[0].metric(
        f"{SHIFT_GLYPHS[most]} {most.capitalize()}", f"{counts[most]} of {len(own)}", help=meaning("exit shift")
    )
    columns[1].metric(
        "Mean cost",
        f"{_percent(row.clean_mean_cost)} → {_percent(row.adversarial_mean_cost)}",
        help=meaning("cost fraction", more="Clean → adversarial."),
    )
    columns[2].metric(
        "Right answers",
        f"{row.clean_num_right} → {row.adversarial_num_right} of {len(own)}",
        help=meaning("answered exit", more="Clean → adversarial, of all images."),
    )
    columns[3].metric(
        "Efficacy",
        f"{row.clean_eec_trapezoid:.2f} → {row.adversarial_eec_trapezoid:.2f}",
        help=meaning("efficacy", more=f"Its floor here is {row.eec_floor:.2f}."),
    )
    st.caption(f"{made_words(experiment, setting.policy)} · {WILSON}; bootstrap over images for the change in cost")


def shift_counts_of(rows: pd.DataFrame) -> dict[str, int]:
    """How many rows leave earlier, at the same exit and later."""
    shift = rows.exit_shift
    return {"earlier": int((shift < 0).sum()), "same": int((shift == 0).sum()), "later": int((shift > 0).sum())}


def shift_panel(own: pd.DataFrame, where: str) -> list[tuple[str, str]]:
    """Earlier, same or later for all images, the fooled and the others; returns the (group, word) selected."""
    groups, labels = shift_groups(own), group_labels(own)
    counts = {f"{labels[group]}, n = {len(rows)}": shift_counts_of(rows) for group, rows in groups.items()}
    words = "; ".join(
        f"{label}: " + ", ".join(f"{SHIFT_GLYPHS[word]} {word} {value}" for word, value in each.items())
        for label, each in counts.items()
    )
    selected = figure_panel(
        shift_figure(counts),
        key="exit-shift",
        alt=f"Exit shift. {words}",
        caption=f"{words}. {left_out_words(own)}{where}.",
        table=own,
        selectable=True,
    )
    return [(list(groups)[number], word) for number, word in selected if number < len(groups)]


def group_labels(own: pd.DataFrame) -> dict[str, str]:
    """Each of the ``shift_groups`` in words of the attack's success rule, such as ``slowed down``."""
    words = RULE_WORDS[own.success_rule.iloc[0]]
    return {"all": "all", "succeeded": words.done, "not succeeded": words.not_done}


def left_out_words(own: pd.DataFrame) -> str:
    """A sentence on images that stand among the others as the rule does not count them; empty without such a group."""
    rule = RULE_WORDS[own.success_rule.iloc[0]]
    is_shown = rule.left_out and "not succeeded" in shift_groups(own)
    return f"{rule.not_done.capitalize()}: images {rule.left_out} included. " if is_shown else ""


def who_moves_where(experiment: Experiment, own: pd.DataFrame, where: str) -> None:
    """The matrix of exits, the same as a flow, and the strip of directions; each selection shows its images."""
    card = experiment.cards[experiment.spec.model]
    flow = exit_flow_table(own, card.num_exits)
    names = exit_names(card.num_exits)
    ways = flow[flow.num_images > 0].sort_values("num_images", ascending=False)
    alt = ", ".join(
        f"{names[way['clean_exit']]} to {names[way['adversarial_exit']]}: {way['num_images']}"
        for way in ways.to_dict("records")
    )
    matrix, ribbons = st.columns(2) if card.num_exits <= 10 else (st.container(), st.container())
    with matrix:
        cells = figure_panel(
            exit_flow_figure(flow),
            key=f"exit-matrix-{card.name}",
            alt=f"Matrix of exits, clean by adversarial. {alt}.",
            caption="Of the images that leave at an exit when clean (a row), the share that leaves at each exit once "
            "attacked; the number of images stands in the cell. Framed: the same exit; an empty row: no image leaves "
            f"there when clean. Click a cell to see its images. {where}.",
            table=flow,
            selectable=True,
        )
    with ribbons:
        figure_panel(
            flow_figure(flow),
            key="exit-flow",
            alt=f"Flow from the exit when clean to the exit when adversarial. {alt}.",
            caption=f"The same images as ribbons, as wide as they are many. {where}.",
            table=flow,
        )
    chosen = np.zeros(len(own), dtype=bool)
    for clean, adversarial in cells:
        chosen |= ((own.clean_computed_exit == clean) & (own.adversarial_computed_exit == adversarial)).to_numpy()
    if cells:
        words = ", ".join(f"{names[clean]} → {names[adversarial]}" for clean, adversarial in cells)
        _linked(experiment, chosen, words, "matrix")
    st.subheader("Earlier, same or later")
    parts = shift_panel(own, f"Click a part to see its images. {where}")
    link_parts(experiment, own, parts)


def link_parts(experiment: Experiment, own: pd.DataFrame, parts: list[tuple[str, str]]) -> None:
    """The images behind the selected parts of the strip, each a group and the word of a direction."""
    chosen = np.zeros(len(own), dtype=bool)
    for group, word in parts:
        sign = {"earlier": -1, "same": 0, "later": 1}[word]
        chosen |= own.index.isin(shift_groups(own)[group].index) & (np.sign(own.exit_shift) == sign).to_numpy()
    if parts:
        labels = group_labels(own)
        _linked(experiment, chosen, ", ".join(f"{labels[group]}, {IN_WORDS[word]}" for group, word in parts), "strip")


def what_it_costs(experiment: Experiment, own: pd.DataFrame, efficiency: pd.DataFrame, where: str) -> None:
    """Change in cost per image, and the share of images out by each cost; accuracy beside both."""
    card, row = experiment.cards[experiment.spec.model], efficiency.iloc[0]
    names = exit_names(card.num_exits)
    right = f"Right answers {_right_words(row, 'clean')} → {_right_words(row, 'adversarial')}"
    left, middle = st.columns(2)
    with left:
        selected = figure_panel(
            cost_change_figure(own, efficiency),
            key="cost-change",
            alt=f"Change in cost of each of {len(own)} images; mean {_change_words(row)}.",
            caption=f"Each bar is an image, shown when clicked; band: 95 % interval of the mean, "
            f"{_change_words(row)}. {right}. {where}.",
            table=own[["image_id", "label", "clean_cost", "adversarial_cost", "exit_shift", "succeeded"]],
            selectable=True,
        )
    with middle:
        saving = f"{_percent(row.clean_mean_saving)} → {_percent(row.adversarial_mean_saving)}"
        efficacy = f"{row.clean_eec_trapezoid:.2f} → {row.adversarial_eec_trapezoid:.2f}"
        share_out = share_out_table(own, card.exit_costs)
        out = figure_panel(
            share_out_figure(share_out, efficiency),
            key="share-out",
            alt=f"Share of images out by each cost. Saving {saving}, efficacy {efficacy}, floor {row.eec_floor:.2f}.",
            caption=f"Mean saving (1 − mean cost) {saving}. Efficacy (area under the curve) {efficacy}; it is "
            f"{row.eec_floor:.2f} even if no image leaves early. {right}. Click a point to see who is out by then. "
            f"{where}.",
            table=share_out,
            selectable=True,
        )
    chosen = np.zeros(len(own), dtype=bool)
    chosen[[point[0] for point in selected if point[0] < len(own)]] = True
    if selected:
        _linked(experiment, chosen, "Selected by their change in cost", "cost")
    for state, exit_index, *_ in out[:1]:
        is_out = (own[f"{state}_computed_exit"] <= exit_index).to_numpy()
        title = "Nobody is out yet" if exit_index < 0 else f"{state.capitalize()}, out by {names[exit_index]}"
        _linked(experiment, is_out, title, "share-out")
    folded_table(
        efficiency, key="efficiency", title="Cost and accuracy of all, where the attack succeeded and of the others"
    )


def while_generating(experiment: Experiment) -> None:
    """At which exit the images were about to leave at each step of the attack."""
    name = experiment.spec.model
    result = experiment.results[name]
    made_at, figure = cache.made_at_chart(experiment.spec, experiment)
    aim = (
        "The attack aims at that very exit, looked up again at every step."
        if result.spec.aim == "taken"
        else f"The attack itself is {result.spec.label}."
    )
    first, last = (made_at[made_at.step == step] for step in (0, made_at.step.max()))
    mean_exits = [float((rows.exit_index * rows.share).sum()) + 1 for rows in (first, last)]
    selected = figure_panel(
        figure,
        key="exits-made-at",
        alt=f"Share of images about to leave at each exit, by step; the mean exit goes from {mean_exits[0]:.1f} to "
        f"{mean_exits[1]:.1f}.",
        caption=f"Mean exit {mean_exits[0]:.1f} → {mean_exits[1]:.1f}. {aim} The threshold in the sidebar moves "
        f"nothing here. Click a cell to see its images. {made_words(experiment)}.",
        table=made_at,
        selectable=True,
    )
    names = exit_names(experiment.cards[name].num_exits)
    for exit_index, step in selected[:1]:
        about_to_leave = (result.steps[step].exit_taken == exit_index).numpy()
        _linked(experiment, about_to_leave, f"About to leave at {names[exit_index]} at step {step}", "made-at")


def _linked(experiment: Experiment, chosen: np.ndarray, title: str, key: str) -> None:
    linked_images(experiment.image_set.indices.numpy()[chosen].tolist(), experiment.image_set, title=title, key=key)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _change_words(row: pd.Series) -> str:
    value, low, high = (signed(100 * row[column]) for column in ("cost_change", "cost_change_low", "cost_change_high"))
    return f"{value} points ({low} to {high})"


def _right_words(row: pd.Series, state: str) -> str:
    return rate_words(rate(int(row[f"{state}_num_right"]), int(row.num_images)))
