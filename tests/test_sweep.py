"""FGSM at many radii from one gradient; each docstring names the mutant that turns its test red."""

import copy
import threading

import pytest
import torch
from test_aimed import AIMS, labels_of
from torch import Tensor
from toys import record_inputs, toy_images, toy_model

from core.attacks import PRESETS, LinfAttack, attack
from core.attacks.judging import judge, tolerances
from core.attacks.success import SUCCESS_RULES
from core.attacks.sweep import sweep_fgsm
from core.checkpoints import load_model
from core.data import open_image_set
from core.errors import Cancelled, ExitLensError
from core.exits import ExitPolicy, decide
from core.models.classifiers import ExitNetwork
from core.models.prepared import PreparedModel, prepared
from core.study.threads import limited_to

EPSILONS = tuple(numerator / 255 for numerator in (0.5, 1, 2, 4, 8, 16, 32, 64))
POLICY = ExitPolicy(0.6)


def off_by_a_little(model: ExitNetwork, size: float) -> PreparedModel:
    """A copy whose weights were shaken, so that many decisions differ."""
    shaken = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(7)
    for parameter in shaken.parameters():
        parameter.mul_(1 + size * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return PreparedModel(shaken, "shaken")


@pytest.mark.parametrize("policy", [POLICY, ExitPolicy(0.75, "most_confident")], ids=["final", "most_confident"])
@pytest.mark.parametrize("goal_class", [None, 2])
@pytest.mark.parametrize("aim", AIMS)
def test_a_sweep_equals_separate_attacks(aim, goal_class, policy):
    """Mutant: a step of another radius or not stored, the clean verdict among the others, radii and images swapped."""
    model, images = toy_model(num_exits=4), toy_images(20)
    labels = model(images)[:, -1].argmax(dim=-1)
    labels[::3] = (labels[::3] + 1) % 4
    spec = PRESETS["fgsm"](goal_class=goal_class, **AIMS[aim])
    sweep = sweep_fgsm(model, images, labels, spec, policy, EPSILONS, batch_size=7)
    rule = SUCCESS_RULES[spec.success_rule]
    for row, epsilon in enumerate(EPSILONS):
        one = attack(
            model, images, labels, LinfAttack(**{**vars(spec), "epsilon": epsilon, "step_size": epsilon}), policy
        )
        decisions, case = decide(one.adversarial_logits, policy), one.case(policy)
        assert torch.equal(sweep.succeeded[row], rule.succeeded(case))
        assert torch.equal(sweep.attackable, rule.attackable(case))
        assert sweep.rates()[row] == one.success_rate(policy)
        if not spec.success_rule.endswith("_final"):
            assert torch.equal(sweep.prediction[row], decisions.prediction)
            assert torch.equal(sweep.computed_exit[row], decisions.computed_exit)
    assert 0 < sweep.succeeded.double().mean() < 1


def test_a_sweep_takes_one_gradient():
    """Mutant: a gradient for every radius."""
    model = toy_model(num_exits=3)
    inputs = record_inputs(model)
    images = toy_images(5)
    sweep_fgsm(model, images, labels_of(images), PRESETS["fgsm"](objective="final"), POLICY, EPSILONS)
    assert [seen.requires_grad for seen in inputs["block 0"]].count(True) == 1
    assert sum(len(seen) for seen in inputs["block 0"]) == 5 + 5 * (1 + len(EPSILONS))


@pytest.mark.parametrize(
    "policy",
    [
        POLICY,
        ExitPolicy(0.75, "most_confident"),
        ExitPolicy(0.0),
        ExitPolicy(1.0),
        None,
    ],
)
def test_judging_by_a_copy_gives_what_the_model_answers(policy):
    """Mutant: the copy believed without margin, at the last exit only, or of its class but not of its exit."""
    model, images = toy_model(num_exits=4), toy_images(400)
    search = off_by_a_little(model, 0.02)
    found = judge(model, images, policy, search, tolerances(model, search, images[:40]))
    expected, copied = (answers(of(images), policy) for of in (model, search))
    for mine, right in zip((found.prediction, found.computed_exit), expected, strict=True):
        assert torch.equal(mine, right)
    if policy in (None, POLICY, ExitPolicy(0.75, "most_confident")):
        # Believing the copy would have been wrong, and hardly any image had to be shown to the model.
        assert any(not torch.equal(naive, right) for naive, right in zip(copied, expected, strict=True))
        assert 0 < found.num_doubtful < len(images)


@pytest.mark.parametrize("policy", [ExitPolicy(0.5, score="entropy"), ExitPolicy(2, score="patience")])
def test_judging_by_another_score_is_left_to_the_model(policy):
    """Mutant: every threshold taken for one of confidence."""
    model, images = toy_model(num_exits=4), toy_images(60)
    found = judge(model, images, policy, PreparedModel(model, "exact"), torch.zeros(4))
    for mine, right in zip((found.prediction, found.computed_exit), answers(model(images), policy), strict=True):
        assert torch.equal(mine, right)


def answers(logits: Tensor, policy: ExitPolicy | None) -> tuple[Tensor, Tensor]:
    if policy is None:
        return logits[:, -1].argmax(dim=-1), torch.full((len(logits),), logits.shape[1] - 1)
    decisions = decide(logits, policy)
    return decisions.prediction, decisions.computed_exit


def test_tolerances_are_three_times_how_far_the_copy_leads_otherwise():
    """Mutant: distances of all classes, or of one exit for all."""
    model, images = toy_model(num_exits=3), toy_images(12)
    search = off_by_a_little(model, 0.02)
    logits, copied = model(images), search(images)
    for exit_index, tolerance in enumerate(tolerances(model, search, images).tolist()):
        apart = []
        for image in range(len(images)):
            best = logits[image, exit_index].argmax()
            others = [index for index in range(4) if index != best]
            for lead in (torch.amax, torch.logsumexp):
                one, other = (
                    of[image, exit_index, best] - lead(of[image, exit_index, others], 0) for of in (logits, copied)
                )
                apart.append(abs(one - other).item())
        assert tolerance == pytest.approx(3 * max(apart))


@pytest.mark.parametrize(("num_images", "is_compared"), [(1, False), (2, True), (20, True)])
def test_a_copy_is_compared_on_sixteen_images_of_all_radii_or_not_at_all(monkeypatch, num_images, is_compared):
    """Mutant: a tolerance from the one image of a batch, or from clean images alone."""
    model, images, seen = toy_model(num_exits=3), toy_images(num_images), []

    def watched(model: ExitNetwork, search: PreparedModel, images: Tensor) -> Tensor:
        seen.append(images)
        return tolerances(model, search, images)

    monkeypatch.setattr("core.attacks.sweep.tolerances", watched)
    search, spec = off_by_a_little(model, 0.01), PRESETS["fgsm"]()
    with limited_to(1):
        sweep = sweep_fgsm(model, images, labels_of(images), spec, POLICY, EPSILONS, search=search)
    if is_compared:
        (compared,) = seen
        moved = {round(min((one - image).abs().amax().item() for image in images) * 255, 1) for one in compared}
        assert len(compared) == 16
        assert len(moved & {0, 0.5, 1, 2, 4, 8, 16}) >= 4
    else:
        assert not seen
        assert sweep.num_doubtful == num_images * (len(EPSILONS) + 1)


def test_cancel_ends_a_sweep_after_the_batch():
    """Mutant: a token that nobody looks at."""
    cancel, model, images, seen = threading.Event(), toy_model(), toy_images(9), []

    def on_progress(progress) -> None:
        seen.append(progress.share)
        cancel.set()

    with limited_to(1), pytest.raises(Cancelled):
        sweep_fgsm(
            model,
            images,
            labels_of(images),
            PRESETS["fgsm"](),
            POLICY,
            EPSILONS,
            batch_size=3,
            on_progress=on_progress,
            cancel=cancel,
        )
    assert seen == [pytest.approx(1 / 3)]


@pytest.mark.parametrize(
    "spec",
    [
        PRESETS["pgd"](),
        PRESETS["fgsm"](random_start=True),
        PRESETS["fgsm"](stop_when_fooled=True),
        PRESETS["fgsm"](objective="max-average"),
    ],
    ids=str,
)
def test_what_depends_on_the_radius_is_refused(spec):
    """Mutant: ten steps quietly made one."""
    with pytest.raises(ExitLensError, match="one gradient for all radii"):
        sweep_fgsm(toy_model(), toy_images(2), torch.tensor([0, 1]), spec, POLICY, EPSILONS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": toy_images(0)}, "Images have shape"),
        ({"images": toy_images(2) * 2}, "between 0 and 1"),
        ({"images": toy_images(2) * torch.nan}, "between 0 and 1"),
        ({"labels": torch.tensor([0, 4])}, "Labels run"),
        ({"epsilons": ()}, "one radius or more"),
        ({"epsilons": (0.1, 1.5)}, "radii"),
        ({"epsilons": (-0.1,)}, "radii"),
        ({"epsilons": (float("nan"),)}, "radii"),
        ({"batch_size": 0}, "batch size"),
    ],
    ids=str,
)
def test_a_sweep_refuses_what_an_attack_would(changes, message):
    """Mutant: the matching check dropped; a radius below 0 would be a step the other way."""
    given = {"images": toy_images(2), "labels": torch.tensor([0, 1]), "epsilons": EPSILONS, "batch_size": 8} | changes
    images, labels, epsilons = (given.pop(name) for name in ("images", "labels", "epsilons"))
    with pytest.raises(ExitLensError, match=message):
        sweep_fgsm(toy_model(), images, labels, PRESETS["fgsm"](), POLICY, epsilons, **given)


@pytest.mark.slow
def test_a_sweep_with_the_shipped_model_in_sixteen_bits_gives_the_verdicts_of_separate_attacks():
    """Mutant: verdicts of the 16-bit copy taken as they are."""
    model, card = load_model("cifar10-resnet56-early-exit")
    images = open_image_set(f"{card.dataset}:samples")
    search, policy, spec = prepared(model, "bfloat16"), ExitPolicy(), PRESETS["fgsm"]()
    sweep = sweep_fgsm(model, images.pixels(), images.labels, spec, policy, EPSILONS[:5], search=search)
    for row, epsilon in enumerate(EPSILONS[:5]):
        one = attack(
            model, images.pixels(), images.labels, PRESETS["fgsm"](epsilon), policy, search=search, watch="nothing"
        )
        decisions = decide(one.adversarial_logits, policy)
        assert torch.equal(sweep.prediction[row], decisions.prediction)
        assert torch.equal(sweep.computed_exit[row], decisions.computed_exit)
    assert sweep.precision == "bfloat16"
    assert 0 < sweep.num_doubtful < 6 * len(images) / 2
