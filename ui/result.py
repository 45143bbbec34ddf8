"""The result of an attack: headline, population, close-up of one image, and what to take away."""

from urllib.parse import urlencode

import numpy as np
import pandas as pd
import streamlit as st
import torch
from streamlit.delta_generator import DeltaGenerator

from core.exits import decide_from_confidences
from core.experiment import Experiment
from core.export import command_of
from core.figures import confidence_figure, shift_figure, steps_figure, transfer_figure
from core.figures.theme import SHIFT_GLYPHS, exit_names
from core.metrics import rate
from core.tables import transfer_table
from ui import cache
from ui.controls import Setting, glyph_label
from ui.panels import figure_panel, rate_words, table_panel

PERTURBATION_GAIN = 10


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


def shift_counts_of(rows: pd.DataFrame) -> dict[str, int]:
    """How many rows leave earlier, at the same exit and later."""
    shift = rows.exit_shift
    return {"earlier": int((shift < 0).sum()), "same": int((shift == 0).sum()), "later": int((shift > 0).sum())}


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
            fooled = own.attackable & own.succeeded
            groups = {"all": own, "fooled": own[fooled], "not fooled": own[~fooled]}
            counts = {f"{label}, n = {len(rows)}": shift_counts_of(rows) for label, rows in groups.items() if len(rows)}
            words = "; ".join(
                f"{label}: " + ", ".join(f"{SHIFT_GLYPHS[word]} {word} {value}" for word, value in each.items())
                for label, each in counts.items()
            )
            figure_panel(
                shift_figure(counts),
                key="exit-shift",
                alt=f"Exit shift. {words}",
                caption=f"{words}. {where}.",
                table=own,
            )
    with right:
        st.subheader("Who fools whom")
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


def close_up(experiment: Experiment, setting: Setting, own: pd.DataFrame) -> None:
    """One image: pictures, the central chart, its twin beside it, the trajectory and the saliency maps."""
    st.subheader("One image in close-up")
    class_names = experiment.image_set.class_names
    indices = experiment.image_set.indices.tolist()
    by_index = dict(zip(indices, own.itertuples(), strict=True))

    def in_words(index: int) -> str:
        row = by_index[index]
        arrow = f"{class_names[row.clean_prediction]} → {class_names[row.adversarial_prediction]}"
        return f"{index} · {class_names[row.label]} · {arrow}"

    if st.session_state.get("detail") not in indices:
        st.session_state.pop("detail", None)
    index = st.selectbox(
        "Image", indices, format_func=in_words, index=_most_telling(own), key="detail", bind="query-params"
    )
    position = indices.index(index)
    row = own.iloc[position]
    name = experiment.spec.model
    names = exit_names(experiment.cards[name].num_exits)
    _pictures(experiment, position, row, class_names)
    before, after = (
        f"{class_names[row[f'{state}_prediction']]}, {names[row[f'{state}_answered_exit']]}, "
        f"{row[f'{state}_confidence']:.2f}"
        for state in ("clean", "adversarial")
    )
    st.markdown(
        f"**{before} → {after}** · {100 * row.clean_cost:.0f} % → {100 * row.adversarial_cost:.0f} % of the "
        f"multiply-adds · true class {class_names[row.label]}"
    )
    others = [source for source in experiment.results if source != name]
    columns = st.columns([3, 2] if others else 1)
    for column, target in zip(columns, [name, *others], strict=True):
        with column:
            _confidence_panel(experiment, setting, target, position)
    _trajectory(experiment, setting, position)
    _saliency(experiment, position)


def _most_telling(own: pd.DataFrame) -> int:
    """The row to open with: fooled, and moved the furthest towards the front."""
    score = own.succeeded.astype(int) * own.attackable.astype(int) * 100 - own.exit_shift
    return int(np.argmax(score.to_numpy()))


def _pictures(experiment: Experiment, position: int, row: pd.Series, class_names: tuple[str, ...]) -> None:
    result = experiment.results[experiment.spec.model]
    clean, adversarial = result.images[position], result.adversarial[position]
    noise = ((adversarial - clean) * PERTURBATION_GAIN + 0.5).clamp(0, 1)
    with st.container(horizontal=True, gap="medium"):
        for picture, label, words in (
            (clean, "clean", f"answered {class_names[row.clean_prediction]}"),
            (noise, f"perturbation ×{PERTURBATION_GAIN}", f"at most {255 * row.linf:.2f}/255 per pixel"),
            (adversarial, "adversarial", f"answered {class_names[row.adversarial_prediction]}"),
        ):
            st.image(_bytes(picture), width=224, caption=f"{label}: {words}", alt=f"{label} image, {words}")


