"""What a model is worth: headline, exits, accuracy against cost, wall-clock, and how it was made."""

from collections.abc import Hashable, Mapping

import pandas as pd
import streamlit as st

from core.card_text import POINT_NAMES, how_it_was_made
from core.checkpoints import ModelCard
from core.experiment import counterpart_of
from core.figures import StaticPoint, curve_figure, model_exits_figure
from core.figures.theme import exit_names
from core.model_tables import operating_points_table
from ui import cache
from ui.captions import WILSON
from ui.controls import FALLBACKS, Setting, glyph_label
from ui.linked import linked_rows
from ui.measuring import Measured, Pair
from ui.panels import figure_panel, folded_table, rate_words
from ui.words import help_of, meaning


def headline(pair: Pair, setting: Setting) -> None:
    """The model and its counterpart in one sentence and four numbers."""
    own, counterpart, policy = pair.own, pair.counterpart, setting.policy
    share, decisions = own.accuracy(policy)
    cost = decisions.costs(own.card.exit_costs).mean().item()
    relative = cost / own.static_cost
    at = f" at T = {policy.threshold:.2f}" if own.card.num_exits > 1 else ""
    sentence = f"{glyph_label(own.card)} is right on **{rate_words(share)}**{at}"
    if own.card.num_exits > 1:
        sentence += f", for **{100 * relative:.0f} %** of the multiply-adds of a static network"
    if counterpart:
        other, _ = counterpart.accuracy(policy)
        sentence += f"; {pair.relation} {glyph_label(counterpart.card)} on {rate_words(other)}"
    st.markdown(f"{sentence}.")
    columns = st.columns(4)
    columns[0].metric("Right", f"{100 * share.value:.1f} %", help=f"{share.num_hits:,} of {share.num_images:,} images.")
    columns[1].metric("Mean cost", f"{100 * cost:.0f} %", help=meaning("cost fraction"))
    columns[2].metric(
        "Of the static cost",
        f"{100 * relative:.0f} %",
        help=meaning("static cost", more="Here: multiply-adds done, over those."),
    )
    if counterpart:
        columns[3].metric(glyph_label(counterpart.card), f"{100 * other.value:.1f} %", help=rate_words(other))
    else:
        st.caption(f"No {_other_kind(own.card)} twin of this model is here to compare with.")
    st.caption(where_words(pair, setting))
    if setting.set_name.endswith(":validation"):
        st.caption("These are the images on which the operating points were chosen: accuracies look a little better.")


def exits_panel(pair: Pair, setting: Setting, exits: pd.DataFrame, where: str) -> None:
    """Accuracy and cost of every exit; a selected point shows its images."""
    st.subheader("What each exit costs and gets right", help=meaning("exit", "cost fraction"))
    selected = figure_panel(
        model_exits_figure(exits, pair.own.card.kind),
        key="model-exits",
        alt="Accuracy of every exit: "
        + ", ".join(
            f"{100 * accuracy:.0f} % for {100 * cost:.0f} % of the cost"
            for accuracy, cost in zip(exits.accuracy, exits.cost, strict=True)
        )
        + ".",
        caption=f"{where}. Grey: every image, were it answered at this exit; coloured: the images that "
        "leave there; a click shows the wrong ones among them. The table adds multiply-adds of each stage and the "
        "accuracy on the card.",
        table=exits,
        selectable=True,
    )
    evaluation, names = pair.own.evaluation, exit_names(pair.own.card.num_exits)
    for exit_index, leaving, *_ in selected[:1]:
        chosen = ~evaluation.right[:, exit_index]
        if leaving:
            chosen &= evaluation.decide(setting.policy).computed_exit == exit_index
        title = f"Wrong at {names[exit_index]}{', and leaving there' if leaving else ''}"
        linked_rows(chosen, setting.set_name, title=title, key="model-exits")


