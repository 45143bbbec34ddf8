"""Success rules and their denominators on logits made by hand; each docstring names the mutant it turns red."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from core.attacks import AttackResult, LinfAttack
from core.attacks.success import SUCCESS_RULES, Case
from core.exits import ExitPolicy

SURE_AT_80 = ExitPolicy(0.8)
NUM_CLASSES = 3

# One image: the class and the confidence of each exit.
Exits = list[tuple[int, float]]

# Name of the image: (clean exits, adversarial exits); the true class is 0 throughout, an exit is sure from 0.8 on.
SURE: Exits = [(0, 0.9), (0, 0.9), (0, 0.9)]
IMAGES: dict[str, tuple[Exits, Exits]] = {
    "untouched": (SURE, SURE),
    "first exit broken": (SURE, [(1, 0.9), (0, 0.9), (0, 0.9)]),
    "sent on to a wrong final exit": (SURE, [(0, 0.5), (0, 0.5), (1, 0.9)]),
    "both early exits broken": (SURE, [(1, 0.5), (2, 0.9), (0, 0.9)]),
    "only the final exit broken": (SURE, [(0, 0.5), (0, 0.9), (1, 0.9)]),
    "wrong at the first exit when clean": ([(1, 0.9), (0, 0.9), (0, 0.9)], [(2, 0.9), (1, 0.9), (0, 0.9)]),
    "wrong at the final exit when clean": ([(0, 0.9), (0, 0.9), (1, 0.9)], [(0, 0.9), (0, 0.9), (1, 0.9)]),
    "unsure when clean": ([(0, 0.5), (0, 0.5), (0, 0.5)], SURE),
}

# Rule: the images on which it holds, and those that it does not count.
EXPECTED = {
    "misclassified_taken": (
        {
            "first exit broken",
            "sent on to a wrong final exit",
            "both early exits broken",
            "wrong at the first exit when clean",
        },
        {"wrong at the first exit when clean"},
    ),
    "misclassified_final": (
        {"sent on to a wrong final exit", "only the final exit broken", "wrong at the final exit when clean"},
        {"wrong at the final exit when clean"},
    ),
    "early_broken_final_kept": (
        {"both early exits broken", "wrong at the first exit when clean", "wrong at the final exit when clean"},
        set(),
    ),
    "taken_broken_final_kept": (
        {"first exit broken", "both early exits broken", "wrong at the first exit when clean"},
        {"wrong at the first exit when clean", "wrong at the final exit when clean"},
    ),
    "slowed": (
        {"sent on to a wrong final exit", "both early exits broken", "only the final exit broken"},
        {"unsure when clean"},
    ),
    "slowed_label_kept": ({"only the final exit broken"}, {"unsure when clean"}),
    "goal_reached": (
        {"first exit broken", "sent on to a wrong final exit"},
        {"wrong at the first exit when clean"},
    ),
    "goal_reached_final": (
        {"sent on to a wrong final exit", "only the final exit broken", "wrong at the final exit when clean"},
        {"wrong at the final exit when clean"},
    ),
    "goal_taken_final_kept": (
        {"first exit broken"},
        {"wrong at the first exit when clean", "wrong at the final exit when clean"},
    ),
}


def logits_of(images: list[Exits]) -> Tensor:
    """Logits (N, K, C) whose softmax has the given class at the given confidence, and the rest shared out."""
    probabilities = torch.empty(len(images), len(images[0]), NUM_CLASSES, dtype=torch.float64)
    for row, exits in enumerate(images):
        for exit_index, (predicted, confidence) in enumerate(exits):
            probabilities[row, exit_index] = (1 - confidence) / (NUM_CLASSES - 1)
            probabilities[row, exit_index, predicted] = confidence
    return probabilities.log()


def case_of(images: list[tuple[Exits, Exits]], policy: ExitPolicy = SURE_AT_80, goal_class: int | None = None) -> Case:
    clean, adversarial = (logits_of([pair[side] for pair in images]) for side in (0, 1))
    return Case(clean, adversarial, torch.zeros(len(images), dtype=torch.long), policy, goal_class)


def test_every_rule_is_filed_under_its_own_name_and_the_table_here_is_complete():
    """Mutant: a rule registered twice, or a new one without expectations here."""
    assert {name: rule.name for name, rule in SUCCESS_RULES.items()} == {name: name for name in EXPECTED}
    assert len({rule.label for rule in SUCCESS_RULES.values()}) == len(SUCCESS_RULES)


@pytest.mark.parametrize("name", EXPECTED)
def test_each_rule_holds_on_the_images_worked_out_by_hand(name):
    """Mutant: any ``and`` turned into ``or``, adversarial read as clean, ``all`` early exits as ``any``, > as >=."""
    goal_class = 1 if name.startswith("goal_") else None
    succeeded = SUCCESS_RULES[name].succeeded(case_of(list(IMAGES.values()), goal_class=goal_class))
    assert succeeded.dtype == torch.bool
    assert {image for image, holds in zip(IMAGES, succeeded.tolist(), strict=True) if holds} == EXPECTED[name][0]


@pytest.mark.parametrize("name", EXPECTED)
def test_each_rule_leaves_out_only_the_images_it_cannot_attack(name):
    """Mutant: ``_right_when_clean`` and ``_right_at_final_when_clean`` swapped, or a mask that counts everything."""
    goal_class = 1 if name.startswith("goal_") else None
    attackable = SUCCESS_RULES[name].attackable(case_of(list(IMAGES.values()), goal_class=goal_class))
    assert attackable.dtype == torch.bool
    left_out = {image for image, counts in zip(IMAGES, attackable.tolist(), strict=True) if not counts}
    assert left_out == EXPECTED[name][1]


def test_published_early_rule_compares_with_the_clean_final_answer_and_not_with_the_true_class():
    """Mutant: ``kept = case.labels`` in ``_early_broken_final_kept``."""
    clean_final_is_wrong = [(0, 0.9), (1, 0.9), (2, 0.9)]
    case = case_of(
        [(clean_final_is_wrong, clean_final_is_wrong), (clean_final_is_wrong, [(0, 0.9), (1, 0.9), (0, 0.9)])]
    )
    assert SUCCESS_RULES["early_broken_final_kept"].succeeded(case).tolist() == [True, False]


@pytest.mark.parametrize(("fallback", "fooled"), [("final", [True, False]), ("most_confident", [False, True])])
def test_fallback_decides_which_answer_of_an_unsure_image_is_judged(fallback, fooled):
    """Mutant: ``decide`` called with the default policy instead of the case's own."""
    case = case_of(
        [(SURE, [(0, 0.7), (1, 0.5), (1, 0.6)]), (SURE, [(1, 0.7), (0, 0.5), (0, 0.6)])], ExitPolicy(0.8, fallback)
    )
    assert SUCCESS_RULES["misclassified_taken"].succeeded(case).tolist() == fooled


