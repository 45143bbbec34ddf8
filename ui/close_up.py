"""One image in close-up: pictures, who else is fooled, and views of every exit, of every step and of saliency."""

import numpy as np
import pandas as pd
import streamlit as st
import torch

from core.attacks.common import norm_of, strength_words
from core.attacks.spec import AttackSpec, EarlyAttack, PublishedEarlyAttack, UniversalAttack, WorstCaseAttack
from core.exits import decide_from_confidences
from core.experiment import Experiment
from core.figures import BesideIt, confidence_figure, steps_figure
from core.figures.theme import KIND_GLYPHS, exit_names
from core.transfer import evenly_spread
from ui import bound, cache
from ui.captions import made_words
from ui.controls import Setting, glyph_label
from ui.duration import what_it_took
from ui.panels import figure_panel
from ui.pictures import as_bytes

PERTURBATION_GAIN = 10
VIEWS = (EVERY_EXIT, STEP_BY_STEP, LOOKED_AT) = ("every exit", "step by step", "what each exit looked at")
MAX_REPLAYED = 41  # steps that the slider offers, the start among them


@st.fragment
def close_up(experiment: Experiment, setting: Setting, own: pd.DataFrame, smallest: pd.DataFrame | None) -> None:
    """One image: pictures, and one of three views of it; choosing another image or view draws nothing else again.

    Only the view in sight is drawn, as a moved threshold would wait for all of them.

    Args:
        experiment: What was done.
        setting: The policy in force.
        own: Decisions on the model in question.
        smallest: Schema ``LADDER``, where the ladder was climbed.
    """
    st.subheader("One image in close-up")
    class_names = experiment.image_set.class_names
    position = chosen_image(experiment, own)
    row = own.iloc[position]
    pictures(experiment, position, row, class_names)
    _who_else(experiment, setting, position)
    st.markdown(f"{answers_words(experiment, row)}{_smallest_words(smallest, position)}")
    what_it_took(experiment, row)
    view = bound.choose(
        st.segmented_control,
        "View of the image",
        VIEWS,
        default=EVERY_EXIT,
        required=True,
        key="close_up",
        on_change=bound.whole_page_if_refused,
        label_visibility="collapsed",
    )
    if view == STEP_BY_STEP:
        _trajectory(experiment, setting, position)
    elif view == LOOKED_AT:
        _saliency(experiment, position)
    else:
        _every_exit(experiment, setting, position)


def _every_exit(experiment: Experiment, setting: Setting, position: int) -> None:
    """The central chart, and in it the twin under the same attack."""
    name = experiment.spec.model
    twins = [source for source in experiment.results if source != name]
    confidence_panel(experiment, setting, name, position, *twins)


def answers_words(experiment: Experiment, row: pd.Series) -> str:
    """What the model in question answered of an image where and how surely, clean and attacked; in Markdown.

    Args:
        experiment: The experiment.
        row: The image's decisions on that model.
    """
    class_names = experiment.image_set.class_names
    names = exit_names(experiment.cards[experiment.spec.model].num_exits)
    before, after = (
        f"{class_names[row[f'{state}_prediction']]}, {names[row[f'{state}_answered_exit']]}, "
        f"{row[f'{state}_confidence']:.2f}"
        for state in ("clean", "adversarial")
    )
    return f"**{before} → {after}** · true class {class_names[row.label]}"


def _smallest_words(smallest: pd.DataFrame | None, position: int) -> str:
    if smallest is None or not smallest.attackable.iloc[position]:
        return ""
    epsilon = smallest.smallest_epsilon.iloc[position]
    norm = norm_of(smallest.attack.iloc[position])
    if pd.isna(epsilon):
        return f" · holds up to {strength_words(norm, smallest.largest_tried.iloc[position])}"
    return f" · {strength_words(norm, epsilon)} is enough"


def chosen_image(experiment: Experiment, own: pd.DataFrame) -> int:
    """Lets the viewer choose one of the images; returns its row.

    Args:
        experiment: The experiment.
        own: Its decisions on the model in question.
    """
    class_names = experiment.image_set.class_names
    indices = experiment.image_set.indices.tolist()
    labels = dict(zip(indices, experiment.image_set.labels.tolist(), strict=True))
    if st.session_state.get("detail") not in indices:
        st.session_state.pop("detail", None)
    index = bound.choose(
        st.selectbox,
        "Image",
        indices,
        format_func=lambda index: f"{index} · {class_names[labels[index]]}",
        said_more=True,
        index=_most_telling(own),
        key="detail",
        persist_state=None,
        on_change=bound.whole_page_if_refused,
    )
    return indices.index(index)


def _most_telling(own: pd.DataFrame) -> int:
    """The row to open with: fooled, and moved the furthest towards the front."""
    score = own.succeeded.astype(int) * own.attackable.astype(int) * 100 - own.exit_shift
    return int(np.argmax(score.to_numpy()))


