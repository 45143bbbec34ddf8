"""Cells: the pieces of a study, each under a key made of everything that its outcome depends on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from pydantic import TypeAdapter

from core.attacks.spec import AttackSpec
from core.checkpoints import ModelCard
from core.data import parse_image_set_name, selection_text
from core.errors import ExitLensError
from core.examples import short_hash
from core.exits import ExitPolicy
from core.experiment import share_backbone
from core.machine import Precision
from core.study.models import choose_models, model_hash
from core.study.spec import StudySpec

# Raised when the same cell would come to something else than before: older parts are then not taken for it.
FORMAT = 1
_ATTACKS: TypeAdapter[AttackSpec] = TypeAdapter(AttackSpec)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One attack on one model and some images, and what every target says of the outcome.

    Without a source it is a clean cell: what every target says of the images as they are.

    Attributes:
        images: Image set with its selection.
        num_images: In it.
        source: Model that is attacked; empty in a clean cell.
        attack: As it applies to the source; None in a clean cell.
        made_at: The policy in force while attacking.
        targets: Models that the outcome is shown to.
        hashes: ``model_hash`` of the source and all targets, by name.
        batch_size: Images at a time.
        num_threads: Of the worker.
        precision: Of the gradients.
        record_steps: Whether every step is noted.
    """

    images: str
    num_images: int
    source: str
    attack: AttackSpec | None
    made_at: ExitPolicy
    targets: tuple[str, ...]
    hashes: tuple[tuple[str, str], ...]
    batch_size: int
    num_threads: int
    precision: Precision
    record_steps: bool

    @cached_property
    def made_key(self) -> str:
        """Stands for what is made: source, attack, policy, images and how they are computed."""
        return short_hash(self._facts(targets=()))

    @cached_property
    def key(self) -> str:
        """Stands for the whole cell, targets included."""
        return short_hash(self._facts(self.targets))

    def _facts(self, targets: tuple[str, ...]) -> dict[str, object]:
        named = {self.source, *targets}
        return {
            "format": FORMAT,
            "images": self.images,
            "source": self.source,
            "attack": attack_fields(self.attack) if self.attack else None,
            "made_at": asdict(self.made_at) if self.attack else None,
            "precision": self.precision if self.attack else None,
            "record_steps": self.record_steps if self.attack else None,
            "targets": list(targets),
            "models": {name: digest for name, digest in self.hashes if name in named},
            "batch_size": self.batch_size,
            "num_threads": self.num_threads,
        }


def attack_fields(attack: AttackSpec) -> dict[str, object]:
    """All fields of an attack, as JSON has them."""
    fields: dict[str, object] = _ATTACKS.dump_python(attack, mode="json")
    return fields


def policy_text(policy: ExitPolicy) -> str:
    """A policy as one line of JSON."""
    return TypeAdapter(ExitPolicy).dump_json(policy).decode()


def read_policy(text: str) -> ExitPolicy:
    """The policy that ``policy_text`` came from."""
    return TypeAdapter(ExitPolicy).validate_json(text)


def read_attack(fields: Mapping[str, object]) -> AttackSpec:
    """The attack that ``attack_fields`` came from."""
    return _ATTACKS.validate_python(fields)


def study_cells(spec: StudySpec, cards: Mapping[str, ModelCard], indices: Mapping[str, Sequence[int]]) -> list[Cell]:
    """All cells of a study, each once.

    They come in the order in which they are best done: everything on the first images first, so that a study
    that is stopped has all its attacks on fewer images, not some of them on all.

    Args:
        spec: The study.
        cards: Of all models there are.
        indices: Official indices of the images of each of its image sets, in order.

    Raises:
        ExitLensError: If the study names a model or an operating point that is not there.
    """
    cells: list[Cell] = []
    for images in spec.images:
        dataset, split, _ = parse_image_set_name(images)
        of_dataset = {name: card for name, card in cards.items() if card.dataset == dataset}
        sources, targets = (
            [name for name in choose_models(selectors, cards) if name in of_dataset]
            for selectors in (spec.sources, spec.targets)
        )
        for first in range(0, len(indices[images]), spec.images_per_cell):
            chosen = indices[images][first : first + spec.images_per_cell]
            cells += _cells_on(
                spec, f"{dataset}:{split}:{selection_text(chosen)}", len(chosen), sources, targets, of_dataset
            )
    if not any(cell.attack for cell in cells):
        raise ExitLensError(
            f"The study {spec.name} attacks nothing here: none of the models {', '.join(cards) or '(there are none)'} "
            "is one of its sources, knows its images and can be attacked so."
        )
    return list(dict.fromkeys(cells))


def _cells_on(
    spec: StudySpec,
    images: str,
    num_images: int,
    sources: list[str],
    targets: list[str],
    cards: Mapping[str, ModelCard],
) -> Iterator[Cell]:
    """The cells on some images: the clean one, then every attack on every source.

    What looks at no model is done once with every model, a target as well.
    """

    def cell(source: str, shown_to: Sequence[str], attack: AttackSpec | None, made_at: ExitPolicy) -> Cell:
        hashes = tuple((name, model_hash(cards[name])) for name in dict.fromkeys([source, *shown_to]) if name)
        return Cell(
            images=images,
            num_images=num_images,
            source=source,
            attack=attack,
            made_at=made_at,
            targets=tuple(shown_to),
            hashes=hashes,
            batch_size=spec.batch_size,
            num_threads=spec.num_threads,
            precision=(attack and attack.search_precision) or spec.precision,
            record_steps=spec.record_steps,
        )

    everyone = list(dict.fromkeys([*sources, *targets]))
    if not everyone:  # images of a data set that no model here knows
        return
    yield cell("", everyone, None, ExitPolicy())
    for source in everyone:
        card = cards[source]
        others = [name for name in dict.fromkeys([source, *targets]) if not share_backbone(card, cards[name])]
        for choice in spec.attacks:
            for attack in choice.on(card, spec.seeds):
                if attack.looks_at_model and source not in sources:
                    continue
                # Of what is the same for all models, each is shown its own: another's would only be a repetition.
                shown_to = others if attack.looks_at_model else [source]
                anew = spec.policies if spec.made_anew and attack.depends_on_policy else spec.policies[:1]
                for policy in anew:
                    yield cell(source, shown_to, attack, policy.on(card))
