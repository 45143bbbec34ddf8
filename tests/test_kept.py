"""Runs kept on disk: what is written comes back, twice is once, damage is named, examples are checked again."""

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from toys import answered_image_set, toy_card, toy_model

from core import kept
from core.attacks.spec import LinfAttack, fgsm, pgd
from core.attacks.success import SUCCESS_RULES, Case
from core.data import ImageSet
from core.errors import ExitLensError
from core.examples import kept_table, remade_perturbation, same_verdict
from core.exits import ExitPolicy, decide
from core.experiment import Experiment, ExperimentSpec, run_experiment
from core.gallery import (
    KeptFilter,
    address_of,
    distinct_examples,
    filter_examples,
    find_pictures,
    parse_address,
    sort_examples,
)
from core.tables import KEPT, decisions_table, exits_table

EARLY, STATIC = "toy-early-exit", "toy-static"
BOTH = (EARLY, STATIC)
POLICY = ExitPolicy(0.6)


@cache
def models() -> dict:
    early, static = (toy_model(num_exits=count, dtype=torch.float32, seed=count) for count in (3, 1))
    images = answered_image_set(early)
    return {EARLY: (early, toy_card(early, EARLY, images)), STATIC: (static, toy_card(static, STATIC, images))}


@cache
def image_set() -> ImageSet:
    return answered_image_set(models()[EARLY][0])


@cache
def experiment(attack: LinfAttack | None = None, targets: tuple[str, ...] = BOTH) -> Experiment:
    attack = attack or pgd(4 / 255, num_steps=3, step_size=2 / 255)
    return run_experiment(ExperimentSpec("toy:test:0-11", targets[:2], targets, attack, POLICY), image_set(), models())


def table(attack: LinfAttack | None = None) -> pd.DataFrame:
    return kept_table(experiment(attack), models(), "0" * 16, "2026-01-01T00:00:00+00:00")


@pytest.fixture(autouse=True)
def toys(toy_registry: None) -> None:
    """Cards of toys have labels only where the toy architecture is known."""


# The store


def test_what_is_kept_comes_back_as_it_was(tmp_path: Path) -> None:
    # Mutant: the policy, a field of the attack or an attack on the other source lost on the way to JSON.
    for attack in (pgd(random_start=True, seed=7, num_steps=2), fgsm(2 / 255, objective="exit", exit_index=1)):
        done = experiment(attack)
        run = kept.keep(done, models(), tmp_path)
        again = kept.read_run(run.key, tmp_path)
        assert again == run and again.spec == done.spec
        assert again.attacks == {name: result.spec for name, result in done.results.items()}
        assert again.attacks[STATIC].objective == "final" != again.attacks[EARLY].objective
        assert [model.weights_sha256 for model in again.models] == [models()[name][1].weights_sha256 for name in BOTH]
        pd.testing.assert_frame_equal(kept.read_decisions(run, tmp_path), decisions_table(done, POLICY))
        pd.testing.assert_frame_equal(kept.read_exits(run, tmp_path), exits_table(done))
        for name, stored in kept.read_perturbations(run, tmp_path).items():
            assert stored.dtype == torch.float16 and torch.equal(stored, done.results[name].perturbations)
    assert len(kept.read_kept(tmp_path).examples) == 4 * len(image_set())


def test_keeping_twice_changes_nothing(tmp_path: Path) -> None:
    # Mutant: a second folder, or the first one written over.
    run = kept.keep(experiment(), models(), tmp_path)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / run.key).iterdir()}
    assert kept.keep(experiment(), models(), tmp_path) == run
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / run.key).iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == [run.key]


def test_key_changes_with_every_weight_and_every_field_of_the_spec() -> None:
    # Mutant: a key of the spec alone, or of the first model alone: a retrained model would not be attacked again.
    spec, weights = experiment().spec, {EARLY: "a", STATIC: "b"}
    others = [
        (spec, weights | {STATIC: "c"}),
        (spec, weights | {EARLY: "c"}),
        (replace(spec, images="toy:test:0-10"), weights),
        (replace(spec, attack=replace(spec.attack, seed=1)), weights),
        (replace(spec, made_at=ExitPolicy(0.6, "most_confident")), weights),
        (replace(spec, sources=(EARLY,)), weights),
    ]
    keys = [kept.run_key(*each) for each in [(spec, weights), *others]]
    assert len(set(keys)) == len(keys)
    assert kept.run_key(spec, dict(reversed(weights.items()))) == keys[0]