def pictures(
    experiment: Experiment, position: int, row: pd.Series, class_names: tuple[str, ...], *, width: int = 224
) -> None:
    """An image clean, its perturbation, and the image adversarial.

    Args:
        experiment: The experiment.
        position: Of the image among its images.
        row: Its decisions on the model in question.
        class_names: Of the data set.
        width: In pixels on screen.
    """
    result = experiment.results[experiment.spec.model]
    clean, adversarial = result.images[position], result.adversarial[position]
    noise = ((adversarial - clean) * PERTURBATION_GAIN + 0.5).clamp(0, 1)
    with st.container(horizontal=True, gap="medium"):
        for picture, label, words in (
            (clean, "clean", f"answered {class_names[row.clean_prediction]}"),
            (noise, f"perturbation ×{PERTURBATION_GAIN}", f"at most {255 * row.linf:.2f}/255 per pixel"),
            (adversarial, "adversarial", f"answered {class_names[row.adversarial_prediction]}"),
        ):
            st.image(as_bytes(picture), width=width, caption=f"{label}: {words}", alt=f"{label} image, {words}")


def confidence_panel(
    experiment: Experiment, setting: Setting, target: str, position: int, twin: str | None = None
) -> None:
    """How sure every exit of one model is of one image, before and after the attack on this very model.

    Args:
        experiment: The experiment.
        setting: The policy in force.
        target: The model.
        position: Of the image among its images.
        twin: Shown beside it, under the same attack made on the twin: a fair comparison. What the very same
            perturbation does to it, the strip of models says.
    """
    shown = {name: _answers_to_own_attack(experiment, setting, name, position) for name in (target, twin) if name}
    card, class_names = experiment.cards[target], experiment.image_set.class_names
    beside = BesideIt(*shown[twin][:2], KIND_GLYPHS[experiment.cards[twin].kind]) if twin else None
    image_id = experiment.image_set.image_ids[position]
    st.markdown("**" + "** and beside it **".join(glyph_label(experiment.cards[name]) for name in shown) + "**")
    figure_panel(
        confidence_figure(shown[target][0], setting.policy.threshold, shown[target][1], class_names, beside),
        key=f"confidence-{card.kind}",
        alt=f"Confidence at every exit for {image_id}. " + " ".join(words for _, _, words in shown.values()),
        caption=f"{image_id} · filled: right, hollow: wrong, faded: not computed when deployed. "
        f"{made_words(experiment, setting.policy, target)}"
        + (f"; {glyph_label(experiment.cards[twin])} under the same attack made on it." if twin else "."),
        table=pd.concat([rows for rows, _, _ in shown.values()]),
    )


def _answers_to_own_attack(
    experiment: Experiment, setting: Setting, name: str, position: int
) -> tuple[pd.DataFrame, dict[str, int], str]:
    """One image on a model under the attack made on it: rows of ``EXITS``, the exits that answer, and that in words."""
    exits = cache.exits(experiment.spec, experiment)
    image_id = experiment.image_set.image_ids[position]
    rows = exits[(exits.source == name) & (exits.target == name) & (exits.image_id == image_id)]
    decisions = cache.decisions(experiment.spec, setting.policy, experiment)
    mine = decisions[(decisions.source == name) & (decisions.target == name)].iloc[position]
    taken = {state: int(mine[f"{state}_answered_exit"]) for state in ("clean", "adversarial")}
    class_names, card = experiment.image_set.class_names, experiment.cards[name]
    names = exit_names(card.num_exits)
    words = (
        f"{card.label}: leaves at {names[taken['clean']]} as {class_names[mine.clean_prediction]} when clean, at "
        f"{names[taken['adversarial']]} as {class_names[mine.adversarial_prediction]} when attacked."
    )
    return rows, taken, words


def _trajectory(experiment: Experiment, setting: Setting, position: int) -> None:
    name = experiment.spec.model
    steps = cache.steps(experiment.spec, name, experiment)
    image_id = experiment.image_set.image_ids[position]
    rows = steps[steps.image_id == image_id]
    st.markdown("**How each exit gave way**")
    records = experiment.results[name].steps
    confidence, predicted = (
        torch.stack([getattr(record, said)[position] for record in records]) for said in ("confidence", "predicted")
    )
    taken = decide_from_confidences(confidence, predicted, setting.policy).computed_exit
    figure_panel(
        steps_figure(rows, taken.tolist(), experiment.image_set.class_names),
        key="steps",
        alt=f"Probability of the true class at every exit over {len(taken) - 1} steps; the exit taken moves from "
        f"{int(taken[0]) + 1} to {int(taken[-1]) + 1}.",
        caption=f"{image_id} · {made_words(experiment, setting.policy)}.",
        table=rows,
    )
    if why_not := why_no_replay(experiment.results[name].spec, len(taken) - 1):
        st.caption(f"No replay: {why_not}.")
    else:
        _replay(experiment, setting, position, rows)


