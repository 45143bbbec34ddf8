"""What every test may use: skips that say what is missing, toy names in the registries."""

import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MAIN = sys.modules["__main__"]

# Generated examples follow from the test's name, so a red run is red again; shared machines get no deadline.
settings.register_profile("exitlens", deadline=None, derandomize=True, max_examples=60, database=None)
settings.load_profile("exitlens")


def pytest_configure(config: pytest.Config) -> None:
    # Sets OMP_WAIT_POLICY, which has to happen before a test module imports torch.
    import core  # noqa: F401

    # Nothing a test does may reach what the user keeps, nor may background work come between.
    os.environ["EXITLENS_KEPT"] = str(Path(tempfile.mkdtemp(prefix="exitlens-tests-")) / "kept")
    os.environ["EXITLENS_STUDIES"] = str(Path(os.environ["EXITLENS_KEPT"]).parent / "studies")
    os.environ["EXITLENS_WARM_UP"] = "off"


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(Path(os.environ["EXITLENS_KEPT"]).parent, ignore_errors=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    # A page under test puts itself in the place of ``__main__``, which the workers of a later test would try to run.
    sys.modules["__main__"] = MAIN
    # What a test draws follows from the test alone, never from those that ran before it.
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what this machine cannot run, and says what is missing.

    ``@pytest.mark.data("cifar10:test", "cifar10:validation")`` names the image sets a test opens from the data
    root; ``browser`` and ``gpu`` take no arguments.
    """
    problems = _ImageSetProblems()
    for item in items:
        for reason in (_data_problem(item, problems), _browser_problem(item), _gpu_problem(item)):
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


class _ImageSetProblems:
    """Why image sets cannot be opened here, looked up once and only when a test asks."""

    def __init__(self) -> None:
        self._problem_of: dict[str, str] | None = None

    def of(self, name: str) -> str:
        if self._problem_of is None:
            from core.data import list_image_sets

            self._problem_of = {status.name: status.problem for status in list_image_sets()}
        return self._problem_of[name]


def _data_problem(item: pytest.Item, problems: _ImageSetProblems) -> str:
    marks = list(item.iter_markers("data"))
    if not marks:
        return ""
    names = [name for mark in marks for name in mark.args] or ["cifar10:test"]
    return next(filter(None, map(problems.of, names)), "")


def _browser_problem(item: pytest.Item) -> str:
    if item.get_closest_marker("browser") and not shutil.which("chromium"):
        return "Debian's Chromium is missing: apt-get install chromium"
    return ""


def _gpu_problem(item: pytest.Item) -> str:
    if not item.get_closest_marker("gpu"):
        return ""
    import torch

    return "" if torch.cuda.is_available() else "no CUDA device that torch can use"


@pytest.fixture(scope="session", autouse=True)
def components_searched_once() -> None:
    """Streamlit's AppTest reads the metadata of every installed package for each page that it opens: 0.2 s."""
    from streamlit.components.v2 import manifest_scanner

    manifest_scanner.scan_component_manifests = functools.cache(manifest_scanner.scan_component_manifests)


@pytest.fixture
def toy_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set ``toy`` and the architecture ``toy`` exist while the test runs."""
    import toys

    from core.datasets import DATASETS
    from core.models import ARCHITECTURES

    monkeypatch.setitem(DATASETS, "toy", toys.TOY_DATASET)
    monkeypatch.setitem(ARCHITECTURES, "toy", toys.TOY_ARCHITECTURE)


@pytest.fixture
def variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_registry: None) -> dict[str, str]:
    """Two toy models and toy images to learn from and to attack, on disk and known in this process."""
    from toy_study import write_project

    found = write_project(tmp_path)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Debian's Chromium."""
    from playwright.sync_api import sync_playwright

    from benchmarks.serving import CHROMIUM, FLAGS

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a fresh server on a newcomer's machine that fills no gallery by itself: samples, nothing kept."""
    from benchmarks.serving import newcomer, served

    with served(newcomer(tmp_path_factory.mktemp("home"), EXITLENS_WARM_UP="off")) as address:
        yield address
