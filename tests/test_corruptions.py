"""Laws of natural corruptions; each docstring names the mutant that turns its test red."""

import pytest
import torch
from test_attacks import images_at_the_edges
from toys import toy_images, toy_model

from core.attacks import CorruptionAttack, attack
from core.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from core.errors import ExitLensError
from core.exits import ExitPolicy

EACH = pytest.mark.parametrize("name", CORRUPTIONS)
RANDOM = {"gaussian-noise", "shot-noise", "impulse-noise", "elastic"}


def photos(num_images: int = 24) -> torch.Tensor:
    """Smooth images, as photographs are, with shadows, lights and colours."""
    small = toy_images(num_images, image_size=4, seed=3).float()
    return torch.nn.functional.interpolate(small, (16, 16), mode="bicubic").clamp(0, 1)


@EACH
def test_severity_grows_what_is_changed(name):
    """Mutant: two severities swapped, or one that does nothing."""
    images = photos()
    change = [(corrupt(images, name, severity) - images).square().mean().item() for severity in SEVERITIES]
    assert change == sorted(change) and len(set(change)) == 5 and change[0] > 0
    assert 0.01 < change[-1] ** 0.5 < 0.5


@EACH
def test_images_stay_in_the_pixel_range_and_of_their_type(name):
    """Mutant: the final cut left out, or doubles made floats."""
    for images in (images_at_the_edges(6), images_at_the_edges(6).float()):
        corrupted = corrupt(images, name, 5)
        assert corrupted.shape == images.shape and corrupted.dtype == images.dtype
        assert corrupted.min() >= 0 and corrupted.max() <= 1 and torch.isfinite(corrupted).all()


@EACH
def test_an_image_is_corrupted_alike_alone_and_in_any_batch(name):
    """Mutant: one generator for the whole batch."""
    images = photos(7)
    whole = corrupt(images, name, 3)
    assert torch.equal(whole, corrupt(images, name, 3))
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    assert torch.allclose(whole[order], corrupt(images[order], name, 3), atol=1e-6)
    assert all(torch.allclose(whole[row], corrupt(images[row : row + 1], name, 3)[0], atol=1e-6) for row in range(7))


@EACH
def test_seed_moves_what_is_random_and_nothing_else(name):
    """Mutant: the seed ignored, or pixels drawn from it alone."""
    images = photos(4)
    assert torch.equal(corrupt(images, name, 3, seed=0), corrupt(images, name, 3, seed=1)) is (name not in RANDOM)
    if name in RANDOM:
        moved = corrupt(images, name, 3) - images
        assert not torch.equal(moved[0], moved[1])


def test_noise_has_the_deviation_that_it_says():
    """Mutant: a variance in place of a deviation, or photons as if they were one."""
    grey = torch.full((8, 3, 32, 32), 0.5)
    assert (corrupt(grey, "gaussian-noise", 2) - grey).std() == pytest.approx(0.04, rel=0.05)
    assert (corrupt(grey, "shot-noise", 4) - grey).std() == pytest.approx((0.5 / 80) ** 0.5, rel=0.05)
    hit = corrupt(grey, "impulse-noise", 5) != 0.5
    assert hit.double().mean() == pytest.approx(0.08, rel=0.1)


def test_colours_and_contrast_equal_the_numbers_worked_out_by_hand():
    """Mutant: brightness added instead of multiplied, or contrast around another grey."""
    image = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert corrupt(image, "darker", 2)[0, :, 0, 0].tolist() == pytest.approx([0.12, 0.24, 0.36])
    assert corrupt(image, "brighter", 2)[0, :, 0, 0].tolist() == pytest.approx([0.28, 0.56, 0.84])
    pale = corrupt(image, "pale", 5)[0, :, 0, 0]
    assert (pale - pale.mean()).abs().max() < 1e-6
    flat = corrupt(image, "low-contrast", 2)[0, :, 0, 0].tolist()
    assert flat[2] - flat[0] == pytest.approx(0.2)


def test_pixelate_and_blur_keep_the_mean():
    """Mutant: pixels dropped instead of averaged, or a kernel that does not sum to 1."""
    images = photos()
    for name in ("pixelate", "gaussian-blur"):
        means = (corrupt(images, name, 4).mean(dim=(2, 3)) - images.mean(dim=(2, 3))).abs()
        assert means.mean() < 0.01


@pytest.mark.parametrize(("name", "severity"), [("snow", 1), ("jpeg", 0), ("jpeg", 6), ("jpeg", 2.5)])
def test_what_does_not_exist_is_refused(name, severity):
    """Mutant: severity 0 taken as the last one."""
    with pytest.raises(ExitLensError):
        corrupt(photos(1), name, severity)


def test_corruptions_go_through_the_same_attack():
    """Mutant: the clean images judged."""
    model, images = toy_model(), toy_images(30)
    labels = model(images)[:, -1].argmax(dim=-1)
    spec = CorruptionAttack(name="gaussian-noise", severity=5)
    result = attack(model, images, labels, spec, ExitPolicy(0.7))
    assert torch.allclose(result.adversarial, corrupt(images, "gaussian-noise", 5), atol=1e-3)
    assert 0 < result.success_rate(ExitPolicy(0.7)).num_hits < 30