@pytest.mark.parametrize("name", ["run.json", "examples.parquet"])
@pytest.mark.parametrize("damage", ["missing", "empty", "flipped"])
def test_a_damaged_run_is_named_skipped_and_can_be_kept_again(tmp_path: Path, name: str, damage: str) -> None:
    # Mutants: a reader that trusts what it finds; one bad folder that hides the good one; keep that finds a folder
    # and leaves it damaged.
    good = kept.keep(experiment(fgsm(1 / 255)), models(), tmp_path)
    bad = kept.keep(experiment(), models(), tmp_path)
    path = tmp_path / bad.key / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x20
    path.unlink() if damage == "missing" else path.write_bytes(b"" if damage == "empty" else bytes(content))
    read = kept.read_kept(tmp_path)
    assert list(read.runs) == [good.key] == read.examples.run.unique().tolist()
    assert len(read.problems) == 1 and bad.key in read.problems[0] and "\n" not in read.problems[0]
    assert not kept.is_kept(bad.key, tmp_path)
    kept.keep(experiment(), models(), tmp_path)
    assert not kept.read_kept(tmp_path).problems


def _rename_model(told: dict) -> None:
    told["models"][0]["name"] += "x"


def _repeat_model(told: dict) -> None:
    told["models"].append(told["models"][0])


def _rename_attacked(told: dict) -> None:
    told["attacks"] = {f"{name}x": attack for name, attack in told["attacks"].items()}


def _forget_images(told: dict) -> None:
    told["image_ids"] = []


@pytest.mark.parametrize("damage", [_rename_model, _repeat_model, _rename_attacked, _forget_images])
def test_a_run_that_contradicts_itself_is_named_and_skipped(tmp_path: Path, damage: Callable[[dict], None]) -> None:
    # Mutants: any of these believed, so that a page ends in a KeyError; one bad run that takes the good one along.
    good = kept.keep(experiment(fgsm(1 / 255)), models(), tmp_path)
    bad = kept.keep(experiment(), models(), tmp_path)
    description = tmp_path / bad.key / kept.RUN_FILE
    told = json.loads(description.read_text())
    damage(told)
    description.write_text(json.dumps(told))
    read = kept.read_kept(tmp_path)
    assert list(read.runs) == [good.key] == read.examples.run.unique().tolist()
    assert len(read.problems) == 1 and bad.key in read.problems[0] and "contradicts itself" in read.problems[0]
    assert not kept.is_kept(bad.key, tmp_path)


def test_half_written_and_foreign_folders_are_no_runs(tmp_path: Path) -> None:
    # Mutants: a folder being written taken for a run; what a crash left never removed.
    run = kept.keep(experiment(), models(), tmp_path)
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "half").mkdir()
    fresh, old = tmp_path / ".partial-new", tmp_path / ".partial-old"
    for place in (fresh, old):
        shutil.copytree(tmp_path / run.key, place)
    os.utime(old, (time.time() - 7200,) * 2)
    read = kept.read_kept(tmp_path)
    assert list(read.runs) == [run.key] and len(read.problems) == 1 and "half" in read.problems[0]
    kept.keep(experiment(fgsm(1 / 255)), models(), tmp_path)
    assert fresh.exists() and not old.exists()


def test_a_run_renamed_to_another_key_is_refused(tmp_path: Path) -> None:
    # Mutant: the folder's name believed, so that one run counts as another.
    run = kept.keep(experiment(), models(), tmp_path)
    (tmp_path / run.key).rename(tmp_path / ("f" * 16))
    with pytest.raises(ExitLensError, match="belongs to another run"):
        kept.read_run("f" * 16, tmp_path)


def test_missing_perturbations_leave_the_run_readable(tmp_path: Path) -> None:
    # Mutant: a run thrown away though spec and weights can make its perturbations again.
    run = kept.keep(experiment(), models(), tmp_path)
    (tmp_path / run.key / "perturbations.safetensors").unlink()
    assert kept.is_kept(run.key, tmp_path) and len(kept.read_kept(tmp_path).examples) == 2 * len(image_set())
    with pytest.raises(ExitLensError, match=r"perturbations\.safetensors cannot be read"):
        kept.read_perturbations(run, tmp_path)


