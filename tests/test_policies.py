"""Policies that go by entropy or patience: by hand, by law, and really stopping."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import toy_images, toy_model

from core.errors import ExitLensError
from core.exits import (
    ExitAnswers,
    ExitPolicy,
    agreeing,
    certainties,
    decide,
    decide_from_confidences,
    dynamic_agreement,
    run_dynamic,
)


def test_certainty_by_hand() -> None:
    # Mutants: entropy in bits; not over its largest possible value; 0 for the sure instead of the unsure.
    logits = torch.tensor([[[0.5, 0.25, 0.125, 0.125], [0.25, 0.25, 0.25, 0.25]]]).double().log()
    assert certainties(logits)[0].tolist() == pytest.approx([1 - 1.75 / 2, 0.0])
    assert certainties(torch.tensor([[[math.inf, 0.0]]]).clamp(max=1e4)).item() == 1


def test_agreeing_counts_exits_in_a_row() -> None:
    # Mutants: agreements counted over all exits; the exit itself left out.
    assert agreeing(torch.tensor([[1, 1, 2, 2, 2], [0, 1, 0, 1, 0], [3, 3, 3, 3, 3]])).tolist() == [
        [1, 2, 1, 2, 3],
        [1, 1, 1, 1, 1],
        [1, 2, 3, 4, 5],
    ]


def test_patience_leaves_at_the_exit_that_agrees_often_enough() -> None:
    # Mutants: the first of the agreeing exits; one exit too late.
    predicted = torch.tensor([[1, 1, 2, 2], [0, 1, 0, 0], [0, 1, 2, 0]])
    confidence = torch.tensor([[0.5, 0.6, 0.7, 0.8]] * 3)
    two = decide_from_confidences(confidence, predicted, ExitPolicy(2, score="patience"))
    assert two.computed_exit.tolist() == [1, 3, 3] and two.prediction.tolist() == [1, 0, 0]
    assert decide_from_confidences(
        confidence, predicted, ExitPolicy(1, score="patience")
    ).computed_exit.tolist() == [0, 0, 0]  # fmt: skip
    sure = decide_from_confidences(confidence.flip(1), predicted, ExitPolicy(3, "most_confident", "patience"))
    assert sure.computed_exit.tolist() == [3, 3, 3] and sure.answered_exit.tolist() == [0, 0, 0]


def test_entropy_and_confidence_leave_at_different_exits() -> None:
    # Mutant: the score of a policy forgotten. 0.6 with the rest on one class is surer than 0.6 with the rest spread.
    logits = torch.tensor([[[0.6, 0.4, 0.0, 0.0], [0.6, 0.14, 0.13, 0.13]]]).double().clamp(min=1e-12).log()
    assert decide(logits, ExitPolicy(0.4, score="entropy")).computed_exit.item() == 0
    assert decide(logits.flip(1), ExitPolicy(0.4, score="entropy")).computed_exit.item() == 1
    with pytest.raises(ValueError, match="certainty"):
        decide_from_confidences(torch.ones(1, 2), torch.zeros(1, 2), ExitPolicy(0.4, score="entropy"))


SCORES = [("entropy", threshold / 10) for threshold in range(11)] + [("patience", count) for count in (1, 2, 3, 9)]


@pytest.mark.parametrize(("score", "threshold"), SCORES)
@pytest.mark.parametrize("fallback", ["final", "most_confident"])
def test_stopping_early_decides_as_all_logits_do(score: str, threshold: float, fallback: str) -> None:
    # Mutants: rows of images that left kept in the count; a count that starts at 0.
    model, images = toy_model(num_exits=5), toy_images(40, seed=3)
    policy = ExitPolicy(threshold, fallback, score)  # type: ignore[arg-type]
    agreement = dynamic_agreement(run_dynamic(model, images, policy), model(images), policy)
    assert agreement.num_different == 0 and (threshold in (0, 1) or agreement.num_near == 0)


@given(st.sampled_from(["entropy", "patience"]), st.integers(1, 5), st.integers(0, 3))
def test_raising_the_threshold_never_exits_earlier(score: str, level: int, seed: int) -> None:
    # Mutant: leave where entropy is high.
    answers = ExitAnswers.of(toy_model(num_exits=5)(toy_images(8, seed=seed)))
    lower, higher = (level, level + 1) if score == "patience" else (level / 10, (level + 1) / 10)
    one, other = (answers.decide(ExitPolicy(bar, score=score)).computed_exit for bar in (lower, higher))  # type: ignore[arg-type]
    assert (one <= other).all()


@pytest.mark.parametrize(("threshold", "score"), [(0, "patience"), (1.5, "patience"), (1.1, "entropy"), (0.5, "luck")])
def test_a_policy_out_of_range_is_refused(threshold: float, score: str) -> None:
    # Mutant: a patience of half an exit.
    with pytest.raises(ExitLensError):
        ExitPolicy(threshold, score=score)  # type: ignore[arg-type]
