"""Laws and arithmetic of universal perturbations; each docstring names the mutant that turns its test red."""

from dataclasses import replace

import pytest
import torch
from test_attacks import hand_model, labels_of, pixel
from toys import toy_image_set, toy_images, toy_model

from core.attacks import UniversalAttack, attack
from core.attacks.universal import check_unseen, fit_perturbation, universal_loss
from core.datasets import DATASETS
from core.errors import ExitLensError
from core.exits import ExitPolicy

POLICY = ExitPolicy(0.7)
SPEC = UniversalAttack(fitted_on="toy:validation:0-9", num_steps=6)


@pytest.fixture(autouse=True)
def opened(monkeypatch) -> list[str]:
    """The names of the image sets that were opened."""
    names: list[str] = []

    def open_set(name: str):
        names.append(name)
        return toy_image_set(30, seed=5)

    monkeypatch.setattr("core.attacks.universal.open_image_set", open_set)
    return names


def test_one_perturbation_for_all_images_and_none_of_theirs(opened):
    """Mutant: fitted batch by batch on the images that are attacked, or one per image."""
    model, images = toy_model(), 0.2 + 0.6 * toy_images(20)
    result = attack(model, images, labels_of(20), SPEC, POLICY, batch_size=7)
    assert opened == ["toy:validation:0-9"]
    assert (result.perturbations == result.perturbations[:1]).all()
    assert result.perturbations[0].float().abs().max() > 0.9 * SPEC.epsilon
    others = attack(model, images[:3], labels_of(3), SPEC, POLICY)
    assert torch.equal(others.perturbations[0], result.perturbations[0])


def test_fit_climbs_the_sum_over_its_images():
    """Mutant: the sign of each image's gradient, the last image's alone, or a step downwards."""
    # Class 0 is right for both; the gradient of its loss is -p(class 1) times the weights of the exit, by the image.
    model = hand_model([[4.0, -1.0, 0.0], [0.0, 1.0, 0.0]])
    images = torch.cat([pixel(0.5, 0.5, 0.5), pixel(0.4, 0.6, 0.5)])
    spec = UniversalAttack(epsilon=0.03, step_size=0.02, num_steps=2, objective="final", fitted_on="toy:validation")
    fitted = fit_perturbation(model, images, torch.tensor([0, 0]), spec, POLICY)
    assert fitted.flatten().tolist() == pytest.approx([-0.03, 0.03, 0.0])
    # The first image pulls towards its class 1, the second, surer of the other, the other way and harder.
    pulled = fit_perturbation(model, images, torch.tensor([1, 0]), spec, POLICY)
    gradient = sum(
        (model(image[None])[0, -1].softmax(-1) - torch.nn.functional.one_hot(label, 2)) @ model.backbone.tail[-1].weight
        for image, label in zip(images, torch.tensor([1, 0]), strict=True)
    )
    assert torch.equal(pulled.flatten().sign(), gradient.sign())


@pytest.mark.parametrize("objective", ["slowdown", "final", "mean"])
def test_it_raises_the_loss_of_images_that_it_has_not_seen(objective):
    """Mutant: a perturbation of noise, or of zeros."""
    model, images = toy_model(), toy_image_set(60, seed=8).pixels().double()
    labels = model(images)[:, -1].argmax(dim=-1)
    spec = UniversalAttack(objective=objective, epsilon=0.2, step_size=0.02, fitted_on="toy:validation")
    perturbation = attack(model, images, labels, spec, POLICY).perturbations[0].double()
    noise = 0.2 * torch.randn(images[0].shape, generator=torch.Generator().manual_seed(0)).sign().double()

    def loss(change: torch.Tensor) -> float:
        return universal_loss(model((images + change).clamp(0, 1)), labels, spec, POLICY).mean().item()

    assert loss(perturbation) > max(loss(noise), loss(-noise), loss(torch.zeros_like(noise)))


def test_images_that_do_not_fit_the_model_are_refused(monkeypatch):
    """Mutant: pixels of another size, or labels of other classes, fitted without a word."""
    monkeypatch.setattr("core.attacks.universal.open_image_set", lambda name: toy_image_set(4))
    with pytest.raises(ExitLensError, match="classes"):
        attack(toy_model(num_classes=3), toy_images(2), torch.zeros(2, dtype=torch.int64), SPEC, POLICY)
    with pytest.raises(ExitLensError, match="pixels a side"):
        attack(toy_model(image_size=4), toy_images(2, image_size=4), torch.zeros(2, dtype=torch.int64), SPEC, POLICY)


@pytest.mark.parametrize(
    ("fitted_on", "split", "official", "indices", "refused"),
    [
        ("toy:validation:3-9", "validation", "train", range(9, 12), True),
        ("toy:validation", "train", "train", range(9), True),
        ("toy:validation:3-9", "validation", "train", range(10, 12), False),
        ("toy:validation:3-9", "test", "test", range(3, 10), False),
        ("other:validation:3-9", "validation", "train", range(3, 10), False),
    ],
)
def test_it_is_never_judged_on_images_that_it_was_fitted_on(
    fitted_on, split, official, indices, refused, monkeypatch, toy_registry
):
    """Mutant: places in the test file taken for the same images, or training images that nobody compares."""
    monkeypatch.setitem(DATASETS, "other", DATASETS["toy"])
    spec = UniversalAttack(fitted_on=fitted_on)
    chosen = torch.tensor(list(indices))
    images = replace(toy_image_set(len(chosen)), split=split, official_split=official, indices=chosen)
    if refused:
        with pytest.raises(ExitLensError, match=r"of the images of toy:\w+ are among those.*Attack others"):
            check_unseen(spec, images)
    else:
        check_unseen(spec, images)
