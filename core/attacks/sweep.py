"""FGSM at many radii from one gradient, each image judged at every radius."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from core.attacks.aimed import aimed
from core.attacks.judging import judge, tolerances
from core.attacks.linf import project
from core.attacks.objectives import objective_loss
from core.attacks.run import BATCH_SIZE, apply_perturbations, check_input, parts_of, store_perturbations
from core.attacks.spec import LinfAttack, StepAttack
from core.attacks.success import FINAL_RULES, SUCCESS_RULES, Case
from core.errors import ExitLensError
from core.exits import ExitPolicy
from core.machine import device_of, enough_memory
from core.metrics import Rate, rate_of
from core.models import ExitModel
from core.models.prepared import PreparedModel
from core.progress import CancelToken, Progress, end_if
from core.side_by_side import side_by_side

_NUM_COMPARED = 16  # fewer say too little of how far a copy is from its model, which then judges all itself


@dataclass(frozen=True, eq=False)
class Sweep:
    """What FGSM does at rising radii.

    Attributes:
        spec: The attack; its own radius does not count.
        made_at: The policy that it was made and judged under.
        epsilons: E radii, in pixels of [0, 1].
        attackable: (N,) whether the attack had anything to do.
        succeeded: (E, N) whether its rule holds of the stored images, as the model itself answers.
        prediction: (E, N) class answered; of the final exit where the rule is about that.
        computed_exit: (E, N) last exit computed.
        seconds: Wall-clock.
        precision: Number format of the gradient.
        num_doubtful: Verdicts that the model had to give itself, of (E + 1) N.
    """

    spec: LinfAttack
    made_at: ExitPolicy
    epsilons: tuple[float, ...]
    attackable: Tensor
    succeeded: Tensor
    prediction: Tensor
    computed_exit: Tensor
    seconds: float
    precision: str
    num_doubtful: int

    def rates(self) -> list[Rate]:
        """Share of the attackable images on which the attack succeeds, at each radius."""
        return [rate_of(succeeded, self.attackable) for succeeded in self.succeeded]


def sweep_fgsm(
    model: ExitModel,
    images: Tensor,
    labels: Tensor,
    spec: LinfAttack,
    policy: ExitPolicy,
    epsilons: Sequence[float],
    *,
    search: PreparedModel | None = None,
    batch_size: int = BATCH_SIZE,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: CancelToken | None = None,
) -> Sweep:
    """Makes one FGSM gradient of each image and judges the step of every radius along it.

    The sign that FGSM follows does not depend on its radius. Verdicts are those of ``attack`` at each radius.

    Args:
        model: Any exit model, frozen and in eval mode; only read.
        images: (N, 3, H, W) in [0, 1].
        labels: True classes, (N,).
        spec: An FGSM attack without random start; only its aim counts.
        policy: In force.
        epsilons: Radii, in pixels of [0, 1].
        search: The model prepared for gradients.
        batch_size: Images whose gradient is taken at a time.
        on_progress: Called after each batch.
        cancel: Checked after each batch.

    Raises:
        ExitLensError: If the attack has more than one step, another start or several exits to choose from, a radius
            lies outside [0, 1], or images, labels or attack do not fit the model.
        Cancelled: Once ``cancel`` is set.
    """
    chooses = spec.objective == "max-average" and model.num_exits > 1
    if spec.num_steps > 1 or spec.random_start or spec.stop_when_fooled or chooses or not epsilons:
        raise ExitLensError(
            "A sweep takes one gradient for all radii: give one radius or more, and FGSM from the image on, not "
            "stopped when fooled and not the worst of several exits."
        )
    if not all(0 <= epsilon <= 1 for epsilon in epsilons):
        raise ExitLensError(f"The radii are {list(epsilons)}; each must lie between 0 and 1.")
    if batch_size < 1:
        raise ExitLensError(f"The batch size is {batch_size}; one image or more is needed.")
    check_input(images, labels, model.num_classes)
    spec.check_model(model.num_exits, model.num_classes)
    started = time.perf_counter()
    seen, applied = aimed(search or model, spec, policy, "nothing")
    assert isinstance(applied, StepAttack)
    judged_under = None if spec.success_rule in FINAL_RULES else policy
    device = device_of(model)
    parts = parts_of(images, device, search)
    at_once, done, reporting = -(-batch_size // len(parts)), list[int](), threading.Lock()

    def one_part(part: range, token: CancelToken) -> list[tuple[Tensor, Tensor, int]]:
        tolerance, made = None, []
        for first in part[::at_once]:
            rows = slice(first, min(first + at_once, part.stop))
            batch, batch_labels = (of[rows].to(device) for of in (images, labels))
            at = batch.clone().requires_grad_(True)
            loss = objective_loss(seen(at), batch_labels, applied, policy)
            (gradient,) = torch.autograd.grad(loss.sum(), at)
            everything = torch.cat([batch, *(_step(batch, gradient, epsilon) for epsilon in epsilons)])
            if search and tolerance is None and len(everything) >= _NUM_COMPARED:
                tolerance = tolerances(model, search, _some(everything))
            verdicts, shape = judge(model, everything, judged_under, search, tolerance), (-1, len(batch))
            made.append((verdicts.prediction.view(shape), verdicts.computed_exit.view(shape), verdicts.num_doubtful))
            with reporting:
                done.append(len(batch))
                if on_progress:
                    on_progress(Progress(sum(done) / len(images), f"{sum(done):,} of {len(images):,} images"))
            end_if(token)
        return made

    with enough_memory(device):
        batches = [batch for made in side_by_side(one_part, parts, cancel).values() for batch in made]
    predictions, exits, doubtful = zip(*batches, strict=True)
    num_doubtful = sum(doubtful)
    prediction, computed_exit = (torch.cat(some, dim=1).to(images.device) for some in (predictions, exits))
    rule = SUCCESS_RULES[spec.success_rule]
    # A static model that answers the same: the rules in question ask for nothing else.
    clean, *adversarial = F.one_hot(prediction, model.num_classes).double()[:, :, None]
    cases = [Case(clean, at_radius, labels, ExitPolicy(), spec.goal_class) for at_radius in adversarial]
    return Sweep(
        spec=spec,
        made_at=policy,
        epsilons=tuple(epsilons),
        attackable=rule.attackable(cases[0]),
        succeeded=torch.stack([rule.succeeded(case) for case in cases]),
        prediction=prediction[1:],
        computed_exit=computed_exit[1:],
        seconds=time.perf_counter() - started,
        precision=search.precision if search else str(images.dtype).removeprefix("torch."),
        num_doubtful=num_doubtful,
    )


def _some(images: Tensor) -> Tensor:
    """As many as are compared, of all radii: attacked images move a copy's logits further than clean ones."""
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:_NUM_COMPARED]
    return images[chosen.to(images.device)]


def _step(images: Tensor, gradient: Tensor, epsilon: float) -> Tensor:
    """The images as stored after one step of full length."""
    stepped = project(images + epsilon * gradient.sign(), images, epsilon)
    return apply_perturbations(images, store_perturbations(images, stepped, epsilon))
