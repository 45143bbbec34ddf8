"""Exit policies: who leaves where, by hand and by law, and that stopping early decides the same."""

import math
import threading
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toys import linear_layers, linear_model, record_inputs, settle, toy_images, toy_model

from core.data import open_image_set
from core.errors import Cancelled, ExitLensError
from core.exits import (
    NEAR_THRESHOLD,
    ExitDecisions,
    ExitPolicy,
    confidences,
    decide,
    decide_from_confidences,
    dynamic_agreement,
    run_dynamic,
)
from core.models import ARCHITECTURES, ExitModel, build_model
from core.models.classifiers import ExitNetwork

FALLBACKS = ("final", "most_confident")
EVERY_FALLBACK = pytest.mark.parametrize("fallback", FALLBACKS)


def logits_of(probabilities: Sequence[Sequence[Sequence[float]]]) -> Tensor:
    """Logits whose softmax is these probabilities, (N, K, C)."""
    return torch.tensor(probabilities, dtype=torch.float64).log()


# By hand: three exits, three classes, one image per row.
WORKED = logits_of(
    [
        [[0.95, 0.03, 0.02], [0.01, 0.98, 0.01], [0.1, 0.1, 0.8]],  # sure at once
        [[0.6, 0.3, 0.1], [0.05, 0.92, 0.03], [0.02, 0.03, 0.95]],  # sure at exit 2
        [[0.5, 0.3, 0.2], [0.2, 0.1, 0.7], [0.3, 0.6, 0.1]],  # never sure, most confident at exit 2
        [[0.3, 0.3, 0.4], [0.4, 0.35, 0.25], [0.04, 0.94, 0.02]],  # sure at the end
    ]
)


def test_worked_example_with_the_final_exit_as_fallback() -> None:
    # Mutant: the last confident exit in place of the first, or the most confident one always.
    decisions = decide(WORKED, ExitPolicy(0.9, "final"))
    assert decisions.answered_exit.tolist() == [0, 1, 2, 2]
    assert decisions.computed_exit.tolist() == [0, 1, 2, 2]
    assert decisions.prediction.tolist() == [0, 1, 1, 1]
    assert decisions.confidence.tolist() == pytest.approx([0.95, 0.92, 0.6, 0.94])


def test_worked_example_with_the_most_confident_exit_as_fallback() -> None:
    # Mutant: computed_exit = answered_exit: an image that computed everything would be counted as cheap.
    decisions = decide(WORKED, ExitPolicy(0.9, "most_confident"))
    assert decisions.answered_exit.tolist() == [0, 1, 1, 2]
    assert decisions.computed_exit.tolist() == [0, 1, 2, 2]
    assert decisions.prediction.tolist() == [0, 1, 2, 1]
    assert decisions.confidence.tolist() == pytest.approx([0.95, 0.92, 0.7, 0.94])


def test_costs_are_those_of_the_last_exit_computed() -> None:
    # Mutant: the cost of answered_exit.
    decisions = decide(WORKED, ExitPolicy(0.9, "most_confident"))
    assert decisions.costs((0.2, 0.5, 1.0)).tolist() == [0.2, 0.5, 1.0, 1.0]


@EVERY_FALLBACK
def test_confidence_equal_to_the_threshold_leaves(fallback: str) -> None:
    # Mutant: > in place of >=.
    confidence = torch.tensor([[0.5, 0.75, 0.6], [0.5, 0.74, 0.6]])
    decisions = decide_from_confidences(confidence, torch.zeros(2, 3, dtype=torch.long), ExitPolicy(0.75, fallback))
    assert decisions.computed_exit.tolist() == [1, 2]
    model, images = linear_model(num_exits=3, num_classes=4), toy_images(2, image_size=2)
    for layer in linear_layers(model):
        layer.weight.zero_()
        layer.bias.zero_()  # four equal logits: a confidence of exactly 1/4 at every exit
    assert run_dynamic(model, images, ExitPolicy(0.25, fallback)).computed_exit.tolist() == [0, 0]


