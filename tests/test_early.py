"""Laws and arithmetic of the deployed Early Attack; each docstring names the mutant that turns its test red."""

import threading
from dataclasses import fields

import pytest
import torch
from test_attacks import hand_model, images_at_the_edges, pixel
from toys import toy_images, toy_model

from core.attacks import AttackProgress, AttackResult, EarlyAttack, attack
from core.attacks.early import early_loss, early_steps, exits_to_try
from core.attacks.run import apply_perturbations
from core.attacks.spec import early
from core.attacks.steps import Step
from core.attacks.success import SUCCESS_RULES, Case
from core.errors import Cancelled, ExitLensError
from core.exits import ExitPolicy, decide
from core.models.classifiers import ExitNetwork

POLICY = ExitPolicy(0.7)
EPSILON = 2 / 255
RULE = SUCCESS_RULES["taken_broken_final_kept"]


def final_answers(model: ExitNetwork, images: torch.Tensor) -> torch.Tensor:
    """Labels that the final exit gives, but for every fifth image: there it errs."""
    finals = model(images)[:, -1].argmax(dim=-1)
    return torch.where(torch.arange(len(images)) % 5 == 4, (finals + 1) % model.num_classes, finals)


def run(num_images: int = 60, epsilon: float = EPSILON, **fields_: object) -> AttackResult:
    """An attack on the toy model of three exits."""
    model, images = toy_model(), images_at_the_edges(num_images)
    return attack(model, images, final_answers(model, images), early(epsilon, **fields_), POLICY)


# ----------------------------------------------------------------------------------------------------------------
# Arithmetic by hand, on images of one pixel: exits are linear in its three channels


def hand_attack(model, image, threshold: float, **fields_: object) -> list[float]:
    spec = EarlyAttack(**{"epsilon": 0.5, "step_size": 0.1, "decay": 0.0, "exit_index": 0, **fields_})
    return early_steps(model, image, torch.tensor([0]), spec, ExitPolicy(threshold))[0].flatten().tolist()


def test_three_steps_equal_the_numbers_worked_out_by_hand():
    """Mutant: no push back at the final exit, one twice as strong or at another margin, or the loss descended."""
    # The early exit prefers class 0 by 4 x0, the final one by 3 x0 + 3 x1 - 1.6. Twice only x0 moves: the margin is
    # 1.4, then 1.1. At x0 = .3 it is .8, below 1: the push back (3, 3) joins the pull -4 sigmoid(1.2) = -3.07.
    model = hand_model([[4.0, 0.0, 0.0], [0.0] * 3], [[3.0, 3.0, 0.0], [0.0] * 3], biases=[[0.0, 0.0], [-1.6, 0.0]])
    expected = {1: [0.4, 0.5, 0.5], 2: [0.3, 0.5, 0.5], 3: [0.2, 0.6, 0.5]}
    for num_steps, pixels in expected.items():
        assert hand_attack(model, pixel(0.5, 0.5, 0.5), 0.7, num_steps=num_steps) == pytest.approx(pixels)


def test_an_earlier_exit_that_answers_is_attacked_first():
    """Mutant: the chosen exit attacked whatever answers, or the exit taken even where it lies behind the chosen one."""
    # Each exit sees one channel: p(class 0) is sigmoid(4 x), .881 at .5 and .832 at .4. At a threshold of .85 exit 1
    # answers first; one step later exit 2 does; another one later the final exit, but exit 2 stays attacked.
    model = hand_model(*[[[4.0 if index == channel else 0.0 for index in range(3)], [0.0] * 3] for channel in range(3)])
    expected = {1: [0.4, 0.5, 0.5], 2: [0.4, 0.4, 0.5], 3: [0.4, 0.3, 0.5]}
    for num_steps, pixels in expected.items():
        image = hand_attack(model, pixel(0.5, 0.5, 0.5), 0.85, num_steps=num_steps, exit_index=1)
        assert image == pytest.approx(pixels)


def test_an_image_comes_to_rest_once_it_is_wrong_and_sure_enough_with_the_final_exit_safe():
    """Mutant: the log-probability climbed without end, or to the threshold instead of halfway to 1."""
    # p(class 1) is sigmoid(20 (.4 - x0)): .5 at .4, .88 at .3; enough is .85 at a threshold of .7, .97 at .94.
    model = hand_model([[20.0, 0.0, 0.0], [0.0] * 3], [[0.0, 4.0, 0.0], [0.0] * 3], biases=[[-8.0, 0.0], [0.0, 0.0]])
    assert hand_attack(model, pixel(0.5, 0.5, 0.5), 0.7, num_steps=9) == pytest.approx([0.3, 0.5, 0.5])
    assert hand_attack(model, pixel(0.5, 0.5, 0.5), 0.94, num_steps=9) == pytest.approx([0.2, 0.5, 0.5])


