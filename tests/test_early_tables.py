"""Tables of the Early Attack: denominators, base rates, rounding, steps, the weak exit and transfer."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_early import final_answers
from toys import toy_images, toy_model

from benchmarks.results import write_result
from core.attacks import PublishedEarlyAttack, attack
from core.attacks.spec import early
from core.attacks.success import SUCCESS_RULES
from core.checkpoints import FOLDER_VARIABLE, pack_weights, save_model
from core.early_tables import EARLY_FORMS, early_forms, early_row, eligible, first_success, spec_hash
from core.early_transfer import RULES, early_exits_table, early_transfer_table, transfer_forms
from core.errors import ExitLensError
from core.exits import ExitPolicy, decide
from core.metrics import rate

POLICY = ExitPolicy(0.7)
NAMES = {"model": "toy", "weights_sha256": "0", "images": "toy:test"}


@pytest.fixture(scope="module")
def model():
    return toy_model()


@pytest.fixture(scope="module")
def images():
    return toy_images(60)


@pytest.fixture(scope="module")
def deployed(model, images):
    return attack(model, images, final_answers(model, images), early(4 / 255), POLICY)


def test_deployed_form_counts_images_that_leave_early_and_are_right_at_both_places(model, images, deployed):
    """Mutant: images that run to the end counted, or those wrong when clean."""
    clean = model(images)
    leaves_early = decide(clean, POLICY).computed_exit < 2
    right = (decide(clean, POLICY).prediction == deployed.labels) & (clean[:, -1].argmax(-1) == deployed.labels)
    counted = eligible(deployed.case(POLICY), "taken_broken_final_kept")
    assert torch.equal(counted, leaves_early & right) and 0 < counted.sum() < right.sum()
    row = EARLY_FORMS.check(early_row("deployed", deployed, model, NAMES)).iloc[0]
    fell = SUCCESS_RULES["taken_broken_final_kept"].succeeded(deployed.case(POLICY))
    assert (row.num_eligible, row.num_succeeded) == (int(counted.sum()), int((counted & fell).sum()))
    assert row.all_image_rate == pytest.approx(fell.double().mean().item())
    assert row.eligible_share == pytest.approx(counted.double().mean().item())
    base = SUCCESS_RULES["taken_broken_final_kept"].succeeded(replace(deployed.case(POLICY), adversarial_logits=clean))
    shares = {
        "eligible": row.eligible_share,
        "all_image": row.all_image_rate,
        "clean_base": base.double().mean().item(),
    }
    for name, share in shares.items():
        by_hand = rate(round(60 * share), 60)
        assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx((by_hand.low, by_hand.high))
    assert 0 < row.rate < 1 and row.median_linf <= 4 / 255 < row.median_l2


def test_published_form_counts_images_that_do_not_fulfil_its_rule_when_clean(model, images):
    """Mutant: the clean base rate hidden in the success."""
    spec = PublishedEarlyAttack(num_steps=20, num_forced=20, learning_rate=0.05, start="image")
    result = attack(model, images, final_answers(model, images), spec, POLICY)
    clean = model(images).argmax(-1)
    base = (clean[:, :-1] != clean[:, -1:]).all(dim=1)
    assert 0 < base.sum() < 60
    row = early_row("published", result, model, NAMES).iloc[0]
    assert row.clean_base_rate == pytest.approx(base.double().mean().item())
    assert row.num_eligible == int((~base).sum())


def test_verdicts_are_those_of_the_model_that_judges_and_of_rounded_images(model, images, deployed):
    """Mutant: the logits of the search kept, or survival counted on images that had not succeeded."""
    other = toy_model(seed=5)
    rows = [early_row("deployed", deployed, judge, NAMES).iloc[0] for judge in (model, other)]
    assert rows[0].num_eligible != rows[1].num_eligible
    rule, case = SUCCESS_RULES["taken_broken_final_kept"], deployed.case(POLICY)
    rounded = replace(case, adversarial_logits=model((deployed.adversarial * 255).round() / 255))
    both = rule.succeeded(case) & eligible(case, rule.name) & rule.succeeded(rounded)
    assert rows[0].num_survive_rounding == int(both.sum()) <= rows[0].num_succeeded
    by_hand = rate(int(both.sum()), rows[0].num_succeeded)
    found = (rows[0].survive_rate, rows[0].survive_low, rows[0].survive_high)
    assert found == pytest.approx((by_hand.value, by_hand.low, by_hand.high))


def test_first_success_is_the_first_step_whose_record_fulfils_the_rule(deployed):
    """Mutant: the last step, or a step of another exit's try."""
    first = first_success(deployed)
    for row, number in enumerate(first.tolist()):
        for step in range(number):
            record = deployed.steps[step]
            taken = int(record.exit_taken[row])
            wrong = record.predicted[row, taken] != deployed.labels[row]
            assert not (wrong and record.predicted[row, -1] == deployed.labels[row])
    assert len(first.unique()) > 2


def test_forms_are_the_published_one_and_one_departure_each():
    """Mutant: two departures at once, or an alpha missing."""
    forms = early_forms()
    published = PublishedEarlyAttack()
    assert {forms[f"published, α {alpha}"].alpha for alpha in ("0.001", "1", "40")} == {0.001, 1.0, 40.0}
    for name in ("from the image on", "projected, 8/255", "margins on logits"):
        changed = [field for field, value in vars(forms[name]).items() if value != getattr(published, field)]
        assert len(changed) == 1
    assert all(form.passes(7) <= 50 for name, form in forms.items() if name.startswith("deployed"))
    assert len({spec_hash(spec) for spec in forms.values()}) == len(forms)


