"""Laws and arithmetic of the published Early Attack; each docstring names the mutant that turns its test red."""

import math

import pytest
import torch
from test_attacks import hand_model, images_at_the_edges, labels_of, pixel
from toys import toy_images, toy_model

from core.attacks import PublishedEarlyAttack, attack
from core.attacks.early_published import STD, published_loss, published_steps
from core.attacks.success import SUCCESS_RULES
from core.exits import ExitPolicy

POLICY = ExitPolicy(0.7)
RULE = SUCCESS_RULES["early_broken_final_kept"]


def test_loss_equals_the_published_formula_worked_out_by_hand():
    """Mutant: the class itself counted in A, the final exit in B, alpha or the weight at the wrong term."""
    logits = torch.tensor([[[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.1, 0.4]]]).double().log()
    keep, broken = (0.5 - 0.1) + (0.5 - 0.4), 0.6 + 0.2
    loss = published_loss(logits, torch.tensor([0]), PublishedEarlyAttack(alpha=3.0, weight=10.0))
    assert loss.item() == pytest.approx(10 * (broken - 3 * keep))
    # The second class: only where the final exit prefers it to a rival does the rival count.
    loss = published_loss(logits, torch.tensor([2]), PublishedEarlyAttack(alpha=3.0, weight=10.0))
    assert loss.item() == pytest.approx(10 * ((0.1 + 0.1) - 3 * (0.4 - 0.1)))


def test_margin_form_equals_the_numbers_worked_out_by_hand():
    """Mutant: margins without bounds, so that one exit is pushed for ever."""
    logits = torch.tensor([[[2.0, 1.5, 0.0], [0.0, 5.0, 0.0], [4.0, 1.0, 0.0]]]).double()
    loss = published_loss(logits, torch.tensor([0]), PublishedEarlyAttack(alpha=2.0, weight=10.0, loss="logits"))
    assert loss.item() == pytest.approx(10 * ((0.5 - 1.0) - 2 * 1.0))


def test_first_step_moves_every_pixel_by_the_learning_rate_in_tanh_space():
    """Mutant: steps in pixels, Adam without its corrections for the start, or the distance left out."""
    # Adam's first step is the learning rate along the sign. Only the first channel matters to the early exit.
    model = hand_model([[4.0, 0.0, 0.0], [0.0] * 3], [[0.0, 0.0, 0.0], [0.0] * 3], biases=[[0.0, 0.0], [1.0, 0.0]])
    image = pixel(0.5, 0.5, 0.5)
    spec = PublishedEarlyAttack(start="image", num_steps=1)
    moved = published_steps(model, image, torch.tensor([0]), spec, POLICY)[0].flatten().tolist()
    assert moved == pytest.approx([(math.tanh(-0.01) + 1) / 2, 0.5, 0.5])
    # A second step: off the image, the distance pulls back with 2 (x' - x) / std^2, far weaker here than the break.
    spec = PublishedEarlyAttack(start="image", num_steps=2, weight=0.0)
    still = published_steps(model, image, torch.tensor([0]), spec, POLICY)[0].flatten().tolist()
    assert still == pytest.approx([0.5, 0.5, 0.5])


def test_distance_is_squared_over_the_published_deviations():
    """Mutant: the L2 norm in pixels, or one deviation for all colours."""
    # Without a network's pull the loss is the distance alone, so from a random start Adam walks back to the image.
    model, image = hand_model([[0.0] * 3, [0.0] * 3], [[0.0] * 3, [0.0] * 3]), pixel(0.4, 0.5, 0.6)
    spec = PublishedEarlyAttack(num_steps=900, num_forced=900, learning_rate=0.02)
    found = published_steps(model, image, torch.tensor([0]), spec, POLICY)[0]
    assert torch.allclose(found, image, atol=1e-3)
    assert STD == (0.229, 0.224, 0.225)


def test_random_start_forgets_the_image_and_is_its_own_for_each():
    """Mutant: w uniform in (-1, 1), or one draw for all."""
    model, images = toy_model(), toy_images(6)
    spec = PublishedEarlyAttack(num_steps=1, learning_rate=0.0)
    start = published_steps(model, images, labels_of(6), spec, POLICY)[0]
    low, high, mean = 0.5, (math.tanh(1.0) + 1) / 2, (math.log(math.cosh(1.0)) + 1) / 2
    assert start.min() >= low and start.max() <= high and start.mean() == pytest.approx(mean, abs=0.01)
    assert not torch.equal(start[0], start[1])
    other = PublishedEarlyAttack(num_steps=1, learning_rate=0.0, seed=1)
    assert not torch.equal(start, published_steps(model, images, labels_of(6), other, POLICY)[0])


def test_an_image_stops_at_its_first_success_after_the_forced_steps():
    """Mutant: a stop before them, none at all, or one of all images at once."""
    model, images, labels = toy_model(), toy_images(40), labels_of(40)

    def run(num_steps: int, num_forced: int):
        spec = PublishedEarlyAttack(num_steps=num_steps, num_forced=num_forced, learning_rate=0.1, start="image")
        return published_steps(model, images, labels, spec, POLICY)

    _, endless = run(25, 25)
    kept = model(images)[:, -1].argmax(dim=-1)
    held = torch.stack([(s.predicted[:, -1] == kept) & (s.predicted[:, :-1] != kept[:, None]).all(1) for s in endless])
    stopped, records = run(25, 10)
    at_11 = run(11, 25)[0]
    first = {row: next((n for n in range(11, 25) if held[n, row]), None) for row in range(40)}
    assert len(records) == 25 and len(set(first.values())) > 1
    for row, number in first.items():
        last = 24 if number is None else number
        for each in records[last:]:
            assert torch.allclose(each.confidence[row], endless[last].confidence[row], atol=1e-9)
        if number == 11:
            assert torch.allclose(stopped[row], at_11[row], atol=1e-12)


def test_success_keeps_the_models_own_final_answer_and_breaks_every_early_exit():
    """Mutant: the true label kept instead, or one early exit enough."""
    model, images = toy_model(), toy_images(40)
    labels = (model(images)[:, -1].argmax(dim=-1) + 1) % 4  # nothing is right, and nothing changes
    spec = PublishedEarlyAttack(num_steps=60, num_forced=10, learning_rate=0.05, start="image")
    result = attack(model, images, labels, spec, POLICY)
    fell = RULE.succeeded(result.case(POLICY))
    assert fell.sum() > int(
        RULE.succeeded(
            attack(
                model, images, labels, PublishedEarlyAttack(num_steps=1, learning_rate=0.0, start="image"), POLICY
            ).case(POLICY)
        ).sum()
    )
    own = model(images)[:, -1].argmax(dim=-1)
    now = result.adversarial_logits.argmax(dim=-1)
    assert (now[fell, -1] == own[fell]).all() and (now[fell, :-1] != own[fell, None]).all()


def test_projected_form_stays_in_its_ball():
    """Mutant: the projection left out, or done once at the end."""
    model, images = toy_model(), images_at_the_edges(12)
    spec = PublishedEarlyAttack(num_steps=15, epsilon=4 / 255)
    found = published_steps(model, images, labels_of(12), spec, POLICY)[0]
    assert (found - images).abs().max() <= 4 / 255 + 1e-6
    assert (found - images).abs().max() > 3.9 / 255
