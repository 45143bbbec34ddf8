"""An experiment on disk: perturbations, tables and a summary that says how to make it again."""

import json
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save
from torch import Tensor

from core.attacks.checks import Note
from core.attacks.command import options_of
from core.attacks.success import DONE_WORDS
from core.data import parse_image_set_name
from core.errors import ExitLensError
from core.exits import ExitPolicy
from core.experiment import Experiment, ExperimentSpec
from core.metrics import Rate, eec_floor, eec_trapezoid, mean_saving, rate
from core.shift_tables import STATES
from core.tables import decisions_table, exits_table, steps_table

SUMMARY_FILE = "summary.json"
PERTURBATIONS_FILE = "perturbations.safetensors"
DECISIONS_FILE = "decisions.parquet"
EXITS_FILE = "exits.parquet"


def steps_file(source: str) -> str:
    """Name of the file with the steps of the attack on one source."""
    return f"steps-{source}.parquet"


def experiment_summary(experiment: Experiment, policy: ExitPolicy) -> dict[str, Any]:
    """The outcome on the model in question, with denominators, intervals and the command that remakes it."""
    name = experiment.spec.model
    table = decisions_table(experiment, policy)
    own = table[(table.source == name) & (table.target == name)]
    attackable = own[own.attackable]
    success = rate(int(attackable.succeeded.sum()), len(attackable))
    clean_right = rate(int((own.clean_prediction == own.label).sum()), len(own))
    still_right = rate(int((own.adversarial_prediction == own.label).sum()), len(own))
    earlier, same, later = (
        int(count) for count in ((own.exit_shift < 0).sum(), (own.exit_shift == 0).sum(), (own.exit_shift > 0).sum())
    )
    card = experiment.cards[name]
    outcome = _words(success, DONE_WORDS[own.success_rule.iloc[0]])
    return {
        "model": name,
        "weights_sha256": card.weights_sha256,
        "images": experiment.spec.images,
        "num_images": len(own),
        "attack": experiment.results[name].spec.label,
        "spec": asdict(experiment.results[name].spec),
        "made_at": asdict(experiment.spec.made_at),
        "policy": asdict(policy),
        "success_rule": own.success_rule.iloc[0],
        "denominator": "attackable",
        # JSON has no NaN: the rate of no images is null.
        "success": {**asdict(success), "value": success.value if success.num_images else None},
        "clean_accuracy": asdict(clean_right),
        "adversarial_accuracy": asdict(still_right),
        "exit_shift": {"earlier": earlier, "same": same, "later": later},
        "mean_saving": {state: mean_saving(_computed_exit(own, state), card.exit_costs) for state in STATES},
        "mean_cost": {"clean": float(own.clean_cost.mean()), "adversarial": float(own.adversarial_cost.mean())},
        "eec_trapezoid": {
            **{state: eec_trapezoid(_computed_exit(own, state), card.exit_costs) for state in STATES},
            "floor": eec_floor(card.exit_costs),
        },
        "seconds": experiment.results[name].seconds,
        "headline": f"{outcome}; leave earlier {earlier}, same {same}, later {later}; mean cost "
        f"{100 * own.clean_cost.mean():.0f} % → {100 * own.adversarial_cost.mean():.0f} %",
        "command": command_of(experiment.spec),
    }


def _computed_exit(own: pd.DataFrame, state: str) -> Tensor:
    return torch.from_numpy(own[f"{state}_computed_exit"].to_numpy(copy=True))


def perturbations_file(experiment: Experiment) -> bytes:
    """A safetensors file of all perturbations: float16, one tensor (N, 3, H, W) per source, with the image ids."""
    tensors = {name: result.perturbations.contiguous() for name, result in experiment.results.items()}
    return save(tensors, metadata={"image_ids": json.dumps(experiment.image_set.image_ids)})


def write_experiment(
    experiment: Experiment, policy: ExitPolicy, folder: Path, notes: Sequence[Note] | None = None
) -> None:
    """Writes ``perturbations.safetensors`` (float16, one tensor per source), Parquet tables and ``summary.json``.

    Args:
        experiment: What came of it.
        policy: That judges.
        folder: Is made where it is not there.
        notes: What checks found, for the summary; None where nobody looked.

    Raises:
        ExitLensError: If the folder cannot be made or written.
    """
    ids = experiment.image_set.image_ids
    summary = experiment_summary(experiment, policy)
    if notes is not None:
        summary["notes"] = [asdict(note) for note in notes]
    text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PERTURBATIONS_FILE).write_bytes(perturbations_file(experiment))
        decisions_table(experiment, policy).to_parquet(folder / DECISIONS_FILE, index=False)
        exits_table(experiment).to_parquet(folder / EXITS_FILE, index=False)
        for name, result in experiment.results.items():
            steps_table(result, ids, name).to_parquet(folder / steps_file(name), index=False)
        (folder / SUMMARY_FILE).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ExitLensError(f"{folder} cannot be written ({error.strerror}). Choose another place.") from error


def check_can_be_written(folder: Path) -> None:
    """Tries whether a result could go to a folder, so that nobody waits for what cannot be kept; leaves nothing there.

    Raises:
        ExitLensError: If it cannot be made or written.
    """
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ExitLensError(f"{folder} cannot be written ({error.strerror}). Choose another place.") from error


def command_of(spec: ExperimentSpec) -> str:
    """The command that makes an experiment's attack on its model again."""
    attack, policy = spec.attack, spec.made_at
    parse_image_set_name(spec.images)
    words = [
        "python -m core attack",
        f"--model {shlex.quote(spec.model)}",
        f"--images {shlex.quote(spec.images)}",
        *options_of(attack),
        f"--threshold {policy.threshold}",
    ]
    words += [f"--fallback {policy.fallback}"] if policy.fallback != "final" else []
    return " ".join([*words, "--out output/attack"])


def _words(success: Rate, done: str) -> str:
    if not success.num_images:
        return "no image was attackable"
    interval = f"{100 * success.low:.0f}–{100 * success.high:.0f} %"
    return f"{success.num_hits} of {success.num_images} {done} ({100 * success.value:.0f} %, {interval})"