def test_every_early_exit_has_its_row_and_the_best_of_them_is_no_worse(model, images, deployed):
    """Mutant: the same exit attacked each time, or counted over other images."""
    table = early_exits_table("toy", model, images, deployed.labels, 4 / 255, POLICY)
    assert table.exit_index.tolist() == [0, 1] and table.num_eligible.nunique() == 1
    rule = SUCCESS_RULES["taken_broken_final_kept"]
    for row in table.itertuples():
        alone = attack(model, images, deployed.labels, early(4 / 255, exit_index=row.exit_index), POLICY)
        case = alone.case(POLICY)
        assert row.num_succeeded == int((rule.succeeded(case) & eligible(case, rule.name)).sum())
    assert table.num_succeeded.nunique() == 2
    best = early_row("deployed", deployed, model, NAMES).iloc[0]
    assert best.num_succeeded >= table.num_succeeded.max()


def test_transfer_counts_images_eligible_on_both_models_by_both_rules(model, images, deployed):
    """Mutant: the source's own denominator, or the source's final exit looked at on the target."""
    other = toy_model(seed=5)
    table = early_transfer_table("early", "toy", deployed, {"toy": model, "other": other})
    assert len(table) == 4 and set(table.success_rule) == set(RULES)
    own = table[(table.target == "toy") & (table.success_rule == RULES[0])].iloc[0]
    assert own.num_succeeded == early_row("deployed", deployed, model, NAMES).num_succeeded.iloc[0]
    elsewhere = table[(table.target == "other") & (table.success_rule == RULES[1])].iloc[0]
    answers = decide(other(deployed.adversarial), POLICY).prediction != deployed.labels
    clean = decide(other(images), POLICY)
    both = eligible(deployed.case(POLICY), RULES[0]) & (clean.computed_exit < 2) & (clean.prediction == deployed.labels)
    both &= other(images)[:, -1].argmax(-1) == deployed.labels
    assert (elsewhere.num_succeeded, elsewhere.num_eligible) == (int((answers & both).sum()), int(both.sum()))
    assert all(spec.epsilon == 0.1 for spec in transfer_forms(0.1).values())


def test_measuring_again_goes_on_where_it_ended(model, images, tmp_path: Path, monkeypatch, toy_registry):
    """Mutant: everything measured again, or a row of other weights taken for this one."""
    from toys import answered_image_set, toy_card

    import benchmarks.early as measuring

    image_set = answered_image_set(toy_model(dtype=torch.float32))
    small = toy_model(dtype=torch.float32)
    card = toy_card(small, "toy-early-exit", image_set)
    monkeypatch.setattr(measuring, "open_image_set", lambda name: image_set)
    monkeypatch.setattr(measuring, "early_exit_cards", lambda image_set, names=None: [card])
    monkeypatch.setattr(measuring, "load_model", lambda name: (small, card))
    monkeypatch.setattr(measuring, "early_forms", lambda: {"a": early(2 / 255), "b": early(4 / 255)})
    file = tmp_path / "early.json"
    assert len(list(measuring.measure_early("toy:test", forms=["a"], file=file))) == 1
    assert [row["form"] for row in measuring.measure_early("toy:test", file=file)] == ["b"]
    assert len(json.loads(file.read_text())["rows"]) == 2
    more = measuring.measure_weak_exits("toy:test", file=file)
    assert {"ladder", "exits", "transfer"} <= set(more) and len(json.loads(file.read_text())["rows"]) == 2


def test_measurements_are_written_as_json_that_any_reader_understands(tmp_path: Path):
    """Mutant: the NaN of a median of no images, which is no JSON."""
    file = tmp_path / "measured.json"
    read = write_result(file, {"rows": ({"median": float("nan"), "far": [float("inf"), 1.5]}, {"name": "ε"})})
    assert read == {"rows": [{"median": None, "far": [None, 1.5]}, {"name": "ε"}]}

    def refuse(word: str) -> None:
        raise AssertionError(word)

    assert json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse) == read


@pytest.mark.parametrize("names", [None, ["toy-static"]])
def test_measuring_early_exits_without_a_model_that_has_some_is_refused(names, tmp_path, monkeypatch, toy_registry):
    """Mutant: nothing measured, and a file said to be written."""
    from toys import answered_image_set, toy_card

    from benchmarks.models import early_exit_cards

    static = toy_model(num_exits=1, dtype=torch.float32)
    images = answered_image_set(static)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    save_model(pack_weights(static, "float32"), toy_card(static, "toy-static", images))
    with pytest.raises(ExitLensError, match=r"is no early-exit model that knows the images toy:test"):
        early_exit_cards(images, names)


def test_steps_to_a_goal_are_counted_to_the_goal(model, images):
    """Mutant: any wrong answer taken for the goal."""
    spec = early(16 / 255, goal_class=2)
    aimed = attack(model, images, final_answers(model, images), spec, POLICY)
    rule = SUCCESS_RULES[spec.success_rule]
    first, hit = first_success(aimed), rule.succeeded(aimed.case(POLICY)) & rule.attackable(aimed.case(POLICY))
    assert hit.sum() > 5
    for row in hit.nonzero()[:, 0].tolist():
        record = aimed.steps[int(first[row])]
        assert record.predicted[row, int(record.exit_taken[row])] == 2
        assert record.predicted[row, -1] == aimed.labels[row]


def test_a_form_that_does_not_exist_is_refused(tmp_path: Path):
    """Mutant: nothing measured, and a file said to be written."""
    import benchmarks.early as measuring

    with pytest.raises(ExitLensError, match=r"no form 'deployed'.*deployed, 8/255"):
        list(measuring.measure_early("cifar10:samples", forms=["deployed"], file=tmp_path / "early.json"))
    assert not (tmp_path / "early.json").exists()
