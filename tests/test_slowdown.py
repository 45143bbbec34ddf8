"""Laws and arithmetic of the attacks on efficiency; each docstring names the mutant that turns its test red."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_attacks import hand_model, labels_of, pixel
from toys import toy_images, toy_model

from core.attacks import SlowdownAttack, attack
from core.attacks.slowdown import slowdown_loss, slowdown_steps
from core.attacks.success import SUCCESS_RULES
from core.exits import ExitPolicy, decide
from core.metrics import eec_floor, eec_trapezoid, mean_saving

POLICY = ExitPolicy(0.7)


def test_loss_is_the_cross_entropy_of_every_early_exit_to_equal_probabilities():
    """Mutant: the final exit counted, a mean instead of the sum, or the entropy instead of the cross-entropy."""
    probabilities = torch.tensor([[[0.7, 0.2, 0.1], [0.5, 0.25, 0.25], [0.9, 0.05, 0.05]]]).double()
    by_hand = sum(math.log(p) for p in (0.7, 0.2, 0.1, 0.5, 0.25, 0.25)) / 3
    loss = slowdown_loss(probabilities.log(), torch.tensor([0]), SlowdownAttack(), POLICY)
    assert loss.item() == pytest.approx(by_hand)
    uniform = torch.full((1, 3, 3), 1 / 3).double()
    equal = torch.stack([F.cross_entropy(exit_, uniform[:, 0]) for exit_ in probabilities.log().unbind(1)[:2]])
    assert loss.item() == pytest.approx(-equal.sum().item())


def test_loss_is_highest_where_every_early_exit_knows_nothing():
    """Mutant: the loss descended."""
    nothing = torch.zeros(1, 3, 4).double()
    best = slowdown_loss(nothing, torch.tensor([0]), SlowdownAttack(), POLICY).item()
    assert best == pytest.approx(-2 * math.log(4))
    others = torch.randn(50, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    assert (slowdown_loss(others, labels_of(50), SlowdownAttack(), POLICY) < best).all()


def test_confidence_form_lowers_the_first_exit_that_is_not_safely_unsure():
    """Mutant: all exits at once, the final exit too, or an exit left as soon as it is below the threshold."""
    confident = torch.tensor([[0.6, 0.9, 0.8, 0.99], [0.69, 0.3, 0.3, 0.99], [0.6, 0.6, 0.66, 0.99]]).double()
    rest = (1 - confident) / 2
    logits = torch.stack([confident, rest, rest], dim=2).log()
    spec = SlowdownAttack(loss="confidence")
    loss = slowdown_loss(logits, labels_of(3, 3), spec, POLICY)  # safely unsure: below .665
    assert loss.tolist() == pytest.approx([-math.log(0.9), -math.log(0.69), 0.0])


def test_one_step_on_a_linear_model_equals_the_number_worked_out_by_hand():
    """Mutant: a step the wrong way, or the final exit's gradient in it."""
    # The early exit prefers class 0 by 4 x0 - 1, so x0 = .25 would be undecided; the final one looks at x1.
    model = hand_model([[4.0, 0.0, 0.0], [0.0] * 3], [[0.0, 4.0, 0.0], [0.0] * 3], biases=[[-1.0, 0.0], [0.0, 0.0]])
    spec = SlowdownAttack(epsilon=0.2, step_size=0.05, num_steps=3, random_start=False)
    adversarial, _ = slowdown_steps(model, pixel(0.5, 0.5, 0.5), torch.tensor([0]), spec, POLICY)
    assert adversarial.flatten().tolist() == pytest.approx([0.35, 0.5, 0.5])


def test_random_start_lies_within_one_step():
    """Mutant: a start anywhere in the ball."""
    model, images = toy_model(), 0.2 + 0.6 * toy_images(5)
    spec = SlowdownAttack(num_steps=1, step_size=0.002)
    moved = (slowdown_steps(model, images, labels_of(5), spec, POLICY)[0] - images).abs()
    assert 0.002 < moved.max() <= 0.004 + 1e-12


@pytest.mark.parametrize("loss", ["uniform", "confidence"])
def test_images_are_slowed_and_the_figures_of_efficiency_say_so(loss):
    """Mutant: a gradient with the wrong sign, or the shift counted the other way round."""
    model, images = toy_model(), toy_images(60)
    labels = model(images)[:, -1].argmax(dim=-1)
    spec = SlowdownAttack(loss=loss, epsilon=0.1, step_size=0.01, num_steps=20)
    result = attack(model, images, labels, spec, POLICY)
    clean, slowed = (decide(logits, POLICY) for logits in (result.clean_logits, result.adversarial_logits))
    assert result.success_rate(POLICY).value > 0.6
    assert mean_saving(slowed.computed_exit, model.exit_costs) < 0.6 * mean_saving(
        clean.computed_exit, model.exit_costs
    )
    floor = eec_floor(model.exit_costs)
    before, after = (eec_trapezoid(each.computed_exit, model.exit_costs) for each in (clean, slowed))
    assert floor <= after < before
    kept = SUCCESS_RULES["slowed_label_kept"]
    assert (kept.succeeded(result.case(POLICY)) <= SUCCESS_RULES["slowed"].succeeded(result.case(POLICY))).all()


def test_published_numbers():
    """Mutant: any default changed."""
    spec = SlowdownAttack()
    assert (spec.epsilon, spec.step_size, spec.num_steps, spec.loss) == (8 / 256, 0.002, 30, "uniform")
    assert spec.random_start


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (ExitPolicy(2, score="patience"), [0.6, None]),  # the second exit agrees with the first; or none does
        (ExitPolicy(0.5, score="entropy"), [0.9, None]),
    ],
    ids=str,
)
def test_confidence_form_knows_which_exit_is_about_to_answer_under_every_score(policy, expected):
    """Mutant: a number of exits taken for a confidence, so that nothing is ever done."""
    agreeing = torch.tensor([[0.05, 0.9, 0.05], [0.2, 0.6, 0.2], [0.3, 0.4, 0.3]])
    differing = torch.tensor([[0.4, 0.3, 0.3], [0.3, 0.4, 0.3], [0.3, 0.3, 0.4]])
    logits = torch.stack([agreeing, differing]).double().log()
    loss = slowdown_loss(logits, labels_of(2, 3), SlowdownAttack(loss="confidence"), policy)
    assert loss.tolist() == pytest.approx([0.0 if sure is None else -math.log(sure) for sure in expected])
