"""Success rules: named pure functions of clean logits, adversarial logits, label, policy and goal class."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.exits import ExitPolicy, decide


@dataclass(frozen=True, eq=False)
class Case:
    """What a rule may look at.

    Attributes:
        clean_logits: (N, K, C).
        adversarial_logits: (N, K, C).
        labels: True classes, (N,).
        policy: In force.
        goal_class: Of a targeted attack.
    """

    clean_logits: Tensor
    adversarial_logits: Tensor
    labels: Tensor
    policy: ExitPolicy
    goal_class: int | None = None


@dataclass(frozen=True)
class SuccessRule:
    """A rule with its name and denominator.

    Attributes:
        name: Stored in tables.
        label: On screen.
        succeeded: (N,) whether the attack did what it wanted.
        attackable: (N,) whether it had anything to do: the denominator of its rate.
    """

    name: str
    label: str
    succeeded: Callable[[Case], Tensor]
    attackable: Callable[[Case], Tensor]


def _finals(logits: Tensor) -> Tensor:
    return logits[:, -1].argmax(dim=-1)


def _answers(logits: Tensor, policy: ExitPolicy) -> Tensor:
    return decide(logits, policy).prediction


def _right_when_clean(case: Case) -> Tensor:
    return _answers(case.clean_logits, case.policy) == case.labels


def _right_at_final_when_clean(case: Case) -> Tensor:
    return _finals(case.clean_logits) == case.labels


def _right_at_both_when_clean(case: Case) -> Tensor:
    return _right_when_clean(case) & _right_at_final_when_clean(case)


def _misclassified_final(case: Case) -> Tensor:
    return _finals(case.adversarial_logits) != case.labels


def _misclassified_taken(case: Case) -> Tensor:
    return _answers(case.adversarial_logits, case.policy) != case.labels


def _early_broken_final_kept(case: Case) -> Tensor:
    kept = _finals(case.clean_logits)  # the model's own clean answer: the published rule knows no true label
    early = case.adversarial_logits[:, :-1].argmax(dim=-1)
    return (_finals(case.adversarial_logits) == kept) & (early != kept[:, None]).all(dim=1) & _has_early_exits(case)


def _taken_broken_final_kept(case: Case) -> Tensor:
    return _misclassified_taken(case) & ~_misclassified_final(case)


def _computed(logits: Tensor, policy: ExitPolicy) -> Tensor:
    return decide(logits, policy).computed_exit


def _slowed(case: Case) -> Tensor:
    return _computed(case.adversarial_logits, case.policy) > _computed(case.clean_logits, case.policy)


def _slowed_label_kept(case: Case) -> Tensor:
    clean, adversarial = (_answers(logits, case.policy) for logits in (case.clean_logits, case.adversarial_logits))
    return _slowed(case) & (clean == adversarial)


def _can_be_slowed(case: Case) -> Tensor:
    return _computed(case.clean_logits, case.policy) < case.clean_logits.shape[1] - 1


def _has_early_exits(case: Case) -> Tensor:
    return torch.full_like(case.labels, case.clean_logits.shape[1] > 1, dtype=torch.bool)


def _goals(case: Case) -> Tensor:
    # Without a goal no class is one: nothing reaches it and nothing counts.
    return torch.full_like(case.labels, -1 if case.goal_class is None else case.goal_class)


def _goal_reached(case: Case) -> Tensor:
    return _answers(case.adversarial_logits, case.policy) == _goals(case)


def _goal_is_news(case: Case) -> Tensor:
    return _right_when_clean(case) & (case.labels != _goals(case)) & (_goals(case) >= 0)


SUCCESS_RULES = {
    rule.name: rule
    for rule in (
        SuccessRule("misclassified_taken", "the model's answer is wrong", _misclassified_taken, _right_when_clean),
        SuccessRule("misclassified_final", "the final exit is wrong", _misclassified_final, _right_at_final_when_clean),
        SuccessRule(
            "early_broken_final_kept",
            "every early exit differs from the clean final answer, the final exit keeps it",
            _early_broken_final_kept,
            _has_early_exits,
        ),
        SuccessRule(
            "taken_broken_final_kept",
            "the model's answer is wrong though its final exit is right",
            _taken_broken_final_kept,
            _right_at_both_when_clean,
        ),
        SuccessRule("slowed", "more is computed than for the clean image", _slowed, _can_be_slowed),
        SuccessRule("slowed_label_kept", "more is computed and the answer stays", _slowed_label_kept, _can_be_slowed),
        SuccessRule("goal_reached", "the model answers the goal class", _goal_reached, _goal_is_news),
    )
}
