"""A server of its own and how Chromium is started, for measured waits and for the tests in a browser."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
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


def newcomer(home: Path | str, **more: str) -> dict[str, str]:
    """The environment of somebody with no data root, no settings and nothing in the home folder.

    Args:
        home: That folder.
        more: Other variables.
    """
    rest = {name: value for name, value in os.environ.items() if not name.startswith("EXITLENS_")}
    return rest | {"HOME": str(home), "EXITLENS_KEPT": str(Path(home) / "kept")} | more


@contextmanager
def served(environment: dict[str, str]) -> Iterator[str]:
    """The address of the dashboard, served on a free port for as long as the context lasts.

    Raises:
        TimeoutError: If it is not healthy within a minute.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "ui", "--server.port", str(port)]
    process = subprocess.Popen(
        [*command, "--server.headless", "true"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()  # asked to end, it takes six seconds about it
        process.wait(20)


def _wait_until_healthy(address: str) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(f"{address}/_stcore/health", timeout=2)
            return
        except OSError:
            time.sleep(0.02)
    raise TimeoutError("The server did not become healthy in a minute.")
