"""The epsilon ladder on a linear model, whose smallest radius is known in closed form."""

import threading
from math import nan

import pandas as pd
import pytest
import torch
from toys import linear_model, toy_images, toy_model

from core.attacks.run import AttackProgress, attack
from core.attacks.spec import fgsm, pgd
from core.attacks.success import SUCCESS_RULES
from core.errors import Cancelled, ExitLensError
from core.exits import ExitPolicy
from core.ladder import EPSILONS, climb_ladder, ladder_steps, median_epsilon

POLICY = ExitPolicy(0.6)


def ids(count: int) -> list[str]:
    return [f"toy/test/{index}" for index in range(count)]


def climbed(model: object, images: torch.Tensor, labels: torch.Tensor, **more: object) -> pd.DataFrame:
    return climb_ladder(model, images, labels, pgd(8 / 255), POLICY, ids(len(images)), **more)  # type: ignore[arg-type]


def test_smallest_epsilon_is_the_first_rung_at_which_the_attack_alone_succeeds() -> None:
    # Mutant: the largest rung, the rung before, or images already fallen attacked again and overwritten.
    model = toy_model(num_exits=3)
    images = toy_images(24)
    labels = model(images)[:, -1].argmax(-1)
    labels[::4] = (labels[::4] + 1) % 4
    ladder = climbed(model, images, labels)
    spec = pgd(8 / 255)
    expected = torch.full((24,), torch.nan, dtype=torch.float64)
    attackable = None
    for epsilon in reversed(EPSILONS):
        result = attack(model, images, labels, pgd(epsilon, step_size=epsilon / 4), POLICY)
        case = result.case(POLICY)
        rule = SUCCESS_RULES[spec.success_rule]
        attackable = rule.attackable(case)
        expected = torch.where(rule.succeeded(case) & attackable, epsilon, expected)
    assert attackable is not None and ladder.attackable.tolist() == attackable.tolist()
    assert 0 < attackable.sum() < 24
    torch.testing.assert_close(torch.tensor(ladder.smallest_epsilon.to_numpy()), expected, equal_nan=True)
    assert ladder.smallest_epsilon.nunique() >= 3


def test_linear_model_falls_at_the_rung_above_its_margin() -> None:
    # Mutant: a step that does not grow with the radius cannot reach the larger ones in one step.
    model = linear_model()
    images = toy_images(6, image_size=2) * 0.5 + 0.25
    labels = model(images)[:, -1].argmax(-1)
    spec = fgsm(1 / 255, objective="final")
    ladder = climb_ladder(model, images, labels, spec, ExitPolicy(1.0), ids(6), epsilons=(1 / 255, 0.1, 0.25))
    for row, image, label in zip(ladder.itertuples(), images, labels, strict=True):
        for epsilon in (1 / 255, 0.1, 0.25):
            result = attack(model, image[None], label[None], fgsm(epsilon, objective="final"), ExitPolicy(1.0))
            falls = bool((result.adversarial_logits[:, -1].argmax(-1) != label).item())
            assert falls == (row.smallest_epsilon <= epsilon)


def test_share_fooled_within_a_radius_never_falls_and_counts_attackable_images_only() -> None:
    # Mutant: all images in the denominator, or the share at a rung instead of within it.
    ladder = pd.DataFrame(
        {
            "image_id": ids(5),
            "attack": "pgd",
            "success_rule": "misclassified_taken",
            "attackable": [True, True, True, True, False],
            "smallest_epsilon": [1 / 255, 4 / 255, 4 / 255, None, None],
            "largest_tried": 4 / 255,
        }
    ).astype({"smallest_epsilon": float})
    steps = ladder_steps(ladder, (0.5 / 255, 1 / 255, 4 / 255))
    assert steps.num_fooled.tolist() == [0, 1, 3] and set(steps.num_images) == {4}
    assert steps.rate.tolist() == [0, 0.25, 0.75]


@pytest.mark.parametrize("epsilons", [(), (0.0, 0.1), (0.2, 0.1), (0.1, 0.1)])
def test_rungs_that_do_not_rise_are_refused(epsilons: tuple[float, ...]) -> None:
    # Mutant: no check: the "smallest" radius of falling rungs is the largest.
    with pytest.raises(ExitLensError, match="must rise"):
        climbed(toy_model(), toy_images(2), torch.zeros(2, dtype=torch.long), epsilons=epsilons)


def test_ladder_is_cancelled_at_its_next_step_and_its_progress_never_falls() -> None:
    # Mutant: progress of each rung by itself, or the token not handed on.
    model, images = toy_model(), toy_images(3)
    labels = model(images)[:, -1].argmax(-1)
    shares: list[float] = []
    climbed(model, images, labels, on_progress=lambda progress: shares.append(progress.share))
    assert shares == sorted(shares) and shares[0] < 0.02 < shares[-1] <= 1
    token = threading.Event()
    seen: list[AttackProgress] = []

    def stop(progress: AttackProgress) -> None:
        seen.append(progress)
        token.set()

    with pytest.raises(Cancelled):
        climbed(model, images, labels, on_progress=stop, cancel=token)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("smallest", "median"),
    [
        ([1, 2, 4], 2),
        ([1, 2, 4, 8], 2),  # half fall within 2; between 2 and 4 nothing was tried
        ([1, 1, nan, nan], 1),
        ([1, nan, nan], nan),  # mutant: the median of those that fell
        ([], nan),
    ],
)
def test_median_counts_images_that_hold_and_is_a_radius_that_was_tried(smallest: list[float], median: float) -> None:
    ladder = pd.DataFrame(
        {"smallest_epsilon": [*smallest, 0.5, 0.5], "attackable": [*[True] * len(smallest), *[False] * 2]}
    )
    assert median_epsilon(ladder) == pytest.approx(median, nan_ok=True)