def test_tie_between_unsure_exits_goes_to_the_earlier_one() -> None:
    # Mutant: >= where run_dynamic remembers the best exit so far.
    policy = ExitPolicy(0.9, "most_confident")
    assert decide(logits_of([[[0.6, 0.4], [0.4, 0.6], [0.5, 0.5]]]), policy).answered_exit.tolist() == [0]
    model, images = linear_model(num_exits=3), toy_images(2, image_size=2)
    for layer, answer in zip(linear_layers(model), range(3), strict=True):
        layer.weight.zero_()
        layer.bias.zero_()[answer] = 1  # three exits, equally confident of three answers
    for decisions in (decide(model(images), policy), run_dynamic(model, images, policy)):
        assert decisions.answered_exit.tolist() == decisions.prediction.tolist() == [0, 0]
        assert decisions.computed_exit.tolist() == [2, 2]


@EVERY_FALLBACK
def test_threshold_zero_leaves_at_the_first_exit(fallback: str) -> None:
    # Mutant: the first exit skipped.
    decisions = decide(WORKED, ExitPolicy(0.0, fallback))
    assert decisions.answered_exit.tolist() == decisions.computed_exit.tolist() == [0, 0, 0, 0]
    assert decisions.prediction.tolist() == [0, 0, 0, 2]


@EVERY_FALLBACK
def test_threshold_one_computes_everything(fallback: str) -> None:
    # Mutant: no way to switch early exits off.
    assert decide(WORKED, ExitPolicy(1.0, fallback)).computed_exit.tolist() == [2, 2, 2, 2]


@EVERY_FALLBACK
@pytest.mark.parametrize("threshold", [0.0, 0.9, 1.0])
def test_static_model_always_answers_at_its_one_exit(fallback: str, threshold: float) -> None:
    # Mutant: special treatment of the last exit that fails where it is also the first.
    model, images, policy = toy_model(num_exits=1), toy_images(), ExitPolicy(threshold, fallback)
    for decisions in (decide(model(images), policy), run_dynamic(model, images, policy)):
        assert decisions.computed_exit.tolist() == decisions.answered_exit.tolist() == [0] * 6
        assert torch.equal(decisions.prediction, model(images)[:, 0].argmax(-1))


# Laws

# Eighths, so that equal confidences and confidences equal to the threshold do occur.
EIGHTHS = st.integers(0, 8).map(lambda number: number / 8)
CONFIDENCES = st.integers(1, 5).flatmap(
    lambda num_exits: st.lists(st.lists(EIGHTHS, min_size=num_exits, max_size=num_exits), min_size=1, max_size=6)
)


def classes_like(confidence: Tensor) -> Tensor:
    """A class per exit that tells which one answered."""
    return torch.arange(confidence.shape[1]).expand(confidence.shape)


@given(CONFIDENCES, EIGHTHS, st.sampled_from(FALLBACKS))
def test_decisions_equal_a_loop_over_images_and_exits(rows: list[list[float]], threshold: float, fallback: str) -> None:
    # Mutant: any change of the rule. The loop below is the definition, read aloud.
    confidence = torch.tensor(rows)
    decisions = decide_from_confidences(confidence, classes_like(confidence), ExitPolicy(threshold, fallback))
    for index, row in enumerate(rows):
        last = len(row) - 1
        sure = [exit_index for exit_index in range(last) if row[exit_index] >= threshold]
        computed = sure[0] if sure else last
        answered = computed
        if not sure and row[last] < threshold and fallback == "most_confident":
            answered = row.index(max(row))
        assert decisions.computed_exit[index] == computed
        assert row[decisions.answered_exit[index]] == row[answered] == decisions.confidence[index]
        assert decisions.prediction[index] == decisions.answered_exit[index] == answered


