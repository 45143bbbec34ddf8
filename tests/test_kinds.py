"""What holds of every kind of attack: specs, storage, batches, records, models left alone."""

import threading
from dataclasses import fields, replace

import pytest
import torch
from pydantic import TypeAdapter
from test_attacks import images_at_the_edges, labels_of, mostly_right_labels
from toys import toy_image_set, toy_images, toy_model

from core.attacks import (
    AttackProgress,
    AttackSpec,
    CorruptionAttack,
    EarlyAttack,
    L2Attack,
    LinfAttack,
    PublishedEarlyAttack,
    SlowdownAttack,
    UniversalAttack,
    WorstCaseAttack,
    attack,
)
from core.attacks.run import METHODS, apply_perturbations
from core.attacks.spec import early, fgsm, l2_attack, pgd
from core.attacks.steps import Step
from core.corruptions import CORRUPTIONS
from core.errors import Cancelled, ExitLensError
from core.exits import ExitPolicy, decide
from core.experiment import ExperimentSpec
from core.models.prepared import prepared

POLICY = ExitPolicy(0.7)
SPECS: dict[str, AttackSpec] = {
    "linf": pgd(num_steps=3),
    "max-average": pgd(num_steps=3, objective="max-average", random_start=True),
    "l2": l2_attack("pgd", 0.3, num_steps=3, random_start=True),
    "l2 momentum": l2_attack("mi-fgsm", 0.3, num_steps=3, goal_class=1),
    "early": early(num_steps=3),
    "published": PublishedEarlyAttack(num_steps=12, num_forced=4, learning_rate=0.1),
    "projected": PublishedEarlyAttack(num_steps=6, epsilon=8 / 255, start="image", loss="logits"),
    "slowdown": SlowdownAttack(num_steps=4, step_size=0.01),
    "confidence": SlowdownAttack(num_steps=4, loss="confidence", step_size=0.02, epsilon=0.1),
    "universal": UniversalAttack(num_steps=4, fitted_on="toy:validation"),
    "universal slowdown": UniversalAttack(num_steps=4, objective="slowdown", fitted_on="toy:validation"),
    "worst case": WorstCaseAttack(num_steps=3, epsilon=4 / 255, step_size=2 / 255),
    "noise": CorruptionAttack(name="gaussian-noise"),
    "blur": CorruptionAttack(name="gaussian-blur", severity=5),
    "elastic": CorruptionAttack(name="elastic", severity=4),
}
EACH = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


@pytest.fixture(autouse=True)
def _fitting_images(monkeypatch):
    """Universal perturbations are fitted on toy images."""
    monkeypatch.setattr("core.attacks.universal.open_image_set", lambda name: toy_image_set(10, seed=5))


@pytest.mark.parametrize("kind", METHODS)
def test_every_kind_that_can_be_carried_out_is_looked_at_here(kind):
    """Mutant: a kind without a method, or a new one that no law below looks at."""
    assert kind in {type(spec) for spec in SPECS.values()}


@EACH
def test_a_spec_that_was_written_down_is_read_back_as_what_it_was(spec):
    """Mutant: ``name`` any text in two kinds, so that one is read as the other."""
    asked = ExperimentSpec("toy:test:0", ("a",), ("a",), spec, POLICY)
    adapter = TypeAdapter(ExperimentSpec)
    back = adapter.validate_json(adapter.dump_json(asked))
    assert back == asked and type(back.attack) is type(spec) and hash(back) == hash(asked)


@EACH
def test_what_is_stored_stays_in_the_ball_and_in_the_pixel_range_and_is_what_was_judged(spec):
    """Mutant: a ball of the other norm at storing, a projection left out, or verdicts of the search kept."""
    model, images = toy_model(), images_at_the_edges(20)
    result = attack(model, images, labels_of(20), spec, POLICY)
    stored = result.perturbations.double()
    length = stored.flatten(1).norm(dim=1) if spec.norm == "l2" else stored.abs().flatten(1).amax(dim=1)
    assert length.max() <= spec.epsilon
    assert length.max() > (0.5 * spec.epsilon if spec.is_bounded else 0.02)
    assert result.adversarial.min() >= 0 and result.adversarial.max() <= 1
    assert torch.equal(model(apply_perturbations(images, result.perturbations)), result.adversarial_logits)


@EACH
def test_batch_size_and_order_change_nothing(spec):
    """Mutant: noise, momentum, a stop or a choice shared between the images of a batch."""
    model, images = toy_model(), toy_images(17)
    labels = mostly_right_labels(model, images)
    whole = attack(model, images, labels, spec, POLICY)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(0))
    for size in (1, 5):
        part = attack(model, images[order], labels[order], spec, POLICY, batch_size=size)
        assert torch.equal(part.perturbations, whole.perturbations[order])
        for step, whole_step in zip(part.steps, whole.steps, strict=True):
            for field in fields(Step):
                one, other = getattr(step, field.name), getattr(whole_step, field.name)[order]
                assert torch.allclose(one, other, rtol=0, atol=1e-9), field.name


