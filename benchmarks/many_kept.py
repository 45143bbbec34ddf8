"""Ten thousand kept examples, made from one attack on six images: what a gallery is like after a year."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from core import checkpoints, kept
from core.attacks.spec import LinfAttack, fgsm, pgd
from core.data import open_image_set
from core.examples import short_hash
from core.exits import ExitPolicy
from core.experiment import ExperimentSpec, run_experiment
from core.kept import KeptRun

NUM_EXAMPLES, NUM_PER_RUN = 10_000, 250
IMAGES = "cifar10:samples:0-5"
Change = Callable[[pd.DataFrame], pd.DataFrame]


def keep_many(folder: Path, model: str) -> None:
    """Fills a folder with forty runs of 250 rows, as different as attacks differ.

    Six rows of each have their pictures, which are drawn; the pictures of the others are not here.

    Args:
        folder: Of kept runs.
        model: A model of CIFAR-10.
    """
    loaded = {model: checkpoints.load_model(model)}
    spec = ExperimentSpec(IMAGES, (model,), (model,), fgsm(), ExitPolicy())
    original = kept.keep(run_experiment(spec, open_image_set(IMAGES), loaded), loaded, folder)
    generator = np.random.default_rng(0)
    for number in range(NUM_EXAMPLES // NUM_PER_RUN):
        attack = pgd((1 + number % 8) / 255, num_steps=1 + number)
        others = range(NUM_PER_RUN * (number + 1), NUM_PER_RUN * (number + 2) - len(original.image_ids))
        ids = original.image_ids + tuple(f"cifar10/test/{index}" for index in others)
        shifts = generator.integers(-6, 7, NUM_PER_RUN)

        def grown(
            rows: pd.DataFrame,
            ids: tuple[str, ...] = ids,
            attack: LinfAttack = attack,
            shifts: np.ndarray = shifts,
        ) -> pd.DataFrame:
            return rows.iloc[np.resize(np.arange(len(rows)), NUM_PER_RUN)].assign(
                image_id=list(ids),
                example=[short_hash([name, attack.label]) for name in ids],
                attack=attack.label,
                attack_name="pgd",
                epsilon=attack.epsilon,
                exit_shift=shifts,
            )

        run = replace(original, spec=replace(original.spec, attack=attack), image_ids=ids)
        write_as(folder, original, run, grown)
    kept.remove(original.key, folder)


def write_as(folder: Path, original: KeptRun, run: KeptRun, change: Change) -> KeptRun:
    """A copy of a kept run under the key of another spec or other weights."""
    key = kept.run_key(run.spec, {model.name: model.weights_sha256 for model in run.models})
    run = replace(run, key=key)
    shutil.copytree(folder / original.key, folder / key)
    (folder / key / "run.json").write_bytes(TypeAdapter(KeptRun).dump_json(run))
    rewrite(
        folder / key, lambda rows: change(rows.assign(run=key, example=[short_hash([key, i]) for i in rows.image_id]))
    )
    return run


def rewrite(place: Path, change: Change) -> None:
    """Changes a run's table of examples and the digest that vouches for it."""
    path = place / "examples.parquet"
    change(pd.read_parquet(path)).to_parquet(path, index=False)
    described = json.loads((place / "run.json").read_text(encoding="utf-8"))
    described["files"]["examples.parquet"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (place / "run.json").write_text(json.dumps(described), encoding="utf-8")
