"""Pre-flight checks: signs that the result of an attack does not mean what it seems to mean.

Each has a code that stays; docs/checks.md explains every one. Sources: Athalye et al., Obfuscated Gradients, ICML
2018, section 3; Carlini et al., On Evaluating Adversarial Robustness, 2019; Croce & Hein, AutoAttack, ICML 2020.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.attacks.common import Norm, strength_words
from core.attacks.run import METHODS, AttackResult, attack
from core.attacks.spec import CorruptionAttack, L2Attack, LinfAttack, StepAttack
from core.attacks.success import SUCCESS_RULES, Case
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
_RADIUS_THAT_MUST_DO: dict[Norm, float] = {"linf": 8 / 255, "l2": 1.0}
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
        left_out: Codes that mean nothing of this attack and were not looked for.
    """

    notes: tuple[Note, ...]
    num_images: int
    left_out: tuple[str, ...] = ()


def check_attack(
    model: ExitModel,
    result: AttackResult,
    *,
    search: PreparedModel | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: CancelToken | None = None,
) -> Checked:
    """Looks for signs that a result misleads: pixels and saturation on all images, the others on ``NUM_CHECKED``.

    Each is looked for only where it would be a sign; docs/checks.md says where that is.

    Args:
        model: That was attacked; only read.
        result: The attack on it; judged under the policy that it was made at.
        search: The model prepared for gradients.
        on_progress: Called after each check.
        cancel: Looked at after each check, and at each step of a further attack.

    Raises:
        Cancelled: Once ``cancel`` is set.
    """
    some, spec = _first(result, NUM_CHECKED), result.spec
    checks: dict[str, Callable[[], Note | None]] = {
        "pixels-out-of-range": lambda: check_pixels(result.images, result.perturbations, spec.epsilon, spec.norm),
        "saturated": lambda: _saturated(result),
        "lost-in-rounding": lambda: _lost_in_rounding(model, some),
    }
    if not isinstance(spec, CorruptionAttack):
        checks["zero-gradient"] = lambda: _zero_gradient(model, some)
    if isinstance(spec, LinfAttack) and spec.num_steps > 1 and 0 < spec.epsilon <= spec.num_steps * spec.step_size:
        checks["one-step-beats-many"] = lambda: _one_step_beats_many(model, some, spec, search)
    # One step is no search: a longer one along the same line may well pass over what a shorter one hits.
    if isinstance(spec, StepAttack) and spec.num_steps > 1 and spec.epsilon < spec.max_radius:
        checks["no-growth"] = lambda: _no_growth(model, some, spec, search, cancel)
    notes = []
    for number, check in enumerate(sorted(checks, key=CODES.index), 1):
        note = checks[check]()
        notes += [note] if note else []
        if on_progress:
            on_progress(Progress(number / len(checks), f"check {number} of {len(checks)}"))
        end_if(cancel)
    return Checked(tuple(notes), len(some.labels), tuple(code for code in CODES if code not in checks))


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
    device, loss_of = device_of(model), METHODS[type(result.spec)].loss
    at = result.images.to(device, copy=True).requires_grad_(True)
    clean, labels = result.clean_logits.to(device), result.labels.to(device)
    loss = loss_of(Case(clean, model(at), labels, result.made_at, result.spec.goal_class), result.spec)
    (gradient,) = torch.autograd.grad(loss.sum(), at)
    is_flat = (gradient == 0).flatten(1).all(dim=1).to(result.images.device)
    counted = _attackable(result)
    num_flat = int((is_flat & counted).sum())
    if not num_flat:
        return None
    return Note(
        "zero-gradient",
        f"The loss is flat at {num_flat} of {int(counted.sum())} attackable images: a gradient of 0 leads nowhere.",
    )


def _one_step_beats_many(
    model: ExitModel, result: AttackResult, spec: LinfAttack, search: PreparedModel | None
) -> Note | None:
    counted = _attackable(result)
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
    model: ExitModel,
    result: AttackResult,
    spec: StepAttack,
    search: PreparedModel | None,
    cancel: CancelToken | None,
) -> Note | None:
    share = result.success_rate(result.made_at)
    if share.num_images < _FEWEST or share.value >= SATURATED:
        return None
    epsilon = min(spec.max_radius, max(4 * spec.epsilon, _RADIUS_THAT_MUST_DO[spec.norm]))
    wider = replace(spec, epsilon=epsilon, step_size=epsilon / min(4, spec.num_steps))
    assert isinstance(wider, LinfAttack | L2Attack)
    further = attack(
        model, result.images, result.labels, wider, result.made_at, search=search, watch="nothing", cancel=cancel
    ).success_rate(result.made_at)
    if further.num_hits > share.num_hits:
        return None
    return Note(
        "no-growth",
        f"Within {strength_words(spec.norm, epsilon)} the attack succeeds on {_words(further)}, within "
        f"{strength_words(spec.norm, spec.epsilon)} on {_words(share)}: more room does not help it.",
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
