"""Pre-flight checks: each finds what it is for and is silent otherwise; docstrings name mutants."""

import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toys import linear_model, toy_images, toy_model

from core.attacks import PRESETS, AttackResult, EarlyAttack, LinfAttack, attack
from core.attacks.checks import CODES, Checked, check_attack, check_pixels
from core.attacks.spec import (
    AttackSpec,
    CorruptionAttack,
    PublishedEarlyAttack,
    SlowdownAttack,
    WorstCaseAttack,
    l2_attack,
)
from core.errors import Cancelled
from core.exits import ExitPolicy
from core.models import ExitModel
from core.models.prepared import prepared
from core.progress import Progress

POLICY = ExitPolicy(0.7)
DOCS = Path(__file__).parents[1] / "docs" / "checks.md"


def right_labels(model: ExitModel, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)[:, -1].argmax(dim=-1)


def checked(model: ExitModel, spec: AttackSpec, images: Tensor, **changes: object) -> Checked:
    labels = right_labels(model, images)
    result = attack(model, images, labels, spec, POLICY)
    return check_attack(model, replace(result, **changes))


def codes(found: Checked) -> list[str]:
    return [note.code for note in found.notes]


def final(**fields: object) -> LinfAttack:
    return PRESETS["pgd"](**{"objective": "final", "epsilon": 4 / 255, "step_size": 1 / 255, **fields})


class Flat(nn.Module):
    """A static model that sees pixels in steps only, so that its loss is flat everywhere."""

    num_exits, num_classes, exit_layers, exit_costs, stops_early = 1, 3, (), (1.0,), True

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear_model(num_exits=1, num_classes=3, image_size=2)

    def forward(self, images: Tensor) -> Tensor:
        return self.inner((images * 8).round() / 8 + 0 * images)

    def run_until(self, images: Tensor, exit_index: int) -> Tensor:
        return self(images)[:, exit_index]


class FlatAtBlack(Flat):
    """Flat at black images alone."""

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images * (images.detach().amax(dim=(1, 2, 3), keepdim=True) > 0))


def test_a_plain_attack_on_a_plain_model_gets_no_note():
    """Mutant: a check that always fires."""
    images = toy_images(40)
    found = checked(toy_model(), final(epsilon=6 / 255, step_size=1.5 / 255), images)
    assert found == Checked((), 40)


def test_pixels_out_of_range_are_counted():
    """Mutant: only one side looked at, the radius forgotten, or NaN taken for a pixel in range."""
    images, perturbations = torch.full((6, 3, 2, 2), 0.5), torch.full((6, 3, 2, 2), 0.01)
    assert check_pixels(images, perturbations, 0.01) is None
    images[0, 0, 0, 0], images[1, 2, 1, 1], images[2, 1, 0, 0] = -0.01, 1.01, torch.nan
    perturbations[3, 0, 0, 0], perturbations[4, 0, 1, 0] = 0.011, -0.02
    note = check_pixels(images, perturbations, 0.01)
    assert note is not None and note.code == "pixels-out-of-range"
    assert note.text.startswith("3 of 6 images") and "2 perturbations go further than 2.55/255" in note.text


def test_a_flat_loss_is_found():
    """Mutant: gradients of the perturbed images, or of the mean over images."""
    found = checked(Flat(), final(), toy_images(12, image_size=2))
    assert "zero-gradient" in codes(found)
    images = toy_images(12, image_size=2)
    images[:4] = 0
    found = checked(FlatAtBlack(), final(random_start=True), images)  # no perturbed image is black
    assert next(note.text for note in found.notes if note.code == "zero-gradient").startswith(
        "The loss is flat at 4 of 12 attackable images"
    )


@pytest.mark.parametrize(
    "spec",
    [
        l2_attack("pgd", 0.5, num_steps=3, objective="final"),
        WorstCaseAttack(num_steps=2),
        EarlyAttack(num_steps=2),
        SlowdownAttack(num_steps=2),
    ],
    ids=lambda spec: type(spec).__name__,
)
def test_a_flat_loss_is_found_whatever_attack_follows_it(spec):
    """Mutant: said to be looked for and not found, in attacks of any kind but those of L-infinity."""

    class FlatExits(Flat):
        num_exits, exit_costs, stops_early = 2, (0.5, 1.0), False

        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).expand(-1, 2, -1) * 9

    images = toy_images(12, image_size=2)
    found = checked(FlatExits(), spec, images)
    assert "zero-gradient" in codes(found) and "zero-gradient" not in found.left_out
    if spec.norm == "l2":
        assert "no-growth" in codes(found)


