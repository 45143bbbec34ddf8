"""Success rules: named pure functions of clean logits, adversarial logits, label, policy and goal class."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from core.exits import ExitAnswers, ExitPolicy


class Judged(Protocol):
    """What a rule may look at, from logits or from what was stored of them."""

    @property
    def clean(self) -> ExitAnswers:
        """What every exit says of the clean images."""
        ...

    @property
    def adversarial(self) -> ExitAnswers:
        """What every exit says of the adversarial images."""
        ...

    @property
    def labels(self) -> Tensor:
        """True classes, (N,)."""
        ...

    @property
    def policy(self) -> ExitPolicy:
        """In force."""
        ...

    @property
    def goal_class(self) -> int | None:
        """Of a targeted attack."""
        ...


@dataclass(frozen=True, eq=False)
class Case:
    """What a rule may look at, from logits.

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

    @cached_property
    def clean(self) -> ExitAnswers:
        """What every exit says of the clean images."""
        return ExitAnswers.of(self.clean_logits, self.policy)

    @cached_property
    def adversarial(self) -> ExitAnswers:
        """What every exit says of the adversarial images."""
        return ExitAnswers.of(self.adversarial_logits, self.policy)


@dataclass(frozen=True, eq=False)
class StoredCase:
    """What success rules look at, from what was stored of the logits; fields as in ``Case``."""

    clean: ExitAnswers
    adversarial: ExitAnswers
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
    succeeded: Callable[[Judged], Tensor]
    attackable: Callable[[Judged], Tensor]


def _finals(answers: ExitAnswers) -> Tensor:
    return answers.predicted[:, -1]


def _prediction(answers: ExitAnswers, policy: ExitPolicy) -> Tensor:
    return answers.decide(policy).prediction


def _right_when_clean(case: Judged) -> Tensor:
    return _prediction(case.clean, case.policy) == case.labels


def _right_at_final_when_clean(case: Judged) -> Tensor:
    return _finals(case.clean) == case.labels


def _right_at_both_when_clean(case: Judged) -> Tensor:
    return _right_when_clean(case) & _right_at_final_when_clean(case)


def _misclassified_final(case: Judged) -> Tensor:
    return _finals(case.adversarial) != case.labels


def _misclassified_taken(case: Judged) -> Tensor:
    return _prediction(case.adversarial, case.policy) != case.labels


def _early_broken_final_kept(case: Judged) -> Tensor:
    kept = _finals(case.clean)  # the model's own clean answer: the published rule knows no true label
    early = case.adversarial.predicted[:, :-1]
    return (_finals(case.adversarial) == kept) & (early != kept[:, None]).all(dim=1) & _has_early_exits(case)


def _taken_broken_final_kept(case: Judged) -> Tensor:
    return _misclassified_taken(case) & ~_misclassified_final(case)


def _computed(answers: ExitAnswers, policy: ExitPolicy) -> Tensor:
    return answers.decide(policy).computed_exit


def _slowed(case: Judged) -> Tensor:
    return _computed(case.adversarial, case.policy) > _computed(case.clean, case.policy)


def _slowed_label_kept(case: Judged) -> Tensor:
    clean, adversarial = (_prediction(answers, case.policy) for answers in (case.clean, case.adversarial))
    return _slowed(case) & (clean == adversarial)


def _can_be_slowed(case: Judged) -> Tensor:
    return _computed(case.clean, case.policy) < case.clean.predicted.shape[1] - 1


def _has_early_exits(case: Judged) -> Tensor:
    return torch.full_like(case.labels, case.clean.predicted.shape[1] > 1, dtype=torch.bool)


def _goals(case: Judged) -> Tensor:
    # Without a goal no class is one: nothing reaches it and nothing counts.
    return torch.full_like(case.labels, -1 if case.goal_class is None else case.goal_class)


def _goal_reached(case: Judged) -> Tensor:
    return _prediction(case.adversarial, case.policy) == _goals(case)


def _goal_reached_final(case: Judged) -> Tensor:
    return _finals(case.adversarial) == _goals(case)


def _goal_is_news_to_final(case: Judged) -> Tensor:
    return _right_at_final_when_clean(case) & (case.labels != _goals(case)) & (_goals(case) >= 0)


def _goal_taken_final_kept(case: Judged) -> Tensor:
    return _goal_reached(case) & ~_misclassified_final(case)


def _goal_is_news_and_final_right(case: Judged) -> Tensor:
    return _goal_is_news(case) & _right_at_final_when_clean(case)


def _goal_is_news(case: Judged) -> Tensor:
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
        SuccessRule(
            "goal_reached_final", "the final exit answers the goal class", _goal_reached_final, _goal_is_news_to_final
        ),
        SuccessRule(
            "goal_taken_final_kept",
            "the model answers the goal class though its final exit is right",
            _goal_taken_final_kept,
            _goal_is_news_and_final_right,
        ),
    )
}


# Rules that ask the final exit alone, whatever policy is in force.
FINAL_RULES = ("misclassified_final", "goal_reached_final")


def rule_elsewhere(success_rule: str, goal_class: int | None) -> str:
    """Name of the rule by which another model than the attacked one counts.

    A target counts at its deployed prediction, or exit, whatever the attack aimed at on its source.

    Args:
        success_rule: Name of the attack's own.
        goal_class: Of a targeted attack.
    """
    if success_rule == "slowed":
        return "slowed"
    return "goal_reached" if goal_class is not None else "misclassified_taken"


# What became of the images on which a rule holds, in the words of a headline.
DONE_WORDS = {
    "misclassified_taken": "fooled",
    "misclassified_final": "fooled",
    "early_broken_final_kept": "have every early exit broken and the final one kept",
    "taken_broken_final_kept": "fooled with the final exit still right",
    "slowed": "slowed down",
    "slowed_label_kept": "slowed down with the same answer",
    "goal_reached": "reach the goal",
    "goal_reached_final": "reach the goal",
    "goal_taken_final_kept": "reach the goal with the final exit still right",
}
