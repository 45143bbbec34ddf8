"""One viewer's path through a real server in a real browser."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from core.checkpoints import list_models

ROOT = Path(__file__).parents[1]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 90_000
expect.set_options(timeout=30_000)  # how long a viewer really waits is measured by `python -m core bench app`
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not list_models(), reason="checkpoints/ holds no model"),
]


def served(environment: dict[str, str]) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        "app.py",
        "--server.port",
        str(port),
        "--server.headless",
        "true",
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/_stcore/health", timeout=2)
                break
            except OSError:
                time.sleep(0.25)
        else:
            raise AssertionError("The server did not become healthy in a minute.")
        yield address
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A fresh server with no data root and nothing in the home folder: what a newcomer has."""
    environment = {key: value for key, value in os.environ.items() if key != "EXITLENS_DATA"}
    environment["HOME"] = str(tmp_path_factory.mktemp("home"))
    yield from served(environment)


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


def test_explorers_journey(browser: Browser, server: str) -> None:
    """Lab opened cold by direct link; result; threshold; cancel; the link in a second browser."""
    # Mutants: a lab that waits for a click; numbers that ignore the threshold; a Cancel that only hides the
    # bar; a link that forgets a control.
    page, problems = visit(browser, f"{server}/attack_lab")
    first_cost = metric(page, "Mean cost")
    page.get_by_role("heading", name="Exit shift").wait_for()
    expect(page.get_by_text(re.compile(r"leave earlier \d, same \d, later \d"))).to_be_visible()

    slider = page.get_by_role("slider", name="Threshold")
    slider.focus()
    started = time.perf_counter()
    slider.press("Home")  # threshold 0: every image leaves at the first exit
    expect(page.get_by_text("judged at T = 0.00").first).to_be_visible()
    assert time.perf_counter() - started < 10
    idle(page)
    assert metric(page, "Mean cost") == "15 % → 15 %" != first_cost
    assert metric(page, "Mean exit") == "1.0 → 1.0"
    assert page.get_by_role("button", name="Cancel").count() == 0

    page.get_by_text("More options").click()
    steps = page.get_by_role("spinbutton", name="Steps")
    steps.fill("200")
    steps.press("Enter")
    expect(page.get_by_text("controls have changed")).to_be_visible()
    page.get_by_role("button", name="Run attack").click()
    page.get_by_text(re.compile(r"step \d+ of 200")).wait_for()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Cancelled")).to_be_visible()
    assert metric(page, "Mean cost"), "the result before the cancelled run stays"

    steps.fill("3")
    steps.press("Enter")
    idle(page)
    page.get_by_role("button", name="Run attack").click()
    expect(page.get_by_text(re.compile(r"PGD 8/255, 3 steps of 2/255.*judged at T = 0.00"))).to_be_visible()
    idle(page)
    shown = {label: metric(page, label) for label in ("Fooled", "Mean cost", "Mean exit")}
    link = page.url
    assert "threshold=0" in link and "steps=3" in link

    second, second_problems = visit(browser, link)
    expect(second.get_by_text(re.compile(r"PGD 8/255, 3 steps of 2/255.*judged at T = 0.00"))).to_be_visible()
    assert {label: metric(second, label) for label in shown} == shown
    assert problems == [] and second_problems == []


def test_home_shows_a_live_result_within_its_time(browser: Browser, server: str) -> None:
    # Mutant: Home without an attack never shows a metric.
    page, problems = visit(browser, server)
    assert re.fullmatch(r"\d+ of \d+", metric(page, "Fooled"))
    expect(page.get_by_text("20 bundled sample images").first).to_be_visible()
    page.get_by_role("link", name="Attack lab").click()
    page.get_by_role("heading", name="Attack lab").wait_for()
    assert problems == []


def test_engineer_weighs_accuracy_against_cost(browser: Browser, server: str) -> None:
    """Models opened cold by direct link; threshold; wall-clock."""
    # Mutants: numbers that ignore the threshold; a chart that is never drawn; a timing that never ends.
    page, problems = visit(browser, f"{server}/models")
    assert metric(page, "Mean cost")
    expect(page.get_by_text("How it was made")).to_be_visible()
    idle(page)
    expect(page.locator(".js-plotly-plot")).to_have_count(5, timeout=PATIENCE_MS)
    slider = page.get_by_role("slider", name="Threshold")
    slider.focus()
    slider.press("Home")  # threshold 0: every image leaves at the first exit
    expect(page.get_by_text(re.compile(r"is right on .* at T = 0.00")).first).to_be_visible()
    idle(page)
    assert metric(page, "Mean cost") == "15 %"
    page.get_by_role("button", name="Measure at T = 0.00").click()
    expect(page.get_by_text(re.compile(r"over 5 repeats")).first).to_be_visible(timeout=PATIENCE_MS)
    assert re.fullmatch(r"\d+ %", metric(page, "Time, one by one"))
    assert problems == []


@pytest.mark.parametrize(("path", "number"), [("", "Fooled"), ("attack_lab", "Fooled"), ("models", "Right")])
def test_nothing_runs_off_sideways_on_a_phone(browser: Browser, server: str, path: str, number: str) -> None:
    # Mutant: one fixed-width element wider than 420 pixels.
    page, _ = visit(browser, f"{server}/{path}", width=420)
    metric(page, number)
    idle(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")


def test_every_picture_and_chart_says_what_it_shows(browser: Browser, server: str) -> None:
    # Mutant: an image or chart without alt text.
    page, _ = visit(browser, f"{server}/attack_lab")
    metric(page, "Fooled")
    page.get_by_text("Take it with you").wait_for()
    idle(page)
    missing = page.locator("[data-testid=stImage] img:not([alt]), [data-testid=stImage] img[alt='']")
    assert page.locator("[data-testid=stImage] img").count() >= 23
    assert missing.count() == 0
