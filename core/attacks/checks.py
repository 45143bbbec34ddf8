"""Pre-flight checks: signs that the result of an attack does not mean what it seems to mean.

Each has a code that stays; docs/checks.md explains every one. Sources: Athalye et al., Obfuscated Gradients, ICML
2018, section 3; Carlini et al., On Evaluating Adversarial Robustness, 2019; Croce & Hein, AutoAttack, ICML 2020.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.attacks.aimed import aimed
from core.attacks.common import Norm, strength_words
from core.attacks.objectives import objective_loss
from core.attacks.run import BATCH_SIZE, AttackResult, attack
from core.attacks.spec import CorruptionAttack, LinfAttack, as_255
from core.attacks.success import SUCCESS_RULES
from core.attacks.sweep import sweep_fgsm
from core.evaluation import logits_of
from core.machine import device_of
from core.metrics import Rate, rate
from core.models import ExitModel
from core.models.prepared import PreparedModel
from core.progress import CancelToken, Progress, end_if

CODES = (
    "pixels-out-of-range",
    "zero-gradient",
    "one-step-beats-many",
    "no-growth",
    "saturated",
    "lost-in-rounding",
)
NUM_CHECKED = 64
SATURATED = 0.95
_FEWEST = 5  # attackable images without which no rate says anything
_UNLIKELY = 0.05
_OUTSIDE = 1e-6
_RADIUS_THAT_MUST_DO = 8 / 255
_SHARE_LOST = 0.05


@dataclass(frozen=True)
class Note:
    """One sign that was found.

    Attributes:
        code: One of ``CODES``.
        text: What was seen, in one sentence with its numbers.
    """

    code: str
    text: str


@dataclass(frozen=True)
class Checked:
    """What the checks found.

    Attributes:
        notes: In the order of ``CODES``; none where all is well.
        num_images: Images that the checks ran on.
    """

    notes: tuple[Note, ...]
    num_images: int


def check_attack(
    model: ExitModel,
    result: AttackResult,
    *,
    search: PreparedModel | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: CancelToken | None = None,
) -> Checked:
    """Looks for signs that a result misleads, on its first ``NUM_CHECKED`` images.

    What needs further attacks is only asked of attacks by steps inside the ball of L-infinity.

    Args:
        model: That was attacked; only read.
        result: The attack on it, judged under the policy that it was made at.
        search: The model prepared for gradients.
        on_progress: Called after each check.
        cancel: Looked at after each check, and at each step of a further attack.

    Raises:
        Cancelled: Once ``cancel`` is set.
    """
    some = _first(result, NUM_CHECKED)
    checks: list[Callable[[], Note | None]] = [
        lambda: check_pixels(result.images, result.perturbations, result.spec.epsilon, result.spec.norm),
        lambda: _zero_gradient(model, some),
        lambda: _one_step_beats_many(model, some, search),
        lambda: _no_growth(model, some, search, cancel),
        lambda: _saturated(result),
        lambda: _lost_in_rounding(model, some),
    ]
    notes = []
    for number, check in enumerate(checks, 1):
        note = check()
        notes += [note] if note else []
        if on_progress:
            on_progress(Progress(number / len(checks), f"check {number} of {len(checks)}"))
        end_if(cancel)
    return Checked(tuple(notes), len(some.labels))


def check_pixels(images: Tensor, perturbations: Tensor, epsilon: float, norm: Norm = "linf") -> Note | None:
    """Whether images leave [0, 1], or perturbations their ball, by more than rounding.

    Args:
        images: Clean, (N, 3, H, W).
        perturbations: (N, 3, H, W).
        epsilon: Radius, in pixels of [0, 1].
        norm: Of the ball.
    """
    outside = ~((images >= -_OUTSIDE) & (images <= 1 + _OUTSIDE)).flatten(1).all(dim=1)
    flat = perturbations.double().flatten(1)
    lengths = flat.norm(dim=1) if norm == "l2" else flat.abs().amax(dim=1)
    too_far = ~(lengths <= epsilon + _OUTSIDE)  # NaN goes too far
    if not (outside | too_far).any():
        return None
    return Note(
        "pixels-out-of-range",
        f"{int(outside.sum())} of {len(images)} images have pixels outside 0 to 1, and {int(too_far.sum())} "
        f"perturbations go further than {strength_words(norm, epsilon)}.",
    )


def _zero_gradient(model: ExitModel, result: AttackResult) -> Note | None:
    spec = result.spec
    if not isinstance(spec, LinfAttack):
        return None
    searched, applied = aimed(model, spec, result.made_at, "nothing")
    assert isinstance(applied, LinfAttack)
    flat = []
    device = device_of(model)
    for images, labels in zip(result.images.split(BATCH_SIZE), result.labels.split(BATCH_SIZE), strict=True):
        at = images.to(device, copy=True).requires_grad_(True)
        loss = objective_loss(searched(at), labels.to(device), applied, result.made_at)
        (gradient,) = torch.autograd.grad(loss.sum(), at)
        flat.append((gradient == 0).flatten(1).all(dim=1).to(images.device))
    counted = _attackable(result)
    num_flat = int((torch.cat(flat) & counted).sum())
    if not num_flat:
        return None
    return Note(
        "zero-gradient",
        f"The loss is flat at {num_flat} of {int(counted.sum())} attackable images: a gradient of 0 leads nowhere.",
    )


def _one_step_beats_many(model: ExitModel, result: AttackResult, search: PreparedModel | None) -> Note | None:
    spec, counted = result.spec, _attackable(result)
    if not isinstance(spec, LinfAttack) or spec.num_steps == 1 or not spec.epsilon:
        return None
    one = replace(
        spec,
        name="fgsm",
        num_steps=1,
        step_size=spec.epsilon,
        decay=0.0,
        random_start=False,
        stop_when_fooled=False,
        objective="mean" if spec.objective == "max-average" else spec.objective,
    )
    sweep = sweep_fgsm(model, result.images, result.labels, one, result.made_at, [spec.epsilon], search=search)
    by_one, by_many = sweep.succeeded[0] & counted, _succeeded(result) & counted
    only_one, only_many = int((by_one & ~by_many).sum()), int((by_many & ~by_one).sum())
    if not only_one or _chance_of(only_one, only_one + only_many) > _UNLIKELY:
        return None
    return Note(
        "one-step-beats-many",
        f"One step of full length succeeds on {int(by_one.sum())} of {int(counted.sum())} attackable images, "
        f"{spec.num_steps} steps on {int(by_many.sum())}.",
    )


def _chance_of(num_heads: int, num_tosses: int) -> float:
    """Of so many heads or more."""
    from scipy.stats import binomtest  # a second of every cold start, and most attacks never get here

    chance: float = binomtest(num_heads, num_tosses, alternative="greater").pvalue
    return chance


def _no_growth(
    model: ExitModel, result: AttackResult, search: PreparedModel | None, cancel: CancelToken | None
) -> Note | None:
    spec, share = result.spec, result.success_rate(result.made_at)
    if not isinstance(spec, LinfAttack) or share.num_images < _FEWEST or share.value >= SATURATED:
        return None
    epsilon = min(1.0, max(4 * spec.epsilon, _RADIUS_THAT_MUST_DO))
    if epsilon <= spec.epsilon:  # there is no larger ball
        return None
    wider = replace(spec, epsilon=epsilon, step_size=epsilon if spec.num_steps == 1 else epsilon / 4)
    further = attack(
        model, result.images, result.labels, wider, result.made_at, search=search, watch="nothing", cancel=cancel
    ).success_rate(result.made_at)
    if further.num_hits > share.num_hits:
        return None
    return Note(
        "no-growth",
        f"Within {as_255(epsilon)} the attack succeeds on {_words(further)}, within {as_255(spec.epsilon)} on "
        f"{_words(share)}: more room does not help it.",
    )


def _saturated(result: AttackResult) -> Note | None:
    share = result.success_rate(result.made_at)
    if share.num_images < _FEWEST or share.value < SATURATED:
        return None
    spec = result.spec
    at, advice = f"at {spec.strength} " if spec.strength else "", "A smaller epsilon"
    if not spec.is_bounded:
        advice = "A lower severity" if isinstance(spec, CorruptionAttack) else "A form inside a ball"
    return Note(
        "saturated",
        f"The attack succeeds on {_words(share)}: {at}models, exits and attacks can no longer be told apart. "
        f"{advice} tells more.",
    )


def _lost_in_rounding(model: ExitModel, result: AttackResult) -> Note | None:
    hit = _succeeded(result) & _attackable(result)
    rows = hit.nonzero()[:, 0]
    if not len(rows):
        return None
    rounded = (result.adversarial[rows] * 255).round() / 255
    logits = logits_of(model, rounded)
    chosen = replace(result.case(result.made_at), clean_logits=result.clean_logits[rows], labels=result.labels[rows])
    still = SUCCESS_RULES[result.spec.success_rule].succeeded(replace(chosen, adversarial_logits=logits))
    lost = rate(int((~still).sum()), len(rows))
    if lost.value <= _SHARE_LOST:
        return None
    return Note(
        "lost-in-rounding",
        f"{lost.num_hits} of {lost.num_images} successes are gone once pixels are rounded to 8 bits, as in a PNG file.",
    )


def _first(result: AttackResult, count: int) -> AttackResult:
    """The result on its first images."""
    return replace(
        result,
        images=result.images[:count],
        labels=result.labels[:count],
        perturbations=result.perturbations[:count],
        clean_logits=result.clean_logits[:count],
        adversarial_logits=result.adversarial_logits[:count],
        steps=(),
    )


def _succeeded(result: AttackResult) -> Tensor:
    return SUCCESS_RULES[result.spec.success_rule].succeeded(result.case(result.made_at))


def _attackable(result: AttackResult) -> Tensor:
    return SUCCESS_RULES[result.spec.success_rule].attackable(result.case(result.made_at))


def _words(share: Rate) -> str:
    return f"{share.num_hits} of {share.num_images} attackable images"
