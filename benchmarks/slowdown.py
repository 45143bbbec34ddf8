"""What slowdowns take from early exits: saving, efficacy with its floor, and accuracy beside them, as JSON."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.models import early_exit_cards
from benchmarks.results import write_result
from core.attacks.run import AttackProgress
from core.attacks.spec import AttackSpec, SlowdownAttack, UniversalAttack
from core.checkpoints import load_model
from core.data import open_image_set
from core.early_tables import spec_hash
from core.exits import ExitPolicy
from core.experiment import ExperimentSpec, run_experiment
from core.machine import machine_facts
from core.metrics import rate
from core.shift_tables import efficiency_table
from core.tables import decisions_table

RESULT = Path(__file__).parent / "slowdown.json"
IMAGES = "cifar10:test:0-199"
POLICY = ExitPolicy(0.9)
PUBLISHED = SlowdownAttack()
FORMS: dict[str, AttackSpec] = {
    "each image": PUBLISHED,
    "each image, 2/255": PUBLISHED.at_epsilon(2 / 255),
    "universal": UniversalAttack(objective="slowdown", epsilon=PUBLISHED.epsilon),
    "confidence": replace(PUBLISHED, loss="confidence"),
}


def measure_slowdown(
    images: str = IMAGES,
    *,
    file: Path = RESULT,
    on_progress: Callable[[AttackProgress], None] | None = None,
) -> list[dict[str, Any]]:
    """Measures every form on every early-exit model of the images' data set, and writes the rows.

    Args:
        images: Image set with its selection, none that a universal perturbation is fitted on.
        file: Where the rows go.
        on_progress: Called after each step.

    Raises:
        ExitLensError: If no early-exit model knows the images.
    """
    image_set, rows = open_image_set(images), list[dict[str, Any]]()
    for card in early_exit_cards(image_set):
        model, _ = load_model(card.name)
        for form, attack in FORMS.items():
            spec = ExperimentSpec(images, (card.name,), (card.name,), attack, POLICY)
            done = run_experiment(spec, image_set, {card.name: (model, card)}, on_progress=on_progress)
            table = decisions_table(done, POLICY)
            counted = table[table.attackable]
            slowed = rate(int(counted.succeeded.sum()), len(counted))
            row = efficiency_table(table, card.exit_costs).iloc[0].to_dict()
            rows.append(
                {
                    "form": form,
                    "attack": attack.label,
                    "spec_hash": spec_hash(attack),
                    "model": card.name,
                    "weights_sha256": card.weights_sha256,
                    "images": images,
                    "threshold": POLICY.threshold,
                    "num_slowed": slowed.num_hits,
                    "num_could_be_slowed": slowed.num_images,
                    **{str(column): value for column, value in row.items()},
                    "machine": machine_facts(),
                }
            )
            write_result(file, {"rows": rows})
    return rows
