"""Every page of the dashboard opened on toy models, for tests that hold everywhere."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core import checkpoints, kept
from core.attacks.spec import fgsm
from core.data import open_image_set
from core.exits import ExitPolicy
from core.experiment import ExperimentSpec, run_experiment

ROOT = Path(__file__).parents[1]
PAGES = ("", *sorted(path.stem for path in (ROOT / "pages").glob("*.py")))


@pytest.fixture(autouse=True)
def fresh_caches() -> None:
    import streamlit as st

    st.cache_data.clear()
    st.cache_resource.clear()


def keep_a_run(models: tuple[str, ...], folder: Path | None = None) -> str:
    """Keeps a run on six samples; returns the address of its first example."""
    loaded = {name: checkpoints.load_model(name) for name in models}
    spec = ExperimentSpec("cifar10:samples:0-5", models[:1], models, fgsm(), ExitPolicy())
    run = kept.keep(run_experiment(spec, open_image_set(spec.images), loaded), loaded, folder)
    return f"{run.key}:cifar10/test/0:{models[0]}"


def linked(page: str = "", **query: str) -> AppTest:
    """A session at the link of a page, which has not run yet."""
    test = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    if page:
        test.switch_page(f"pages/{page}.py")
    for key, value in query.items():
        test.query_params[key] = value
    return test


def opened(page: str = "", **query: str) -> AppTest:
    """A page opened cold by its link, without waiting for its jobs."""
    return linked(page, **query).run()


def settled(test: AppTest) -> AppTest:
    """Runs the page, again until nothing runs in the background any more; a browser would rerun by itself."""
    from ui import cache

    board = cache.job_board()
    for _ in range(1200):
        if board.is_idle():
            before = len(board.finished())
            test.run()
            if board.is_idle() and len(board.finished()) == before:  # and that pass began nothing new
                return test
        time.sleep(0.1)
    raise AssertionError("Jobs did not end in two minutes.")


def finished(test: AppTest, is_done: Callable[[AppTest], bool]) -> AppTest:
    """The page once it shows what was waited for, whether or not other jobs still run."""
    from ui import cache

    board = cache.job_board()
    for _ in range(240):
        if is_done(test):
            return test
        started, over = time.monotonic(), len(board.finished())
        while time.monotonic() < started + 0.5 and len(board.finished()) == over and not board.is_idle():
            time.sleep(0.05)
        test.run()
    raise AssertionError("The attack did not end in two minutes.")


def has_metrics(test: AppTest) -> bool:
    return bool(test.metric)


def metrics(test: AppTest) -> dict[str, str]:
    return {metric.label: str(metric.value) for metric in test.metric}


def warm(page: str = "", **query: str) -> AppTest:
    """A page with its result."""
    test = settled(linked(page, **query))
    assert not test.exception and not test.error, (page, test.error or test.exception)
    return test


def everywhere(address: str = "") -> Iterator[tuple[str, AppTest]]:
    """Every page with its result, and the view of an example where its address is given."""
    for page in PAGES:
        yield page or "home", warm(page)
    if address:
        yield "gallery, an example", warm("gallery", example=address)
