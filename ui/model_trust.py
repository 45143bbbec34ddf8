"""Whether a model can be believed: calibration, overthinking, confusion."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from core.calibration import NUM_BINS, bin_index
from core.figures import calibration_figure, confusion_figure, reliability_figure
from core.figures.confusion import MAX_NUMBERED
from core.figures.theme import exit_names
from core.metrics import rate
from core.model_tables import AMONG
from ui import bound
from ui.controls import Setting
from ui.linked import linked_rows
from ui.measuring import Pair
from ui.panels import figure_panel, folded_table, rate_words
from ui.words import meaning


class SelectedBin(NamedTuple):
    """A bin of the reliability diagram that was clicked.

    Attributes:
        exit_index: Of the exit, 0-based.
        among: Which images it counts.
        number: Of the bin, 0-based.
        words: The same for the screen.
    """

    exit_index: int
    among: str
    number: int
    words: str


def calibration_panel(
    kind: str | None,
    calibration: pd.DataFrame,
    reliability: pd.DataFrame,
    where: str,
    show_bin: Callable[[SelectedBin], None],
) -> None:
    """Reliability of one exit, ECE and AUROC of all.

    Args:
        kind: Of the model; None where clean images are compared with adversarial ones.
        calibration: Schema ``CALIBRATION``.
        reliability: Schema ``RELIABILITY``.
        where: Model, images and n, for the captions.
        show_bin: Shows the images of a selected bin.
    """
    st.subheader("Does confidence mean something?", help=meaning("confidence", "ECE", "AUROC", "reach"))
    st.caption(
        "A calibrated exit that is 0.80 sure is right 80 % of the time: its calibration error (ECE) is small. AUROC "
        "asks something else: is the exit surer when it is right? 0.5: no, 1: always. A threshold needs both."
    )
    names = exit_names(int(calibration.exit_index.max()) + 1)
    if len(names) == 1 and kind:  # all images reach it
        calibration, reliability = (table[table.among == table.among[0]] for table in (calibration, reliability))
    if st.session_state.get("reliability_exit") not in names:
        st.session_state.pop("reliability_exit", None)
    left, right = st.columns(2)
    with left:
        chosen = names[0]
        if len(names) > 1:
            chosen = bound.choose(
                st.selectbox,
                "Reliability of",
                names,
                key="reliability_exit",
                persist_state=None,
                help=meaning("reliability"),
            )
        rows = reliability[reliability.exit_index == names.index(chosen)]
        mine = calibration[calibration.exit_index == names.index(chosen)]
        words = "; ".join(_in_words(row) for row in mine.to_dict("records"))
        selected = figure_panel(
            reliability_figure(rows, kind),
            key="reliability",
            alt=f"Accuracy by confidence at {chosen}. {words}.",
            caption=f"{chosen} · {where}. Dotted: perfectly calibrated. {words}. Click a bin to see its images.",
            table=rows,
            selectable=True,
        )
    with right:
        figure_panel(
            calibration_figure(calibration, kind),
            key="calibration",
            alt="; ".join(f"{names[row['exit_index']]}: {_in_words(row)}" for row in calibration.to_dict("records")),
            caption=f"{where}. Short bars: the ECE that a perfectly calibrated exit would show by chance. "
            + _floor_words(calibration),
            table=calibration,
        )
    for among, low, high, *_ in selected[:1]:
        words = f"{chosen}, {among}, confidence {low:.2f}–{high:.2f}"
        show_bin(SelectedBin(names.index(chosen), among, round(low * NUM_BINS), words))


def bin_of_images(pair: Pair, setting: Setting, selected: SelectedBin) -> None:
    """The images of a bin of the chosen model's reliability diagram."""
    evaluation = pair.own.evaluation
    chosen = bin_index(evaluation.confidence[:, selected.exit_index]) == selected.number
    if selected.among != AMONG[0]:
        chosen &= evaluation.decide(setting.policy).computed_exit >= selected.exit_index
    linked_rows(chosen, setting.set_name, title=selected.words, key="reliability")


def overthinking_panel(pair: Pair, overthinking: pd.DataFrame, where: str) -> None:
    """How often an exit before the last one computed was right already."""
    st.subheader("Overthinking", help=meaning("overthinking"))
    if pair.own.card.num_exits == 1:
        st.info("A static model has one exit: nothing can be right earlier.")
        return
    for when, rows in overthinking.groupby("when", sort=False):
        counts = zip(rows.num_hits.tolist(), rows.num_images.tolist(), strict=True)
        wasteful, destructive, among_wrong = (rate(hits, images) for hits, images in counts)
        of_wrong = f"{rate_words(among_wrong)} of the wrong answers" if among_wrong.num_images else "no answer is wrong"
        st.markdown(
            f"{str(when).capitalize()}: **wasteful** {rate_words(wasteful)} · **destructive** "
            f"{rate_words(destructive)}; {of_wrong}"
        )
    st.caption(
        f"{where}. Wasteful: an exit before the last one computed was right already. Destructive: so it was, and the "
        "answer is wrong."
    )
    folded_table(overthinking, key="overthinking")


def confusion_panel(pair: Pair, setting: Setting, confusion: pd.DataFrame, where: str) -> None:
    """Which class is answered as which, and the images behind a clicked cell."""
    st.subheader("Which class is taken for which")
    names = pair.own.card.class_names
    wrong = confusion[confusion.label != confusion.predicted]
    worst = wrong.iloc[int(wrong.num_answered.argmax())].to_dict()
    most = "No image is answered wrongly."
    if worst["num_answered"]:
        taken = f"{names[int(worst['label'])]} answered as {names[int(worst['predicted'])]}"
        most = f"Most often: {taken}, {worst['num_answered']:.0f} of {worst['num_images']:.0f}."
    can_click = len(names) <= MAX_NUMBERED
    cells = figure_panel(
        confusion_figure(confusion, names),
        key="confusion",
        alt=f"Confusion matrix of {len(names)} classes. {most}",
        caption=f"{where}. Percent of the images of each true class. {most}"
        + (" Click a cell to see its images." if can_click else ""),
        table=confusion,
        selectable=can_click,
    )
    for row, column in cells[:1]:
        _images_of_cell(pair, setting, int(row), int(column))


def _images_of_cell(pair: Pair, setting: Setting, label: int, answer: int) -> None:
    evaluation, names = pair.own.evaluation, pair.own.card.class_names
    answers = evaluation.decide(setting.policy).prediction
    title = f"{names[label]} answered as {names[answer]}"
    linked_rows((evaluation.labels == label) & (answers == answer), setting.set_name, title=title, key="confusion")


def _in_words(row: Mapping[Hashable, Any]) -> str:
    if not row["num_images"]:
        return f"{row['among']}: none"
    area = "AUROC needs right and wrong answers" if row["auroc"] != row["auroc"] else f"AUROC {row['auroc']:.2f}"
    return f"{row['among']}: ECE {row['ece']:.3f}, {area}, n = {row['num_images']:,}"


def _floor_words(calibration: pd.DataFrame) -> str:
    whole = calibration[calibration.among == calibration.among.iloc[0]]
    if (whole.ece_floor < 0.02).all():
        return ""
    return f"With n = {whole.num_images.max():,} it reaches {whole.ece_floor.max():.2f}: a smaller error says nothing."
