"""From a study's tables of surrogates to the networks that have to be trained."""

from collections.abc import Iterator, Mapping

from core.checkpoints import ModelCard
from core.data import parse_image_set_name
from core.datasets import DATASETS
from core.errors import ExitLensError
from core.models import ARCHITECTURES
from core.study.models import SURROGATES, choose_models, model_hash
from core.study.spec import StudySpec
from core.study.surrogates import SAME, Surrogate, SurrogateChoice


def plan_surrogates(spec: StudySpec, cards: Mapping[str, ModelCard]) -> list[Surrogate]:
    """The surrogates of a study, each once: one a target that labels, else one for all targets of an architecture.

    Args:
        spec: The study.
        cards: Of all models there are but surrogates.

    Raises:
        ExitLensError: If a target is not here or not among the study's, an architecture cannot be built, there are
            fewer images, or a name is taken.
    """
    datasets = {parse_image_set_name(images)[0] for images in spec.images}
    shown_to = choose_models([selector for selector in spec.targets if selector != SURROGATES], cards)
    planned: list[Surrogate] = []
    for choice in spec.surrogates:
        targets = [name for name in choose_models(choice.target, cards) if cards[name].dataset in datasets]
        if not targets:
            raise ExitLensError(
                f"The surrogate {choice.name} has no target here: no model of {', '.join(sorted(datasets))} is "
                f"{' or '.join(map(repr, choice.target))}. Models here: {', '.join(cards) or 'none'}."
            )
        if missing := [name for name in targets if name not in shown_to]:
            raise ExitLensError(
                f"The surrogate {choice.name} stands in for {missing[0]}, which the study shows nothing to. Name it "
                "among the study's targets."
            )
        planned += _of_targets(spec, choice, targets, cards)
    names = [surrogate.name for surrogate in planned]
    if taken := [name for name in names if name in cards or names.count(name) > 1]:
        raise ExitLensError(f"Two models of the study would be called {taken[0]}. Give the surrogate another name.")
    return planned


def _of_targets(
    spec: StudySpec, choice: SurrogateChoice, targets: list[str], cards: Mapping[str, ModelCard]
) -> Iterator[Surrogate]:
    # Whether names tell targets apart follows from the file alone, so that another model here renames none.
    is_many = len(choice.target) > 1 or choice.target[0] not in cards
    if choice.labels == "target":
        for name in targets:
            yield _surrogate(spec, choice, [cards[name]], f"-of-{name}" if is_many else "")
        return
    built: dict[tuple[str, str], list[ModelCard]] = {}
    for card in (cards[name] for name in targets):
        built.setdefault((card.dataset, _architecture(choice, card)), []).append(card)
    for dataset, architecture in built:
        suffix = f"-{dataset}-{architecture}" if is_many else ""
        yield _surrogate(spec, choice, built[dataset, architecture], suffix)


def _surrogate(spec: StudySpec, choice: SurrogateChoice, targets: list[ModelCard], suffix: str) -> Surrogate:
    first, is_labelled = targets[0], choice.labels == "target"
    there = DATASETS[first.dataset].num_validation
    if choice.num_images and choice.num_images > there:
        raise ExitLensError(
            f"The surrogate {choice.name} asks for {choice.num_images} images; {first.dataset}:validation holds "
            f"{there}. Ask for fewer."
        )
    return Surrogate(
        name=choice.name + suffix,
        dataset=first.dataset,
        architecture=_architecture(choice, first),
        kind=choice.kind,
        targets=tuple(card.name for card in targets),
        labels=choice.labels,
        target_hash=model_hash(first) if is_labelled else "",
        policy=spec.policies[0].on(first) if is_labelled else None,
        corruption=choice.corruption,
        severity=choice.severity or 0,
        num_images=choice.num_images or there,
        num_epochs=choice.num_epochs,
        seed=choice.seed,
        batch_size=choice.batch_size,
        peak_learning_rate=choice.peak_learning_rate,
        num_threads=spec.num_threads,
    )


def _architecture(choice: SurrogateChoice, target: ModelCard) -> str:
    name = target.architecture if choice.architecture == SAME else choice.architecture
    if name not in ARCHITECTURES:
        raise ExitLensError(
            f"The surrogate {choice.name} cannot have the architecture of {target.name}, which was imported. Name one "
            f"of {', '.join(ARCHITECTURES)}."
        )
    return name
