"""Attacks of kept runs as results again, so that nothing that is on disk has to be attacked twice."""

from collections.abc import Iterable
from pathlib import Path

import torch

from core.attacks.run import AttackResult, apply_perturbations
from core.attacks.spec import AttackSpec
from core.attacks.steps import Step
from core.data import ImageSet
from core.evaluation import exit_logits, logits_of
from core.exits import ExitPolicy
from core.kept import KeptRun, read_decisions, read_perturbations, read_steps
from core.models import ExitModel


def find_run(
    runs: Iterable[KeptRun],
    images: str,
    source: str,
    weights_sha256: str,
    attack: AttackSpec,
    made_at: ExitPolicy,
) -> KeptRun | None:
    """The first run that holds this very attack on these weights, whomever else it was shown to; None without one."""
    for run in runs:
        if (run.spec.images, run.spec.made_at, run.attacks.get(source)) != (images, made_at, attack):
            continue
        if run.model(source).weights_sha256 == weights_sha256:
            return run
    return None


@torch.no_grad()
def restored_result(
    run: KeptRun, source: str, model: ExitModel, image_set: ImageSet, folder: Path | None = None
) -> AttackResult:
    """The attack on one source of a kept run, its verdicts made anew from the stored perturbations.

    Args:
        run: The kept run.
        source: One of its sources.
        model: That source, with the weights of the run.
        image_set: The run's images, in its order.
        folder: Another place than ``kept_folder()``.

    Returns:
        The result as it was made; its ``seconds`` are 0, as no attack was run.

    Raises:
        ExitLensError: If a file of the run is missing or damaged.
    """
    images = image_set.pixels()
    perturbations = read_perturbations(run, folder)[source]
    adversarial = apply_perturbations(images, perturbations)
    return AttackResult(
        spec=run.attacks[source],
        made_at=run.spec.made_at,
        images=images,
        labels=image_set.labels,
        perturbations=perturbations,
        clean_logits=exit_logits(model, image_set),
        adversarial_logits=logits_of(model, adversarial),
        steps=_steps(run, source, folder),
        seconds=0.0,
        precision=_precision(run, source, folder),
    )


def _precision(run: KeptRun, source: str, folder: Path | None) -> str:
    """Of the gradients of the attack on one source: the same in all rows about it."""
    table = read_decisions(run, folder)
    return str(table.precision[table.source == source].iloc[0])


def _steps(run: KeptRun, source: str, folder: Path | None) -> tuple[Step, ...]:
    table = read_steps(run, source, folder)
    # Written step by step, and within a step image by image: (steps, N, K).
    shape = (int(table.step.max()) + 1, len(run.image_ids), int(table.exit_index.max()) + 1)
    names = ("loss", "predicted", "confidence", "true_probability", "made_at_exit")
    columns = {name: torch.tensor(table[name].to_numpy()).reshape(shape) for name in names}
    return tuple(
        Step(
            loss=columns["loss"][number, :, 0].float(),
            predicted=columns["predicted"][number],
            confidence=columns["confidence"][number].float(),
            true_probability=columns["true_probability"][number].float(),
            exit_taken=columns["made_at_exit"][number, :, 0],
        )
        for number in range(shape[0])
    )
