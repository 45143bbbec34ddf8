"""The gallery: opened cold, filtered, one example opened, its links, damage and absence, and ten thousand examples."""

import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from benchmarks.many_kept import NUM_EXAMPLES, keep_many, rewrite, write_as
from core import checkpoints, kept
from core.attacks.spec import LinfAttack, fgsm, pgd
from core.data import open_image_set
from core.exits import ExitPolicy
from core.experiment import Experiment, ExperimentSpec, run_experiment
from core.gallery import KeptFilter, filter_examples, sort_examples
from core.kept import KeptRun

ROOT = Path(__file__).parents[1]
MODEL = "cifar10-resnet56-early-exit"
IMAGES = "cifar10:samples:0-5"
pytestmark = pytest.mark.skipif(MODEL not in checkpoints.list_models(), reason=f"checkpoints/ holds no {MODEL}")


@cache
def models() -> dict:
    return {MODEL: checkpoints.load_model(MODEL)}


@cache
def made(attack: LinfAttack) -> Experiment:
    spec = ExperimentSpec(IMAGES, (MODEL,), (MODEL,), attack, ExitPolicy())
    return run_experiment(spec, open_image_set(IMAGES), models())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of kept runs with caches that know nothing of another."""
    import streamlit as st

    st.cache_data.clear()
    st.cache_resource.clear()
    monkeypatch.delenv("EXITLENS_DATA", raising=False)
    monkeypatch.setenv("EXITLENS_KEPT", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def runs(folder: Path) -> list[KeptRun]:
    """Two runs on six samples: one step within 8/255, two within 2/255."""
    attacks = (fgsm(), pgd(2 / 255, step_size=1 / 255, num_steps=2))
    return [kept.keep(made(attack), models(), folder) for attack in attacks]


def opened(**query: str) -> AppTest:
    test = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).switch_page("pages/gallery.py")
    for key, value in query.items():
        test.query_params[key] = value
    return test.run()


def tiles(test: AppTest) -> list[str]:
    """The addresses of the tiles on screen."""
    return [button.key.removeprefix("open-") for button in test.button if (button.key or "").startswith("open-")]


def words(test: AppTest) -> str:
    return "\n".join(str(element.value) for element in [*test.markdown, *test.caption, *test.info, *test.warning])


def address_shown(test: AppTest) -> str:
    value = test.query_params["example"]
    return value if isinstance(value, str) else value[0]


def images(test: AppTest) -> list[str]:
    return [image.proto.imgs[0].alt for image in test.get("image")]


def test_nothing_kept_says_how_to_fill_it(folder: Path) -> None:
    # Mutant: filters over no rows, or an empty grid without a word.
    test = opened()
    assert not test.exception and not test.error
    assert "Nothing is kept here yet" in test.info[0].value and not tiles(test)


def test_opened_cold_shows_every_example_with_its_picture(runs: list[KeptRun]) -> None:
    # Mutants: clean pictures, or pictures of other examples; no data root, and the samples do.
    test = opened()
    assert not test.exception and not test.error
    assert len(tiles(test)) == 12 and "12 of 12 kept examples match" in words(test)
    assert len(images(test)) == 12 and all("made on ● ResNet-56 early-exit" in alt for alt in images(test))


def test_a_filter_shows_what_it_says_and_the_link_restores_it(runs: list[KeptRun]) -> None:
    # Mutants: a filter drawn and not applied; one not bound to the address; a page left beyond the end.
    test = opened()
    test.selectbox(key="by_attack").set_value("FGSM").run()
    assert {address.split(":")[0] for address in tiles(test)} == {runs[0].key}
    assert "6 of 12" in words(test)
    link = {"by_epsilon": "2/255", "by_class": "ship", "view": "table", "order": "newest"}
    again = opened(**link)
    assert again.selectbox(key="by_epsilon").value == "2/255" and again.selectbox(key="order").value == "newest"
    assert not tiles(again) and list(again.dataframe[0].value["true class"]) == ["ship", "ship"]
    none = opened(by_class="ship", by_shift="▶ later", by_rule="the final exit is wrong", by_epsilon="2/255")
    assert not none.exception and any("Loosen a filter" in info.value for info in none.info)


def test_one_click_opens_an_example_with_everything_about_it(runs: list[KeptRun]) -> None:
    # Mutants: the address not set; the pictures of a neighbour; verdicts of another image.
    test = opened()
    address = tiles(test)[3]
    test.button(key=f"open-{address}").click().run()
    assert not test.exception and not test.error
    assert address_shown(test) == address
    run, image_id, _ = address.split(":")
    assert [alt.split(" image")[0] for alt in images(test)] == ["clean", "perturbation ×10", "adversarial"]
    assert len(test.get("plotly_chart")) == 1 and "checked just now" in words(test)
    decisions = kept.read_decisions(kept.read_run(run))
    row = decisions[decisions.image_id == image_id].iloc[0]
    verdicts = next(table.value for table in test.dataframe if "verdict" in table.value)
    assert len(verdicts) == 1 and f"{row.adversarial_confidence:.2f}" in verdicts.adversarial[0]
    assert f"cifar10:samples:{image_id.rsplit('/', 1)[-1]} " in test.code[0].value
    test.session_state["behind-kept-confidence"] = True
    test.run()
    assert {element.proto.label for element in test.get("download_button")} >= {"CSV", "Parquet", "HTML"}
    assert any(".npy" in element.proto.label for element in test.get("download_button"))


def test_an_examples_link_opens_it_cold_and_the_way_back_keeps_the_filters(runs: list[KeptRun]) -> None:
    # Mutants: an example that only a click can open; neighbours from all examples instead of those that match.
    first, second = tiles(opened(by_attack="PGD"))[:2]
    test = opened(by_attack="PGD", example=first)
    assert "1 of 6 that match" in words(test) and test.button(key="previous").disabled
    test.button(key="next").click().run()
    assert address_shown(test) == second
    test.button(key="back").click().run()
    assert len(tiles(test)) == 6 and "example" not in test.query_params
    assert test.selectbox(key="by_attack").value == "PGD"


@pytest.mark.parametrize("address", ["nonsense", "0123456789abcdef:cifar10/test/0:nobody", "a:b:c:d"])
def test_an_address_of_nothing_gives_one_sentence_and_a_way_back(runs: list[KeptRun], address: str) -> None:
    # Mutant: a stack trace for a link from somebody else's machine.
    test = opened(example=address)
    assert not test.exception and len(test.error) == 1
    test.button(key="back").click().run()
    assert len(tiles(test)) == 12


def test_a_row_of_the_table_opens_its_example(runs: list[KeptRun], monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: rows counted from the first page, or in the order of the store instead of that on screen.
    import streamlit as st

    from ui import gallery, kept_cache

    everything = kept_cache.gallery()
    rows = sort_examples(everything.examples, "smallest epsilon")
    seen: list[str] = []
    monkeypatch.setattr(gallery, "open_example", seen.append)
    monkeypatch.setattr(st, "session_state", {"examples-table": {"selection": {"rows": [2]}}})
    gallery._open_selected(rows)
    row = rows.iloc[2]
    assert seen == [f"{row.run}:{row.image_id}:{row.source}"]


def test_a_lost_perturbation_is_remade_and_checked(runs: list[KeptRun], folder: Path) -> None:
    # Mutants: no picture at all; the clean image passed off as the adversarial one; a check that always agrees.
    (folder / runs[0].key / "perturbations.safetensors").unlink()
    address = f"{runs[0].key}:cifar10/test/0:{MODEL}"
    test = opened(example=address)
    assert not test.exception and not test.error
    assert "made again from its spec" in words(test) and "The remade perturbation was checked just now" in words(test)
    assert len(images(test)) == 3


def test_tiles_and_rows_of_lost_perturbations_say_that_their_picture_is_clean(
    runs: list[KeptRun], folder: Path
) -> None:
    # Mutants: the clean picture under words of an attack; counted over all runs; a remake promised on other weights.
    whole = opened()
    assert not any("clean picture" in alt for alt in images(whole)) and "clean picture" not in words(whole)
    (folder / runs[0].key / "perturbations.safetensors").unlink()
    test = opened()
    assert (
        len(images(test)) == 12 and sum("clean picture: the perturbation is made again" in a for a in images(test)) == 6
    )
    assert "6 of these 12 examples show the clean picture" in words(test) and "cannot" not in words(test)
    said = [caption.value for caption in test.caption if "clean picture" in caption.value]
    assert len(said) == 6 and all("FGSM" in caption for caption in said)
    shown = opened(view="table").dataframe[0].value["picture shown"]
    assert (shown == "adversarial").sum() == 6 and shown.str.startswith("clean picture").sum() == 6
    run = replace(runs[1], models=tuple(replace(model, weights_sha256="0" * 64) for model in runs[1].models))
    old = write_as(folder, runs[1], run, lambda rows: rows.assign(weights_sha256="0" * 64))
    (folder / old.key / "perturbations.safetensors").unlink()
    test = opened(by_attack="PGD")
    assert sum("clean picture: the perturbation is lost" in alt for alt in images(test)) == 6
    assert "6 of them cannot" in words(test)


def test_a_verdict_that_no_longer_holds_is_said(runs: list[KeptRun], folder: Path) -> None:
    # Mutant: the check skipped, or its outcome not shown.
    place = folder / runs[0].key
    rewrite(place, lambda rows: rows.assign(adversarial_prediction=(rows.adversarial_prediction + 1) % 10))
    test = opened(example=f"{runs[0].key}:cifar10/test/0:{MODEL}")
    assert not test.exception and "does not give the stored verdict" in words(test)


def test_a_model_trained_again_is_said_and_nothing_is_remade(runs: list[KeptRun], folder: Path) -> None:
    # Mutants: another model's answers passed off as a check; a perturbation remade on other weights.
    run = replace(runs[0], models=tuple(replace(model, weights_sha256="0" * 64) for model in runs[0].models))
    old = write_as(folder, runs[0], run, lambda rows: rows.assign(weights_sha256="0" * 64))
    address = f"{old.key}:cifar10/test/0:{MODEL}"
    test = opened(example=address)
    assert "Made on earlier weights" in words(test) and "checked just now" not in words(test)
    assert len(images(test)) == 3
    (folder / old.key / "perturbations.safetensors").unlink()
    bare = opened(example=address)
    assert not bare.exception and "cannot be made again here" in words(bare) and len(images(bare)) == 1
    assert "made on earlier weights" in words(opened())


def test_examples_without_their_picture_stand_last_and_show_their_numbers(runs: list[KeptRun], folder: Path) -> None:
    # Mutants: a picture by its id alone; missing pictures first; a page that fails without one.
    rewrite(folder / runs[0].key, lambda rows: rows.assign(pixel_hash="f" * 16, num_fooled=9))
    test = opened()
    assert not test.exception and len(images(test)) == 6
    assert [address.split(":")[0] for address in tiles(test)] == [runs[1].key] * 6 + [runs[0].key] * 6
    assert "their pictures are not on this machine" in words(test)
    one = opened(example=tiles(test)[-1])
    assert not one.exception and "is not on this machine" in words(one) and not images(one)
    assert len(one.get("plotly_chart")) == 1


def test_a_damaged_run_is_one_sentence_among_the_others(runs: list[KeptRun], folder: Path) -> None:
    # Mutant: one bad folder that empties the gallery.
    (folder / runs[0].key / "run.json").write_text("{", encoding="utf-8")
    test = opened()
    assert not test.exception and len(tiles(test)) == 6
    assert [runs[0].key in warning.value for warning in test.warning] == [True]


def test_a_run_is_removed_by_a_local_visitor_and_only_after_a_second_click(
    runs: list[KeptRun], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutants: removed by opening the popover, or by anybody; another run removed; the page left on what is gone.
    address = f"{runs[0].key}:cifar10/test/0:{MODEL}"
    monkeypatch.setattr("ui.example.is_local_visit", lambda: False)
    assert not [button for button in opened(example=address).button if button.key == "remove"]
    monkeypatch.setattr("ui.example.is_local_visit", lambda: True)
    test = opened(example=address)
    assert (folder / runs[0].key).exists()
    test.button(key="remove").click().run()
    assert not test.exception and not test.error
    assert not (folder / runs[0].key).exists() and (folder / runs[1].key).exists()
    assert len(tiles(test)) == 6


def test_the_lab_keeps_a_run_and_says_how_much(folder: Path) -> None:
    # Mutants: a button that keeps nothing; one that stays and keeps the same again.
    test = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120).switch_page("pages/attack_lab.py")
    test.query_params["images"] = "3,5"
    test.query_params["attack"] = "FGSM"
    test.run()
    for _ in range(120):
        if any(button.key == "keep" for button in test.button):
            break
        time.sleep(0.5)
        test.run()
    test.button(key="keep").click().run()
    examples = kept.read_kept(folder).examples
    assert sorted(examples.image_id.unique()) == ["cifar10/test/3", "cifar10/test/5"]
    assert f"{len(examples)} examples are kept" in words(test)
    test.run()
    assert not any(button.key == "keep" for button in test.button) and len(kept.read_kept(folder).runs) == 1


# Ten thousand


@pytest.fixture
def many(folder: Path) -> Path:
    """Ten thousand examples."""
    keep_many(folder, MODEL)
    return folder


def test_ten_thousand_examples_filter_within_a_second(many: Path) -> None:
    # Mutants: a filter by rows instead of columns; files read again at every filter; all tiles or rows sent at once.
    examples = kept.read_kept(many).examples.assign(is_here=False)
    assert len(examples) == NUM_EXAMPLES
    started = time.perf_counter()
    for shift in ("earlier", "same", "later"):
        wanted = KeptFilter(shift=shift, epsilon=4 / 255, class_name="ship")
        sort_examples(filter_examples(examples, wanted), "surest answer")
    assert time.perf_counter() - started < 0.5

    test = opened()
    assert not test.exception and "10,000 of 10,000" in words(test)
    for view in ("tiles", "table"):
        test.segmented_control(key="view").set_value(view).run()
        started = time.perf_counter()
        test.selectbox(key="by_shift").set_value("◀ earlier" if view == "tiles" else "▶ later").run()
        assert time.perf_counter() - started < 1
        assert not test.exception and "10,000 of 10,000" not in words(test)
        assert len(images(test)) == 24 if view == "tiles" else test.dataframe[0].value.picture.notna().sum() > 50