@EACH
def test_the_record_begins_where_the_attack_does_and_ends_with_the_stored_images(spec):
    """Mutant: a record missing, or the last one that of the search."""
    model, images, labels = toy_model(), toy_images(9), labels_of(9)
    result = attack(model, images, labels, spec, POLICY)
    assert len(result.steps) == (2 if isinstance(spec, UniversalAttack) else spec.num_steps + 1)
    ends = [(result.steps[-1], result.adversarial_logits)]
    starts_elsewhere = getattr(spec, "random_start", False) or getattr(spec, "start", "") == "random"
    ends += [] if starts_elsewhere else [(result.steps[0], result.clean_logits)]
    for step, logits in ends:
        # tanh reaches the edges of [0, 1] at infinity only, so such an image starts a little inside.
        near = 1e-4 if isinstance(spec, PublishedEarlyAttack) else 1e-9
        assert torch.allclose(step.confidence, logits.softmax(-1).amax(-1), rtol=0, atol=near)
        assert torch.equal(step.exit_taken, decide(logits, POLICY).computed_exit)
    assert all(torch.isfinite(step.loss).all() for step in result.steps)


@EACH
def test_what_exits_say_of_clean_images_is_not_the_search_s_to_say(spec):
    """Mutant: the start as the search saw it: at 0.90 an image left at Exit 6 here and at the final exit there."""
    model, images, labels = toy_model(), toy_images(9), labels_of(9)
    search = prepared(model, "float32")
    start = attack(model, images, labels, spec, POLICY, search=search).steps[0]
    clean = model(images).softmax(-1)
    confidence, predicted = clean.max(-1)
    said = (start.confidence, start.predicted, start.true_probability)
    own = (confidence, predicted, clean[torch.arange(9), :, labels])
    assert all(torch.equal(one, other) for one, other in zip(said, own, strict=True)) == spec.starts_at_image


@EACH
def test_model_is_left_as_it_was(spec):
    """Mutant: ``loss.backward()``, a parameter changed, or gradients switched off for good."""
    model, images = toy_model(), toy_images(4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attack(model, images, labels_of(4), spec, POLICY)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(value.requires_grad or value.grad is not None for value in model.parameters())
    assert not model.training and torch.is_grad_enabled()


@EACH
def test_progress_rises_to_one_at_most_and_cancel_ends_it(spec):
    """Mutant: gradients counted for one exit where several are attacked, or the token not looked at."""
    model, images, labels, seen = toy_model(), toy_images(6), labels_of(6), list[AttackProgress]()
    attack(model, images, labels, spec, POLICY, batch_size=3, on_progress=seen.append)
    shares = [progress.share for progress in seen]
    assert shares == sorted(shares) and shares[-1] <= 1 + 1e-9
    assert all(progress.step <= progress.num_steps for progress in seen)
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        attack(model, images, labels, spec, POLICY, cancel=cancel)


@EACH
def test_a_static_model_is_attacked_at_its_one_exit_or_the_attack_says_why_not(spec):
    """Mutant: a slowdown of a model without early exits, or an objective that it does not have."""
    model, images, labels = toy_model(num_exits=1), toy_images(3), labels_of(3)
    if spec.needs_early_exits:
        with pytest.raises(ExitLensError, match="static"):
            attack(model, images, labels, spec.as_static(), POLICY)
    else:
        result = attack(model, images, labels, spec.as_static(), POLICY)
        assert not torch.equal(result.adversarial, images)


@EACH
def test_another_threshold_makes_other_images_only_where_the_spec_says_so(spec):
    """Mutant: ``depends_on_policy`` the wrong way round."""
    model, images, labels = toy_model(), toy_images(24), labels_of(24)
    low, high = (attack(model, images, labels, spec, ExitPolicy(threshold)).perturbations for threshold in (0.4, 0.95))
    assert torch.equal(low, high) is not spec.depends_on_policy


@EACH
def test_another_radius_keeps_the_share_that_a_step_has_of_it(spec):
    """Mutant: the step left as it was, or a radius given to what has none."""
    if isinstance(spec, CorruptionAttack):
        with pytest.raises(ExitLensError, match="no radius"):
            spec.at_epsilon(0.01)
        return
    other = spec.at_epsilon(0.01)
    assert other.epsilon == 0.01 and type(other) is type(spec)
    if hasattr(spec, "step_size"):
        assert other.step_size / other.epsilon == pytest.approx(spec.step_size / spec.epsilon)


@EACH
def test_an_attack_says_what_it_is_in_words(spec):
    """Mutant: a label without the attack's name or strength, or the same title for two kinds."""
    assert spec.label.startswith(spec.short_label) and spec.short_label.startswith(spec.title)
    assert spec.strength in spec.short_label and "None" not in spec.label


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (LinfAttack, {"epsilon": 1.5}),
        (L2Attack, {"epsilon": 101.0}),
        (L2Attack, {"name": "fgm-l2", "num_steps": 2}),
        (PublishedEarlyAttack, {"alpha": -1.0}),
        (PublishedEarlyAttack, {"start": "nowhere"}),
        (PublishedEarlyAttack, {"loss": "hinge"}),
        (SlowdownAttack, {"loss": "hinge"}),
        (SlowdownAttack, {"step_size": -0.1}),
        (UniversalAttack, {"fitted_on": "cifar10:test:0-9"}),
        (UniversalAttack, {"objective": "exit"}),
        (UniversalAttack, {"objective": "max-average"}),
        (UniversalAttack, {"objective": "slowdown", "goal_class": 1}),
        (WorstCaseAttack, {"num_restarts": 0}),
        (WorstCaseAttack, {"goal_class": -1}),
        (LinfAttack, {"num_steps": 2.5}),
        (LinfAttack, {"num_steps": True}),
        (LinfAttack, {"epsilon": "8/255"}),
        (LinfAttack, {"epsilon": None}),
        (LinfAttack, {"goal_class": 1.5}),
        (EarlyAttack, {"exit_index": "1"}),
        (EarlyAttack, {"num_tries": 0}),
        (L2Attack, {"epsilon": float("inf")}),
        (WorstCaseAttack, {"num_restarts": 1.0}),
        (CorruptionAttack, {"severity": 0}),
        (CorruptionAttack, {"severity": 2.5}),
        (CorruptionAttack, {"severity": True}),
        (CorruptionAttack, {"severity": 6}),
        (CorruptionAttack, {"name": "snow"}),
    ],
    ids=lambda value: str(value),
)
def test_a_spec_that_makes_no_sense_is_refused(kind, wrong):
    """Mutant: the matching check dropped."""
    with pytest.raises(ExitLensError):
        kind(**wrong)


