"""Every page, cold and warm, where something is missing: one kind sentence at most, and never an empty page."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from every_page import PAGES, ROOT, fresh_caches, keep_a_run, linked, opened, settled
from streamlit.testing.v1 import AppTest
from test_models_page import EARLY, STATIC, Zoo, zoo

from core.data import DATA_ROOT_VARIABLE

__all__ = ["fresh_caches", "zoo"]
NEEDS_NO_MODEL = ("gallery", "studies", "placement")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing but the samples and two toy models; the folder of what is kept."""
    monkeypatch.setenv("EXITLENS_KEPT", str(tmp_path / "kept"))
    monkeypatch.setenv("EXITLENS_STUDIES", str(tmp_path / "studies"))
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    monkeypatch.setattr("core.data.DEFAULT_DATA_ROOT", tmp_path / "none")
    return tmp_path / "kept"


def no_data_root(zoo: Zoo, place: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv(DATA_ROOT_VARIABLE, str(place / "nowhere"))


def only_samples(zoo: Zoo, place: Path, patch: pytest.MonkeyPatch) -> None:
    keep_a_run((EARLY, STATIC), place)


def one_model(zoo: Zoo, place: Path, patch: pytest.MonkeyPatch) -> None:
    zoo.remove(STATIC)


def static_alone(zoo: Zoo, place: Path, patch: pytest.MonkeyPatch) -> None:
    zoo.remove(EARLY)


def no_twin(zoo: Zoo, place: Path, patch: pytest.MonkeyPatch) -> None:
    zoo.remove(STATIC)
    zoo.add("cifar10-toy-early-exit-2", 3)


def nothing_kept(zoo: Zoo, place: Path, patch: pytest.MonkeyPatch) -> None:
    pass


def damaged_kept_run(zoo: Zoo, place: Path, patch: pytest.MonkeyPatch) -> None:
    address = keep_a_run((EARLY, STATIC), place)
    (place / address.split(":")[0] / "run.json").write_text("{", encoding="utf-8")


def damaged_perturbations(zoo: Zoo, place: Path, patch: pytest.MonkeyPatch) -> None:
    address = keep_a_run((EARLY, STATIC), place)
    (place / address.split(":")[0] / "perturbations.safetensors").write_bytes(b"\0")


def kept_on_a_model_that_is_gone(zoo: Zoo, place: Path, patch: pytest.MonkeyPatch) -> None:
    keep_a_run((STATIC,), place)
    zoo.remove(STATIC)


def damaged_card(zoo: Zoo, place: Path, patch: pytest.MonkeyPatch) -> None:
    path = zoo.folder / STATIC / "card.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(card | {"num_classes": "many"}), encoding="utf-8")


STATES = [
    no_data_root,
    only_samples,
    one_model,
    static_alone,
    no_twin,
    nothing_kept,
    damaged_kept_run,
    damaged_perturbations,
    kept_on_a_model_that_is_gone,
    damaged_card,
]
State = Callable[[Zoo, Path, pytest.MonkeyPatch], None]


def is_filled(test: AppTest) -> bool:
    """Something to look at, or a sentence that says why there is nothing."""
    return bool(test.metric or test.get("plotly_chart") or test.get("image") or test.info)


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_every_page_opens_cold_and_warm(state: State, zoo: Zoo, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutants: a page that needs a twin, a data root, a kept run or an undamaged one; an empty page without a word.
    import streamlit as st

    state(zoo, place, monkeypatch)
    for page in PAGES:
        st.cache_data.clear()
        st.cache_resource.clear()
        cold = opened(page)
        assert not cold.exception and not cold.error, f"{page or 'home'}, cold: {cold.error or cold.exception}"
        assert is_filled(settled(cold)), f"{page or 'home'} shows nothing and does not say why"
        assert not cold.exception and not cold.error, f"{page or 'home'}, finished"
    # All in one session: what one page remembers, the next must stand.
    warm = settled(linked())
    for page in (*PAGES[1:], *PAGES):
        settled(warm.switch_page(f"pages/{page}.py" if page else str(ROOT / "app.py")))
        assert not warm.exception and not warm.error, f"{page or 'home'}, warm: {warm.error or warm.exception}"
        assert is_filled(warm), f"{page or 'home'}, warm"


def test_without_a_model_every_page_says_so_in_one_sentence(
    zoo: Zoo, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutant: a stack trace, or a page without a word.
    keep_a_run((EARLY, STATIC), place)
    zoo.remove(EARLY)
    zoo.remove(STATIC)
    for page in PAGES:
        test = opened(page)
        assert not test.exception, page
        if page in NEEDS_NO_MODEL:
            assert not test.error and is_filled(test), f"{page} needs no model to be looked at"
        else:
            assert [error.value.split(".")[0] for error in test.error] == ["There is no model here yet"], page
