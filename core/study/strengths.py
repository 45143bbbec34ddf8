"""How far each attack of a study may go, in words: what tells apart attacks of one name."""

import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq

from core.attacks.spec import AttackSpec, as_255
from core.study.cells import read_attack
from core.study.store import CELLS_FILE

UNBOUNDED = "unbounded"
# Told by columns of their own.
_ELSEWHERE = {"name", "norm", "epsilon", "severity", "objective", "exit_index", "seed", "stop_when_fooled"}


def strengths(folder: Path) -> dict[str, str]:
    """The strength of every attack of a study, by its label: ``8/255``, ``L2 0.5``, ``severity 3``.

    Where a source was attacked in several ways of one name and strength, what else differs follows:
    ``8/255, 50 steps``.

    Args:
        folder: Of the study.
    """
    cells = pq.read_table(folder / CELLS_FILE, columns=["source", "attack", "attack_json"]).to_pylist()
    specs = {cell["attack"]: cell["attack_json"] for cell in cells if cell["attack"]}
    attacks = {label: read_attack(json.loads(text)) for label, text in specs.items()}
    alike = defaultdict[tuple[str, str, str], dict[str, AttackSpec]](dict)
    for cell in cells:
        if label := cell["attack"]:
            alike[cell["source"], attacks[label].name, attacks[label].strength][label] = attacks[label]
    told = defaultdict[str, dict[str, str]](dict)
    for group in alike.values():
        fields = {label: _fields(spec) for label, spec in group.items()}
        names = dict.fromkeys(name for each in fields.values() for name in each)
        differing = [name for name in names if len({each.get(name) for each in fields.values()}) > 1]
        for label, each in fields.items():
            told[label] |= {name: each[name] for name in differing if name in each}
    return {label: ", ".join([spec.strength or UNBOUNDED, *told[label].values()]) for label, spec in attacks.items()}


def _fields(spec: AttackSpec) -> dict[str, str]:
    """What else an attack is, in words."""
    words = {"num_steps": "{} steps", "step_size": "steps of {}"}
    return {
        name: words.get(name, name.replace("_", " ") + " {}").format(as_255(value) if name == "step_size" else value)
        for name, value in asdict(spec).items()
        if name not in _ELSEWHERE
    }