@pytest.mark.parametrize(
    ("spec", "left_out"),
    [
        (PRESETS["fgsm"](objective="final"), ("one-step-beats-many", "no-growth")),
        (final(step_size=0.1 / 255, num_steps=3), ("one-step-beats-many",)),  # too short to cross the ball
        (final(), ()),
        (CorruptionAttack(name="jpeg", severity=2), ("zero-gradient", "one-step-beats-many", "no-growth")),
        (EarlyAttack(num_steps=2), ("one-step-beats-many", "no-growth")),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_would_be_no_sign_is_not_looked_for_and_named(spec, left_out):
    """Mutants: gradient masking blamed for steps too short; one step asked to grow, as if a line were a ball."""
    found = checked(toy_model(num_exits=3), spec, toy_images(20))
    assert found.left_out == left_out
    assert not set(codes(found)) & set(left_out)


def test_saturation_is_said_with_its_counts():
    """Mutant: all images for denominator, or any success called saturated."""
    images = toy_images(30)
    found = checked(toy_model(), final(epsilon=64 / 255, step_size=16 / 255), images)
    assert codes(found) == ["saturated"]
    assert re.match(r"The attack succeeds on (\d+) of 30 attackable images: at 64/255", found.notes[0].text)


def result_of(spec: AttackSpec, images: Tensor, model: ExitModel, hits: int) -> AttackResult:
    """A result in which the first so many images succeed."""
    labels = right_labels(model, images)
    made = attack(model, images, labels, spec, POLICY)
    others = torch.nn.functional.one_hot((labels + 1) % model.num_classes, model.num_classes).double() * 50
    failed = torch.nn.functional.one_hot(labels, model.num_classes).double() * 50
    logits = torch.where(torch.arange(len(labels))[:, None] < hits, others, failed)[:, None].expand_as(
        made.clean_logits
    )
    return replace(made, adversarial_logits=logits)


def test_one_step_that_beats_many_is_found_only_beyond_chance():
    """Mutant: any image more is a note, or the two results swapped."""
    model, images = toy_model(), toy_images(40)
    spec = final(epsilon=10 / 255, step_size=2.5 / 255)
    by_one = int(
        (attack(model, images, right_labels(model, images), PRESETS["fgsm"](10 / 255, objective="final"), POLICY))
        .success_rate(POLICY)
        .num_hits
    )
    assert by_one > 10
    assert "one-step-beats-many" in codes(check_attack(model, result_of(spec, images, model, hits=0)))
    assert "one-step-beats-many" not in codes(check_attack(model, result_of(spec, images, model, hits=by_one)))
    assert "one-step-beats-many" not in codes(check_attack(model, result_of(spec, images, model, hits=40)))


def test_success_that_does_not_grow_with_the_radius_is_found():
    """Mutant: a radius that is not larger, growth not asked for, or any growth short of all images a note."""
    found = checked(Flat(), final(), toy_images(12, image_size=2))
    assert codes(found) == ["zero-gradient", "no-growth"]
    assert found.notes[1].text.startswith(
        "Within 16/255 the attack succeeds on 0 of 12 attackable images, within 4/255 on 0 of 12"
    )
    model, images = toy_model(), toy_images(40)
    assert "no-growth" not in codes(check_attack(model, result_of(final(), images, model, hits=1)))
    # There is no larger ball than all pixels: nothing can grow.
    whole = result_of(final(epsilon=1.0, step_size=0.25), images, model, hits=20)
    assert "no-growth" not in codes(check_attack(model, whole))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (l2_attack("pgd", 3.0, num_steps=2), "at L2 3 models, exits and attacks"),
        (CorruptionAttack(name="jpeg", severity=4), "at severity 4 models, exits and attacks"),
        (PublishedEarlyAttack(num_steps=2), "attackable images: models, exits and attacks"),
        (WorstCaseAttack(num_steps=2), "at 2/255 models, exits and attacks"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_saturation_names_the_strength_of_any_attack(spec, said):
    """Mutant: a length of L2, or none at all, written as a change of pixels."""
    model, images = toy_model(), toy_images(20)
    result = result_of(spec, images, model, hits=20)
    if isinstance(spec, PublishedEarlyAttack):
        logits = result.adversarial_logits.clone()
        logits[:, -1] = result.clean_logits[:, -1]
        result = replace(result, adversarial_logits=logits)
    notes = {note.code: note.text for note in check_attack(model, result).notes}
    assert said in notes["saturated"]
    assert "no-growth" not in notes and "one-step-beats-many" not in notes


def test_a_ball_of_l2_is_measured_over_the_whole_image():
    """Mutant: the largest change of a pixel compared with a length."""
    images, perturbations = torch.full((2, 3, 2, 2), 0.5), torch.full((2, 3, 2, 2), 0.1)
    perturbations[1] /= 2
    assert check_pixels(images, perturbations, 0.2) is None
    note = check_pixels(images, perturbations, 0.2, "l2")  # lengths 0.346 and 0.173
    assert note is not None and "0 of 2 images" in note.text and "1 perturbations go further than L2 0.2" in note.text
    perturbations[0, 0, 0, 0] = torch.nan
    assert check_pixels(images, perturbations, 9.0, "l2") is not None


@pytest.mark.parametrize(
    "policy", [POLICY, ExitPolicy(0.45, score="entropy"), ExitPolicy(2, score="patience")], ids=str
)
@pytest.mark.parametrize("aim", [{"objective": "max-average"}, {"objective": "exit", "exit_index": 0}, {}], ids=str)
def test_every_objective_and_policy_can_be_checked(aim, policy):
    """Mutant: FGSM asked of several exits at once, or an exit taken by the wrong score."""
    model, images = toy_model(num_exits=3), toy_images(20)
    result = attack(model, images, right_labels(model, images), PRESETS["pgd"](num_steps=2, **aim), policy)
    found = check_attack(model, result, search=prepared(model))
    assert set(codes(found)) <= set(CODES) and "pixels-out-of-range" not in codes(found)


def test_successes_lost_in_rounding_are_counted():
    """Mutant: images rounded down, all images counted, or the clean ones rounded."""
    model = toy_model(dtype=torch.float32)
    images = (toy_images(60, dtype=torch.float32) * 255).round() / 255
    small = checked(model, final(epsilon=0.4 / 255, step_size=0.1 / 255), images)
    assert "lost-in-rounding" in codes(small)
    text = next(note.text for note in small.notes if note.code == "lost-in-rounding")
    lost, hits = map(int, re.match(r"(\d+) of (\d+) successes", text).groups())
    # Less than half a grey level rounds to nothing.
    assert lost == hits > 0
    assert "lost-in-rounding" not in codes(checked(model, final(epsilon=8 / 255, step_size=2 / 255), images))


def test_attacks_of_another_kind_get_the_checks_that_mean_something():
    """Mutant: an Early Attack followed by FGSM."""
    model, images = toy_model(num_exits=3), toy_images(20)
    assert set(codes(checked(model, EarlyAttack(num_steps=3), images))) <= {"saturated", "lost-in-rounding"}


def test_progress_and_cancel():
    """Mutant: a token looked at once at the end."""
    model, images, seen, cancel = toy_model(), toy_images(8), list[Progress](), threading.Event()
    result = attack(model, images, right_labels(model, images), final(), POLICY)
    check_attack(model, result, on_progress=seen.append)
    assert [progress.share for progress in seen] == pytest.approx([number / 6 for number in range(1, 7)])
    with pytest.raises(Cancelled):
        check_attack(model, result, on_progress=lambda progress: cancel.set(), cancel=cancel)


def test_every_code_has_its_section_and_no_section_is_left_over():
    """Mutant: a code renamed in one place."""
    assert tuple(re.findall(r"^## (\S+)$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)) == CODES
