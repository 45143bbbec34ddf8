"""The story: attacks on some pictures, of which one is told in five steps, on real models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from core.attacks.run import AttackProgress, AttackResult
from core.attacks.spec import EarlyAttack, LinfAttack, as_255, early, pgd
from core.checkpoints import ModelCard
from core.data import ImageSet
from core.exits import ExitPolicy
from core.experiment import Experiment, ExperimentSpec, run_experiment
from core.models import ExitModel
from core.progress import CancelToken, Progress

STORY_EPSILONS = tuple(levels / 255 for levels in (1, 2, 4))
NUM_PICTURES = 20

Made = Callable[[ExperimentSpec], Mapping[str, AttackResult]]


def story_attack(epsilon: float) -> EarlyAttack:
    """The Early Attack in whole brightness levels, so that an ordinary picture file holds exactly what it makes."""
    return early(epsilon, step_size=1 / 255)


def twin_attack(epsilon: float) -> LinfAttack:
    """What the static twin is attacked with itself: PGD within the same radius, in steps of a quarter of it."""
    return pgd(epsilon, step_size=epsilon / 4, objective="final")


@dataclass(frozen=True)
class StorySpec:
    """Everything that a story depends on; also the key of its job.

    Attributes:
        images: Image set with its selection, such as ``cifar10:samples:0-19``.
        model: The early-exit model that is attacked.
        weights_sha256: Of its weights file.
        twin: Its independently trained static twin; None where there is none.
        twin_sha256: Of the twin's weights file; empty without one.
        policy: In force while attacking and judging.
    """

    images: str
    model: str
    weights_sha256: str
    twin: str | None
    twin_sha256: str
    policy: ExitPolicy

    def attacks_on_model(self) -> dict[float, ExperimentSpec]:
        """By radius, the Early Attack on the model, whose outcome its twin is shown too."""
        targets = (self.model, self.twin) if self.twin else (self.model,)
        return {
            epsilon: ExperimentSpec(self.images, (self.model,), targets, story_attack(epsilon), self.policy)
            for epsilon in STORY_EPSILONS
        }

    def attacks_on_twin(self) -> dict[float, ExperimentSpec]:
        """By radius, the twin's own attack, under the default policy, as a static model knows none; empty without."""
        if self.twin is None:
            return {}
        alone = (self.twin,)
        return {
            epsilon: ExperimentSpec(self.images, alone, alone, twin_attack(epsilon), ExitPolicy())
            for epsilon in STORY_EPSILONS
        }


@dataclass(frozen=True, eq=False)
class Story:
    """What came of it.

    Attributes:
        spec: What was asked for.
        image_set: The pictures.
        cards: Of the model and its twin.
        on_model: By radius, the Early Attack on the model.
        on_twin: By radius, the twin under its own attack; empty without one.
    """

    spec: StorySpec
    image_set: ImageSet
    cards: dict[str, ModelCard]
    on_model: dict[float, Experiment]
    on_twin: dict[float, Experiment]


def run_story(
    spec: StorySpec,
    image_set: ImageSet,
    models: Mapping[str, tuple[ExitModel, ModelCard]],
    *,
    made: Made | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: CancelToken | None = None,
) -> Story:
    """Attacks the pictures at every radius of ``STORY_EPSILONS``, on the model and on its twin.

    Args:
        spec: What is asked.
        image_set: The pictures that ``spec.images`` names.
        models: The model and its twin.
        made: Gives the attacks of an experiment that were already made; none if missing.
        on_progress: Called after each step with the progress over all attacks.
        cancel: Checked after each step.

    Returns:
        The story's attacks; ``core.story_tables`` picks from them.

    Raises:
        ExitLensError: If the model has no early exit, or spec, pictures and models do not fit each other.
        Cancelled: Once ``cancel`` is set.
    """
    on_model, on_twin = spec.attacks_on_model(), spec.attacks_on_twin()
    done = run_in_turn(
        [*on_model.values(), *on_twin.values()], image_set, models, made=made, on_progress=on_progress, cancel=cancel
    )
    cards = {name: models[name][1] for name in (spec.model, spec.twin) if name}
    return Story(
        spec,
        image_set,
        cards,
        dict(zip(on_model, done[: len(on_model)], strict=True)),
        dict(zip(on_twin, done[len(on_model) :], strict=True)),
    )


def run_in_turn(
    specs: Sequence[ExperimentSpec],
    image_set: ImageSet,
    models: Mapping[str, tuple[ExitModel, ModelCard]],
    *,
    made: Made | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: CancelToken | None = None,
) -> list[Experiment]:
    """Runs experiments on the same pictures one after the other, with one progress over all.

    Args:
        specs: Of the experiments.
        image_set: The pictures that every one of them names.
        models: At least all their targets.
        made: Gives the attacks of an experiment that were already made.
        on_progress: Called after each step.
        cancel: Checked after each step.

    Raises:
        ExitLensError: If specs, pictures and models do not fit each other.
        Cancelled: Once ``cancel`` is set.
    """
    done: list[Experiment] = []
    for spec in specs:

        def over_all(progress: AttackProgress, before: int = len(done), what: ExperimentSpec = spec) -> None:
            if on_progress:
                words = f"{progress.num_images} pictures, noise of at most {as_255(what.attack.epsilon)}"
                share = (before + progress.share) / len(specs)
                on_progress(Progress(share, f"attack {before + 1} of {len(specs)}: {words}"))

        done.append(
            run_experiment(
                spec, image_set, models, made=made(spec) if made else None, on_progress=over_all, cancel=cancel
            )
        )
    return done


def warm_up_story(card: ModelCard, images: str, targets: tuple[str, ...]) -> list[ExperimentSpec]:
    """What stories on these pictures need of a model under the default policy, shown to other models too.

    Args:
        card: Early-exit: the Early Attack at every radius; static: what a twin is attacked with.
        images: Image set with its selection.
        targets: Models that the outcome is shown to, this one among them.
    """
    made = twin_attack if card.num_exits == 1 else story_attack
    return [ExperimentSpec(images, (card.name,), targets, made(epsilon), ExitPolicy()) for epsilon in STORY_EPSILONS]
