"""How fast attacks are: beside other libraries on the same model, and beside what the model alone would take.

In sections, each written as soon as it is measured; what other sections hold stays if machine, model, images and
peers are the same.
"""

import copy
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders import AS_LOADED, check_equal, contenders, measure_batch, ours_on
from benchmarks.peers import versions_here
from benchmarks.results import write_result
from benchmarks.spared import dynamic_savings, exit_ratios, stopping_ratios, sweep_ratios
from benchmarks.speed_page import PAGE, speed_page
from core.attacks.spec import pgd
from core.checkpoints import load_model
from core.data import ImageSet, data_root, open_image_set
from core.errors import ExitLensError
from core.machine import device_of, machine_facts
from core.models import ExitModel
from core.models.prepared import PreparedModel, prepared

RESULT = Path(__file__).parent / "attacks.json"
MODEL = "cifar10-resnet56-early-exit"
BATCHES = (1, 8, 64, 256)
SECTIONS = (*(f"batch-{size}" for size in BATCHES), "agreement", "sweep", "exit-1", "stopping", "dynamic")
NUM_IMAGES, NUM_DYNAMIC = 256, 1000
SPEC = pgd(objective="final")
UNSATURATED = pgd(0.5 / 255, step_size=0.125 / 255, objective="final")
SAME = ("machine", "model", "images", "attack", "peers")  # what sections measured apart must share


@dataclass(frozen=True, eq=False)
class Bench:
    """What all sections work on.

    Attributes:
        name: Of the model.
        with_compile: Whether compiled forms take part.
        num_rounds: Timed rounds of every batch size; None for those that each size has.
        on_progress: Told what is measured next.
    """

    name: str = MODEL
    with_compile: bool = True
    num_rounds: int | None = None
    on_progress: Callable[[str], None] = lambda words: None

    @cached_property
    def loaded(self) -> ExitModel:
        """The model as the project has it."""
        return load_model(self.name)[0]

    @cached_property
    def plain(self) -> ExitModel:
        """What anybody's torch makes of the file: nothing folded, memory in the usual order, 32 bits."""
        return copy.deepcopy(self.loaded).to(memory_format=torch.contiguous_format)  # type: ignore[attr-defined,no-any-return]

    @cached_property
    def fast_after(self) -> tuple[PreparedModel, float]:
        """The prepared model, and how long preparing it took."""
        loaded, started = self.loaded, time.perf_counter()
        return prepared(loaded), time.perf_counter() - started

    @property
    def fast(self) -> PreparedModel:
        """The prepared model."""
        return self.fast_after[0]

    @cached_property
    def models(self) -> dict[str, ExitModel]:
        """Every form that is attacked, by name."""
        forms: dict[str, ExitModel] = {
            AS_LOADED: self.plain,
            "float32": prepared(self.loaded, "float32"),
            "fast": self.fast,
        }
        return forms | {"compiled": prepared(self.loaded, compiled=True)} if self.with_compile else forms

    @cached_property
    def images(self) -> ImageSet:
        """The images of all sections but the last."""
        return some_images(NUM_IMAGES)

    def batch(self, size: int, images: ImageSet | None = None) -> tuple[Tensor, Tensor]:
        """The first images and labels, where the model is."""
        chosen, device = images or self.images, device_of(self.loaded)
        return chosen.pixels()[:size].to(device), chosen.labels[:size].to(device)

    def facts(self) -> dict[str, Any]:
        """What the numbers depend on."""
        card = load_model(self.name)[1]
        return {
            "machine": machine_facts() | {"search_precision": self.fast.precision, "torch": torch.__version__},
            "model": {"name": card.name, "weights_sha256": card.weights_sha256},
            "images": f"{self.images.name}, {len(self.images)} images",
            "attack": SPEC.label,
            "peers": versions_here(),
        }

    def section(self, name: str) -> dict[str, list[dict[str, Any]]]:
        """Measures one section: entries by the list of the result that they go into.

        Raises:
            ExitLensError: If contenders on the same images do not succeed equally often.
        """
        if name.startswith("batch-"):
            preparing = self.fast_after[1]
            size = int(name.removeprefix("batch-"))
            rows, warm_up = measure_batch(
                self.models, preparing, *self.batch(size), SPEC, self.num_rounds, self.on_progress
            )
            return {"rows": [asdict(row) for row in rows], "warm_up": [asdict(warm_up)]}
        if name == "agreement":
            return {"agreement": self._agreement()}
        if name == "dynamic":
            images = some_images(NUM_DYNAMIC)
            pixels, _ = self.batch(NUM_DYNAMIC, images)
            return {"dynamic": dynamic_savings(self.loaded, self.fast, pixels, images.name)}
        if name == "sweep":
            # Images lie where they usually do; attacks bring them to the model.
            found = sweep_ratios(self.loaded, self.fast, self.images.pixels(), self.images.labels)
        elif name == "exit-1":
            found = exit_ratios(self.loaded, self.fast, *self.batch(64))
        else:
            found = stopping_ratios(self.plain, self.fast, *self.batch(64))
        return {"ratios": list(found)}

    def _agreement(self) -> list[dict[str, Any]]:
        """Success where about half the images fall: every peer as shipped, and our search in each precision."""
        pixels, labels = self.batch(NUM_IMAGES)
        forms = {kind: of for kind, of in self.models.items() if kind != "compiled"}
        runs = {key: run for key, run in contenders(forms, pixels).items() if key[1] != "fast" or key[0] == "ours"}
        runs = {("ours", AS_LOADED): ours_on(self.plain)} | runs
        wrong = {}
        for key, run in runs.items():
            self.on_progress(f"{key[0]} on the model {key[1]}")
            adversarial = run(pixels, labels, UNSATURATED)
            with torch.no_grad():
                answers = self.plain.run_until(adversarial, self.plain.num_exits - 1)
            wrong[key] = answers.argmax(dim=-1) != labels
        check_equal({key: float(of.double().mean()) for key, of in wrong.items()}, len(labels))
        first = wrong["ours", AS_LOADED]
        return [
            {
                "contender": name,
                "model": kind,
                "attack": UNSATURATED.label,
                "num_images": len(labels),
                "success": float(of.double().mean()),
                "same_verdict": float((of == first).double().mean()),
            }
            for (name, kind), of in wrong.items()
        ]


