"""Aimed models: what an attack needs and no more; each docstring names the mutant that turns its test red."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toys import record_inputs, toy_images, toy_model

from core.attacks import LinfAttack, attack
from core.attacks.aimed import NOT_COMPUTED, Watch, aimed
from core.attacks.objectives import objective_loss
from core.attacks.steps import Step
from core.errors import ExitLensError
from core.exits import ExitPolicy, decide
from core.models import ExitModel
from core.study.threads import limited_to

WATCHES: tuple[Watch, ...] = ("every exit", "computed exits", "nothing")
AIMS = {
    "taken": {"objective": "taken"},
    "final": {"objective": "final"},
    "mean": {"objective": "mean"},
    "exit 1": {"objective": "exit", "exit_index": 0},
    "exit 3": {"objective": "exit", "exit_index": 2},
}
POLICY = ExitPolicy(0.6)


def labels_of(images: Tensor) -> Tensor:
    return torch.arange(len(images)) % 4


def loss_and_gradient(model: ExitModel, images: Tensor, spec: LinfAttack, policy: ExitPolicy) -> tuple[Tensor, Tensor]:
    at = images.clone().requires_grad_(True)
    loss = objective_loss(model(at), labels_of(images), spec, policy)
    return loss.detach(), torch.autograd.grad(loss.sum(), at)[0]


@given(
    aim=st.sampled_from(list(AIMS)),
    watch=st.sampled_from(WATCHES),
    threshold=st.sampled_from([0.0, 0.4, 0.6, 0.9, 1.0]),
    fallback=st.sampled_from(["final", "most_confident"]),
    goal_class=st.sampled_from([None, 2]),
    seed=st.integers(0, 5),
)
def test_loss_and_gradient_are_those_of_the_whole_model(aim, watch, threshold, fallback, goal_class, seed):
    """Mutant: another exit's gradient, rows and exits swapped, the fallback's exit not looked up, a detached exit."""
    model, images = toy_model(num_exits=4, seed=seed), toy_images(7, seed=seed + 1)
    spec, policy = LinfAttack(goal_class=goal_class, **AIMS[aim]), ExitPolicy(threshold, fallback)
    searched, applied = aimed(model, spec, policy, watch)
    loss, gradient = loss_and_gradient(searched, images, applied, policy)
    expected_loss, expected = loss_and_gradient(model, images, spec, policy)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-14)
    assert expected.abs().max() > 0


@torch.no_grad()
@pytest.mark.parametrize("fallback", ["final", "most_confident"])
def test_decisions_on_an_aimed_model_are_those_on_the_model(fallback):
    """Mutant: exits behind the one taken filled with something that is sure of itself."""
    model, images, policy = toy_model(num_exits=4), toy_images(30), ExitPolicy(0.6, fallback)
    expected = decide(model(images), policy)
    assert len(expected.computed_exit.unique()) == 4
    for watch in WATCHES:
        found = decide(aimed(model, LinfAttack(), policy, watch)[0](images), policy)
        assert torch.equal(found.computed_exit, expected.computed_exit)
        assert torch.equal(found.prediction, expected.prediction)


@pytest.mark.parametrize(
    ("aim", "stop", "goal"), [(aim, stop, goal) for aim in AIMS for stop in (False, True) for goal in (None, 1)]
)
def test_watching_changes_no_result(aim, stop, goal):
    """Mutants: a step of an image that has left lost, or success judged by what is not computed: at an early exit, or
    a goal at the final one."""
    model, images = toy_model(num_exits=4), toy_images(9)
    numbers = {"num_steps": 4, "step_size": 1 / 255, "decay": 0.5, "goal_class": goal}
    spec = LinfAttack(stop_when_fooled=stop, **numbers, **AIMS[aim])
    plain, *others = (
        attack(model, images, labels_of(images), spec, POLICY, watch=watch, batch_size=4) for watch in WATCHES
    )
    assert plain.perturbations.abs().max() > 0
    for other in others:
        assert torch.equal(other.perturbations, plain.perturbations)
        assert torch.equal(other.adversarial_logits, plain.adversarial_logits)
    assert [len(result.steps) for result in (plain, *others)] == [5, 5, 1]


@pytest.mark.parametrize("aim", AIMS)
def test_records_say_what_was_computed_and_nothing_else(aim):
    """Mutant: numbers of exits that were not computed, records of the last batch alone, or an exit taken made up."""
    model, images = toy_model(num_exits=4), toy_images(12)
    spec = LinfAttack(num_steps=3, **AIMS[aim])
    every, computed = (
        attack(model, images, labels_of(images), spec, POLICY, watch=watch, batch_size=5)
        for watch in ("every exit", "computed exits")
    )
    num_known = 4 if spec.exit_index is None else spec.exit_index + 1
    for whole, part in zip(every.steps, computed.steps, strict=True):
        assert not whole.confidence.isnan().any() and (whole.predicted >= 0).all() and (whole.exit_taken >= 0).all()
        known = 4 if part is computed.steps[-1] else num_known
        torch.testing.assert_close(part.confidence[:, :known], whole.confidence[:, :known])
        assert part.confidence[:, known:].isnan().all() and part.true_probability[:, known:].isnan().all()
        assert (part.predicted[:, known:] == NOT_COMPUTED).all()
        seen = whole.exit_taken < known if known == 4 else (whole.confidence[:, :known] >= 0.6).any(dim=1)
        assert torch.equal(part.exit_taken, torch.where(seen, whole.exit_taken, NOT_COMPUTED))
        assert all(getattr(part, field.name).shape == getattr(whole, field.name).shape for field in fields(Step))
    for found, decided in ((every.steps[-1], every.adversarial_logits), (computed.steps[0], computed.clean_logits)):
        torch.testing.assert_close(found.confidence[:, :num_known], decided.softmax(-1).amax(-1)[:, :num_known])


@pytest.mark.parametrize("policy", [ExitPolicy(0.4, score="entropy"), ExitPolicy(2, score="patience")], ids=str)
def test_records_know_no_exit_taken_where_its_score_is_not_known(policy):
    """Mutant: a threshold on entropy or patience compared with the confidence."""
    model, images = toy_model(num_exits=4), toy_images(24)
    spec = LinfAttack(num_steps=2, **AIMS["exit 3"])
    every, computed = (
        attack(model, images, labels_of(images), spec, policy, watch=watch).steps[0]
        for watch in ("every exit", "computed exits")
    )
    # Entropy is not recorded: what leaves at the last exit computed cannot be told from what runs on.
    seen = every.exit_taken < (2 if policy.score == "entropy" else 3)
    assert torch.equal(computed.exit_taken, torch.where(seen, every.exit_taken, NOT_COMPUTED))
    assert 0 < seen.sum() < len(images)


@contextmanager
def counted_rows(watch: Watch, **fields_: object) -> Iterator[dict[str, list[tuple[int, bool]]]]:
    """For each part of a model the rows that entered it while attacked, and whether a gradient was kept there."""
    model, images = toy_model(num_exits=4), toy_images(30)
    inputs = record_inputs(model)
    with limited_to(1):  # all rows at once
        attack(model, images, labels_of(images), LinfAttack(num_steps=1, **fields_), POLICY, watch=watch)
    # The first pass is that of the clean images, the last that of the stored ones.
    yield {name: [(len(seen), seen.requires_grad) for seen in all_seen[1:-1]] for name, all_seen in inputs.items()}


@pytest.mark.parametrize("watch", WATCHES)
def test_nothing_behind_the_attacked_exit_is_computed_unless_it_is_watched(watch):
    """Mutant: every attack running the whole network, or a gradient kept through what is only watched."""
    with counted_rows(watch, objective="exit", exit_index=1) as rows:
        later = [
            ("block 2", [(30, False)]),
            ("block 3", [(30, False)]),
            ("exit 2", [(30, False)]),
            ("tail", [(30, False)]),
        ]
        assert [rows["block 0"], rows["block 1"], rows["exit 1"]] == [[(30, True)]] * 3
        assert all(rows[name] == (seen if watch == "every exit" else []) for name, seen in later)
        assert rows["exit 0"] == ([] if watch == "nothing" else [(30, False)])


def test_without_a_record_each_image_runs_as_far_as_when_deployed():
    """Mutant: images computed on behind the exit they take, or all of them to the exit of the last."""
    model, images = toy_model(num_exits=4), toy_images(30)
    taken = decide(model(images), POLICY).computed_exit
    with counted_rows("nothing") as rows:
        assert len(taken.unique()) == 4
        for block in range(4):
            assert rows[f"block {block}"] == [(int((taken >= block).sum()), True)]
    with counted_rows("every exit") as rows:
        assert all(rows[f"block {block}"] == [(30, True)] for block in range(4))


def test_an_unknown_watch_is_refused():
    """Mutant: a misspelt watch taken for one of the others."""
    with pytest.raises(ExitLensError, match=r"Unknown watch 'all'\. Choose one of every exit"):
        attack(toy_model(), toy_images(1), torch.tensor([0]), LinfAttack(), POLICY, watch="all")
