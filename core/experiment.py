"""One live experiment: a model and its twin are attacked on the same images, each judged on both."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.attacks.run import AttackProgress, AttackResult, CancelToken, attack
from core.attacks.spec import LinfAttack
from core.checkpoints import ModelCard
from core.data import ImageSet
from core.errors import ExitLensError
from core.exits import ExitPolicy
from core.models import ExitModel


@dataclass(frozen=True)
class ExperimentSpec:
    """Everything that an experiment's outcome depends on; also the key under which it is cached.

    Attributes:
        images: Image set with its selection, such as ``cifar10:samples:0-7``.
        model: The model in question.
        attack: What is done to it.
        made_at: The policy in force while attacking.
    """

    images: str
    model: str
    attack: LinfAttack
    made_at: ExitPolicy


@dataclass(frozen=True, eq=False)
class Experiment:
    """What came of it.

    Attributes:
        spec: What was asked for.
        image_set: The images.
        cards: Of every model that took part, the one in question first.
        results: The attack on each of them as source.
        logits: For each (source, target) the target's logits on the source's adversarial images, (N, K, C).
    """

    spec: ExperimentSpec
    image_set: ImageSet
    cards: dict[str, ModelCard]
    results: dict[str, AttackResult]
    logits: dict[tuple[str, str], Tensor]

    @property
    def seconds(self) -> float:
        """Wall-clock of all attacks."""
        return sum(result.seconds for result in self.results.values())


def twin_of(card: ModelCard, others: list[ModelCard]) -> ModelCard | None:
    """The independently trained model of the other kind, same architecture and data set; None without one."""
    twins = (other for other in others if (other.dataset, other.architecture) == (card.dataset, card.architecture))
    return next((twin for twin in twins if twin.kind != card.kind), None)


def attack_for(card: ModelCard, spec: LinfAttack) -> LinfAttack:
    """The same attack as it applies to a model: a static one has a single exit and so a single objective."""
    return replace(spec, objective="final", exit_index=None) if card.num_exits == 1 else spec


def run_experiment(
    spec: ExperimentSpec,
    image_set: ImageSet,
    models: Mapping[str, tuple[ExitModel, ModelCard]],
    *,
    on_progress: Callable[[AttackProgress], None] | None = None,
    cancel: CancelToken | None = None,
) -> Experiment:
    """Attacks every given model on the images and shows every outcome to every model.

    Args:
        spec: What is asked; its own model must be among ``models``.
        image_set: The images that ``spec.images`` names.
        models: The model in question first, then those it is compared with, all on one data set.
        on_progress: Called after each step with the progress over all models.
        cancel: Checked after each step.

    Returns:
        The experiment.

    Raises:
        ExitLensError: If spec, images and models do not fit each other.
        Cancelled: Once ``cancel`` is set.
    """
    datasets = {card.dataset for _, card in models.values()} | {image_set.dataset}
    if spec.model not in models or len(datasets) > 1:
        raise ExitLensError(
            f"{spec.model} is to be attacked on {image_set.name}, beside {', '.join(models) or 'no model'}. Give that "
            f"model and others of its data set only; these are of {', '.join(sorted(datasets))}."
        )
    pixels, results, logits = image_set.pixels(), {}, {}
    for number, (name, (model, card)) in enumerate(models.items()):

        def over_all(progress: AttackProgress, done: int = number) -> None:
            if on_progress:
                on_progress(replace(progress, share=(done + progress.share) / len(models)))

        results[name] = attack(
            model,
            pixels,
            image_set.labels,
            attack_for(card, spec.attack),
            spec.made_at,
            on_progress=over_all,
            cancel=cancel,
        )
    for source, result in results.items():
        for target, (model, _) in models.items():
            with torch.no_grad():
                own = source == target
                logits[source, target] = result.adversarial_logits if own else model(result.adversarial)
    return Experiment(spec, image_set, {name: card for name, (_, card) in models.items()}, results, logits)