def why_no_replay(spec: AttackSpec, num_steps: int) -> str:
    """Why an attack cannot be stopped on its way to look at the image; empty where it can.

    Args:
        spec: The attack, as it applied to the model.
        num_steps: Of its records, the start not counted.
    """
    match spec:
        case EarlyAttack():
            return "the attack keeps the best image that it met, not the last, through each exit that it tries"
        case PublishedEarlyAttack():
            return "its images on the way are not kept, and its many steps would take too long to make again"
        case WorstCaseAttack():
            return "several attacks were made in turn, and each image is what the first that succeeded made of it"
        case UniversalAttack():
            return "the perturbation was fitted on other images, and this one gets it as a whole"
        case _ if num_steps < 2:
            return "there is one step, from the clean image to the adversarial one"
        case _ if not spec.can_be_replayed:
            return "each exit was attacked by itself, and the image is the one that is worst for all of them"
    return ""


@st.fragment
def _replay(experiment: Experiment, setting: Setting, position: int, rows: pd.DataFrame) -> None:
    """A slider through the attack: the image and every exit at one step, beside the start."""
    name, class_names = experiment.spec.model, experiment.image_set.class_names
    last = int(rows.step.max())
    step = st.select_slider("Replay the attack: step", evenly_spread(last + 1, MAX_REPLAYED), last, key="replay")
    label = int(experiment.image_set.labels[position])
    states = {"clean": rows[rows.step == 0], "adversarial": rows[rows.step == step]}
    shown = pd.concat([each.assign(state=state) for state, each in states.items()])
    shown = shown.assign(right=shown.predicted == label)
    records = experiment.results[name].steps
    taken = {
        state: decide_from_confidences(record.confidence[[position]], record.predicted[[position]], setting.policy)
        for state, record in (("clean", records[0]), ("adversarial", records[step]))
    }
    names = exit_names(experiment.cards[name].num_exits)
    exit_name = names[int(taken["adversarial"].answered_exit)]
    answer = class_names[int(taken["adversarial"].prediction)]
    left, right = st.columns([1, 3])
    left.image(
        cache.picture_at_step(experiment.spec, name, position, step, experiment),
        width=224,
        caption=f"step {step} of {last}: {answer}, {exit_name}",
        alt=f"The image after {step} of {last} steps, answered {answer} at {exit_name}",
    )
    with right:
        figure_panel(
            confidence_figure(
                shown,
                setting.policy.threshold,
                {state: int(decisions.answered_exit) for state, decisions in taken.items()},
                class_names,
            ),
            key="replay-confidence",
            alt=f"Confidence at every exit at step {step} beside the start; leaves at {exit_name} as {answer}.",
            caption=f"{experiment.image_set.image_ids[position]} · start (clean) and step {step} (adversarial) · "
            f"filled: right, hollow: wrong. {made_words(experiment, setting.policy)}.",
            table=shown,
        )


def _who_else(experiment: Experiment, setting: Setting, position: int) -> None:
    """One chip per model that was shown the very same perturbation."""
    decisions = cache.decisions(experiment.spec, setting.policy, experiment)
    class_names = experiment.image_set.class_names
    shown = decisions[decisions.source == experiment.spec.model]
    with st.container(horizontal=True, gap="small"):
        for target, card in experiment.cards.items():
            on_target = shown[shown.target == target]
            if on_target.empty:  # exits on the very same backbone
                continue
            row = on_target.iloc[position]
            answer = class_names[row.adversarial_prediction]
            if not row.attackable:
                slowed = row.success_rule == "slowed"
                verdict = (
                    f"computes everything anyway: {answer}" if slowed else f"wrong already when clean, now {answer}"
                )
            else:
                done = "slowed" if row.success_rule == "slowed" else "fooled"
                verdict = f"{done}: {answer}" if row.succeeded else f"holds: {answer}"
            st.badge(f"{glyph_label(card)} · {verdict}", color="gray")


def _saliency(experiment: Experiment, position: int) -> None:
    name = experiment.spec.model
    figure_panel(
        cache.saliency_chart(experiment.spec, name, position, experiment),
        key="saliency",
        alt=f"Saliency maps at exits of {experiment.cards[name].label}, clean above adversarial.",
        caption=f"{experiment.image_set.image_ids[position]} · gradient of each exit's predicted class, "
        "summed over colours; one scale for all maps: orange lowers, purple raises. "
        f"{made_words(experiment)}.",
    )
    st.page_link("pages/attribution.py", label="More methods, and how far they can be believed")
