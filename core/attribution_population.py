"""How much the maps of many images agree before and after an attack, at every pair of exits."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.agreement import Agreement, agreement
from core.attacks.run import AttackResult
from core.attribution import attribute
from core.attribution_spec import AttributionSpec
from core.experiment import ExperimentSpec
from core.models import ExitModel
from core.progress import CancelToken, Progress

IMAGES_AT_ONCE = 8


@dataclass(frozen=True)
class PopulationSpec:
    """What a population's agreement depends on; also the key under which it is kept.

    Attributes:
        experiment: Which images, and the attack on its model in question.
        weights_sha256: Of that model's weights.
        attribution: Which maps; always at all exits.
    """

    experiment: ExperimentSpec
    weights_sha256: str
    attribution: AttributionSpec

    def __post_init__(self) -> None:
        """Brings the maps into their plain form: all exits, so that a threshold moves nothing that was computed."""
        object.__setattr__(self, "attribution", replace(self.attribution, exits="all"))


@dataclass(frozen=True, eq=False)
class Population:
    """What came of it.

    Attributes:
        spec: What was asked.
        agreement: For each image of each exit's clean map with each exit's adversarial map, (N, K, K).
        seconds: Wall-clock.
    """

    spec: PopulationSpec
    agreement: Agreement
    seconds: float


def measure_population(
    spec: PopulationSpec,
    result: AttackResult,
    model: ExitModel,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: CancelToken | None = None,
) -> Population:
    """Compares clean with adversarial maps, image by image, at every pair of exits.

    Args:
        spec: What is asked.
        result: The attack of ``spec.experiment`` on its model in question.
        model: That model; only read.
        on_progress: Called as the work goes on.
        cancel: Checked before each pass through the network.

    Raises:
        ExitLensError: If the method cannot work on this model.
        Cancelled: Once ``cancel`` is set.
    """
    started, num_images = time.perf_counter(), len(result.labels)
    parts: list[Agreement] = []
    for rows in torch.arange(num_images).split(IMAGES_AT_ONCE):

        def over_all(progress: Progress, first: int = int(rows[0]), count: int = len(rows)) -> None:
            if on_progress:
                share = (first + count * progress.share) / num_images
                on_progress(Progress(share, f"maps of {first + 1}–{first + count} of {num_images} images"))

        both = torch.cat([result.images[rows], result.adversarial[rows]])
        labels = result.labels[rows].repeat(2)
        maps = attribute(model, both, spec.attribution, labels=labels, on_progress=over_all, cancel=cancel).maps.chunk(
            2
        )
        parts.append(agreement(*maps))
    joined = Agreement(*(torch.cat(column) for column in _columns(parts)))
    return Population(spec, joined, time.perf_counter() - started)


def _columns(parts: list[Agreement]) -> tuple[list[Tensor], list[Tensor]]:
    return [part.rank_correlation for part in parts], [part.overlap for part in parts]
