"""A real server and a real browser, for the tests marked ``browser``.

Where ``EXITLENS_SCREENSHOTS`` names a folder, ``shot`` leaves pictures there to be looked at: light, dark and narrow.
"""

import os
from pathlib import Path

from playwright.sync_api import Browser, Page, TimeoutError, expect

PATIENCE_MS = 90_000
LIGHT, DARK, NARROW = ("light", 1440), ("dark", 1440), ("light", 420)
expect.set_options(timeout=30_000)  # how long a viewer really waits is measured by `python -m core bench app`


def visit(browser: Browser, address: str, width: int = 1440) -> tuple[Page, list[str]]:
    """A page in a browser profile of its own, and the errors it will have shown."""
    page = browser.new_context(viewport={"width": width, "height": 1000}).new_page()
    page.set_default_timeout(PATIENCE_MS)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(request.url) if "127.0.0.1" not in request.url else None)
    page.goto(address)
    return page, problems


def metric(page: Page, label: str) -> str:
    """The value of a metric, waited for."""
    tile = page.get_by_test_id("stMetric").filter(has_text=label).first
    tile.wait_for()
    return tile.get_by_test_id("stMetricValue").inner_text()


def idle(page: Page) -> None:
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")


def settled(page: Page) -> None:
    """Waits until nothing runs in the background any more."""
    quiet = 0
    for _ in range(600):
        idle(page)
        busy = page.locator("[data-testid=stProgress]").count() or page.get_by_text("timing the exits").count()
        quiet = 0 if busy else quiet + 1
        if quiet == 4:
            return
        page.wait_for_timeout(300)
    raise AssertionError(f"{page.url} was still at work after three minutes.")


def press_threshold(page: Page, key: str, words: str) -> None:
    """Moves the threshold with a key, and waits for the words that follow from it."""
    slider = page.get_by_role("slider", name="Threshold")
    slider.focus()
    slider.press(key)
    expect(page.get_by_text(words).first).to_be_visible()
    idle(page)


def click_mark(page: Page, chart: str, number: int) -> None:
    """Clicks the mark of a chart, named by its key, that stands at this place among its marks."""
    marks = page.locator(f".st-key-figure-{chart} .scatterlayer .point")
    marks.nth(number).wait_for(state="attached")
    marks.nth(number).click(force=True)
    idle(page)


def pick(page: Page, label: str, option: str) -> None:
    """Picks an option of a selectbox; a page that is being drawn anew closes an open list, which is opened again."""
    wanted = page.get_by_role("option", name=option, exact=True)
    for _ in range(5):
        idle(page)
        page.get_by_role("combobox", name=label).click()
        try:
            wanted.click(timeout=5_000)
            return
        except TimeoutError:
            page.keyboard.press("Escape")
    raise AssertionError(f"{label} offers no {option}.")


def shot(page: Page, name: str) -> None:
    """Pictures of a page for whoever wants to look at them."""
    folder = os.environ.get("EXITLENS_SCREENSHOTS")
    if not folder:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    size = page.viewport_size
    for view, (scheme, width) in {"light": LIGHT, "dark": DARK, "narrow": NARROW}.items():
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 1000})
        page.wait_for_timeout(500)
        tall = page.evaluate("(document.querySelector('[data-testid=stMain]') || document.body).scrollHeight")
        page.set_viewport_size({"width": width, "height": min(max(1000, int(tall)), 6000)})
        page.wait_for_timeout(800)
        page.screenshot(path=str(Path(folder) / f"{name}-{view}.png"))
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(size or {"width": 1440, "height": 1000})
