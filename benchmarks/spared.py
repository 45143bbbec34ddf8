"""What need not be computed, and what that spares: one gradient for many radii, early exits alone, fooled images."""

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from benchmarks.contenders import POLICY, ours_on, seconds_of
from benchmarks.peers import peers_here
from core.attacks.run import attack
from core.attacks.spec import LinfAttack, fgsm, pgd
from core.attacks.sweep import sweep_fgsm
from core.models import ExitModel
from core.models.prepared import PreparedModel, prepared
from core.stage_times import StageTimes, time_stages

SWEPT = tuple(numerator / 255 for numerator in (0.25, 0.5, 1, 2, 4, 8, 12, 16))
NUM_TIMES = 2
Ratio = dict[str, Any]


def sweep_ratios(model: ExitModel, fast: PreparedModel, pixels: Tensor, labels: Tensor) -> Iterator[Ratio]:
    """One gradient for eight radii against eight attacks, verdicts included."""
    for objective in ("final", "taken"):
        spec = fgsm(objective=objective)

        def swept(spec: LinfAttack = spec) -> object:
            return sweep_fgsm(model, pixels, labels, spec, POLICY, SWEPT, search=fast)

        def apart(spec: LinfAttack = spec) -> None:
            for epsilon in SWEPT:
                one = replace(spec, epsilon=epsilon, step_size=epsilon)
                attack(model, pixels, labels, one, POLICY, search=fast, watch="nothing")

        what = f"FGSM at {len(SWEPT)} radii, {objective}, {len(labels)} images"
        yield _ratio(what, "separate attacks", "one sweep", apart, swept)


def exit_ratios(model: ExitModel, fast: PreparedModel, pixels: Tensor, labels: Tensor) -> Iterator[Ratio]:
    """Attacking the first exit against attacking the final one."""
    at_first, at_final = pgd(objective="exit", exit_index=0), pgd(objective="final")
    for name, of in (("float32", prepared(model, "float32")), ("fast", fast)):
        run = ours_on(of)
        yield _ratio(
            f"exit 1, search alone, {name}",
            "final exit",
            "exit 1",
            lambda run=run: run(pixels, labels, at_final),  # type: ignore[misc]
            lambda run=run: run(pixels, labels, at_first),  # type: ignore[misc]
        )

    def whole(spec: LinfAttack) -> object:
        return attack(model, pixels, labels, spec, POLICY, search=fast, watch="nothing")

    what = "exit 1, with verdicts at all exits, fast"
    yield _ratio(what, "final exit", "exit 1", lambda: whole(at_final), lambda: whole(at_first))


def stopping_ratios(plain: ExitModel, fast: PreparedModel, pixels: Tensor, labels: Tensor) -> Iterator[Ratio]:
    """Leaving fooled images alone, against every peer as shipped: a figure about speed only."""
    stopping = pgd(objective="final", stop_when_fooled=True)
    for name, make in peers_here().items():
        peer = make(plain, plain.num_exits - 1, pixels.shape[-1])
        yield _ratio(
            f"stopped when fooled, batch of {len(labels)}",
            f"{name} as shipped",
            "ours, stopped when fooled",
            lambda peer=peer: peer(pixels, labels, stopping),  # type: ignore[misc]
            lambda: ours_on(fast)(pixels, labels, stopping),
        )


def dynamic_savings(model: ExitModel, fast: PreparedModel, pixels: Tensor, image_set: str) -> list[Ratio]:
    """How much of the saving that the stages' own times allow is reached by really stopping."""
    forms = {"float32": prepared(model, "float32"), fast.precision: fast}
    return [
        {"precision": name, "image_set": image_set} | _with_savings(time_stages(of, pixels, POLICY))
        for name, of in forms.items()
    ]


def _ratio(
    what: str, slow_name: str, quick_name: str, slow: Callable[[], object], quick: Callable[[], object]
) -> Ratio:
    slow(), quick()
    seconds = [(seconds_of(slow), seconds_of(quick)) for _ in range(NUM_TIMES)]
    slow_median, quick_median = (statistics.median(values) for values in zip(*seconds, strict=True))
    return {
        "what": what,
        "slow": slow_name,
        "quick": quick_name,
        "slow_milliseconds": round(1000 * slow_median, 1),
        "quick_milliseconds": round(1000 * quick_median, 1),
        "times": round(slow_median / quick_median, 2),
        "share": round(quick_median / slow_median, 4),
    }


def _with_savings(times: StageTimes) -> Ratio:
    names = ("full_seconds", "saving", "allowed_saving", "share_of_allowed")
    found = asdict(times) | {name: getattr(times, name) for name in names}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in found.items()}