def _confidence_panel(experiment: Experiment, setting: Setting, target: str, position: int) -> None:
    spec, card = experiment.spec, experiment.cards[target]
    # The twin is shown under the same attack made on it, as a fair comparison; the strip above has the rest.
    exits = cache.exits(spec, experiment)
    image_id = experiment.image_set.image_ids[position]
    rows = exits[(exits.source == target) & (exits.target == target) & (exits.image_id == image_id)]
    decisions = cache.decisions(spec, setting.policy, experiment)
    mine = decisions[(decisions.source == target) & (decisions.target == target)].iloc[position]
    taken = {state: int(mine[f"{state}_answered_exit"]) for state in ("clean", "adversarial")}
    class_names = experiment.image_set.class_names
    names = exit_names(card.num_exits)
    st.markdown(f"**{glyph_label(card)}**")
    figure_panel(
        confidence_figure(rows, setting.policy.threshold, taken, class_names),
        key=f"confidence-{card.kind}",
        alt=f"Confidence at every exit of {card.label} for {image_id}: leaves at {names[taken['clean']]} as "
        f"{class_names[mine.clean_prediction]} when clean, at {names[taken['adversarial']]} as "
        f"{class_names[mine.adversarial_prediction]} when attacked.",
        caption=f"{image_id} · {experiment.results[target].spec.label}, made on this model · "
        "filled: right, hollow: wrong, faded: not computed when deployed.",
        table=rows,
    )


def _trajectory(experiment: Experiment, setting: Setting, position: int) -> None:
    name = experiment.spec.model
    steps = cache.steps(experiment.spec, name, experiment)
    image_id = experiment.image_set.image_ids[position]
    rows = steps[steps.image_id == image_id]
    st.markdown("**How each exit gave way**")
    confidence = rows.pivot(index="step", columns="exit_index", values="confidence").to_numpy()
    predicted = rows.pivot(index="step", columns="exit_index", values="predicted").to_numpy()
    taken = decide_from_confidences(torch.tensor(confidence), torch.tensor(predicted), setting.policy).computed_exit
    figure_panel(
        steps_figure(rows, taken.tolist(), experiment.image_set.class_names),
        key="steps",
        alt=f"Probability of the true class at every exit over {len(taken) - 1} steps; the exit taken moves from "
        f"{int(taken[0]) + 1} to {int(taken[-1]) + 1}.",
        caption=f"{image_id} · {experiment.results[name].spec.label} · exit taken at "
        f"T = {setting.policy.threshold:.2f}, made at T = {experiment.spec.made_at.threshold:.2f}.",
        table=rows,
    )


def _saliency(experiment: Experiment, position: int) -> None:
    st.markdown("**What each exit looked at**")
    name = experiment.spec.model
    figure_panel(
        cache.saliency_chart(experiment.spec, name, position, experiment),
        key="saliency",
        alt=f"Saliency maps of {experiment.cards[name].num_exits} exits, clean above adversarial.",
        caption=f"{experiment.image_set.image_ids[position]} · gradient of each exit's predicted class, "
        "summed over colours; one scale for all maps: orange lowers, purple raises.",
    )


def take_away(experiment: Experiment, setting: Setting) -> None:
    """The link, the command and the tables."""
    st.subheader("Take it with you")
    st.caption("Link that opens this page with its result")
    query = urlencode([(key, value) for key in st.query_params for value in st.query_params.get_all(key)])
    st.code(f"{(st.context.url or '').split('?')[0]}?{query}".rstrip("?"), language=None, wrap_lines=True)
    st.caption("Command that remakes the attack on this model")
    st.code(command_of(experiment.spec), language="bash", wrap_lines=True)
    with st.expander("All decisions: every image, source and target"):
        table_panel(cache.decisions(experiment.spec, setting.policy, experiment), key="decisions")


def _bytes(image: torch.Tensor) -> np.ndarray:
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
