"""Attacks made anew under several policies, from several starts: told apart wherever a study is read."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from test_study_placements import ALL, write_project
from test_study_placements import STUDY as PLACES
from toy_study import finished

from core.exits import ExitPolicy
from core.study.differences import summary_differences
from core.study.placing import all_exits_models, placed_rows, studied_rows, whole_answers
from core.study.store import read_study
from core.study.summary import summary_rows, summary_table
from ui.study_cache import StudyPlace, fooled_images

EARLY = "toy-early-exit"
POLICIES = ("T=0.50", "entropy=0.50", "T=0.50 most_confident")
TEXT = (
    PLACES.partition("[[policies]]")[0]
    .replace("num_steps = 2", "num_steps = 2\nrandom_start = true")
    .replace("images_per_cell", "made_anew = true\nseeds = [1, 2]\nimages_per_cell")
    .replace("num_steps = 2", 'num_steps = 2\nobjective = "taken"')
    + """
[[policies]]
threshold = 0.5

[[policies]]
threshold = 0.5
score = "entropy"

[[policies]]
threshold = 0.5
fallback = "most_confident"
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One finished study of toys and their placements."""
    with finished(tmp_path_factory.mktemp("project"), TEXT, write_project) as place:
        yield place


@pytest.fixture
def summary(folder: Path) -> pd.DataFrame:
    """The study in brief."""
    return summary_table(folder)


def test_policies_of_one_number_are_not_pooled(summary: pd.DataFrame) -> None:
    # Mutants: grouped by the threshold alone; joined across what was made under another policy.
    assert set(summary.num_all) == {12} and set(summary.made_under) == set(POLICIES)
    for policy in POLICIES:
        rows = summary_rows(summary, policy)
        assert len(rows) == len(rows.drop_duplicates(["source", "target"])) and set(rows.made_under) == {policy}
        assert set(rows.seed) == {1}
    assert not summary.duplicated(["source", "target", "attack", "seed", "policy", "made_under"]).any()


def test_a_study_does_not_differ_from_itself(summary: pd.DataFrame) -> None:
    # Mutant: rows made under one policy merged with those made under another.
    assert summary_differences(summary, summary)[0].empty


def test_placements_show_what_was_made_under_the_first_policy(folder: Path, summary: pd.DataFrame) -> None:
    # Mutants: examples of all policies and starts thrown together, and so none offered; each placement twice.
    study = read_study(folder)
    (model,) = all_exits_models(study)
    whole = whole_answers(folder, study, model)
    assert {source for source, _ in whole.attacked} == {EARLY}
    placed = placed_rows(whole, (0, 3), ExitPolicy(0.5), "chosen").iloc[0]
    rows = summary[(summary.source == EARLY) & (summary.target == f"{ALL}@0") & (summary.policy == "T=0.50")]
    row = rows[(rows.made_under == "T=0.50") & (rows.seed == 1)].iloc[0]
    assert placed.adversarial_cost == pytest.approx(row.adversarial_cost)
    assert placed.clean_accuracy == pytest.approx(row.clean_accuracy)
    attack = str(summary[summary.source == EARLY].attack.iloc[0])
    for policy in POLICIES:
        studied = studied_rows(study, summary, model, policy, attack)
        assert sorted(studied.placement) == ["Toy early-exit", "first", "two"], policy


def test_images_behind_a_cell_are_those_it_counts(folder: Path, summary: pd.DataFrame) -> None:
    # Mutant: what was made under other policies, or from another start, opened as well.
    place = StudyPlace(str(folder), 0, is_shipped=False)
    for row in summary[summary.made_anew].itertuples():
        found = fooled_images(
            place, row.attack, row.source, row.target, row.policy, seed=row.seed, made_anew=bool(row.made_anew)
        )
        assert len(found) == row.num_fooled
    assert summary.num_fooled.nunique() > 1
