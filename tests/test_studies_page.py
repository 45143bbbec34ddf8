"""The pages of studies and of placements: every verdict shown, numbers of the tables, pictures only where they are."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest
from test_study_placements import ALL
from test_study_placements import STUDY as PLACES
from test_study_placements import write_project as write_places
from toy_study import EARLY, STATIC, STUDY, run_toys, write_project

from core.exits import ExitPolicy
from core.study import claims
from core.study.charts import labels_of
from core.study.placing import all_exits_models, placed_rows, studied_rows, whole_answers
from core.study.report import report_html
from core.study.store import read_study, ship
from core.study.summary import summary_table
from ui import study_cache

ROOT = Path(__file__).parents[1]
WIDE = STUDY.replace('epsilon = ["8/255", "32/255"]', 'epsilon = ["2/255", "8/255", "32/255"]')

DARKER = """
[[attacks]]
preset = "darker"
severity = 3

[[policies]]"""
CORRUPTED = PLACES.replace("\n[[policies]]", DARKER)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Two finished studies of toys: models, and placements."""
    import toys

    from core.datasets import DATASETS
    from core.models import ARCHITECTURES

    folder = tmp_path_factory.mktemp("projects")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "toy", toys.TOY_DATASET)
        patch.setitem(ARCHITECTURES, "toy", toys.TOY_ARCHITECTURE)
        for write, text, name in ((write_places, CORRUPTED, "places"), (write_project, WIDE, "toys")):
            for variable, value in write(folder / name).items():
                patch.setenv(variable, value)
            run_toys(folder / "run" / name, text)
        yield {name: folder / "run" / name for name in ("toys", "places")}


