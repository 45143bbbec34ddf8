"""Transfer between models by kind and architecture, and between the exits of one model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pandas as pd

from core.attacks.run import AttackProgress, AttackResult, attack
from core.attacks.spec import L2Attack, LinfAttack
from core.checkpoints import ModelCard
from core.data import ImageSet
from core.errors import ExitLensError
from core.exits import ExitPolicy
from core.metrics import rate
from core.models import ExitModel
from core.models.prepared import prepared
from core.progress import CancelToken
from core.tables import DENOMINATORS, DIRECTIONS, EXIT_TRANSFER, fooled_columns

KIND_LETTERS = {"static": "S", "early-exit": "D"}  # D: dynamic, as the literature abbreviates early-exit models
MAX_EXITS = 8


def directions_table(transfer: pd.DataFrame, cards: Mapping[str, ModelCard]) -> pd.DataFrame:
    """Every pair of two models with its direction, ``S2S``, ``S2D``, ``D2S`` or ``D2D``: schema ``DIRECTIONS``.

    Args:
        transfer: Schema ``TRANSFER``; attacks shown to their own source are left out.
        cards: Of all models named.
    """
    pairs = transfer[transfer.source != transfer.target].drop(columns="success_rule")
    kinds, architectures = (
        {name: value for name, value in ((name, getattr(card, field)) for name, card in cards.items())}
        for field in ("kind", "architecture")
    )
    letters = pairs[["source", "target"]].map(lambda name: KIND_LETTERS[kinds[name]])
    same = pairs.source.map(architectures) == pairs.target.map(architectures)
    return DIRECTIONS.check(
        pairs.assign(
            direction=(letters.source + "2" + letters.target).astype("str"), same_architecture=same.astype(bool)
        )
    )


@dataclass(frozen=True)
class ExitTransferSpec:
    """What transfer between the exits of one model depends on.

    Attributes:
        images: Image set with its selection.
        model: Name of an early-exit model.
        weights_sha256: Of its weights file.
        exits: Exits that are attacked and shown the outcome, 0-based, rising.
        attack: What is done to each exit in turn; its own objective does not count.
    """

    images: str
    model: str
    weights_sha256: str
    exits: tuple[int, ...]
    attack: LinfAttack | L2Attack

    def __post_init__(self) -> None:
        """Checks the exits and brings the attack into its plain form."""
        if len(self.exits) < 2 or list(self.exits) != sorted(set(self.exits)):
            raise ExitLensError(f"The exits {list(self.exits)} must be two or more, each once and rising.")
        # No goal and no stop: every exit is to be broken alike, whatever the others say on the way.
        plain = replace(self.attack, objective="final", exit_index=None, goal_class=None, stop_when_fooled=False)
        object.__setattr__(self, "attack", plain)

    def attack_on(self, exit_index: int) -> LinfAttack | L2Attack:
        """The attack at one exit."""
        return replace(self.attack, objective="exit", exit_index=exit_index)


@dataclass(frozen=True, eq=False)
class ExitTransfer:
    """What came of it.

    Attributes:
        spec: What was asked for.
        image_set: The images.
        results: The attack on each exit, by its index.
    """

    spec: ExitTransferSpec
    image_set: ImageSet
    results: dict[int, AttackResult]

    @property
    def seconds(self) -> float:
        """Wall-clock of all attacks."""
        return sum(result.seconds for result in self.results.values())


def evenly_spread(count: int, at_most: int = MAX_EXITS) -> tuple[int, ...]:
    """All of so many, as a model's exits, or ``at_most`` of them evenly spread from the first to the last; 0-based."""
    if count <= at_most:
        return tuple(range(count))
    return tuple(round(number * (count - 1) / (at_most - 1)) for number in range(at_most))


def run_exit_transfer(
    spec: ExitTransferSpec,
    image_set: ImageSet,
    model: ExitModel,
    *,
    on_progress: Callable[[AttackProgress], None] | None = None,
    cancel: CancelToken | None = None,
) -> ExitTransfer:
    """Attacks each exit of a model; every result says what all other exits make of it.

    Args:
        spec: What is asked.
        image_set: The images that ``spec.images`` names.
        model: The model that ``spec.model`` names.
        on_progress: Called after each step with the progress over all exits.
        cancel: Checked after each step.

    Raises:
        ExitLensError: If images, spec and model do not fit each other.
        Cancelled: Once ``cancel`` is set.

    Source: Ham et al., NEO-KD, NeurIPS 2023, asks this question of each pair of exits.
    """
    results: dict[int, AttackResult] = {}
    for exit_index in spec.exits:

        def over_all(progress: AttackProgress) -> None:
            if on_progress:
                on_progress(replace(progress, share=(len(results) + progress.share) / len(spec.exits)))

        results[exit_index] = attack(
            model,
            image_set.pixels(),
            image_set.labels,
            spec.attack_on(exit_index),
            ExitPolicy(),  # an attack on a chosen exit asks no policy
            search=prepared(model),
            watch="nothing",
            on_progress=over_all,
            cancel=cancel,
        )
    return ExitTransfer(spec, image_set, results)


def exit_transfer_images(outcome: ExitTransfer) -> pd.DataFrame:
    """For every attacked exit, shown exit and image, whether it counts in each denominator and is fooled.

    Returns:
        The columns ``source_exit``, ``target_exit``, ``image_id``, ``fooled`` (the shown exit is wrong) and one
        truth for each of ``DENOMINATORS``, of exits instead of models.
    """
    labels, exits = outcome.image_set.labels[:, None], list(outcome.spec.exits)
    parts = []
    for source, result in outcome.results.items():
        right = result.clean_logits.argmax(dim=-1) == labels  # (N, K)
        wrong = result.adversarial_logits.argmax(dim=-1) != labels
        common = right[:, exits].all(dim=1)
        for target in exits:
            attackable = right[:, source] & right[:, target]
            columns = {
                "fooled": wrong[:, target],
                "attackable": attackable,
                "common": common,
                "fooled the source": attackable & wrong[:, source],
            }
            frame = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
            parts.append(frame.assign(source_exit=source, target_exit=target, image_id=outcome.image_set.image_ids))
    return pd.concat(parts, ignore_index=True)


def exit_transfer_table(outcome: ExitTransfer) -> pd.DataFrame:
    """How often what was made on each exit fools each exit: schema ``EXIT_TRANSFER``."""
    rows = []
    for (source, target), group in exit_transfer_images(outcome).groupby(["source_exit", "target_exit"], sort=False):
        for denominator in DENOMINATORS:
            share = rate(int((group.fooled & group[denominator]).sum()), int(group[denominator].sum()))
            row = {"source_exit": source, "target_exit": target, "denominator": denominator}
            rows.append({**row, **fooled_columns(share)})
    return EXIT_TRANSFER.check(pd.DataFrame(rows))
