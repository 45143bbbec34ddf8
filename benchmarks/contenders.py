"""PGD by every contender at one batch size: other libraries and ours, on the model as loaded and prepared.

All contenders run in turn, round after round, so that a machine that slows down slows all of them.
"""

import ctypes
import math
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.compiler.config as compiler_settings
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers import PGD, peers_here
from core.attacks.aimed import aimed
from core.attacks.linf import sign_steps
from core.attacks.run import parts_of
from core.attacks.spec import LinfAttack
from core.errors import ExitLensError
from core.exits import ExitPolicy
from core.machine import device_of, wait_for
from core.models import ExitModel
from core.models.prepared import PreparedModel
from core.progress import CancelToken
from core.side_by_side import side_by_side

ROUNDS = {1: 5, 8: 5, 64: 3, 256: 2}
POLICY = ExitPolicy(0.9)
EQUAL_SUCCESS = 0.02
AS_LOADED = "as loaded"
OURS = {"ours, float32": "float32", "ours": "fast", "ours, compiled": "compiled"}


@dataclass(frozen=True)
class Row:
    """One contender at one batch size.

    Attributes:
        contender: Who attacks.
        model: On what: the model ``as loaded``, or prepared in ``float32``, ``fast`` or ``compiled``.
        batch_size: Images at a time.
        milliseconds: Of the whole attack on the batch, one per round.
        median: Of them.
        times_fastest_peer: Time of the fastest peer on the model as loaded, over this one's.
        times_fastest_peer_here: The same of the fastest peer on this very model; None where no peer ran on it.
        times_floor: This one's time over that of the steps' forward and backward passes alone on the same model.
        success: Share of the images that the model as loaded gets wrong afterwards.
        peak_megabytes: Largest memory above that before, in a run that is not timed.
    """

    contender: str
    model: str
    batch_size: int
    milliseconds: tuple[float, ...]
    median: float
    times_fastest_peer: float
    times_fastest_peer_here: float | None
    times_floor: float
    success: float
    peak_megabytes: float


@dataclass(frozen=True)
class WarmUp:
    """What it costs to make the model ready, and when that has paid.

    Attributes:
        batch_size: Images at a time.
        prepare_seconds: To prepare the model.
        prepare_pays_after_images: Against the fastest peer on the model as loaded; None where it never does.
        compile_seconds: Of the first pass of the compiled form; None where it takes no part.
        compile_pays_after_images: Against the same copy not compiled; None where it never does.
        without_cache: Whether the compiler began anew, whatever this machine had compiled before.
    """

    batch_size: int
    prepare_seconds: float
    prepare_pays_after_images: int | None
    compile_seconds: float | None
    compile_pays_after_images: int | None
    without_cache: bool = True


def measure_batch(
    models: dict[str, ExitModel],
    preparing: float,
    pixels: Tensor,
    labels: Tensor,
    spec: LinfAttack,
    num_rounds: int | None = None,
    on_progress: Callable[[str], None] = lambda words: None,
) -> tuple[list[Row], WarmUp]:
    """Measures every contender on one batch.

    Args:
        models: ``as loaded``, ``float32``, ``fast`` and, where it takes part, ``compiled``.
        preparing: Seconds that preparing took.
        pixels: The batch, (N, 3, H, W), where the models are.
        labels: (N,).
        spec: PGD at the final exit.
        num_rounds: Timed rounds; those of ``ROUNDS`` without.
        on_progress: Told what runs next.

    Raises:
        ExitLensError: If contenders do not succeed equally often.
    """
    plain, size = models[AS_LOADED], len(pixels)
    runs = {key: _bound(run, pixels, labels, spec) for key, run in contenders(models, pixels).items()}
    floors = {kind: _bound_pass(of, pixels, labels) for kind, of in models.items()}
    compiling = None
    if "compiled" in models:
        on_progress("compiling")
        with compiler_settings.patch(force_disable_caches=True):  # type: ignore[attr-defined]
            compiling = seconds_of(floors["compiled"])
    successes, peaks = {}, {}
    for key, run in runs.items():
        on_progress(f"{key[0]} on the model {key[1]}: success and memory")
        adversarial, peaks[key] = _peak_megabytes(run, device_of(plain))
        successes[key] = success(plain, adversarial, labels)
    check_equal(successes, size)
    seconds: dict[Any, list[float]] = {}
    number = num_rounds or ROUNDS.get(size, 3)
    for turn in range(number):
        on_progress(f"round {turn + 1} of {number}")
        for key, run in runs.items():
            seconds.setdefault(key, []).append(seconds_of(run))
        for kind, one_pass in floors.items():
            seconds.setdefault(kind, []).append(spec.num_steps * seconds_of(one_pass, 3) / 3)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    of_peers = {
        kind: min((medians[key] for key in runs if key[1] == kind and key[0] not in OURS), default=None)
        for kind in models
    }
    fastest = of_peers[AS_LOADED]
    assert fastest is not None  # Foolbox is always here
    rows = [
        Row(
            contender=name,
            model=kind,
            batch_size=size,
            milliseconds=tuple(round(1000 * value, 2) for value in seconds[name, kind]),
            median=round(1000 * medians[name, kind], 2),
            times_fastest_peer=round(fastest / medians[name, kind], 3),
            times_fastest_peer_here=round(here / medians[name, kind], 3) if (here := of_peers[kind]) else None,
            times_floor=round(medians[name, kind] / medians[kind], 3),
            success=successes[name, kind],
            peak_megabytes=round(peaks[name, kind], 1),
        )
        for name, kind in runs
    ]
    each = {key: medians[key] / size for key in runs}
    ours, compiled = each["ours", "fast"], each.get(("ours, compiled", "compiled"))
    warm_up = WarmUp(
        batch_size=size,
        prepare_seconds=preparing,
        prepare_pays_after_images=_pays_after(preparing, fastest / size, ours),
        compile_seconds=compiling,
        compile_pays_after_images=_pays_after(compiling, ours, compiled),
    )
    return rows, warm_up


