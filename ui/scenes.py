"""The five steps of the story, each a title, a sentence or two and something to look at; the last two are counted."""

import math
from collections.abc import Callable

import streamlit as st

from core.figures.theme import exit_names
from core.story import STORY_EPSILONS
from ui.controls import glyph_label
from ui.pictures import as_bytes
from ui.scene_helps import helps
from ui.scene_often import often
from ui.scene_parts import Card, cards, lane, percent, road, words
from ui.story import Told
from ui.tale import Tale

GAIN_AT_ONE_LEVEL = 120
SPLIT = (1, 2.4)


def show(number: int, told: Told) -> None:
    """One of the five steps, from 0."""
    SCENES[number](told)


def _early(told: Told) -> None:
    tale = told.tale
    cost, exit_name = tale.cost("clean"), exit_names(tale.card.num_exits)[tale.picked.clean_exit]
    words(
        "An easy picture gets an early answer",
        f"This network may answer before it has finished. At **{exit_name}** it was sure enough: **{tale.truth}**. "
        "That is right, and the rest of the work is saved.",
    )
    left, right = st.columns(SPLIT, gap="large")
    left.image(as_bytes(tale.clean), width="stretch", alt=f"The picture as it is: {tale.truth}")
    with right:
        sure = f"confidence {tale.picked.clean_confidence:.2f}, {tale.policy.threshold:.2f} is enough"
        cards(
            [
                Card("The answer", tale.truth, f"right · {sure}"),
                Card("Work done", percent(cost), f"answered at {exit_name} of {tale.card.num_exits}"),
                Card("Work saved", percent(1 - cost), "never computed"),
            ]
        )
        road(tale, [lane(tale, "its way", tale.card.name, "clean")], "story-early")


def _noise(told: Told) -> None:
    tale = told.tale
    levels = math.ceil(round(25500 * tale.noise, 2)) / 100  # never said to be less than it is
    least = " That is the least that a picture file can hold." if levels == 1 else ""
    tried = ", ".join(f"{255 * epsilon:g}" for epsilon in STORY_EPSILONS)
    smallest = "" if tale.was_sent else f" Of the noises tried ({tried} of 255), this is the smallest that works here."
    words(
        "Now a little noise, too little to see",
        f"No dot gets brighter or darker by more than **{levels:g} of 255 steps**.{least} "
        f"But it is not chance: it was computed for this very network.{smallest}",
    )
    gain = max(1, round(GAIN_AT_ONE_LEVEL / levels))
    change = tale.adversarial - tale.clean
    shown = (
        (tale.clean, "Before", f"the picture as it is, {tale.truth}"),
        (change * gain + 0.5, f"The noise, ×{gain} to be seen", f"what is added, {gain} times as strong"),
        (tale.adversarial, "After", f"the picture with the noise, to the eye the same {tale.truth}"),
    )
    with st.container(key="story-pictures"):
        for column, (pixels, name, alt) in zip(st.columns(3, gap="large"), shown, strict=True):
            column.image(as_bytes(pixels), width="stretch", caption=name, alt=f"{name}: {alt}")
    st.caption(
        f"{tale.picked.image_id} · {tale.attack}, made at T = {tale.policy.threshold:.2f} on "
        f"{glyph_label(tale.card)} · largest change {255 * float(change.abs().max()):.2f}/255, mean change "
        f"{255 * float(change.abs().mean()):.2f}/255 per colour of a dot"
    )


def _wrong(told: Told) -> None:
    tale = told.tale
    words(
        "The early answer is wrong. The whole network knew better",
        f"With the noise it says **{tale.wrong_answer}** after {percent(tale.cost('adversarial'))} of the work, and "
        f"stops. Had it gone on, its own end would have said **{tale.truth}**.{_twin_words(tale)}",
    )
    lanes = [
        lane(tale, "before", tale.card.name, "clean"),
        lane(tale, "with the<br>noise", tale.card.name, "adversarial"),
    ]
    lanes += [lane(tale, "its twin,<br>same noise", tale.twin.name, "adversarial")] if tale.twin else []
    left, right = st.columns(SPLIT, gap="large")
    alt = f"The picture with the noise: {tale.truth}, taken for {tale.wrong_answer}"
    left.image(as_bytes(tale.adversarial), width="stretch", alt=alt)
    with right:
        cards(_verdicts(tale))
        road(tale, lanes, "story-wrong")


def _twin_words(tale: Tale) -> str:
    if tale.twin is None:
        why = "its end is the static network that it was built on" if tale.card.shares else "there is none here yet"
        return f" (No twin, trained apart and without early exits, can be asked: {why}.)"
    twin = glyph_label(tale.twin)
    if tale.picked.twin_right:
        return f" So does its twin {twin}, trained apart and without early exits."
    return f" Its twin {twin}, trained apart and without early exits, is wrong on it, too."


def _verdicts(tale: Tale) -> list[Card]:
    """Three answers to one picture."""
    picked = tale.picked
    said = [
        Card("The answer it gave", tale.wrong_answer, f"wrong · confidence {picked.adversarial_confidence:.2f}"),
        Card("Its own end", tale.truth, f"right · confidence {picked.final_confidence:.2f}"),
    ]
    if tale.twin:
        row = tale.decisions[tale.decisions.target == tale.twin.name].iloc[0]
        answer = tale.class_names[int(row.adversarial_prediction)]
        verdict = "right" if answer == tale.truth else "wrong"
        said.append(Card("Its twin", answer, f"{verdict} · confidence {row.adversarial_confidence:.2f}"))
    return said


SCENES: tuple[Callable[[Told], None], ...] = (_early, _noise, _wrong, often, helps)
