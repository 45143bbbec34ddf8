"""Universal perturbations: one for all images, fitted on others beforehand."""

from collections.abc import Callable

import torch
from torch import Tensor

from core.attacks.linf import project
from core.attacks.objectives import objective_loss
from core.attacks.slowdown import slowdown_loss
from core.attacks.slowdown_spec import SlowdownAttack
from core.attacks.spec import LinfAttack
from core.attacks.steps import Step, Steps, observe
from core.attacks.universal_spec import UniversalAttack
from core.data import ImageSet, open_image_set, parse_image_set_name
from core.errors import ExitLensError
from core.exits import ExitPolicy
from core.models import ExitModel

BATCH_SIZE = 128


def universal_loss(logits: Tensor, labels: Tensor, spec: UniversalAttack, policy: ExitPolicy) -> Tensor:
    """What the attack climbs: the loss of its objective, (N,), as the attack on single images has it."""
    if spec.objective == "slowdown":
        return slowdown_loss(logits, labels, SlowdownAttack(), policy)
    at = LinfAttack(objective=spec.objective, exit_index=spec.exit_index, goal_class=spec.goal_class)
    return objective_loss(logits, labels, at, policy)


def check_unseen(spec: UniversalAttack, image_set: ImageSet) -> None:
    """Checks that a perturbation is judged on other images than it is fitted on.

    Raises:
        ExitLensError: If some of the images are among those.
    """
    dataset, _, fitted_on = parse_image_set_name(spec.fitted_on)
    if (image_set.dataset, image_set.official_split) != (dataset, "train"):
        return
    # Validation and training images are numbered alike: by their place in the official training file.
    known = set(open_image_set(spec.fitted_on).indices.tolist() if fitted_on is None else fitted_on)
    if seen := known & set(image_set.indices.tolist()):
        raise ExitLensError(
            f"{len(seen)} of the images of {image_set.name} are among those that the universal perturbation is "
            f"fitted on, {spec.fitted_on}. Attack others, or fit it on others."
        )


def fit_perturbation(
    model: ExitModel,
    images: Tensor,
    labels: Tensor,
    spec: UniversalAttack,
    policy: ExitPolicy,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Fits one perturbation on images.

    Each step goes ``step_size`` along the sign of the gradient of the mean loss of all images, then back into the
    ball; every image is cut to [0, 1] with it.

    Args:
        model: Any exit model, frozen and in eval mode; only read.
        images: (M, 3, H, W) in [0, 1]: other images than it will be judged on.
        labels: True classes, (M,).
        spec: What to do.
        policy: For the objective ``taken``.
        on_step: Called after each step with its number, from 1; may raise to end the fit.

    Returns:
        (3, H, W) in [-epsilon, epsilon].

    Source: Hong et al., A Panda? No, It's a Sloth, ICLR 2021, section 4, universal attack; their numbers.
    """
    perturbation = torch.zeros_like(images[0])
    for number in range(spec.num_steps):
        total = torch.zeros_like(perturbation)
        for batch, batch_labels in zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
            at = perturbation.clone().requires_grad_(True)
            loss = universal_loss(model((batch + at).clamp(0, 1)), batch_labels, spec, policy)
            total += torch.autograd.grad(loss.sum(), at)[0]
        perturbation = (perturbation + spec.step_size * total.sign()).clamp(-spec.epsilon, spec.epsilon)
        if on_step:
            on_step(number + 1)
    return perturbation


def fitted_steps(
    model: ExitModel,
    images: Tensor,
    spec: UniversalAttack,
    policy: ExitPolicy,
    on_step: Callable[[int], None] | None = None,
) -> Steps:
    """Fits the perturbation on the images that the spec names, and returns what puts it on others.

    Args:
        model: Any exit model, frozen and in eval mode; only read.
        images: Some of those to come, (N, 3, H, W).
        spec: What to do.
        policy: In force.
        on_step: Called after each step of the fit.

    Raises:
        ExitLensError: If its images cannot be opened here or do not fit the model.
    """
    image_set = open_image_set(spec.fitted_on)
    pixels, labels = image_set.pixels().to(images), image_set.labels.to(images.device)
    if pixels.shape[1:] != images.shape[1:] or len(image_set.class_names) != model.num_classes:
        raise ExitLensError(
            f"{spec.fitted_on} are images of {len(image_set.class_names)} classes and {pixels.shape[2]} pixels a side; "
            f"attacked are {images.shape[2]} pixels a side on a model of {model.num_classes} classes. Fit it on others."
        )
    perturbation = fit_perturbation(model, pixels, labels, spec, policy, on_step)

    def put_on(
        model: ExitModel,
        images: Tensor,
        labels: Tensor,
        spec: UniversalAttack,
        policy: ExitPolicy,
        clean_logits: Tensor,
        on_step: Callable[[int], None],
    ) -> tuple[Tensor, list[Step]]:
        loss = universal_loss(clean_logits, labels, spec, policy)
        adversarial = project(images + perturbation, images, spec.epsilon)
        return adversarial, [observe(clean_logits, labels, loss, policy)]

    return put_on
