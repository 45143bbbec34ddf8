"""How long the dashboard keeps a viewer waiting, in a real browser.

Waits end when the script has stopped running and the words that a viewer waits for are on screen, looked at on
every frame. Nothing else should run on the machine meanwhile.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from core.machine import machine_facts

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "app.json"
CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
READY = "document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"
PATIENCE_MS = 60_000
NUM_REPEATS = 5
PAGES = ("Exit shift", "Confidence", "Gallery", "Attack lab", "Home", "Attack lab")


@dataclass(frozen=True)
class Wait:
    """One kind of wait.

    Attributes:
        name: What the viewer waits for.
        limit_seconds: What is promised of the median.
        seconds: Of each repeat.
    """

    name: str
    limit_seconds: float
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the repeats, in seconds."""
        return statistics.median(self.seconds)


def measure_app() -> list[Wait]:
    """Measures every wait, on a fresh server with the bundled samples and nothing in the home folder."""
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        started = time.perf_counter()
        with _server(home) as address:
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
            return [*waits, *_warm_waits(page)]


def write_result(waits: list[Wait]) -> Path:
    """Writes ``benchmarks/app.json``."""
    facts = {"machine": machine_facts(), "waits": [asdict(wait) | {"median": wait.median} for wait in waits]}
    RESULT.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return RESULT


def _warm_waits(page: Page) -> Iterator[Wait]:
    for name in dict.fromkeys(PAGES):  # everything once, so that what follows is warm
        _go_to(page, name)
    yield Wait("warm page change", 1, tuple(_go_to(page, name) for name in PAGES))
    slider = page.get_by_role("slider", name="Threshold")
    slider.focus()
    seconds = []
    for number in range(NUM_REPEATS):
        threshold = f"judged at T = {0.89 - 0.01 * number:.2f}"
        seconds.append(
            _timed(page, lambda: slider.press("ArrowLeft"), f"document.body.innerText.includes('{threshold}')")
        )
    yield Wait("threshold change in the attack lab", 0.3, tuple(seconds))
    seconds = []
    for number in range(NUM_REPEATS):
        images = f"{number + 1}-{number + 8}"
        box = page.get_by_role("textbox", name="Picked images, by official index")
        box.fill(images)
        box.press("Enter")
        _until(page, "document.body.innerText.includes('controls have changed')")
        run = page.get_by_role("button", name="Run attack")
        seconds.append(_timed(page, run.click, _says(f"cifar10:samples:{images} · n = 8")))
    yield Wait("PGD-10 on 8 images, on the model and on its twin", 1.5, tuple(seconds))


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


def _until_quiet(page: Page) -> None:
    """Waits until the samples have been attacked in the background."""
    for _ in range(240):
        if "runs on the bundled samples done" not in page.inner_text("body"):
            return
        time.sleep(1)
        page.reload()
        _until(page, "true")


@contextmanager
def _server(home: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if key != "EXITLENS_DATA"} | {"HOME": home}
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    process = subprocess.Popen(
        [*command, "--server.headless", "true"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(2000):
            try:
                urllib.request.urlopen(f"{address}/_stcore/health", timeout=2)
                break
            except OSError:
                time.sleep(0.02)
        yield address
    finally:
        process.terminate()
        process.wait(20)
