"""Laws of max-average and of the worst case; each docstring names the mutant that turns its test red."""

from dataclasses import fields, replace

import pytest
import torch
from test_attacks import labels_of, mostly_right_labels
from toys import toy_images, toy_model

from core.attacks import EarlyAttack, WorstCaseAttack, attack
from core.attacks.objectives import exit_cross_entropies
from core.attacks.spec import l2_attack, pgd
from core.attacks.steps import Step
from core.attacks.success import SUCCESS_RULES
from core.attacks.worst_case import members
from core.exits import ExitPolicy, decide
from core.white_box import white_box

POLICY = ExitPolicy(0.7)
SPEC = WorstCaseAttack(epsilon=2 / 255, step_size=1 / 255, num_steps=3)


@pytest.mark.parametrize(
    "spec",
    [pgd(num_steps=3, objective="max-average"), l2_attack("pgd", 0.2, num_steps=3, objective="max-average")],
    ids=["linf", "l2"],
)
def test_max_average_is_the_attack_on_one_exit_that_raises_the_sum_over_exits_most(spec):
    """Mutant: the exit's own loss compared, the last exit kept, or the choice made for the whole batch."""
    model, images, labels = toy_model(), toy_images(30), labels_of(30)
    chosen = attack(model, images, labels, spec, POLICY)
    single = [replace(spec, objective="exit", exit_index=k) for k in range(3)]
    each = [attack(model, images, labels, one, POLICY, watch="every exit") for one in single]
    sums = torch.stack([exit_cross_entropies(one.adversarial_logits, labels).sum(dim=1) for one in each])
    best = sums.argmax(dim=0)
    assert len(best.unique()) == 3
    for row, exit_index in enumerate(best.tolist()):
        assert torch.equal(chosen.perturbations[row], each[exit_index].perturbations[row])
    assert torch.allclose(chosen.steps[-1].loss, sums.amax(dim=0), atol=1e-9)
    for step, number in zip(chosen.steps[:-1], range(3), strict=True):
        wanted = torch.stack([each[k].steps[number].confidence[row] for row, k in enumerate(best.tolist())])
        assert torch.equal(step.confidence, wanted)


@pytest.mark.parametrize("goal_class", [None, 2])
def test_worst_case_fools_exactly_the_images_that_one_of_its_attacks_fools(goal_class):
    """Mutant: an attack left out, a success lost to a later attack, or restarts that start alike."""
    model, images = toy_model(), toy_images(40)
    labels = mostly_right_labels(model, images)
    spec = replace(SPEC, goal_class=goal_class)
    rule = SUCCESS_RULES[spec.success_rule]
    fallen = rule.succeeded(attack(model, images, labels, spec, POLICY).case(POLICY))
    by_each = {}
    for name, member in members(spec, 3).items():
        by_each[name] = rule.succeeded(attack(model, images, labels, member, POLICY).case(POLICY))
    together = torch.stack(list(by_each.values())).any(dim=0)
    assert torch.equal(fallen, together)
    assert all((fallen >= one).all() for one in by_each.values())
    assert fallen.sum() > max(int(one.sum()) for one in by_each.values()) or goal_class is None


def test_members_are_every_objective_with_restarts_and_early():
    """Mutant: an exit forgotten, the same seed twice, or an Early Attack on a static model."""
    attacks = members(replace(SPEC, num_restarts=2), 3)
    names = {"taken", "mean", "exit-1", "exit-2", "final"}
    assert set(attacks) == names | {f"{name}, start 2" for name in names} | {"early"}
    assert isinstance(attacks["early"], EarlyAttack)
    assert not attacks["taken"].random_start and attacks["taken, start 2"].random_start
    assert set(members(SPEC, 1)) == {"final", "final, start 2"}
    assert len({member for member in attacks.values()}) == len(attacks)


@pytest.mark.parametrize("num_exits", [1, 2, 3, 7, 27])
@pytest.mark.parametrize("num_restarts", [1, 3])
def test_passes_are_those_of_the_members(num_exits, num_restarts):
    """Mutant: the count written down beside the members out of step with them."""
    spec = replace(SPEC, num_restarts=num_restarts)
    assert spec.passes(num_exits) == sum(member.passes(num_exits) for member in members(spec, num_exits).values())


def test_record_is_that_of_the_attack_that_succeeded():
    """Mutant: the record of the first attack kept for an image that fell to a later one."""
    model, images = toy_model(), toy_images(40)
    labels = mostly_right_labels(model, images)
    result = attack(model, images, labels, SPEC, POLICY)
    runs = {
        name: attack(model, images, labels, member, POLICY, watch="every exit")
        for name, member in members(SPEC, 3).items()
    }
    rule = SUCCESS_RULES["misclassified_taken"]
    first = {}
    for name, run in runs.items():
        for row in rule.succeeded(run.case(POLICY)).nonzero()[:, 0].tolist():
            first.setdefault(row, name)
    assert len(set(first.values())) > 1
    for row, name in first.items():
        for field in fields(Step):
            if field.name != "loss":
                one, other = (getattr(each.steps[1], field.name)[row] for each in (result, runs[name]))
                assert torch.allclose(one.double(), other.double(), atol=1e-9)


def test_fooled_images_are_answered_wrongly_by_the_policy():
    """Mutant: success at some exit instead of the one that answers."""
    model, images = toy_model(), toy_images(30)
    labels = mostly_right_labels(model, images)
    result = attack(model, images, labels, SPEC, POLICY)
    hits = int((decide(result.adversarial_logits, POLICY).prediction != labels).sum())
    assert hits == int(SUCCESS_RULES["misclassified_taken"].succeeded(result.case(POLICY)).sum()) > 0


@pytest.mark.parametrize("num_exits", [1, 3])
def test_white_box_table_agrees_with_every_attack_made_alone(num_exits):
    """Mutant: a restart or the clean error left out, max-average chosen over starts, or a mean instead of the worst."""
    model, images = toy_model(num_exits=num_exits), toy_images(30)
    labels = mostly_right_labels(model, images)
    outcome = white_box(model, images, labels, SPEC, POLICY)
    table = outcome.table.set_index("objective")
    right = {"clean": decide(model(images), POLICY).prediction == labels}
    for name, member in members(SPEC, num_exits).items():
        alone = decide(attack(model, images, labels, member, POLICY).adversarial_logits, POLICY).prediction == labels
        objective = name.partition(", start")[0]
        right[objective] = right.get(objective, alone) & alone
    if num_exits > 1:
        right["max-average"] = torch.ones(30, dtype=torch.bool)
        for member in (members(SPEC, 3)["taken"], members(SPEC, 3)["taken, start 2"]):
            spec = replace(member, objective="max-average")
            answers = decide(attack(model, images, labels, spec, POLICY).adversarial_logits, POLICY).prediction
            right["max-average"] &= answers == labels
    assert set(table.index) == {*right, "worst case"}
    for objective, answers in right.items():
        assert table.num_right[objective] == int(answers.sum()), objective
    standing = torch.stack(list(right.values())).all(dim=0)
    assert torch.equal(outcome.standing, standing)
    assert table.num_right["worst case"] == int(standing.sum()) <= table.num_right.min()
    by_attack = attack(model, images, labels, SPEC, POLICY)
    still_right = decide(by_attack.adversarial_logits, POLICY).prediction == labels
    assert int((still_right & right["clean"]).sum()) == int(standing.sum())