@given(CONFIDENCES, EIGHTHS, EIGHTHS, st.sampled_from(FALLBACKS))
def test_raising_the_threshold_never_exits_earlier(
    rows: list[list[float]], one: float, other: float, fallback: str
) -> None:
    # Mutant: leave where the confidence is below the threshold.
    confidence = torch.tensor(rows)
    lower, higher = (
        decide_from_confidences(confidence, classes_like(confidence), ExitPolicy(threshold, fallback)).computed_exit
        for threshold in sorted((one, other))
    )
    assert (lower <= higher).all()


def test_confidence_is_the_largest_softmax_probability() -> None:
    # Mutant: the largest logit, or a softmax over exits.
    expected = torch.tensor([[0.95, 0.98, 0.8], [0.6, 0.92, 0.95], [0.5, 0.7, 0.6], [0.4, 0.4, 0.94]])
    torch.testing.assert_close(confidences(WORKED + 3), expected.double())


# Really stopping


def thresholds_between(confidence: Tensor, count: int) -> list[float]:
    """Thresholds in the middle of gaps between early confidences, so that none lies near one; 0 and 1 too."""
    values = confidence[:, :-1].flatten().double().sort().values
    gaps = values.diff()
    wide = (gaps > 4 * NEAR_THRESHOLD).nonzero().flatten()
    chosen = wide[torch.linspace(0, len(wide) - 1, count).long()]
    return [0.0, *((values[chosen] + values[chosen + 1]) / 2).tolist(), 1.0]


def check_dynamic_against_all_logits(model: ExitModel, images: Tensor, fallback: str) -> None:
    with torch.no_grad():
        logits = model(images)
    exits_taken = set()
    for threshold in thresholds_between(confidences(logits), 12):
        policy = ExitPolicy(threshold, fallback)
        dynamic, full = run_dynamic(model, images, policy), decide(logits, policy)
        agreement = dynamic_agreement(dynamic, logits, policy)
        # Near 1 confidences may lie near the threshold 1; every other threshold has room on both sides.
        assert (agreement.num_images, agreement.num_different) == (len(images), 0)
        assert agreement.num_near == 0 or threshold == 1
        torch.testing.assert_close(dynamic.confidence, full.confidence, rtol=0, atol=NEAR_THRESHOLD)
        exits_taken |= set(dynamic.computed_exit.tolist())
    assert len(exits_taken) >= 3, "all images leave at one place, so agreement shows nothing"


@EVERY_FALLBACK
def test_stopping_early_decides_as_all_logits_do_on_a_toy(fallback: str) -> None:
    # Mutant: features not narrowed with the undecided images; confidence of the wrong rows; ties to the later exit.
    check_dynamic_against_all_logits(toy_model(num_exits=4), toy_images(60, seed=3), fallback)