def test_every_corruption_has_a_spec():
    """Mutant: a corruption that no spec may name."""
    assert {CorruptionAttack(name=name).name for name in CORRUPTIONS} == set(CORRUPTIONS)


@pytest.mark.parametrize("numerator", [0.25, 0.5, 1, 2, 3, 4, 5, 7, 8, 16])
@pytest.mark.parametrize("other", [0.25, 0.5, 1, 2, 3, 4, 5, 7, 8, 16])
def test_one_full_step_stays_one_at_every_radius(numerator, other):
    """Mutant: the step scaled by a quotient, which rounds beside the radius: FGSM then refuses itself."""
    scaled = fgsm(numerator / 255).at_epsilon(other / 255)
    assert scaled.step_size == scaled.epsilon == other / 255


@pytest.mark.parametrize(
    "spec",
    [
        pgd(0.0),
        EarlyAttack(epsilon=0),
        SlowdownAttack(epsilon=0),
        UniversalAttack(epsilon=0),
        WorstCaseAttack(epsilon=0),
    ],
)
def test_no_step_is_a_part_of_a_radius_of_nought(spec):
    """Mutant: a division by it."""
    with pytest.raises(ExitLensError, match=r"epsilon is 0.*above 0"):
        spec.at_epsilon(0.1)


@EACH
def test_a_radius_of_nought_gives_the_images_back(spec):
    """Mutant: a start outside the ball, or a length divided by 0."""
    if isinstance(spec, CorruptionAttack):
        return
    images = toy_images(6)
    result = attack(toy_model(), images, labels_of(6), replace(spec, epsilon=0.0), POLICY)
    assert not result.perturbations.any() and torch.equal(result.adversarial, images)


POLICIES = [
    ExitPolicy(0.0),
    ExitPolicy(1.0),
    ExitPolicy(0.5, "most_confident"),
    ExitPolicy(0.4, score="entropy"),
    ExitPolicy(2, score="patience"),
    ExitPolicy(1000, score="patience"),
]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@EACH
def test_every_policy_can_be_attacked_and_its_record_ends_with_the_verdict(spec, policy):
    """Mutant: a threshold on patience taken for a confidence."""
    images, labels = toy_images(8), labels_of(8)
    for watch in ("every exit", "computed exits", "nothing"):
        result = attack(toy_model(), images, labels, spec, policy, watch=watch)
        assert torch.equal(result.steps[-1].exit_taken, decide(result.adversarial_logits, policy).computed_exit)
        assert 0 <= result.success_rate(policy).num_hits <= 8