def test_loss_is_that_of_the_exit_at_which_it_is_highest():
    """Mutant: the lowest, the first or the mean of the exits tried, or the final exit among them."""
    logits = torch.randn(9, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    labels, spec = torch.arange(9) % 5, early(num_tries=2)
    tried = exits_to_try(4, spec)
    losses = [early_loss(logits, labels, spec, POLICY, torch.full_like(labels, index)) for index in tried]
    assert torch.equal(early_loss(logits, labels, spec, POLICY), torch.stack(losses).amax(0))
    one = early_loss(logits, labels, early(exit_index=2), POLICY)
    assert torch.equal(one, early_loss(logits, labels, spec, POLICY, torch.full_like(labels, 2)))


@pytest.mark.parametrize(
    ("num_exits", "num_tries", "expected"),
    [(7, 3, [2, 1, 3]), (7, 100, [2, 1, 3, 0, 4, 5]), (2, 3, [0]), (27, 3, [12, 6, 18]), (3, 1, [0])],
)
def test_exits_are_tried_from_the_middle_on_and_never_the_final_one(num_exits, num_tries, expected):
    """Mutant: in their own order, one try too many, or the final exit among them."""
    assert exits_to_try(num_exits, early(num_tries=num_tries)) == expected
    assert exits_to_try(num_exits, early(num_tries=num_tries, exit_index=0)) == [0]


# ----------------------------------------------------------------------------------------------------------------
# Laws


def test_images_stay_in_the_ball_and_in_the_pixel_range_when_both_bind():
    """Mutant: ``project`` left out, or the ball drawn around ``current``."""
    result = run(num_steps=10)
    assert result.perturbations.double().abs().max() <= EPSILON
    assert result.perturbations.double().abs().max() > 0.9 * EPSILON
    assert result.adversarial.min() >= 0 and result.adversarial.max() <= 1


def test_epsilon_of_zero_returns_the_input_exactly():
    """Mutant: a start inside the ball, or no projection."""
    model, images = toy_model(), images_at_the_edges()
    result = attack(model, images, final_answers(model, images), early(0.0, step_size=0.01), POLICY)
    assert torch.equal(result.adversarial, images)


def test_batch_size_and_order_change_nothing():
    """Mutant: rows of an image that was dropped written to its neighbour, or the rest at which to stop shared."""
    model, images = toy_model(), toy_images(40)
    labels = final_answers(model, images)
    spec = early(EPSILON, num_steps=6)
    whole = attack(model, images, labels, spec, POLICY)
    assert 0 < whole.success_rate(POLICY).num_hits < whole.success_rate(POLICY).num_images
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    for size in (1, 7, 33):
        for rows in (torch.arange(40), order):
            part = attack(model, images[rows], labels[rows], spec, POLICY, batch_size=size)
            assert torch.equal(part.perturbations, whole.perturbations[rows])
            for step, whole_step in zip(part.steps, whole.steps, strict=True):
                for field in fields(Step):
                    one, other = getattr(step, field.name), getattr(whole_step, field.name)[rows]
                    assert torch.allclose(one, other, rtol=0, atol=1e-12), field.name


def test_verdicts_are_those_of_the_stored_images():
    """Mutant: success as the search saw it, or an attack that does nothing."""
    result = run()
    model = toy_model()
    stored = apply_perturbations(result.images, result.perturbations)
    case = Case(model(result.images), model(stored), result.labels, POLICY)
    succeeded = RULE.succeeded(case) & RULE.attackable(case)
    assert result.success_rate(POLICY).num_hits == int(succeeded.sum()) > 0
    adversarial = decide(model(stored), POLICY)
    assert (adversarial.prediction[succeeded] != result.labels[succeeded]).all()
    assert (adversarial.answered_exit[succeeded] < 2).all()
    assert (model(stored)[succeeded, -1].argmax(-1) == result.labels[succeeded]).all()


def test_more_steps_and_more_tries_never_lose_a_success():
    """Mutant: the last images of the loop returned instead of the best, or a later try kept although it failed."""

    def fallen(num_steps: int, num_tries: int) -> torch.Tensor:
        # Steps as long as the ball is wide: images jump from corner to corner, in and out of success.
        result = run(step_size=2 * EPSILON, num_steps=num_steps, num_tries=num_tries)
        return RULE.succeeded(result.case(POLICY))

    by_steps = torch.stack([fallen(num_steps, 1) for num_steps in range(1, 9)])
    assert (by_steps[1:] >= by_steps[:-1]).all() and by_steps[0].sum() < by_steps[-1].sum()
    assert (fallen(3, 2) >= fallen(3, 1)).all()


def test_a_second_exit_is_tried_on_the_images_that_held_out_and_on_no_other():
    """Mutant: every image attacked again, or the record of the first try kept for an image that fell in the second."""
    first, both = (run(num_steps=3, num_tries=count) for count in (1, 2))
    second = run(num_steps=3, exit_index=exits_to_try(3, early())[1])
    fell = RULE.succeeded(first.case(POLICY))
    gained = RULE.succeeded(both.case(POLICY)) & ~fell
    assert fell.any() and gained.any()
    for one, rows in ((first, ~gained), (second, gained)):
        assert torch.equal(both.perturbations[rows], one.perturbations[rows])
        for step, other in zip(both.steps[:-1], one.steps[:-1], strict=True):
            assert torch.equal(step.confidence[rows], other.confidence[rows])
    assert len(both.steps) == 4


def test_record_begins_at_the_image_and_ends_at_the_stored_one():
    """Mutant: the record of an image at rest shifted, left out or overwritten by those still moving."""
    result = run(num_steps=5)
    assert len(result.steps) == 6
    for step, logits in ((result.steps[0], result.clean_logits), (result.steps[-1], result.adversarial_logits)):
        confidence, predicted = logits.softmax(-1).max(-1)
        assert torch.equal(step.predicted, predicted)
        assert torch.allclose(step.confidence, confidence, rtol=0, atol=1e-12)
    moved = torch.stack([step.loss for step in result.steps[:-1]])
    at_rest = moved == 0
    assert at_rest.any() and not at_rest.all()
    assert (at_rest[1:] >= at_rest[:-1]).all()


def test_model_is_left_as_it_was():
    """Mutant: ``loss.backward()``, or gradients switched off for good."""
    model, images = toy_model(), toy_images(4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attack(model, images, final_answers(model, images), early(num_steps=3), POLICY)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(value.requires_grad or value.grad is not None for value in model.parameters())
    assert not model.training and torch.is_grad_enabled()


def test_progress_rises_to_one_at_most_and_cancel_ends_it():
    """Mutant: the share counted over the steps of one try, which reaches 2; the token not looked at."""
    model, images = toy_model(), toy_images(6)
    labels, seen, cancel = final_answers(model, images), list[AttackProgress](), threading.Event()
    attack(model, images, labels, early(num_steps=4, num_tries=2), POLICY, batch_size=3, on_progress=seen.append)
    shares = [progress.share for progress in seen]
    assert shares == sorted(shares) and 0.5 < shares[-1] <= 1
    assert max(progress.step for progress in seen) > 4 and {progress.num_steps for progress in seen} == {8}
    cancel.set()
    with pytest.raises(Cancelled):
        attack(model, images, labels, early(), POLICY, cancel=cancel)


# ----------------------------------------------------------------------------------------------------------------
# Specs


@pytest.mark.parametrize(
    ("fields_", "named"),
    [
        ({"epsilon": -0.1}, "epsilon"),
        ({"num_steps": 0}, "num_steps"),
        ({"num_tries": 0}, "num_tries"),
        ({"exit_index": -1}, "exit_index"),
        ({"name": "pgd"}, "named early"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(fields_, named):
    """Mutant: any check dropped."""
    with pytest.raises(ExitLensError, match=named):
        EarlyAttack(**fields_)


def test_a_model_without_that_early_exit_is_refused():
    """Mutant: the final exit of a static model attacked and kept at once."""
    images, labels = toy_images(2), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ExitLensError, match="static"):
        attack(toy_model(num_exits=1), images, labels, early(), POLICY)
    with pytest.raises(ExitLensError, match="2 early exits"):
        attack(toy_model(), images, labels, early(exit_index=2), POLICY)


def test_label_says_what_was_done():
    """Mutant: any number left out, or an exit counted from 0."""
    assert early(2 / 255).label == "Early Attack 2/255, 16 steps of 0.5/255, decay 0.8, through the best of 3 exits"
    assert early(2 / 255, exit_index=1, decay=0.0).label == "Early Attack 2/255, 16 steps of 0.5/255, through exit 2"


def test_a_goal_class_is_what_the_early_exit_answers():
    """Mutant: the goal dropped from the loss or from what counts as success, or the final exit let go."""
    model, images = toy_model(), images_at_the_edges(60)
    result = attack(model, images, final_answers(model, images), early(8 / 255, goal_class=2), POLICY)
    rule = SUCCESS_RULES["goal_taken_final_kept"]
    assert result.spec.success_rule == rule.name
    case = result.case(POLICY)
    fell = rule.succeeded(case) & rule.attackable(case)
    assert fell.sum() > 0.3 * rule.attackable(case).sum()
    now = decide(result.adversarial_logits, POLICY)
    assert (now.prediction[fell] == 2).all() and (
        result.adversarial_logits[fell, -1].argmax(-1) == result.labels[fell]
    ).all()