def curve_panel(pair: Pair, setting: Setting) -> None:
    """Accuracy against mean cost over all thresholds, with the operating points."""
    st.subheader("Accuracy against cost")
    early, static = pair.of_kind("early-exit"), pair.of_kind("static")
    if early is None:
        st.info("A static model always computes everything: it is one point. Its early-exit twin is not here yet.")
        return
    curve = cache.curve(early.evaluation.spec, setting.policy.fallback, early.static_cost, early.evaluation)
    marked = _marked_thresholds(early.card, setting.policy.threshold)
    beside = None
    if static:
        beside = StaticPoint(glyph_label(static.card), early.static_cost, static.accuracy(setting.policy)[0])
    first, last = curve.iloc[0], curve.iloc[-1]
    figure_panel(
        curve_figure(curve, marked, beside),
        key="curve",
        alt=f"Accuracy rises from {100 * first.accuracy:.0f} % at {100 * first.cost:.0f} % of the cost to "
        f"{100 * last.accuracy:.0f} % at the full cost of {glyph_label(early.card)}"
        + (f"; {beside.label}: {100 * beside.accuracy.value:.0f} %." if beside else "."),
        caption=f"{glyph_label(early.card)} · {pair.images}, n = {len(early.evaluation.labels):,} · "
        f"{FALLBACKS[setting.policy.fallback]} when no exit is sure · cost in multiply-adds · thin bars: {WILSON} · "
        + (f"{beside.label} costs {100 * beside.cost:.1f} %." if beside else "No static twin is here to draw."),
        table=curve,
    )
    _operating_points(early, curve, pair.images)


def _marked_thresholds(card: ModelCard, now: float) -> dict[float, str]:
    """The operating points and the threshold in force, with the words that stand beside them on the curve."""
    named: dict[float, list[str]] = {
        threshold: [] for threshold in (*(point.threshold for point in card.operating_points), now)
    }
    for point in card.operating_points:
        if not point.name.startswith("threshold_"):
            named[point.threshold].append(POINT_NAMES.get(point.name, point.name))
    words = {threshold: f"{', '.join(names) or 'T'}: {threshold:.2f}" for threshold, names in named.items()}
    return words | {now: f"<b>{words[now]}, now</b>"}


def _operating_points(early: Measured, curve: pd.DataFrame, images: str) -> None:
    st.markdown(
        "**Operating points**: thresholds chosen on validation, and what they do here", help=meaning("operating point")
    )
    if not early.card.operating_points:
        st.caption("The card of this model names none.")
        return
    points = operating_points_table(early.card, curve)
    shown = pd.DataFrame(
        {
            "point": [POINT_NAMES.get(name, name) for name in points.name],
            "threshold": points.threshold,
            "validation": [_interval_words(row, "validation_") for row in points.to_dict("records")],
            "cost there": 100 * points.validation_cost,
            "here": [_interval_words(row) for row in points.to_dict("records")],
            "cost here": 100 * points.cost,
            "of the static cost": 100 * points.relative_cost,
        }
    )
    costs = ("cost there", "cost here", "of the static cost")
    percent = {name: st.column_config.NumberColumn(format="%.1f %%", help=help_of(name)) for name in costs}
    percent["threshold"] = st.column_config.NumberColumn(format="%.2f", help=help_of("threshold"))
    st.dataframe(
        shown, hide_index=True, column_config=percent, alt=f"{len(shown)} operating points, on validation and here"
    )
    st.caption(
        f"Accuracy with {WILSON}. Validation: n = {points.validation_num_images[0]:,}; here: {images}, "
        f"n = {points.num_images[0]:,}. Costs are means over images, of the whole network."
    )
    folded_table(points, key="operating-points")


def making_panel(card: ModelCard) -> None:
    """Parameters, and how the model and its counterpart were made."""
    st.subheader("How it was made")
    for each in (card, counterpart_of(card, cache.cards()[0])):
        if each:
            st.markdown(f"**{glyph_label(each)}** · {how_it_was_made(each)}")


def _interval_words(row: Mapping[Hashable, float], prefix: str = "") -> str:
    accuracy, low, high = (100 * row[f"{prefix}{name}"] for name in ("accuracy", "low", "high"))
    return f"{accuracy:.1f} % ({low:.1f}–{high:.1f} %)"


def where_words(pair: Pair, setting: Setting) -> str:
    """Images, model and policy in words, for captions."""
    words = f"{pair.images}, n = {len(pair.own.evaluation.labels):,} · {glyph_label(pair.own.card)}"
    if pair.own.card.num_exits > 1:
        words += f" · T = {setting.policy.threshold:.2f}"
        words += "" if setting.policy.fallback == "final" else f", then {FALLBACKS[setting.policy.fallback]}"
    words += "" if pair.own.card.stops_early else " · cannot stop early: costs as its owner gave them"
    return f"{words} · {WILSON}"


def _other_kind(card: ModelCard) -> str:
    return "static" if card.kind == "early-exit" else "early-exit"