def contenders(models: dict[str, ExitModel], pixels: Tensor) -> dict[tuple[str, str], PGD]:
    """Everybody who attacks, by name and model: peers on the model as loaded and prepared, ours on each form."""
    last, found = models[AS_LOADED].num_exits - 1, dict[tuple[str, str], PGD]()
    for name, make in peers_here().items():
        for kind in (AS_LOADED, "fast", "compiled"):
            if kind in models:
                found[name, kind] = make(models[kind], last, pixels.shape[-1])
    return found | {(name, kind): ours_on(models[kind]) for name, kind in OURS.items() if kind in models}


def ours_on(model: ExitModel) -> PGD:
    """Our search alone, as peers do it: no verdict, no record; images shared out as ``attack`` does."""

    def run(images: Tensor, labels: Tensor, spec: LinfAttack) -> Tensor:
        searched, applied = aimed(model, spec, POLICY, "nothing")
        assert isinstance(applied, LinfAttack)

        def one_part(part: range, token: CancelToken) -> Tensor:
            rows = slice(part.start, part.stop)
            return sign_steps(searched, images[rows], labels[rows], applied, POLICY)[0]

        parts = parts_of(images, device_of(model), model if isinstance(model, PreparedModel) else None)
        return torch.cat(list(side_by_side(one_part, parts).values()))

    return run


@torch.no_grad()
def success(model: ExitModel, adversarial: Tensor, labels: Tensor) -> float:
    """Share of the images whose final exit is wrong."""
    answers = model.run_until(adversarial, model.num_exits - 1).argmax(dim=-1)
    return float((answers != labels).double().mean())


def check_equal(successes: dict[Any, float], num_images: int) -> None:
    """Checks that contenders succeed equally often: else their times do not compare.

    Raises:
        ExitLensError: If they do not.
    """
    if max(successes.values()) - min(successes.values()) > EQUAL_SUCCESS:
        raise ExitLensError(
            f"The contenders do not succeed equally often on {num_images} images: {successes}. Their times say "
            "nothing beside each other; look for the one that attacks something else."
        )


def seconds_of(run: Callable[[], object], times: int = 1) -> float:
    """Wall-clock of some runs, with what a device has still to do."""
    started = time.perf_counter()
    for _ in range(times):
        made = run()
        if isinstance(made, Tensor):
            wait_for(made.device)
    return time.perf_counter() - started


def _bound(run: PGD, images: Tensor, labels: Tensor, spec: LinfAttack) -> Callable[[], Tensor]:
    return lambda: run(images, labels, spec)


def _bound_pass(model: ExitModel, images: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    """One forward and backward pass of the model alone."""

    def one_pass() -> Tensor:
        at = images.clone().requires_grad_(True)
        loss = F.cross_entropy(model.run_until(at, model.num_exits - 1), labels, reduction="sum")
        return torch.autograd.grad(loss, at)[0]

    return one_pass


def _pays_after(cost: float | None, slow: float, quick: float | None) -> int | None:
    """After how many images a cost has paid, given the seconds of an image without it and with it."""
    return math.ceil(cost / (slow - quick)) if cost is not None and quick is not None and slow > quick else None


def _peak_megabytes(run: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float]:
    """What a run gives, and its largest memory above that at its start: of the device, or resident memory.

    Resident memory is looked at every two milliseconds. What was freed before is handed back first: a run in used
    memory would seem to need none.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        made = run()
        return made, (torch.cuda.max_memory_allocated(device) - before) / 2**20
    _hand_back()
    done, seen = threading.Event(), [_resident()]

    def look() -> None:
        while not done.wait(0.002):
            seen.append(_resident())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        made = run()
    finally:
        done.set()
        watcher.join()
    return made, (max(seen) - seen[0]) / 2**20


def _hand_back() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others keep what they keep
    if trim:
        trim(0)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096
