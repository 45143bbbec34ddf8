"""Every page of the dashboard opened on toy models, for tests that hold everywhere."""

import time
from collections.abc import Iterator
from pathlib import Path

from streamlit.testing.v1 import AppTest

from core import checkpoints, kept
from core.attacks.spec import fgsm
from core.data import open_image_set
from core.exits import ExitPolicy
from core.experiment import ExperimentSpec, run_experiment

ROOT = Path(__file__).parents[1]
PAGES = ("", *sorted(path.stem for path in (ROOT / "pages").glob("*.py")))


def keep_a_run(models: tuple[str, ...], folder: Path | None = None) -> str:
    """Keeps a run on six samples; returns the address of its first example."""
    loaded = {name: checkpoints.load_model(name) for name in models}
    spec = ExperimentSpec("cifar10:samples:0-5", models[:1], models, fgsm(), ExitPolicy())
    run = kept.keep(run_experiment(spec, open_image_set(spec.images), loaded), loaded, folder)
    return f"{run.key}:cifar10/test/0:{models[0]}"


def opened(page: str = "", **query: str) -> AppTest:
    """A page opened cold by its link, without waiting for its jobs."""
    test = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    if page:
        test.switch_page(f"pages/{page}.py")
    for key, value in query.items():
        test.query_params[key] = value
    return test.run()


def settled(test: AppTest) -> AppTest:
    """The page once nothing runs in the background any more; a browser would rerun by itself."""
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


def warm(page: str = "", **query: str) -> AppTest:
    """A page with its result."""
    return settled(opened(page, **query))


def everywhere(address: str = "") -> Iterator[tuple[str, AppTest]]:
    """Every page with its result, and the view of an example where its address is given."""
    for page in PAGES:
        yield page or "home", warm(page)
    if address:
        yield "gallery, an example", warm("gallery", example=address)
