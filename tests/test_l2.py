"""Laws and arithmetic of the L2 ball; each docstring names the mutant that turns its test red."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from test_attacks import adversarial_of, gradient_of, hand_model, labels_of, pixel
from torch import Tensor
from torch.nn import functional as F
from toys import toy_images, toy_model

from core.attacks import attack
from core.attacks.l2 import project_into_l2, project_l2, start_in_l2, unit_l2
from core.attacks.spec import l2_attack
from core.exits import ExitPolicy
from core.seeding import normal_noise

POLICY = ExitPolicy(0.7)


def lengths(changes: Tensor) -> Tensor:
    return changes.flatten(1).norm(dim=1)


def test_projection_onto_the_ball_equals_the_numbers_worked_out_by_hand():
    """Mutant: each channel cut by itself, or short changes stretched to the sphere."""
    changes = torch.cat([pixel(3.0, 4.0, 0.0), pixel(0.3, 0.4, 0.0)])
    projected = project_l2(changes, 2.5)
    assert projected[0].flatten().tolist() == pytest.approx([1.5, 2.0, 0.0])
    assert torch.equal(projected[1], changes[1])


def test_projection_where_both_bind_equals_the_numbers_worked_out_by_hand():
    """Mutant: ball first and pixel range after, which gives (1, .75, .5), or the other way round."""
    # From (.9, .5, .5) towards (1.3, .9, .5), radius .3: the first channel stops at 1, so the second may go sqrt(.08).
    projected = project_into_l2(pixel(1.3, 0.9, 0.5), pixel(0.9, 0.5, 0.5), 0.3)
    assert projected.flatten().tolist() == pytest.approx([1.0, 0.5 + 0.08**0.5, 0.5])


@given(seed=st.integers(0, 2**16), epsilon=st.sampled_from([0.1, 0.5, 1.0, 3.0]))
def test_projection_is_the_nearest_point_of_ball_and_pixel_range(seed, epsilon):
    """Mutant: any point of both sets but the nearest."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand((1, 3, 1, 2), generator=generator, dtype=torch.float64)
    moved = image + 1.5 * torch.randn((1, 3, 1, 2), generator=generator, dtype=torch.float64)
    projected = project_into_l2(moved, image, epsilon)
    assert lengths(projected - image).max() <= epsilon + 1e-9
    assert projected.min() >= 0 and projected.max() <= 1
    around, target = image.flatten().numpy(), moved.flatten().numpy()
    oracle = minimize(
        lambda point: ((point - target) ** 2).sum(),
        around,
        jac=lambda point: 2 * (point - target),
        bounds=[(0, 1)] * 6,
        constraints={"type": "ineq", "fun": lambda point: epsilon**2 - ((point - around) ** 2).sum()},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert lengths(projected - moved).item() <= oracle.fun**0.5 + 1e-6


def test_one_step_goes_along_the_gradient_and_two_stay_on_the_sphere():
    """Mutant: the sign of the gradient, its length kept, or steps measured per pixel."""
    # Gradient of the loss of class 0: along -(3, 4, 0) whatever the image, of length one after division.
    model = hand_model([[3.0, 4.0, 0.0], [0.0] * 3])
    image, label = pixel(0.5, 0.5, 0.5), torch.tensor([0])
    once = adversarial_of(model, image, label, l2_attack("fgsm", 0.1))
    assert once.flatten().tolist() == pytest.approx([0.44, 0.42, 0.5])
    twice = adversarial_of(model, image, label, l2_attack("pgd", 0.15, step_size=0.1, num_steps=2))
    assert twice.flatten().tolist() == pytest.approx([0.41, 0.38, 0.5])


def test_pgd_of_one_full_step_is_the_normalised_gradient_step():
    """Mutant: a start elsewhere, or momentum in a plain attack."""
    model, images, labels = toy_model(), toy_images(8), labels_of(8)
    images = 0.4 + 0.2 * images  # pixel range does not bind
    spec = l2_attack("pgd", 0.2, step_size=0.2, num_steps=1, objective="final")
    gradient = gradient_of(model, images, lambda logits: F.cross_entropy(logits[:, -1], labels, reduction="sum"))
    expected = images + 0.2 * gradient / lengths(gradient)[:, None, None, None]
    assert torch.allclose(adversarial_of(model, images, labels, spec), expected, atol=1e-12)
    assert torch.allclose(
        adversarial_of(model, images, labels, l2_attack("fgsm", 0.2, objective="final")), expected, atol=1e-12
    )


def test_a_zero_gradient_gives_the_image_back():
    """Mutant: 0 / 0."""
    assert torch.equal(unit_l2(torch.zeros(2, 3, 2, 2)), torch.zeros(2, 3, 2, 2))
    model = hand_model([[0.0] * 3, [0.0] * 3])
    image = pixel(0.2, 0.5, 0.9)
    assert torch.equal(adversarial_of(model, image, torch.tensor([0]), l2_attack("pgd")), image)


def test_random_start_fills_the_ball_evenly():
    """Mutant: a start on the sphere only, in a cube, or the same for every image."""
    images = 0.45 + 0.1 * torch.rand(4000, 3, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moves = (start_in_l2(images, 0.3, 7) - images).flatten(1)
    share = (moves.norm(dim=1) / 0.3) ** 3  # of the volume of the ball inside each
    assert share.max() <= 1 and abs(share.mean() - 0.5) < 0.02 and share.std() == pytest.approx(12**-0.5, abs=0.01)
    assert moves.mean(dim=0).abs().max() < 0.01
    assert len(torch.unique(normal_noise(images[:50], 7).flatten(1), dim=0)) > 45


def test_more_radius_never_hurts_on_average_and_success_grows():
    """Mutant: an attack that does nothing within its ball."""
    model, images = toy_model(), toy_images(60)
    labels = model(images)[:, -1].argmax(dim=-1)
    rates = [
        attack(model, images, labels, l2_attack("pgd", radius), POLICY).success_rate(POLICY).value
        for radius in (0.02, 0.2, 1.0)
    ]
    assert rates[0] < rates[1] < rates[2]