@pytest.fixture(scope="module")
def spread_resnet56() -> tuple[ExitNetwork, Tensor]:
    """A freshly drawn ResNet-56 whose exits really differ, and sixty images it has statistics of."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("resnet56", "cifar10", ARCHITECTURES["resnet56"].exit_positions)
    samples = open_image_set("cifar10:samples").pixels()
    images = torch.cat([samples, samples.flip(3), 1 - samples])
    return settle(model.requires_grad_(False), images), images


@EVERY_FALLBACK
def test_stopping_early_decides_as_all_logits_do_on_resnet56(
    spread_resnet56: tuple[ExitNetwork, Tensor], fallback: str
) -> None:
    # Mutant: as on the toy, in float32, where the batch size moves logits by about 2e-6.
    check_dynamic_against_all_logits(*spread_resnet56, fallback)


@EVERY_FALLBACK
def test_most_confident_answers_come_from_exits_before_the_last_computed(fallback: str) -> None:
    # Mutant: the fallback ignored by run_dynamic (then nothing differs and the laws above say little).
    model, images = toy_model(num_exits=4), toy_images(60, seed=3)
    dynamic = run_dynamic(model, images, ExitPolicy(0.97, fallback))
    earlier = (dynamic.answered_exit < dynamic.computed_exit).sum()
    assert (earlier > 5) == (fallback == "most_confident") and (fallback == "most_confident" or earlier == 0)


@EVERY_FALLBACK
@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.8, 0.95, 1.0])
def test_each_stage_is_computed_for_undecided_images_only(fallback: str, threshold: float) -> None:
    # Mutant: return decide(model(images), policy).
    model, images = toy_model(num_exits=4), toy_images(60, seed=3)
    policy = ExitPolicy(threshold, fallback)
    computed = decide(model(images), policy).computed_exit
    inputs = record_inputs(model)
    run_dynamic(model, images, policy)
    for exit_index in range(4):
        still_there = int((computed >= exit_index).sum())
        expected = [still_there] if still_there else []
        classifier = f"exit {exit_index}" if exit_index < 3 else "tail"
        for part in (f"block {exit_index}", classifier):
            assert [len(features) for features in inputs[part]] == expected
    if threshold in (0.6, 0.8):
        assert len(set(computed.tolist())) >= 3


@EVERY_FALLBACK
@pytest.mark.parametrize("score", ["confidence", "patience"])
@pytest.mark.parametrize("batch_size", [1, 7, 16, 59, 60, 1000])
def test_images_left_of_several_batches_wait_for_a_whole_one(fallback: str, score: str, batch_size: int) -> None:
    # Mutants: rows of one batch written to those of another; what waits at the end forgotten; batches that shrink.
    model, images = toy_model(num_exits=4), toy_images(60, seed=3)
    policy = ExitPolicy(0.8, fallback) if score == "confidence" else ExitPolicy(2, fallback, "patience")
    full = decide(model(images), policy)
    inputs = record_inputs(model)
    dynamic = run_dynamic(model, images, policy, batch_size=batch_size)
    for name in ("answered_exit", "computed_exit", "prediction"):
        assert torch.equal(getattr(dynamic, name), getattr(full, name))
    assert torch.allclose(dynamic.confidence, full.confidence)
    for exit_index in range(1, 4):
        sizes = [len(features) for features in inputs[f"block {exit_index}"]]
        num_there = int((full.computed_exit >= exit_index).sum())
        assert sum(sizes) == num_there and len(sizes) == math.ceil(num_there / batch_size)


def test_a_run_that_stops_is_cancelled_between_batches_and_refuses_batches_of_none() -> None:
    # Mutants: cancelled only once all stages are through; no images at a time taken for all of them.
    model, images, cancel = toy_model(num_exits=4), toy_images(60, seed=3), threading.Event()
    begun: list[int] = []

    def at_the_stem(*_: object) -> None:
        begun.append(1)
        if len(begun) == 2:
            cancel.set()

    model.backbone.stem.register_forward_hook(at_the_stem)
    with pytest.raises(Cancelled):
        run_dynamic(model, images, ExitPolicy(0.8), batch_size=10, cancel=cancel)
    assert len(begun) == 2
    with pytest.raises(ExitLensError, match="batch size is 0"):
        run_dynamic(model, images, ExitPolicy(0.8), batch_size=0)


def test_features_keep_their_memory_order_while_they_wait() -> None:
    # Mutant: features gathered channels first, which every later layer would turn round again.
    model, images = toy_model(num_exits=4), toy_images(60, seed=3).contiguous(memory_format=torch.channels_last)
    model = model.to(memory_format=torch.channels_last)
    inputs = record_inputs(model)
    run_dynamic(model, images, ExitPolicy(0.8), batch_size=16)
    waited = [features for part in ("block 1", "block 2", "block 3") for features in inputs[part]]
    assert len(waited) > 3
    assert all(features.is_contiguous(memory_format=torch.channels_last) for features in waited)


def test_undecided_images_keep_their_own_features() -> None:
    # Mutant: narrow the row numbers but not the features. The linear toy's logits say whose pixels entered.
    model, images = linear_model(num_exits=3, num_classes=4), toy_images(40, image_size=2)
    policy = ExitPolicy(0.8, "final")
    leaves_later = decide(model(images), policy).computed_exit > 0
    inputs = record_inputs(model)
    run_dynamic(model, images, policy)
    assert 5 < leaves_later.sum() < 35
    assert torch.equal(inputs["block 1"][0], images[leaves_later])


@EVERY_FALLBACK
def test_empty_batch_gives_empty_decisions(fallback: str) -> None:
    # Mutant: a maximum over no images.
    model, nothing = toy_model(), toy_images()[:0]
    for decisions in (decide(model(nothing), ExitPolicy(0.9, fallback)), run_dynamic(model, nothing, ExitPolicy())):
        assert [len(column) for column in vars(decisions).values()] == [0, 0, 0, 0]
        assert decisions.costs((0.5, 0.7, 1.0)).tolist() == []


def test_running_leaves_the_model_and_the_images_alone() -> None:
    # Mutant: features narrowed in place, or a mode switched.
    model, images = toy_model(), toy_images()
    weights, pixels = {name: value.clone() for name, value in model.state_dict().items()}, images.clone()
    run_dynamic(model, images, ExitPolicy(0.7))
    assert torch.equal(images, pixels) and not model.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


# Agreement counts


def test_agreement_counts_differences_and_leaves_out_images_near_the_threshold() -> None:
    # Mutant: always 0 different; or near images counted as different.
    policy = ExitPolicy(0.9)
    near = 0.9 + NEAR_THRESHOLD / 2
    logits = torch.cat([WORKED, logits_of([[[near, 0.05, 0.95 - near], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1]]])])
    full = decide(logits, policy)
    same = dynamic_agreement(full, logits, policy)
    assert (same.num_images, same.num_near, same.num_different) == (5, 1, 0)

    def with_change(field: str, row: int) -> ExitDecisions:
        fields = {name: value.clone() for name, value in vars(full).items()}
        fields[field][row] += 1
        return ExitDecisions(**fields)

    for field in ("answered_exit", "computed_exit", "prediction"):
        assert dynamic_agreement(with_change(field, 1), logits, policy).num_different == 1
        assert dynamic_agreement(with_change(field, 4), logits, policy).num_different == 0


# What is refused


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_logit_that_is_not_finite_is_refused(bad: float) -> None:
    # Mutant: no check; NaN is never confident, so a broken model would just look slow.
    logits = WORKED.clone()
    logits[2, 1, 0] = bad
    with pytest.raises(ExitLensError, match="not finite"):
        decide(logits, ExitPolicy())
    model = toy_model()
    model.exits[1].linear.bias.fill_(bad)
    with pytest.raises(ExitLensError, match="not finite"):
        run_dynamic(model, toy_images(), ExitPolicy(1.0))


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 2, 2, 2)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    # Mutant: (N, C) of a foreign model read as (N, K).
    with pytest.raises(ExitLensError, match="images, exits, classes"):
        decide(torch.zeros(shape), ExitPolicy())


@pytest.mark.parametrize("threshold", [-0.1, 1.1, 90, float("nan")])
def test_threshold_outside_zero_to_one_is_refused(threshold: float) -> None:
    # Mutant: 90 percent accepted as 90; NaN slips through `threshold < 0 or threshold > 1`.
    with pytest.raises(ExitLensError, match="between 0 and 1"):
        ExitPolicy(threshold)


def test_unknown_fallback_is_refused_with_the_known_ones() -> None:
    # Mutant: anything but most_confident taken as final.
    with pytest.raises(ExitLensError, match="final, most_confident"):
        ExitPolicy(0.9, "last")  # type: ignore[arg-type]
