"""How long the dashboard keeps a viewer waiting, in a real browser.

Waits end when the script has stopped running and the words that a viewer waits for are on screen, looked at on
every frame. Nothing else should run on the machine meanwhile.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Locator, Page, TimeoutError, sync_playwright

from benchmarks.many_kept import NUM_EXAMPLES, keep_many
from benchmarks.serving import CHROMIUM, FLAGS, newcomer, served
from benchmarks.waits import Wait

RESULT = Path(__file__).parent / "app.json"
READY = "document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"
PATIENCE_MS = 60_000
NUM_REPEATS = 5
MODEL = "cifar10-resnet56-early-exit"
PAGES = (
    *("Exit shift", "Confidence", "Transfer", "Attribution", "Models", "Studies", "Placement"),
    *("Gallery", "Home", "Attack lab"),
)
SHIFTS = ("◀ earlier", "= same", "▶ later", "any")


def measure_app() -> list[Wait]:
    """Measures every wait, on a fresh server with the bundled samples and nothing in the home folder."""
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        started = time.perf_counter()
        with served(newcomer(home)) as address:
            page = chromium.new_context(viewport={"width": 1440, "height": 1000}).new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.goto(address)
            _until(page, "document.querySelector('[data-testid=stSlider]') !== null")
            interactive = time.perf_counter() - started
            _until(page, "document.querySelector('[data-testid=stMetric]') !== null")
            waits = [
                Wait("first interactive page after a cold start", 8, (interactive,)),
                Wait("live result on Home after a cold start", 8, (time.perf_counter() - started,)),
            ]
            _until_quiet(page)
            waits += _warm_waits(page)
        keep_many(Path(home) / "many", MODEL)
        with served(newcomer(home, EXITLENS_KEPT=str(Path(home) / "many"), EXITLENS_WARM_UP="off")) as address:
            page = chromium.new_context(viewport={"width": 1440, "height": 1000}).new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.goto(f"{address}/gallery")
            return [*waits, _gallery_wait(page)]


def _warm_waits(page: Page) -> Iterator[Wait]:
    for name in dict.fromkeys(PAGES):  # everything once, so that what follows is warm
        _go_to(page, name)
        _until_settled(page)
    yield Wait("warm page change", 1, tuple(_go_to(page, name) for name in PAGES))
    yield Wait("threshold change in the attack lab", 0.3, _threshold_changes(page))
    seconds = []
    for name in ("ship", "any", "frog", "any"):
        option = _offered(page, "Class", name)
        all_match = _says("20 of 20 images match")
        seconds.append(_timed(page, option.click, all_match if name == "any" else f"!{all_match}"))
    yield Wait("filter change in the attack lab", 0.3, tuple(seconds))
    seconds = []
    for number in range(NUM_REPEATS):
        images = f"{number + 1}-{number + 8}"
        box = page.get_by_role("textbox", name="Picked images, by official index")
        box.fill(images)
        box.press("Enter")
        _until(page, "document.body.innerText.includes('controls have changed')")
        run = page.get_by_role("button", name="Run attack")
        seconds.append(_timed(page, run.click, _says(f"cifar10:samples:{images} · n = 8")))
        _until_settled(page)
    yield Wait("PGD-10 on 8 images, on the model and on its twin", 1.5, tuple(seconds))
    for name in ("Exit shift", "Confidence"):
        _go_to(page, name)
        yield Wait(f"threshold change on {name}", 0.3, _threshold_changes(page))


def _threshold_changes(page: Page) -> tuple[float, ...]:
    """Each until the words that follow from the new threshold stand there."""
    slider = page.get_by_role("slider", name="Threshold")
    before = float(slider.input_value())
    slider.focus()
    words = [_says(f"judged at T = {before - 0.01 * number:.2f}") for number in range(1, NUM_REPEATS + 1)]
    return tuple(_timed(page, lambda: slider.press("ArrowLeft"), said) for said in words)


def _gallery_wait(page: Page) -> Wait:
    """Filters of ten thousand kept examples, each until their number stands there."""
    _until(page, _says(f"{NUM_EXAMPLES:,} of {NUM_EXAMPLES:,}"))
    seconds = []
    for name in SHIFTS:
        before = page.get_by_text("kept examples match").inner_text()
        option = _offered(page, "Exit shift", name)
        seconds.append(_timed(page, option.click, f"!{_says(before)} && {_says('kept examples match')}"))
    return Wait("filter change in a gallery of 10,000 examples", 1, tuple(seconds))


def _offered(page: Page, label: str, name: str) -> Locator:
    """An option of an open list; a page that is still being drawn closes it, and it is opened again."""
    option = page.get_by_role("option", name=name, exact=True)
    for _ in range(5):
        _until(page, "true")
        page.get_by_role("combobox", name=label).click()
        try:
            option.wait_for(timeout=3_000)
            return option
        except TimeoutError:
            page.keyboard.press("Escape")
    raise RuntimeError(f"{label} offers no {name}.")


def _go_to(page: Page, name: str) -> float:
    heading = "What does an attack do" if name == "Home" else name
    link = page.get_by_test_id("stSidebar").get_by_role("link", name=name, exact=True)
    return _timed(page, link.click, f"document.querySelector('h1')?.innerText.startsWith('{heading}')")


def _says(words: str) -> str:
    return f"document.body.innerText.includes('{words}')"


def _timed(page: Page, act: object, done: str) -> float:
    started = time.perf_counter()
    act()  # type: ignore[operator]
    _until(page, done)
    return time.perf_counter() - started


def _until(page: Page, condition: str) -> None:
    page.wait_for_function(f"() => {READY} && ({condition})", polling="raf")


def _until_settled(page: Page) -> None:
    """Waits until no job is under way for what is on the page."""
    for _ in range(4):  # a page may start one job after the other
        _until(page, "document.querySelector('[data-testid=stProgress]') === null")
        page.wait_for_timeout(250)


def _until_quiet(page: Page) -> None:
    """Waits until the samples have been attacked in the background."""
    for _ in range(240):
        if "runs on the bundled samples done" not in page.inner_text("body"):
            return
        time.sleep(1)
        page.reload()
        _until(page, "true")
