"""An experiment on disk: perturbations, tables and a summary that says how to make it again."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from core.attacks.spec import AttackSpec, EarlyAttack, as_255
from core.data import parse_image_set_name
from core.errors import ExitLensError
from core.exits import ExitPolicy
from core.experiment import Experiment, ExperimentSpec
from core.metrics import Rate, rate
from core.tables import decisions_table, exits_table, steps_table

PERTURBATIONS_FILE = "perturbations.safetensors"
DECISIONS_FILE = "decisions.parquet"
EXITS_FILE = "exits.parquet"


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
        "mean_cost": {"clean": float(own.clean_cost.mean()), "adversarial": float(own.adversarial_cost.mean())},
        "seconds": experiment.results[name].seconds,
        "headline": f"{_words(success)}; leave earlier {earlier}, same {same}, later {later}; mean cost "
        f"{100 * own.clean_cost.mean():.0f} % → {100 * own.adversarial_cost.mean():.0f} %",
        "command": command_of(experiment.spec),
    }


def write_experiment(experiment: Experiment, policy: ExitPolicy, folder: Path) -> None:
    """Writes ``perturbations.safetensors`` (float16, one tensor per source), Parquet tables and ``summary.json``.

    Raises:
        ExitLensError: If the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExitLensError(f"{folder} cannot be made a folder ({error.strerror}). Choose another place.") from error
    ids = experiment.image_set.image_ids
    tensors = {name: result.perturbations.contiguous() for name, result in experiment.results.items()}
    save_file(tensors, folder / PERTURBATIONS_FILE, metadata={"image_ids": json.dumps(ids)})
    decisions_table(experiment, policy).to_parquet(folder / DECISIONS_FILE, index=False)
    exits_table(experiment).to_parquet(folder / EXITS_FILE, index=False)
    for name, result in experiment.results.items():
        steps_table(result, ids, name).to_parquet(folder / f"steps-{name}.parquet", index=False)
    summary = experiment_summary(experiment, policy)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def command_of(spec: ExperimentSpec) -> str:
    """The command that makes an experiment's attack on its model again."""
    attack, policy = spec.attack, spec.made_at
    parse_image_set_name(spec.images)
    words = [
        "python -m core attack",
        f"--model {shlex.quote(spec.model)}",
        f"--images {shlex.quote(spec.images)}",
        f"--attack {attack.name}",
        f"--epsilon {_exact_length(attack.epsilon)}",
        f"--step-size {_exact_length(attack.step_size)}",
        f"--steps {attack.num_steps}",
        f"--objective {attack.aim}",
        f"--threshold {policy.threshold}",
        *_options_of(attack),
    ]
    words += [f"--fallback {policy.fallback}"] if policy.fallback != "final" else []
    return " ".join([*words, "--out output/attack"])


def _options_of(attack: AttackSpec) -> list[str]:
    """What attacks of one kind have and others do not."""
    if isinstance(attack, EarlyAttack):
        return [f"--tries {attack.num_tries}", f"--decay {attack.decay}"]
    words: list[str] = []
    words += [f"--decay {attack.decay}"] if attack.decay or attack.name == "mi-fgsm" else []
    words += ["--random-start"] if attack.random_start else []
    words += [f"--seed {attack.seed}"] if attack.seed else []
    words += [f"--goal-class {attack.goal_class}"] if attack.goal_class is not None else []
    words += ["--stop-when-fooled"] if attack.stop_when_fooled else []
    return words


def _exact_length(value: float) -> str:
    """A pixel length that is read back as this very number: ``8/255`` where that says it all."""
    numerator = f"{value * 255:.4g}"
    return as_255(value) if float(numerator) / 255 == value else repr(value)


def _words(success: Rate) -> str:
    if not success.num_images:
        return "no image was attackable"
    interval = f"{100 * success.low:.0f}–{100 * success.high:.0f} %"
    return f"{success.num_hits} of {success.num_images} fooled ({100 * success.value:.0f} %, {interval})"
