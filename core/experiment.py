"""One live experiment: some models are attacked on the same images, and what was made is shown to others too."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar, cast

from torch import Tensor

from core.attacks.run import AttackProgress, AttackResult, attack
from core.attacks.spec import AttackSpec, UniversalAttack
from core.attacks.universal import check_unseen
from core.checkpoints import ModelCard
from core.data import ImageSet
from core.errors import ExitLensError
from core.evaluation import logits_of
from core.exits import ExitPolicy
from core.machine import device_of
from core.models import ARCHITECTURES, ExitModel
from core.models.prepared import prepared
from core.progress import CancelToken, end_if
from core.side_by_side import side_by_side

Attack = TypeVar("Attack", bound=AttackSpec)

# Attacks on up to so many images do not fill two cores: models are attacked side by side, which took 0.4 to 0.7 of the
# time at 8 to 128 images on ResNet-56 and its twin, with the very same results.
FEW_IMAGES = 128


@dataclass(frozen=True)
class ExperimentSpec:
    """Everything that an experiment's outcome depends on; also the key under which it is cached.

    Attributes:
        images: Image set with its selection, such as ``cifar10:samples:0-7``.
        sources: Models that are attacked, the one in question first.
        targets: Models that what was made is shown to; every source is one.
        attack: What is done to each source.
        made_at: The policy in force while attacking.
        weights: sha256 of the weights of each target, in their order; empty where nobody asks for certain weights.
    """

    images: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    attack: AttackSpec
    made_at: ExitPolicy
    weights: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks that sources and targets make sense together."""
        doubled = len(set(self.sources)) < len(self.sources) or len(set(self.targets)) < len(self.targets)
        if not self.sources or doubled or not set(self.sources) <= set(self.targets):
            raise ExitLensError(
                f"The sources are {', '.join(self.sources) or 'none'} and the targets "
                f"{', '.join(self.targets) or 'none'}. Give one source or more, each among the targets, no name twice."
            )

    @property
    def model(self) -> str:
        """The model in question."""
        return self.sources[0]


@dataclass(frozen=True, eq=False)
class Experiment:
    """What came of it.

    Attributes:
        spec: What was asked for.
        image_set: The images.
        cards: Of every target.
        results: The attack on each source.
        clean_logits: Every target's logits on the images, (N, K, C).
        logits: For each (source, target) the target's logits on the source's adversarial images, (N, K, C);
            none where the two share a backbone.
        seconds: Wall-clock of all attacks, those made before included.
    """

    spec: ExperimentSpec
    image_set: ImageSet
    cards: dict[str, ModelCard]
    results: dict[str, AttackResult]
    clean_logits: dict[str, Tensor]
    logits: dict[tuple[str, str], Tensor]
    seconds: float


def twin_of(card: ModelCard, others: list[ModelCard]) -> ModelCard | None:
    """The independently trained model of the other kind, same architecture and data set; None without one.

    Of several, the one with the standard exits and the lowest seed.
    """
    twins = [
        other
        for other in others
        if (other.dataset, other.architecture) == (card.dataset, card.architecture)
        and other.kind != card.kind
        and other.shares is None  # on another's backbone, nothing is independent
        and card.shares != other.name
    ]
    return min(twins, key=standing, default=None)


def counterpart_of(card: ModelCard, others: list[ModelCard]) -> ModelCard | None:
    """The model of the other kind that accuracy and cost are compared with; None without one.

    For exits on another's backbone that is the backbone's own model, which they differ from in nothing else; for any
    other model its twin.
    """
    owner = next((other for other in others if other.name == card.shares), None)
    return owner if owner and owner.kind != card.kind else twin_of(card, others)


def standing(card: ModelCard) -> tuple[bool, int, str]:
    """What puts one model before another of its architecture and kind: the standard exits, then the lowest seed."""
    architecture = ARCHITECTURES.get(card.architecture)
    return card.exit_positions not in ((), architecture and architecture.exit_positions), card.seed, card.name


