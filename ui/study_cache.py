"""Every cache of studies: their folders, tables, claims, charts' rows and reports."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import streamlit as st

from core.errors import ExitLensError
from core.study import store
from core.study.black_box import black_box_table
from core.study.claims import first_policy, judge_claims, load_claims
from core.study.making import Making, making_tables
from core.study.placing import WholeAnswers, whole_answers
from core.study.report import report_html
from core.study.store import Study
from core.study.summary import summary_table


@dataclass(frozen=True)
class StudyPlace:
    """Where a study lies.

    Attributes:
        folder: Of its tables.
        changed: When its description was last written: another time makes all cached of it void.
        is_shipped: Whether it came with the project.
    """

    folder: str
    changed: int
    is_shipped: bool


def studies() -> tuple[dict[str, StudyPlace], list[str]]:
    """All studies that can be read, by their names on screen, and one sentence for each that cannot.

    In the order of the claims that are about them, the others last: a claim is what a viewer should see unasked.
    """
    found: dict[str, StudyPlace] = {}
    problems = []
    claimed = list(dict.fromkeys(claim.study for claim in load_claims()))
    for folder in store.study_folders():
        place = StudyPlace(str(folder), (folder / store.STUDY_FILE).stat().st_mtime_ns, folder.parent == store.SHIPPED)
        try:
            read = study(place)
        except ExitLensError as error:
            problems.append(str(error))
            continue
        if not store.has_rows(folder):
            problems.append(f"{folder} holds a study of which nothing is done yet.")
            continue
        name = read.spec.title if place.is_shipped else f"{read.spec.title} ({folder.name}, run here)"
        found[name] = place

    def place_in_claims(name: str) -> int:
        claimed_as = study(found[name]).spec.name
        return claimed.index(claimed_as) if claimed_as in claimed else len(claimed)

    return {name: found[name] for name in sorted(found, key=place_in_claims)}, problems


@st.cache_data(max_entries=64, show_spinner=False)
def study(place: StudyPlace) -> Study:
    """What a study is about."""
    return store.read_study(Path(place.folder))


@st.cache_data(max_entries=16, show_spinner="Reading the study …")
def summary(place: StudyPlace) -> pd.DataFrame:
    """A study in brief."""
    return summary_table(Path(place.folder))


@st.cache_data(max_entries=16, show_spinner="Reading the study …")
def black_box(place: StudyPlace) -> pd.DataFrame:
    """Every surrogate of a study beside its target."""
    return black_box_table(Path(place.folder), study(place))


@st.cache_data(max_entries=16, show_spinner="Reading the study …")
def making(place: StudyPlace) -> Making:
    """What making examples took, and at which exits it happened."""
    return making_tables(Path(place.folder), study(place))


@st.cache_data(max_entries=16, show_spinner="Judging claims …")
def claims(place: StudyPlace) -> pd.DataFrame:
    """Every claim about a study once, with what became of it under other policies."""
    return first_policy(judge_claims(Path(place.folder)))


@st.cache_data(max_entries=4, show_spinner="Writing the report …")
def report(place: StudyPlace) -> str:
    """A study as one HTML file."""
    return report_html(Path(place.folder))


@st.cache_resource(max_entries=4, show_spinner="Reading what every exit said …")
def whole(place: StudyPlace, model: str) -> WholeAnswers:
    """What all exits of an all-exits model said."""
    return whole_answers(Path(place.folder), study(place), study(place).model(model))


@st.cache_data(max_entries=32, show_spinner=False)
def fooled_images(
    place: StudyPlace,
    attack: str,
    source: str,
    target: str,
    policy: str,
    *,
    seed: int,
    made_anew: bool,
    is_surrogate: bool = False,
) -> pd.DataFrame:
    """Images that fooled a target: ``image_id``, ``pixel_hash``, ``label``.

    They are attackable there, and at the source unless that is a surrogate. ``made_anew`` as in the tables: whether
    what was made under that policy counts, or what was made under another.
    """
    rows: pd.DataFrame = (
        store.connect(Path(place.folder))
        .execute(
            "with own as (select cell, image_id, policy from decisions where source = target and (attackable or ?)) "
            "select image_id, any_value(pixel_hash) as pixel_hash, any_value(label) as label "
            "from decisions join own using (cell, image_id, policy) where attack = ? and source = ? and target = ? "
            "and policy = ? and seed = ? and made_anew = ? and attackable and succeeded "
            "group by image_id order by image_id",
            [is_surrogate, attack, source, target, policy, seed, made_anew],
        )
        .df()
    )
    return rows
