"""The worst case: every objective in turn, on the images that still stand."""

from collections.abc import Callable

import torch
from torch import Tensor

from core.attacks.early import early_steps
from core.attacks.linf import sign_steps
from core.attacks.spec import EarlyAttack, LinfAttack
from core.attacks.steps import Step, with_rows
from core.attacks.success import SUCCESS_RULES, Case
from core.attacks.worst_case_spec import NUM_TRIES, WorstCaseAttack
from core.exits import ExitPolicy
from core.models import ExitModel


def members(spec: WorstCaseAttack, num_exits: int) -> dict[str, LinfAttack | EarlyAttack]:
    """The attacks it is made of, by name, the likeliest to succeed first.

    The exit taken, each exit (the last is the final one) and the mean of all, from the image on and then from
    random starts; last the Early Attack. The max-average attack is one of those on a single exit, so it adds none.
    """
    aims: dict[str, dict[str, object]] = {"final": {"objective": "final"}}
    if num_exits > 1:
        aims = {"taken": {"objective": "taken"}, "mean": {"objective": "mean"}}
        aims |= {f"exit-{index + 1}": {"objective": "exit", "exit_index": index} for index in range(num_exits - 1)}
        aims |= {"final": {"objective": "final"}}
    numbers = {"epsilon": spec.epsilon, "step_size": spec.step_size, "num_steps": spec.num_steps}
    attacks: dict[str, LinfAttack | EarlyAttack] = {}
    for restart in range(spec.num_restarts):
        start = {"random_start": True, "seed": spec.seed + restart} if restart else {}
        again = f", start {restart + 1}" if restart else ""
        for name, aim in aims.items():
            fields = {**numbers, **aim, **start, "goal_class": spec.goal_class}
            attacks[f"{name}{again}"] = LinfAttack(**fields)  # type: ignore[arg-type]
    if num_exits > 1:
        attacks["early"] = EarlyAttack(**numbers, num_tries=NUM_TRIES, goal_class=spec.goal_class)  # type: ignore[arg-type]
    return attacks


def worst_case_steps(
    model: ExitModel,
    images: Tensor,
    labels: Tensor,
    spec: WorstCaseAttack,
    policy: ExitPolicy,
    clean_logits: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Tensor, list[Step]]:
    """Runs the attacks on one batch, each on the images that the ones before have not fooled.

    Arguments as in ``core.attacks.linf.sign_steps``.

    Returns:
        The adversarial images of the first attack that succeeded (of the first of all, where none did) and its
        records.
    """
    if clean_logits is None:
        with torch.no_grad():
            clean_logits = model(images)
    rule = SUCCESS_RULES[spec.success_rule]
    standing, done = torch.arange(len(images), device=images.device), 0
    adversarial, steps = images.clone(), list[Step]()
    for member in members(spec, model.num_exits).values():

        def count(step: int, before: int = done) -> None:
            if on_step:
                on_step(before + step)

        run = early_steps if isinstance(member, EarlyAttack) else sign_steps
        found, records = run(model, images[standing], labels[standing], member, policy, None, count)  # type: ignore[arg-type]
        with torch.no_grad():
            logits = model(found)
        fell = rule.succeeded(Case(clean_logits[standing], logits, labels[standing], policy, spec.goal_class))
        if not steps:
            adversarial, steps = found.clone(), records
        else:
            adversarial[standing[fell]] = found[fell]
            steps = [with_rows(kept, standing[fell], record, fell) for kept, record in zip(steps, records, strict=True)]
        standing, done = standing[~fell], done + member.passes(model.num_exits)
        if not len(standing):
            break
    return adversarial, steps