@pytest.mark.parametrize(("fallback", "counts"), [("final", [True, False]), ("most_confident", [False, True])])
@pytest.mark.parametrize("name", ["misclassified_taken", "goal_reached"])
def test_fallback_decides_which_clean_answer_makes_an_image_attackable(name, fallback, counts):
    """Mutant: ``_right_when_clean`` looks at the final exit whatever the fallback."""
    unsure = [[(1, 0.7), (0, 0.5), (0, 0.6)], [(0, 0.7), (1, 0.5), (1, 0.6)]]
    case = case_of([(exits, SURE) for exits in unsure], ExitPolicy(0.8, fallback), goal_class=2)
    assert SUCCESS_RULES[name].attackable(case).tolist() == counts


def test_slowdown_counts_what_is_computed_and_not_which_exit_answers():
    """Mutant: ``computed_exit`` replaced by ``answered_exit`` in ``_computed``."""
    unsure_but_answered_by_exit_1: Exits = [(0, 0.7), (0, 0.6), (0, 0.6)]
    case = case_of(
        [(SURE, unsure_but_answered_by_exit_1), (unsure_but_answered_by_exit_1, SURE)],
        ExitPolicy(0.8, "most_confident"),
    )
    for name in ("slowed", "slowed_label_kept"):
        assert SUCCESS_RULES[name].succeeded(case).tolist() == [True, False]
        assert SUCCESS_RULES[name].attackable(case).tolist() == [True, False]


def test_another_threshold_judges_the_same_logits_anew():
    """Mutant: a rule that remembers the threshold the attack was made at."""
    image = (SURE, [(1, 0.85), (0, 0.95), (0, 0.9)])
    verdicts = {
        threshold: bool(SUCCESS_RULES["misclassified_taken"].succeeded(case_of([image], ExitPolicy(threshold))))
        for threshold in (0.8, 0.9)
    }
    assert verdicts == {0.8: True, 0.9: False}