def measure_attacks(
    bench: Bench,
    only: Sequence[str] = (),
    *,
    file: Path = RESULT,
    page: Path = PAGE,
    on_written: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measures sections and writes each as soon as it is there, with the page made from all.

    Args:
        bench: On what.
        only: Of ``SECTIONS``; all of them without, and then nothing of an earlier result is kept.
        file: The result.
        page: Made from it.
        on_written: Told of each section once it is written, with the seconds that it took.

    Returns:
        What the file holds.

    Raises:
        ExitLensError: If there is no such section, the model has no early exit, or contenders on the same images do
            not succeed equally often.
    """
    if unknown := [name for name in only if name not in SECTIONS]:
        raise ExitLensError(f"There is no section {unknown[0]!r}. Choose one of {', '.join(SECTIONS)}.")
    if bench.with_compile and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        bench.on_progress("no C++ compiler here: compiled forms take no part")
        bench = replace(bench, with_compile=False)
    if bench.loaded.num_exits == 1:
        raise ExitLensError(f"{bench.name} is static. Name an early-exit model: exits are part of what is measured.")
    facts, whole = bench.facts(), dict[str, Any]()
    if only and file.is_file():
        earlier = json.loads(file.read_text(encoding="utf-8"))
        if differing := [name for name in SAME if earlier.get(name) != facts[name]]:
            bench.on_progress(f"the earlier result is of another {' and '.join(differing)}: nothing of it is kept")
        else:
            whole = earlier
    whole |= facts
    for number, name in enumerate(only or SECTIONS, 1):
        started = time.perf_counter()
        bench.on_progress(f"section {number} of {len(only or SECTIONS)}: {name}")
        for group, entries in bench.section(name).items():
            kept = [entry for entry in whole.get(group, []) if entry["section"] != name]
            whole[group] = sorted(
                [*kept, *({"section": name} | entry for entry in entries)], key=lambda e: SECTIONS.index(e["section"])
            )
        whole = write_result(file, whole)
        page.write_text(speed_page(whole), encoding="utf-8")
        on_written(f"{name}: {time.perf_counter() - started:.0f} s")
    return whole


def some_images(count: int) -> ImageSet:
    """The first test images; without a data root the samples, again and again."""
    if data_root():
        whole = open_image_set("cifar10:test")
        return whole.select(whole.indices[:count].tolist())
    samples = open_image_set("cifar10:samples")
    rows = torch.arange(count) % len(samples)
    return replace(samples, images=samples.images[rows], labels=samples.labels[rows], indices=samples.indices[rows])
