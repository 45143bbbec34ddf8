"""Whether studies grow: peak memory and time per image on few and on many images, as JSON."""

import multiprocessing
import resource
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.results import write_result
from core.machine import machine_facts
from core.study import workers
from core.study.runner import run_study
from core.study.spec import parse_study

RESULT = Path(__file__).parent / "studies.json"
SIZES = (1000, 8000)
STUDY = """
name = "size"
title = "Size"
question = "Do memory and time per image stay as they are?"
images = ["cifar10:test"]
num_images = {num_images}
sources = ["{model}"]
targets = ["{model}"]

[[attacks]]
preset = "fgsm"
"""


def measure_studies(
    model: str = "cifar10-resnet56-early-exit", sizes: tuple[int, ...] = SIZES, file: Path = RESULT
) -> list[dict[str, Any]]:
    """Runs one study on so many images, each in a fresh process, and writes the rows.

    Args:
        model: Attacked and asked.
        sizes: Numbers of images.
        file: Where the rows go.
    """
    rows = []
    for num_images in sizes:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak, seconds = pool.apply(_run, (STUDY.format(num_images=num_images, model=model),))
        rows.append(
            {
                "model": model,
                "num_images": num_images,
                "peak_megabytes": peak / 1024,
                "seconds": seconds,
                "milliseconds_per_image": 1000 * seconds / num_images,
            }
        )
    content = {"rows": rows, "machine": machine_facts()}
    write_result(file, content)
    return rows


def _run(text: str) -> tuple[int, float]:
    """The most memory that this process held, in kilobytes, and how long its cells took, planning left out."""
    moments: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        run_study(
            parse_study(text, "benchmark"),
            text,
            Path(folder),
            workers.here,
            on_progress=lambda _: moments.append(time.perf_counter()),
            cancel=threading.Event(),
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, moments[-1] - moments[0]