@pytest.mark.parametrize(("goal_class", "reached"), [(0, False), (1, True), (2, False)])
def test_goal_is_reached_only_by_the_goal_class_itself(goal_class, reached):
    """Mutant: ``== goal_class`` turned into ``!= labels``."""
    case = case_of([(SURE, [(1, 0.9), (0, 0.9), (2, 0.9)])], goal_class=goal_class)
    assert SUCCESS_RULES["goal_reached"].succeeded(case).tolist() == [reached]


def test_an_image_of_the_goal_class_is_not_attackable():
    """Mutant: ``(case.labels != goal)`` dropped from ``_goal_is_news``."""
    assert SUCCESS_RULES["goal_reached"].attackable(case_of([(SURE, SURE)], goal_class=0)).tolist() == [False]


def test_without_a_goal_nothing_reaches_it_and_nothing_counts():
    """Mutant: comparing with None, which gives one Python bool instead of one verdict per image."""
    rule, case = SUCCESS_RULES["goal_reached"], case_of(list(IMAGES.values()))
    assert rule.succeeded(case).tolist() == [False] * len(IMAGES)
    assert rule.attackable(case).tolist() == [False] * len(IMAGES)


def test_static_model_has_one_answer_no_early_exit_and_nothing_to_slow():
    """Mutant: ``& _has_early_exits`` dropped (all of no exits are broken), or ``< K - 1`` turned into ``<= K - 1``."""
    pairs: list[tuple[Exits, Exits]] = [
        ([(0, 0.5)], [(0, 0.9)]),
        ([(0, 0.9)], [(1, 0.5)]),
        ([(1, 0.9)], [(1, 0.9)]),
    ]
    case = case_of(pairs, goal_class=1)
    holds = {name: rule.succeeded(case).tolist() for name, rule in SUCCESS_RULES.items()}
    counts = {name: rule.attackable(case).tolist() for name, rule in SUCCESS_RULES.items()}
    wrong, right_when_clean, none = [False, True, True], [True, True, False], [False] * 3
    assert holds["misclassified_taken"] == holds["misclassified_final"] == holds["goal_reached"] == wrong
    assert counts["misclassified_taken"] == counts["misclassified_final"] == counts["goal_reached"] == right_when_clean
    for name in ("early_broken_final_kept", "slowed", "slowed_label_kept"):
        assert holds[name] == counts[name] == none, name
    assert holds["taken_broken_final_kept"] == none


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({}, "misclassified_taken"),
        ({"objective": "mean"}, "misclassified_taken"),
        ({"objective": "exit", "exit_index": 0}, "misclassified_taken"),
        ({"objective": "final"}, "misclassified_final"),
        ({"goal_class": 1}, "goal_reached"),
        ({"objective": "final", "goal_class": 1}, "goal_reached_final"),
    ],
)
def test_an_attack_is_judged_by_what_it_aims_at(fields, rule):
    """Mutant: the goal class looked at after the objective in ``LinfAttack.success_rule``."""
    assert LinfAttack(**fields).success_rule == rule


def test_success_rate_counts_attackable_images_only_and_follows_the_policy():
    """Mutant: ``rate_of`` without its mask, or the policy of the attack kept when another one is asked for."""
    case = case_of([*IMAGES.values(), (SURE, [(1, 0.85), (0, 0.95), (0, 0.9)])])
    images = torch.zeros(len(case.labels), 3, 1, 1)
    result = AttackResult(
        spec=LinfAttack(),
        made_at=SURE_AT_80,
        images=images,
        labels=case.labels,
        perturbations=images.half(),
        clean_logits=case.clean_logits,
        adversarial_logits=case.adversarial_logits,
        steps=(),
        seconds=0.0,
    )
    # By hand: of the nine images eight are right when clean, four of them wrong under attack.
    at_80 = result.success_rate(SURE_AT_80)
    assert (at_80.num_hits, at_80.num_images) == (4, 8)
    # At 0.88 the ninth goes on to exit 2, which is right.
    at_88 = result.success_rate(ExitPolicy(0.88))
    assert (at_88.num_hits, at_88.num_images) == (3, 8)
    # The final exit: "wrong when clean" is another image, and two others are broken.
    at_final = replace(result, spec=LinfAttack(objective="final")).success_rate(SURE_AT_80)
    assert (at_final.num_hits, at_final.num_images) == (2, 8)