@pytest.fixture
def shelf(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both studies where the dashboard looks, one as it ships; no other there."""
    st.cache_data.clear()
    st.cache_resource.clear()
    ship(folders["toys"], tmp_path / "results/toys")
    shutil.copytree(folders["places"], tmp_path / "output/places")
    monkeypatch.setattr("core.study.store.SHIPPED", tmp_path / "results")
    monkeypatch.setenv("EXITLENS_STUDIES", str(tmp_path / "output"))
    kinds = (("within", 1.5, "own_cost_change"), ("greater", 1.5, "own_cost_change"), ("less", 0.02, "early_to_early"))
    asked = [
        claims.Claim(
            name=f"{direction}-{margin}",
            text=f"It is {direction}.",
            family="f",
            study="toys",
            measure=measure,
            direction=direction,  # type: ignore[arg-type]
            margin=margin,
        )
        for direction, margin, measure in kinds
    ]
    monkeypatch.setattr(claims, "load_claims", lambda: asked)
    monkeypatch.setattr(claims, "MIN_IMAGES", 10)  # toys have twelve
    monkeypatch.setattr("core.study.report.load_claims", lambda: asked)
    return tmp_path


def opened(page: str, **query: str) -> AppTest:
    test = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    test.switch_page(f"pages/{page}.py")
    for key, value in query.items():
        test.query_params[key] = value
    test.run()
    assert not test.exception and not test.error, (test.exception, test.error)
    return test


def words(test: AppTest) -> str:
    return "\n".join(element.value for kind in ("markdown", "caption", "info") for element in getattr(test, kind))


# Studies


def test_every_claim_is_shown_with_its_verdict(shelf: Path) -> None:
    # Mutant: claims that fail, or were not measured, left out.
    said = words(opened("studies", study="Toys"))
    for verdict, text in (("Holds", "within"), ("Does not hold", "greater"), ("Not measured", "less")):
        assert re.search(rf"\*\*{verdict}\*\*.*It is {text}\.", said), said
    assert "on these weights" in said and "Does it come to the same?" in said


def test_numbers_are_those_of_the_tables_and_follow_the_controls(shelf: Path) -> None:
    # Mutants: a control that changes nothing; the first epsilon's numbers under another's name.
    table = summary_table(shelf / "results/toys")
    for epsilon, policy in (("8/255", "T=0.60"), ("32/255", "T=0.90")):
        test = opened("studies", study="Toys", study_strength=epsilon, study_policy=policy.replace("=", " = "))
        matrix = next(chart for chart in test.get("plotly_chart") if "Transfer matrix" in chart.proto.alt)
        rows = table[(table.policy == policy) & (table.attack.str.contains(epsilon)) & (table.objective == "taken")]
        row = rows[(rows.source == EARLY) & (rows.target == STATIC)].iloc[0]
        assert f"early-exit to ■ Toy static: {row.num_fooled} of {row.num_images}" in matrix.proto.alt


def test_a_link_that_names_what_a_study_lacks_opens_the_first_there_is(shelf: Path) -> None:
    # Mutant: an error for the link of a study that was run anew with other settings.
    test = opened("studies", study="gone", study_strength="7/255")
    assert test.selectbox(key="study").value == "Toys" and test.selectbox(key="study_strength").value == "2/255"


def test_a_model_that_cannot_stop_early_is_named_with_its_costs(shelf: Path) -> None:
    # Mutant: costs that an owner gave shown as if they had been counted.
    folder = shelf / "results/toys"
    assert "Cannot stop early" not in words(opened("studies", study="Toys"))
    told = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    told["models"][0]["stops_early"] = False
    (folder / "study.json").write_text(json.dumps(told), encoding="utf-8")
    label = labels_of(read_study(folder))[told["models"][0]["name"]]
    st.cache_data.clear()
    assert f"those their owners gave: {label}." in words(opened("studies", study="Toys"))
    assert report_html(folder).count("cannot stop early") == 1


def test_another_run_is_compared_by_its_differences(shelf: Path) -> None:
    # Mutant: all rows listed, equal ones too.
    shutil.copytree(shelf / "results/toys", shelf / "output/again")
    test = opened("studies", study="Toys")
    assert "Toys (again, run here)" in test.selectbox(key="other_study").options
    test.selectbox(key="other_study").select("Toys (again, run here)").run()
    assert "They ask the same" in words(test) and "No row that both have differs" in words(test)
    test.selectbox(key="other_study").select("Places (places, run here)").run()
    assert "Models only there" in words(test)


def test_without_its_data_set_a_study_shows_neutral_tiles(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutants: a page that needs the pictures; a picture shown for another image's row.
    from ui import cache, studies

    monkeypatch.setattr(cache, "image_set_statuses", lambda: [])
    monkeypatch.setattr(studies, "figure_panel", lambda *_, key, **__: [[0, 1]] if key == "study-matrix" else [])
    test = opened("studies", study="Toys", study_strength="32/255")
    assert "Their pictures are not on this machine" in words(test)
    assert any("Fetch the pictures" in link.proto.label for link in test.get("page_link"))


@pytest.mark.parametrize("part", ["some", "others"])
def test_where_pictures_are_missing_or_others_a_cell_shows_neutral_tiles(
    part: str, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutants: an error that ends the page there; pictures shown as if they were those of the study.
    from ui import cache, studies

    whole = cache.image_set("toy:test")
    here = replace(whole, images=255 - whole.images) if part == "others" else whole.select([0])
    monkeypatch.setattr(cache, "image_set", lambda name: here)
    monkeypatch.setattr(studies, "figure_panel", lambda *_, key, **__: [[0, 1]] if key == "study-matrix" else [])
    said = words(opened("studies", study="Toys", study_strength="32/255"))
    assert ("Not all of its pictures are on this machine." in said) is (part == "some")
    assert ("others than those of the study" in said) is (part == "others")


def test_without_any_study_the_page_says_how_to_run_one(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: an empty page.
    monkeypatch.setattr("core.study.store.SHIPPED", shelf / "nothing")
    monkeypatch.setenv("EXITLENS_STUDIES", str(shelf / "nothing"))
    assert "python -m core study run" in words(opened("studies"))
    assert "python -m core study run placement" in words(opened("placement"))


# Placement


def test_any_subset_is_judged_as_the_study_judged_it(folders: dict[str, Path]) -> None:
    # Mutants: costs of all exits; exits of the wrong columns; fixed examples of another source.
    study, table = read_study(folders["places"]), summary_table(folders["places"])
    (model,) = all_exits_models(study)
    whole = whole_answers(folders["places"], study, model)
    assert len(whole.labels) == 12 and {source for source, _ in whole.attacked} == {"toy-early-exit", ALL}
    pgd = table[table.attack_name == "pgd"]
    for name, exits in ((f"{ALL}@0", (0, 3)), (f"{ALL}@0-2", (0, 2, 3))):
        placed = placed_rows(whole, exits, ExitPolicy(0.5), "chosen").set_index("made_on")
        # A corruption is the same for all: what the placement itself was shown is what all exits were shown.
        own = table[(table.attack_name == "darker") & (table.source == name) & (table.target == name)].iloc[0]
        assert placed.loc[ALL, ["num_fooled", "num_images"]].tolist() == [own.num_fooled, own.num_images]
        row = placed.loc["toy-early-exit"]
        expected = pgd[(pgd.source == "toy-early-exit") & (pgd.target == name)].iloc[0]
        assert row.clean_accuracy == pytest.approx(expected.clean_accuracy)
        assert row.clean_cost == pytest.approx(expected.clean_cost)
        assert row.adversarial_cost == pytest.approx(expected.adversarial_cost)
        assert row.num_images == round(12 * expected.clean_accuracy) >= expected.num_images
    attack = pgd[pgd.source == "toy-early-exit"].attack.iloc[0]
    studied = studied_rows(study, table, model, "T=0.50", attack)
    assert sorted(zip(studied.placement, studied.how, strict=True)) == [
        ("Toy early-exit", "trained with these exits"), ("first", "made anew"), ("two", "made anew"),
    ]  # fmt: skip


def test_placement_page_moves_with_blocks_and_threshold(shelf: Path) -> None:
    # Mutants: numbers of the first placement whatever is chosen; a network run.
    test = opened("placement")
    before = {metric.label: metric.value for metric in test.metric}
    assert set(before) == {"Right when clean", "Mean cost", "Fooled", "Mean cost attacked"}
    test.slider(key="threshold").set_value(1.0).run()
    assert {metric.label: metric.value for metric in test.metric}["Mean cost"] != before["Mean cost"]
    test.button(key="placed-two").click().run()
    assert not test.exception and "With exits after blocks 1, 3 and at the end" in words(test)
    assert len(test.get("plotly_chart")) == 2
    assert isinstance(before, dict) and pd.notna(before["Fooled"])
    # Mutant: a corruption said to be made on the model that it is shown to, or anew on each placement.
    test.selectbox(key="placed_examples").select("Darker severity 3 of 5, factor 0.45").run()
    said = words(test)
    assert not test.exception and "fooled by Darker severity 3 of 5" in said
    assert "made anew" not in said and "models trained with such exits" in said


def test_the_choice_of_no_block_and_what_a_study_began_with_stand_in_the_link(shelf: Path) -> None:
    # Mutants: an empty choice, which Streamlit leaves out, so that the link opens with the first placement; the first
    # placement left out, which another study replaces by its own; a choice of none that outlives the next.
    test = opened("placement").run()
    assert test.query_params["blocks"] == "1"
    test.pills(key="blocks").set_value([]).run()
    assert "With the final exit alone" in words(test) and "no_block" in test.query_params
    linked = opened("placement", no_block="true")
    assert "With the final exit alone" in words(linked) and linked.pills(key="blocks").value == []
    linked.pills(key="blocks").set_value(["2"]).run()
    assert "no_block" not in linked.query_params and linked.run().query_params["blocks"] == "2"
    assert "exits after block 2 and at the end" in words(linked) and not linked.exception


def test_studies_that_ship_come_in_the_order_of_their_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutants: by folder; those without a claim first.
    monkeypatch.setenv("EXITLENS_STUDIES", str(tmp_path))
    names = list(study_cache.studies()[0])
    assert names[:4] == [
        "Who fools whom",
        "From which exit it carries furthest",
        "What attacks on accuracy do to cost",
        "What making an example takes",
    ]
    assert names.index("Where exits stand") >= 4
