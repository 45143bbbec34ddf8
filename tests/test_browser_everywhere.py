"""What holds on every page in a real browser: on a phone, without a network, for whoever opens a link."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest
from browsing import PATIENCE_MS, idle, pick, press_threshold, settled, shot
from every_page import PAGES, keep_a_run
from playwright.sync_api import Browser, Page, Request, WebSocket

from benchmarks.serving import newcomer, served
from core.checkpoints import list_models

MODELS = ("cifar10-resnet56-early-exit", "cifar10-resnet56-static")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not set(MODELS) <= set(list_models()), reason="the models of the tests are not here"),
]
EXAMPLE = "gallery?example="
PATHS = (*PAGES, EXAMPLE, "story?scene=3 Wrong", "story?scene=5 What helps")
names = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.strip("=") or "home")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A newcomer's home with one kept run, and the address of one of its examples."""
    home = tmp_path_factory.mktemp("home")
    return home, keep_a_run(MODELS, home / "kept")


@pytest.fixture(scope="module")
def server(kept: tuple[Path, str]) -> Iterator[str]:
    # More examples coming in meanwhile would show a second browser other numbers.
    with served(newcomer(kept[0], EXITLENS_WARM_UP="off")) as address:
        yield address


@dataclass
class Visit:
    """A page on a machine without a network: whatever it asks of another machine is refused and noted."""

    page: Page
    asked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def offline(browser: Browser, address: str, width: int) -> Visit:
    context = browser.new_context(viewport={"width": width, "height": 900})
    visit = Visit(context.new_page())
    visit.page.set_default_timeout(PATIENCE_MS)

    def note(sent: Request | WebSocket) -> None:
        if not re.match(r"(https?|wss?)://127\.0\.0\.1[:/]|data:|blob:", sent.url):
            visit.asked.append(sent.url)

    visit.page.on("request", note)
    visit.page.on("websocket", note)
    visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
    context.route(re.compile(r"^(?!https?://127\.0\.0\.1[:/])"), lambda route: route.abort())
    visit.page.goto(address)
    return visit


@pytest.fixture(scope="module")
def visits(browser: Browser, server: str, kept: tuple[Path, str]) -> Callable[[str], Visit]:
    """Every page with its result, 420 pixels wide and without a network; each opened once for all tests here."""
    opened: dict[str, Visit] = {}

    def visit(path: str) -> Visit:
        if path not in opened:
            address = path + quote(kept[1]) if path == EXAMPLE else path.replace(" ", "+")
            opened[path] = offline(browser, f"{server}/{address}", 420)
            settled(opened[path].page)
            shot(opened[path].page, f"page-{re.sub('[^a-z]+', '-', path.lower()).strip('-') or 'home'}")
        return opened[path]

    return visit


@names
def test_without_a_network_every_page_shows_its_result_and_asks_nobody(
    visits: Callable[[str], Visit], path: str
) -> None:
    # Mutants: a font, an icon or a script from elsewhere; telemetry; a page that waits for it.
    visit = visits(path)
    assert visit.asked == [] and visit.errors == []
    shown = visit.page.locator(
        "[data-testid=stMetric], [data-testid=stPlotlyChart] .main-svg, [data-testid=stImage] img"
    )
    assert shown.count() > 0, "no result"
    assert visit.page.get_by_test_id("stException").count() == 0


@names
def test_nothing_runs_off_sideways_on_a_phone(visits: Callable[[str], Visit], path: str) -> None:
    # Mutant: one element wider than 420 pixels.
    page = visits(path).page
    wide = page.evaluate(
        """() => document.documentElement.scrollWidth > innerWidth + 1
          || document.querySelector('[data-testid=stMain]').scrollWidth > innerWidth + 1"""
    )
    assert not wide


@names
def test_every_picture_and_chart_has_words(visits: Callable[[str], Visit], path: str) -> None:
    # Mutant: an image or a chart that says nothing to a screen reader.
    page = visits(path).page
    silent = page.evaluate(
        """() => [...document.querySelectorAll('[data-testid=stImage] img')].filter(each => !each.alt).length
          + [...document.querySelectorAll('[data-testid=stPlotlyChart]')].filter(each =>
              !each.querySelector('[aria-label]') && !each.closest('[aria-label]') && !each.ariaLabel).length"""
    )
    assert silent == 0


def another_threshold(page: Page) -> None:
    press_threshold(page, "ArrowLeft", "0.89")


def another_filter(page: Page) -> None:
    pick(page, "True class", "ship")


def another_step(page: Page) -> None:
    page.get_by_role("button", name="Next").click()


def another_policy(page: Page) -> None:
    pick(page, "Judged under", "certainty 0.80")


ACTS = dict.fromkeys(PAGES, another_threshold) | {
    "gallery": another_filter,
    "story": another_step,
    "studies": another_policy,
}


@pytest.mark.parametrize("path", [path for path in PAGES if path], ids=str)
def test_the_link_opened_in_a_second_browser_shows_the_same_result(browser: Browser, server: str, path: str) -> None:
    # Mutant: a control that is not in the address, or a result that only its own session has.
    first = offline(browser, f"{server}/{path}", 1440).page
    settled(first)
    ACTS[path](first)
    settled(first)
    second = offline(browser, first.url, 1440).page
    settled(second)
    assert first.url != f"{server}/{path}", "nothing was changed"
    for _ in range(20):  # charts are loaded and drawn after all else, on a busy machine seconds later
        if said(second) == said(first):
            break
    assert said(second) == said(first)
    for page in (first, second):
        page.context.close()


def said(page: Page) -> list[str]:
    """All words of a page in their order, those of charts included."""
    idle(page)
    page.wait_for_timeout(1000)
    return page.get_by_test_id("stMain").inner_text().split()