def offered_in_order(card: ModelCard) -> tuple[bool, int, str, bool, bool, tuple[bool, int, str]]:
    """What puts one model before another wherever models are listed, so that pages open with the first.

    The project's own come first: an import does not change what a fresh page opens with. Then architectures as the
    registry lists them, those with the standard exits, early-exit before static.
    """
    known = list(ARCHITECTURES)
    place = known.index(card.architecture) if card.architecture in known else len(known)
    is_variant = standing(card)[0]
    return card.imported is not None, place, card.architecture, is_variant, card.kind != "early-exit", standing(card)


def share_backbone(one: ModelCard, other: ModelCard) -> bool:
    """Whether two models are exits on the very same layers, so that what fools one is no news on the other."""
    return one.name != other.name and (one.shares or one.name) == (other.shares or other.name)


def attack_for(card: ModelCard, spec: Attack) -> Attack:
    """The same attack as it applies to a model: a static one has a single exit and so a single objective.

    An attack that needs early exits stays as it is; a static model then says that it has none.
    """
    return spec if card.num_exits > 1 else cast(Attack, spec.as_static())


def run_experiment(
    spec: ExperimentSpec,
    image_set: ImageSet,
    models: Mapping[str, tuple[ExitModel, ModelCard]],
    *,
    made: Mapping[str, AttackResult] | None = None,
    on_progress: Callable[[AttackProgress], None] | None = None,
    cancel: CancelToken | None = None,
) -> Experiment:
    """Attacks every source on the images and shows every outcome to every target.

    Args:
        spec: What is asked.
        image_set: The images that ``spec.images`` names.
        models: At least the targets of ``spec``, all on one data set.
        made: Attacks on sources that were already made: same images, attack and policy.
        on_progress: Called after each step with the progress over all sources.
        cancel: Checked after each step.

    Returns:
        The experiment.

    Raises:
        ExitLensError: If spec, images and models do not fit each other.
        Cancelled: Once ``cancel`` is set.
    """
    missing = [name for name in spec.targets if name not in models]
    if missing:
        raise ExitLensError(f"The experiment names {', '.join(missing)}, given were {', '.join(models) or 'no model'}.")
    cards = {name: models[name][1] for name in spec.targets}
    datasets = {card.dataset for card in cards.values()} | {image_set.dataset}
    if len(datasets) > 1:
        raise ExitLensError(
            f"{', '.join(cards)} and the images {image_set.name} are of {', '.join(sorted(datasets))}. "
            "Choose models and images of one data set."
        )
    if spec.weights and spec.weights != tuple(card.weights_sha256 for card in cards.values()):
        raise ExitLensError(f"A model among {', '.join(cards)} was replaced in the meantime. Ask for the attack again.")
    if isinstance(spec.attack, UniversalAttack):
        check_unseen(spec.attack, image_set)
    pixels, results = image_set.pixels(), dict(made or {})
    seconds = sum(result.seconds for name, result in results.items() if name in spec.sources)
    wanted = [name for name in spec.sources if name not in results]
    shares, reporting = dict.fromkeys(wanted, 0.0), threading.Lock()

    def attacked(name: str, token: CancelToken | None) -> AttackResult:
        model, card = models[name]

        def over_all(progress: AttackProgress) -> None:
            with reporting:
                shares[name] = progress.share
                if on_progress:
                    on_progress(replace(progress, share=sum(shares.values()) / len(wanted)))

        return attack(
            model,
            pixels,
            image_set.labels,
            attack_for(card, spec.attack),
            spec.made_at,
            search=prepared(model, spec.attack.search_precision),
            watch="every exit",
            on_progress=over_all,
            cancel=token,
        )

    started = time.perf_counter()
    if len(pixels) <= FEW_IMAGES and all(device_of(models[name][0]).type == "cpu" for name in wanted):
        results |= side_by_side(attacked, wanted, cancel)
    else:
        results |= {name: attacked(name, cancel) for name in wanted}
    seconds += time.perf_counter() - started
    results = {name: results[name] for name in spec.sources}
    clean_logits, logits = {}, {}
    for target in spec.targets:
        clean_logits[target] = (
            results[target].clean_logits if target in results else logits_of(models[target][0], pixels)
        )
        for source, result in results.items():
            if share_backbone(cards[source], cards[target]):
                continue
            own = source == target
            logits[source, target] = (
                result.adversarial_logits if own else logits_of(models[target][0], result.adversarial)
            )
            end_if(cancel)
    return Experiment(spec, image_set, cards, results, clean_logits, logits, seconds)
