"""Confidence in parts: the headline, one image at every exit, and whole populations."""

import numpy as np
import pandas as pd
import streamlit as st
import torch

from core.calibration import bin_index
from core.confidence_tables import confidence_bin, top_classes_table
from core.experiment import Experiment
from core.figures import confidence_spread_figure, top_classes_figure
from core.figures.theme import exit_names
from core.metrics import rate
from ui import cache
from ui.captions import WILSON, made_words
from ui.close_up import answers_words, chosen_image, confidence_panel
from ui.controls import Setting
from ui.linked import linked_images
from ui.model_trust import SelectedBin
from ui.panels import figure_panel, rate_words
from ui.words import meaning


def headline(experiment: Experiment, setting: Setting, own: pd.DataFrame) -> None:
    """How sure the answers are and how many of them are right, clean and adversarial."""
    sure = {state: own[f"{state}_confidence"].mean() for state in ("clean", "adversarial")}
    right = {state: rate(int((own[f"{state}_prediction"] == own.label).sum()), len(own)) for state in sure}
    st.markdown(
        f"**When clean, the answers are {sure['clean']:.2f} sure and {rate_words(right['clean'])} are right; "
        f"attacked, they are {sure['adversarial']:.2f} sure and {rate_words(right['adversarial'])} are right.**"
    )
    columns = st.columns(4)
    columns[0].metric(
        "Mean confidence of the answer",
        f"{sure['clean']:.2f} → {sure['adversarial']:.2f}",
        help=meaning("confidence", more="Clean → adversarial."),
    )
    columns[1].metric(
        "Right answers",
        f"{right['clean'].num_hits} → {right['adversarial'].num_hits} of {len(own)}",
        help=meaning("answered exit", more="Clean → adversarial, of all images."),
    )
    wrong = own[own.adversarial_prediction != own.label]
    bold = rate(int((wrong.adversarial_confidence >= setting.policy.threshold).sum()), len(wrong))
    columns[2].metric(
        "Wrong answers above the threshold",
        f"{bold.num_hits} of {bold.num_images}",
        help=meaning(
            "threshold",
            more="Of the wrong answers to attacked images, those whose confidence is at least the threshold.",
        ),
    )
    columns[3].metric(
        "Mean cost",
        f"{100 * own.clean_cost.mean():.0f} % → {100 * own.adversarial_cost.mean():.0f} %",
        help=meaning("cost fraction", more="Clean → adversarial."),
    )
    st.caption(f"{made_words(experiment, setting.policy)} · {WILSON}")


def one_image(experiment: Experiment, setting: Setting, own: pd.DataFrame) -> None:
    """How sure every exit is of one image, and between which classes."""
    position = chosen_image(experiment, own)
    name, row = experiment.spec.model, own.iloc[position]
    st.markdown(answers_words(experiment, row))
    result = experiment.results[name]
    names = exit_names(experiment.cards[name].num_exits)
    taken = {state: int(row[f"{state}_answered_exit"]) for state in ("clean", "adversarial")}
    left, right = st.columns([3, 2])
    with left:
        confidence_panel(experiment, setting, name, position)
    with right:
        classes = top_classes_table(
            result.clean_logits[position], result.adversarial_logits[position], int(row.label), row.image_id
        )
        class_names = experiment.image_set.class_names
        best = classes[classes["rank"] == 1]
        st.markdown("**Classes that compete**")
        figure_panel(
            top_classes_figure(classes, taken, int(row.label), class_names),
            key="top-classes",
            alt="Most probable class at each exit. "
            + "; ".join(
                f"{state}: "
                + ", ".join(
                    f"{names[cell['exit_index']]} {class_names[cell['class_index']]} {cell['probability']:.2f}"
                    for cell in rows.to_dict("records")
                )
                for state, rows in best.groupby("state", sort=False)
            ),
            caption=f"{row.image_id} · probability of the true class and of those that come nearest to winning at any "
            f"exit; framed: the exit that answers. {made_words(experiment, setting.policy)}.",
            table=classes,
        )


def population(experiment: Experiment, setting: Setting) -> None:
    """How sure every exit is of all images; a selected bar shows its images."""
    spec, card = experiment.spec, experiment.cards[experiment.spec.model]
    names = exit_names(card.num_exits)
    spread = cache.confidence_spread(spec, experiment)
    threshold, dotted, asked = None, "", ""
    if card.num_exits > 1:
        threshold = setting.policy.threshold
        dotted = f"; dotted: the threshold, {threshold:.2f}"
        asked = "Every exit is asked about every image, also about those that leave earlier. "
    bars = figure_panel(
        confidence_spread_figure(spread, threshold),
        key=f"confidence-spread-{card.name}",
        alt=f"Confidence of {len(experiment.image_set)} images at every exit, clean and adversarial. "
        + _spread_words(experiment),
        caption=f"{asked}Filled: right, hollow: wrong{dotted}. Click a bar to see its images. "
        f"{made_words(experiment)}.",
        table=spread,
        selectable=True,
    )
    if not bars:
        return
    exits = cache.own_exits(experiment)
    chosen: set[str] = set()
    for state, exit_index, number, right, *_ in bars:
        rows = exits[(exits.state == state) & (exits.exit_index == exit_index) & (exits.right == right)]
        chosen |= set(rows.image_id[confidence_bin(rows.confidence) == number])
    title = "; ".join(
        f"{names[exit_index]}, {state}, {'right' if right else 'wrong'}, confidence {low:.1f}–{high:.1f}"
        for state, exit_index, _, right, _, _, _, low, high in bars
    )
    hit = np.array([image_id in chosen for image_id in experiment.image_set.image_ids])
    linked_images(experiment.image_set.indices.numpy()[hit].tolist(), experiment.image_set, title=title, key="spread")


def bin_of_images(experiment: Experiment, selected: SelectedBin) -> None:
    """The images of a bin of the reliability diagram, clean or adversarial."""
    exits = cache.own_exits(experiment)
    rows = exits[(exits.state == selected.among) & (exits.exit_index == selected.exit_index)]
    held = set(rows.image_id[(bin_index(torch.tensor(rows.confidence.to_numpy())) == selected.number).numpy()])
    hit = np.array([image_id in held for image_id in experiment.image_set.image_ids])
    indices = experiment.image_set.indices.numpy()[hit].tolist()
    linked_images(indices, experiment.image_set, title=selected.words, key="reliability")


def _spread_words(experiment: Experiment) -> str:
    names = exit_names(experiment.cards[experiment.spec.model].num_exits)
    means = cache.own_exits(experiment).groupby(["exit_index", "state"]).confidence.mean().unstack()
    return "; ".join(
        f"{names[index]}: mean {row['clean']:.2f} clean, {row['adversarial']:.2f} adversarial"
        for index, row in enumerate(means.to_dict("records"))
    )
