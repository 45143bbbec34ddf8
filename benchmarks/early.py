"""What each form of the Early Attack achieves on every early-exit model; written as JSON after each form.

A run that was ended goes on: a row of the same spec, weights, images and threshold is not measured again.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.models import early_exit_cards
from benchmarks.results import write_result
from core.attacks.run import AttackProgress, attack
from core.attacks.spec import EarlyAttack, early
from core.checkpoints import load_model
from core.data import open_image_set
from core.early_tables import early_forms, early_row, spec_hash
from core.early_transfer import early_exits_table, early_transfer_table, transfer_forms
from core.errors import ExitLensError
from core.exits import ExitPolicy
from core.ladder import climb_ladder, ladder_steps, median_epsilon
from core.machine import machine_facts
from core.models.prepared import prepared

RESULT = Path(__file__).parent / "early.json"
IMAGES = "cifar10:test:0-199"  # of the published form and its departures, which take hours
MANY_IMAGES = "cifar10:test:0-399"  # of what is counted on eligible images, 300 of which are wanted
POLICY = ExitPolicy(0.9)
BATCH_SIZE = 50
WEAK_EXIT_EPSILON, TRANSFER_EPSILON = 1 / 255, 8 / 255


def measure_weak_exits(
    images: str = MANY_IMAGES,
    *,
    file: Path = RESULT,
) -> dict[str, Any]:
    """On every early-exit model: the smallest radius for each image, the weak exit, and transfer to the others.

    Args:
        images: Image set with its selection.
        file: Where the tables go, under ``ladder``, ``exits`` and ``transfer``.

    Raises:
        ExitLensError: If no early-exit model knows the images.
    """
    image_set = open_image_set(images)
    pixels, labels = image_set.pixels(), image_set.labels
    models = {card.name: load_model(card.name)[0] for card in early_exit_cards(image_set)}
    found: dict[str, Any] = {"images": images, "threshold": POLICY.threshold, "machine": machine_facts()}
    ladders, exits, transfer = [], [], []
    for name, model in models.items():
        ladder = climb_ladder(model, pixels, labels, early(8 / 255), POLICY, image_set.image_ids)
        attackable = {"num_images": int(ladder.attackable.sum()), "median_smallest_epsilon": median_epsilon(ladder)}
        ladders.append({"model": name, **attackable})
        ladders[-1]["steps"] = ladder_steps(ladder).to_dict("records")
        exits.append(early_exits_table(name, model, pixels, labels, WEAK_EXIT_EPSILON, POLICY))
        for form, spec in transfer_forms(TRANSFER_EPSILON).items():
            result = attack(
                model, pixels, labels, spec, POLICY, search=prepared(model, "float32"), batch_size=BATCH_SIZE
            )
            transfer.append(early_transfer_table(form, name, result, models))
        found |= {
            "ladder": ladders,
            "exits": pd.concat(exits).to_dict("records"),
            "transfer": pd.concat(transfer).to_dict("records"),
        }
        done = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": []}
        write_result(file, done | {"more": found})
    return found


def measure_early(
    images: str | None = None,
    models: list[str] | None = None,
    forms: list[str] | None = None,
    *,
    file: Path = RESULT,
    on_progress: Callable[[AttackProgress], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Measures what is missing in the file, and yields each row once it is written there.

    Args:
        images: Image set with its selection; without, ``MANY_IMAGES`` for the deployed forms, else ``IMAGES``.
        models: Names; all early-exit models of the data set without.
        forms: Of ``early_forms``; all of them without.
        file: Where the rows are.
        on_progress: Called after each step.

    Raises:
        ExitLensError: If there is no such form, model or image.
    """
    done = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": []}
    if unknown := [form for form in forms or [] if form not in early_forms()]:
        raise ExitLensError(f"There is no form {unknown[0]!r}. Choose one of: {'; '.join(early_forms())}.")
    chosen = {form: spec for form, spec in early_forms().items() if forms is None or form in forms}
    sets = {name: open_image_set(name) for name in ([images] if images else [IMAGES, MANY_IMAGES])}
    for card in early_exit_cards(next(iter(sets.values())), models):
        model, _ = load_model(card.name)
        for form, spec in chosen.items():
            name = images or (MANY_IMAGES if isinstance(spec, EarlyAttack) else IMAGES)
            image_set, asked = sets[name], (spec_hash(spec), card.weights_sha256, name, POLICY.threshold)
            if asked in {(r["spec_hash"], r["weights_sha256"], r["images"], r["threshold"]) for r in done["rows"]}:
                continue
            result = attack(
                model,
                image_set.pixels(),
                image_set.labels,
                spec,
                POLICY,
                search=prepared(model, "float32"),
                watch="every exit",
                batch_size=BATCH_SIZE,
                on_progress=on_progress,
            )
            names = {"model": card.name, "weights_sha256": card.weights_sha256, "images": name}
            only = early_row(form, result, model, names).to_dict("records")[0]
            row = {str(column): value for column, value in only.items()}
            done["rows"].append(row | {"machine": machine_facts()})
            write_result(file, done)
            yield row