def test_many_who_keep_the_same_at_once_leave_one_whole_run(tmp_path: Path) -> None:
    # Mutant: files written in place, which a second writer or reader meets half done.
    done, problems = experiment(), []

    def keep() -> None:
        try:
            kept.keep(done, models(), tmp_path)
        except Exception as error:  # noqa: BLE001 - a thread's error would be lost
            problems.append(error)

    threads = [threading.Thread(target=keep) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(list(tmp_path.iterdir())) == 1 and len(kept.read_kept(tmp_path).runs) == 1


def test_another_process_that_was_quicker_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutants: its run taken for a failure, or a real failure taken for its run.
    replace_path, done = Path.replace, experiment()

    def beaten(place: Path, target: Path) -> Path:
        if target.parent == tmp_path:
            shutil.copytree(place, target)
        return replace_path(place, target)  # onto a folder that is not empty: an OSError

    monkeypatch.setattr(Path, "replace", beaten)
    run = kept.keep(done, models(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [run.key] and kept.is_kept(run.key, tmp_path)


def test_a_folder_that_cannot_be_written_gives_one_sentence(tmp_path: Path) -> None:
    # Mutant: an OSError that reaches the page.
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ExitLensError, match="cannot be kept"):
        kept.keep(experiment(), models(), tmp_path / "file" / "kept")
    assert kept.read_kept(tmp_path / "file" / "kept").examples.empty


def test_removing_takes_one_run_and_never_another_folder(tmp_path: Path) -> None:
    # Mutant: a key used as a path as it comes.
    first, second = (kept.keep(experiment(attack), models(), tmp_path / "kept") for attack in (None, fgsm()))
    (tmp_path / "precious").mkdir()
    with pytest.raises(ExitLensError, match="not the key"):
        kept.remove("../precious", tmp_path / "kept")
    kept.remove(first.key, tmp_path / "kept")
    kept.remove(first.key, tmp_path / "kept")
    assert list(kept.read_kept(tmp_path / "kept").runs) == [second.key] and (tmp_path / "precious").exists()


def test_the_folder_is_the_one_named_or_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: a folder inside the project, or XDG_DATA_HOME ignored.
    monkeypatch.setenv("EXITLENS_KEPT", "/somewhere/kept")
    assert kept.kept_folder() == Path("/somewhere/kept")
    monkeypatch.setenv("EXITLENS_KEPT", "")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert kept.kept_folder() == Path("/data/exitlens/kept")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert kept.kept_folder() == Path.home() / ".local/share/exitlens/kept"


# The table


@pytest.mark.parametrize("attack", [None, pgd(goal_class=2, num_steps=2), pgd(objective="final", num_steps=2)])
def test_each_rule_is_what_the_rule_itself_says_where_it_applies(attack: LinfAttack | None) -> None:
    # Mutant: another rule's column, a rule judged under the default policy, or successes without a denominator.
    rows, done = table(attack), experiment(attack)
    for source in BOTH:
        mine = rows[rows.source == source]
        goal = done.spec.attack.goal_class
        case = Case(done.clean_logits[source], done.logits[source, source], image_set().labels, POLICY, goal)
        for name, rule in SUCCESS_RULES.items():
            assert mine[name].tolist() == (rule.attackable(case) & rule.succeeded(case)).tolist(), name
        assert mine.succeeded.tolist() == mine[mine.success_rule.iloc[0]].tolist()
    assert not rows[rows.source == STATIC].early_broken_final_kept.any()


def test_fooled_models_are_those_right_before_and_wrong_now() -> None:
    # Mutants: models wrong already when clean counted; the source left out; names that belong to other columns.
    rows, done = table(), experiment()
    for source in BOTH:
        fooled = {}
        for target in BOTH:
            before, after = (
                decide(logits, POLICY).prediction for logits in (done.clean_logits[target], done.logits[source, target])
            )
            fooled[target] = (before == image_set().labels) & (after != image_set().labels)
        for position, row in enumerate(rows[rows.source == source].itertuples()):
            names = [target for target in BOTH if fooled[target][position]]
            assert (row.num_fooled, row.num_shown, row.fooled) == (len(names), 2, ", ".join(names))
    assert rows.num_fooled.nunique() > 1


def test_models_on_one_backbone_are_not_counted_as_shown(tmp_path: Path) -> None:
    # Mutant: every target of the spec expected among the verdicts, though nothing was shown to such a pair.
    early, card = models()[EARLY]
    given = models() | {"toy-exits": (early, replace(card, name="toy-exits", shares=EARLY))}
    spec = ExperimentSpec("toy:test:0-11", (EARLY,), tuple(given), experiment().spec.attack, POLICY)
    run = kept.keep(run_experiment(spec, image_set(), given), given, tmp_path)
    rows = kept.read_examples(run, tmp_path)
    assert set(rows.num_shown) == {2} and (rows.num_fooled <= 2).all()
    assert rows.num_fooled.tolist() == table()[lambda every: every.source == EARLY].num_fooled.tolist()


def test_rounding_is_judged_on_the_rounded_image() -> None:
    # Mutant: the unrounded image judged again. Perturbations below half a grey level round away altogether.
    tiny = pgd(0.4 / 255, step_size=0.2 / 255, num_steps=4)
    rows, done = table(tiny), experiment(tiny)
    assert rows.succeeded.any() and not rows.survives_rounding.any()
    large = pgd(16 / 255, step_size=4 / 255, num_steps=4)
    rows, done = table(large), experiment(large)
    assert rows.survives_rounding.any()
    for source in BOTH:
        result = done.results[source]
        rounded = (result.adversarial * 255).round() / 255
        with torch.no_grad():
            case = replace(result.case(POLICY), adversarial_logits=models()[source][0](rounded))
        rule = SUCCESS_RULES[result.spec.success_rule]
        expected = rule.attackable(case) & rule.succeeded(case)
        assert rows[rows.source == source].survives_rounding.tolist() == expected.tolist()


def test_an_example_that_two_runs_hold_stands_once_from_the_run_shown_to_more(tmp_path: Path) -> None:
    # Mutants: no identity across runs; one that forgets the weights, the attack or the policy and drops too much.
    alone = run_experiment(
        ExperimentSpec("toy:test:0-11", (EARLY,), (EARLY,), experiment().spec.attack, POLICY), image_set(), models()
    )
    kept.keep(alone, models(), tmp_path)
    wide = kept.keep(experiment(), models(), tmp_path)
    kept.keep(experiment(fgsm()), models(), tmp_path)
    everything = kept.read_kept(tmp_path).examples
    examples = distinct_examples(everything)
    assert len(everything) == 5 * len(image_set()) and len(examples) == 4 * len(image_set())
    assert examples.example.is_unique and examples.index.is_monotonic_increasing
    assert (examples[examples.attack == experiment().spec.attack.label].run == wide.key).all()


# Examples made again


def test_remade_perturbation_of_one_image_gives_the_stored_verdict() -> None:
    # Mutants: remade under another policy or attack; a verdict that only compares classes or always agrees.
    done, rows = experiment(), table()
    for source in BOTH:
        model = models()[source][0]
        mine = list(rows[rows.source == source].itertuples())
        result = done.results[source]
        for position in (1, 5):
            one = image_set().select([position])
            remade = remade_perturbation(model, one, result.spec, POLICY)
            torch.testing.assert_close(remade[0].float(), result.perturbations[position].float(), atol=1e-3, rtol=0)
            assert same_verdict(model, one.pixels()[0], remade[0], mine[position])
            other = mine[position]._replace(adversarial_computed_exit=mine[position].adversarial_computed_exit + 1)
            assert not same_verdict(model, one.pixels()[0], remade[0], other)
    early = list(rows[rows.source == EARLY].itertuples())
    changed = next(number for number, row in enumerate(early) if row.clean_prediction != row.adversarial_prediction)
    clean = image_set().pixels()[changed]
    assert not same_verdict(models()[EARLY][0], clean, torch.zeros_like(clean), early[changed])


# Browsing


def frame() -> pd.DataFrame:
    """Both attacks, with the columns that the gallery adds."""
    rows = pd.concat([table(), table(fgsm(2 / 255))], ignore_index=True)
    return rows.assign(is_here=np.arange(len(rows)) % 3 > 0)


def test_every_filter_lets_through_what_it_says_and_nothing_else() -> None:
    # Mutant: any one field ignored, or turned round.
    rows = frame()
    one = rows.class_name.iloc[0]
    expected = {
        KeptFilter(): lambda row: True,
        KeptFilter(source=STATIC): lambda row: row.source == STATIC,
        KeptFilter(attack_name="fgsm"): lambda row: row.attack_name == "fgsm",
        KeptFilter(epsilon=2 / 255): lambda row: row.epsilon == 2 / 255,
        KeptFilter(class_name=one): lambda row: row.class_name == one,
        KeptFilter(success_rule="misclassified_final"): lambda row: row.misclassified_final,
        KeptFilter(shift="earlier"): lambda row: row.exit_shift < 0,
        KeptFilter(shift="same"): lambda row: row.exit_shift == 0,
        KeptFilter(shift="later"): lambda row: row.exit_shift > 0,
        KeptFilter(fooled=1): lambda row: row.num_fooled >= 1,
        KeptFilter(fooled="every"): lambda row: row.num_fooled == row.num_shown,
        KeptFilter(fooled="source"): lambda row: row.fooled == row.source,
        KeptFilter(survives_rounding=True): lambda row: row.survives_rounding,
        KeptFilter(survives_rounding=False): lambda row: not row.survives_rounding,
        KeptFilter(source=EARLY, fooled=1): lambda row: row.source == EARLY and row.num_fooled >= 1,
    }
    for wanted, is_meant in expected.items():
        meant = [index for index, row in enumerate(rows.itertuples()) if is_meant(row)]
        assert filter_examples(rows, wanted).index.tolist() == meant, wanted
    sizes = {len(filter_examples(rows, wanted)) for wanted in expected}
    assert len(sizes) > 5, "the examples are too alike to tell filters apart"


@pytest.mark.parametrize("order", ["most models fooled", "leaves earlier by most", "smallest epsilon"])
def test_pictures_that_are_here_come_first_whatever_the_order(order: str) -> None:
    # Mutant: the order alone, its direction turned round, or the missing pictures first.
    rows = sort_examples(frame(), order)
    assert rows.is_here.is_monotonic_decreasing and rows.is_here.nunique() == 2
    values = {"most models fooled": -rows.num_fooled, "smallest epsilon": rows.epsilon}.get(order, rows.exit_shift)
    for is_here in (True, False):
        assert values[rows.is_here == is_here].is_monotonic_increasing


def test_a_picture_is_found_by_id_and_pixels_only() -> None:
    # Mutant: the id alone, or another row of the right set.
    rows, whole = table(), image_set()
    bright = replace(whole, images=whole.images.clone())
    bright.images[3] = 255
    found = find_pictures(rows, [bright])
    assert len(found) == len(whole) - 1 and ("toy/test/3", whole.pixel_hashes[3]) not in found
    assert all(whole.image_ids[row] == identity[0] and name == whole.name for identity, (name, row) in found.items())
    assert len(find_pictures(rows, [bright, whole])) == len(whole)


def test_an_address_names_its_example_and_nonsense_is_refused() -> None:
    # Mutant: parts in another order than they are read.
    row = next(table()[3:].itertuples())
    assert parse_address(address_of(row)) == (row.run, row.image_id, row.source)
    for nonsense in ("", "a:b", "a:b:c:d", "::"):
        with pytest.raises(ExitLensError, match="names no kept example"):
            parse_address(nonsense)


def test_kept_table_fits_its_schema() -> None:
    # Mutant: a column dropped, or one more.
    assert list(table().columns) == list(KEPT.columns)
    assert not table().isna().any().any()


def test_a_run_from_before_a_success_rule_is_read_with_that_rule_unfulfilled(tmp_path: Path) -> None:
    # Mutant: such a run called damaged, though nothing in it is.
    run = kept.keep(experiment(), models(), tmp_path)
    file, description = tmp_path / run.key / kept.EXAMPLES_FILE, tmp_path / run.key / kept.RUN_FILE
    old = pd.read_parquet(file).drop(columns="goal_taken_final_kept")
    old.to_parquet(file, index=False)
    described = json.loads(description.read_text())
    described["files"][kept.EXAMPLES_FILE] = hashlib.sha256(file.read_bytes()).hexdigest()
    description.write_text(json.dumps(described))
    read = kept.read_kept(tmp_path)
    assert not read.problems and not read.examples.goal_taken_final_kept.any()
    assert len(read.examples) == len(old)
