"""Studies in TOML: what a file comes to, and what it may not say."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from toys import answered_image_set, toy_card, toy_model

from core.attacks.corruption_spec import CorruptionAttack
from core.attacks.spec import early, fgsm, mi_fgsm, pgd
from core.checkpoints import ModelCard
from core.errors import ExitLensError
from core.exits import ExitPolicy
from core.metrics import OperatingPoint
from core.study.cells import attack_fields, read_attack, study_cells
from core.study.models import KINDS, choose_models, model_hash
from core.study.spec import (
    AttackChoice,
    PolicyChoice,
    load_study,
    parse_study,
    policy_words,
    shipped_studies,
    with_num_images,
)

HEAD = """
name = "toys"
title = "Toys"
question = "Which?"
images = ["toy:test"]
sources = ["static", "early-exit"]
targets = ["static", "early-exit"]
"""
ATTACK = """
[[attacks]]
preset = "pgd"
"""
POINT = OperatingPoint("loses_1_percent", 0.7, 0.9, 0.5, (0.5, 0.5), 8)


@pytest.fixture(autouse=True)
def toys(toy_registry: None) -> None:
    """Images of toys can be named only where the toy data set is known."""


@cache
def cards() -> dict[str, ModelCard]:
    images = answered_image_set(toy_model(num_exits=4, dtype=torch.float32))
    models = {count: toy_model(num_exits=count, dtype=torch.float32) for count in (1, 3, 4)}
    made = {
        "toy-static": toy_card(models[1], "toy-static", images),
        "toy-early-exit": toy_card(models[4], "toy-early-exit", images, operating_points=(POINT,)),
        "toy-early-exit-other": toy_card(models[3], "toy-early-exit-other", images),
        "toy-all-exits": toy_card(models[4], "toy-all-exits", images, shares="toy-static", shared_sha256="0" * 64),
    }
    return made


def attacks_of(table: str) -> list[AttackChoice]:
    return list(parse_study(HEAD + table, "test").attacks)


# Attacks


def test_lists_mean_all_combinations_in_order() -> None:
    # Mutant: lists paired with each other, or the last one winning.
    choices = attacks_of(
        '[[attacks]]\npreset = ["fgsm", "pgd"]\nepsilon = ["1/255", "8/255"]\nobjective = ["taken", "mean"]\n'
    )
    assert [choice.spec for choice in choices] == [
        builder(epsilon, objective=objective, **({"step_size": epsilon / 4} if builder is pgd else {}))
        for builder in (fgsm, pgd)
        for epsilon in (1 / 255, 8 / 255)
        for objective in ("taken", "mean")
    ]


def test_steps_scale_with_epsilon_unless_they_are_given() -> None:
    # Mutants: PGD at 0.25/255 with steps of 2/255, eight times its ball; a given step size scaled too.
    scaled, given, momentum, deployed = (
        attacks_of(f'[[attacks]]\npreset = "{preset}"\nepsilon = "0.5/255"\n{more}')[0].spec
        for preset, more in (("pgd", ""), ("pgd", 'step_size = "0.1/255"\n'), ("mi-fgsm", ""), ("early", ""))
    )
    assert scaled == pgd(0.5 / 255, step_size=0.125 / 255)
    assert given == pgd(0.5 / 255, step_size=0.1 / 255)
    assert momentum == mi_fgsm(0.5 / 255, step_size=0.125 / 255)
    assert deployed == early(0.5 / 255)


def test_one_exit_and_each_exit_are_objectives() -> None:
    # Mutants: exits counted from 0 in the file; each exit tried on the final one alone.
    one, each = attacks_of('[[attacks]]\npreset = "pgd"\nobjective = ["exit-2", "each-exit"]\n')
    assert one.spec == pgd(objective="exit", exit_index=1) and not one.each_exit
    on_four, on_one = each.on(cards()["toy-early-exit"]), each.on(cards()["toy-static"])
    assert on_four == [pgd(objective="exit", exit_index=index) for index in range(4)]
    assert on_one == [pgd(objective="final")]


def test_attack_that_a_model_cannot_take_is_left_out() -> None:
    # Mutant: a study that ends at its first static source because one of its attacks needs an early exit.
    deep, through = (AttackChoice(spec) for spec in (pgd(objective="exit", exit_index=3), early()))
    assert deep.on(cards()["toy-early-exit-other"]) == [] and deep.on(cards()["toy-early-exit"]) == [deep.spec]
    assert through.on(cards()["toy-static"]) == [] and through.on(cards()["toy-early-exit"]) == [early()]


def test_seeds_count_only_where_starts_are_random() -> None:
    # Mutant: the same attack made once a seed.
    card = cards()["toy-early-exit"]
    assert AttackChoice(pgd()).on(card, (1, 2)) == [pgd()]
    assert AttackChoice(pgd(random_start=True)).on(card, (1, 2)) == [
        pgd(random_start=True, seed=1),
        pgd(random_start=True, seed=2),
    ]


@pytest.mark.parametrize("preset", ["pgd", "slowdown"])
def test_random_starts_have_no_seed_of_their_own(preset: str) -> None:
    # Mutants: a seed that the study's seeds write over, so that [3, 4] is made once, at 0; a slowdown, whose starts are
    # random unless told, let through; a corruption's own seed refused too.
    with pytest.raises(ExitLensError, match=rf"the attack {preset} has a seed of its own; leave it out, .* seeds at"):
        attacks_of(f'[[attacks]]\npreset = "{preset}"\nseed = [3, 4]\n' + "random_start = true\n" * (preset == "pgd"))
    made = attacks_of('[[attacks]]\npreset = "gaussian-noise"\nseed = [3, 4]\n')
    assert [choice.spec for choice in made] == [CorruptionAttack(seed=3), CorruptionAttack(seed=4)]


def test_attack_comes_back_from_its_fields() -> None:
    # Mutant: an attack of one kind read as one of another.
    for attack in (fgsm(2 / 255), mi_fgsm(goal_class=3), early(exit_index=1), pgd(random_start=True, seed=5)):
        assert read_attack(attack_fields(attack)) == attack


# Policies


def test_policies_are_resolved_on_each_card() -> None:
    # Mutants: one model's threshold used for all; a static model without points refused.
    point, raw = PolicyChoice(point="loses_1_percent"), PolicyChoice(0.8, fallback="most_confident")
    early_exit, static, other = (cards()[name] for name in ("toy-early-exit", "toy-static", "toy-early-exit-other"))
    assert point.on(early_exit) == ExitPolicy(0.7) and point.on(static) == ExitPolicy()
    assert raw.on(early_exit) == raw.on(static) == ExitPolicy(0.8, "most_confident")
    with pytest.raises(ExitLensError, match="no operating point 'loses_1_percent'"):
        point.on(other)
    choices = [point, raw, PolicyChoice(0.9), PolicyChoice(0.5, score="entropy"), PolicyChoice(2, score="patience")]
    assert [choice.name for choice in choices] == [
        "loses_1_percent", "T=0.80 most_confident", "T=0.90", "entropy=0.50", "patience=2",
    ]  # fmt: skip


def test_policies_that_differ_have_names_that_differ() -> None:
    # Mutants: two decimals for all, which pools T = 0.991 and 0.994 downstream; other names for thresholds of two.
    table = HEAD + ATTACK + "[[policies]]\nthreshold = [0.991, 0.994, 0.99, 0.29, 1, 0]\n"
    entropy = '[[policies]]\nscore = "entropy"\nthreshold = [0.505, 0.00001]\nfallback = "most_confident"\n'
    names = [policy.name for policy in parse_study(table + entropy, "test").policies]
    assert names == [
        "T=0.991", "T=0.994", "T=0.99", "T=0.29", "T=1.00", "T=0.00",
        "entropy=0.505 most_confident", "entropy=1e-05 most_confident",
    ]  # fmt: skip
    assert [policy_words(names[0]), policy_words(names[6])] == ["T = 0.991", "certainty 0.505, else most confident"]
    with pytest.raises(ExitLensError, match=r"policies need a name each, and none twice; T=0\.90"):
        parse_study(HEAD + ATTACK + '[[policies]]\nthreshold = 0.9\n[[policies]]\npoint = "T=0.90"\n', "test")


# Models


def test_words_for_many_models_do_not_overlap_and_names_and_patterns_work() -> None:
    # Mutants: exits on another model's backbone counted as a trained twin; a model named twice shown twice.
    named = {word: choose_models([word], cards()) for word in KINDS}
    assert named == {
        "static": ["toy-static"],
        "early-exit": ["toy-early-exit"],
        "other-exits": ["toy-early-exit-other"],
        "all-exits": ["toy-all-exits"],
        "placements": [],
        "surrogates": [],
    }
    assert choose_models(["toy-static", "*-static", "toy-e*"], cards()) == [
        "toy-static", "toy-early-exit", "toy-early-exit-other",
    ]  # fmt: skip
    with pytest.raises(ExitLensError, match="'nobody', which is not here"):
        choose_models(["nobody"], cards())


def test_hash_of_a_model_changes_with_weights_and_costs_and_not_with_its_history() -> None:
    # Mutant: a hash of the whole card, which a new line in it would make another model.
    card = cards()["toy-early-exit"]
    changed = [
        replace(card, weights_sha256="0" * 64),
        replace(card, shared_sha256="1" * 64),
        replace(card, exit_costs=(0.1, 0.2, 0.3, 1.0)),
        replace(card, name="other"),
    ]
    assert len({model_hash(each) for each in [card, *changed]}) == 5
    assert model_hash(replace(card, training_seconds=2.0, versions={"torch": "9"})) == model_hash(card)


# Cells


def test_cells_are_each_once_and_show_everything_but_the_own_backbone() -> None:
    # Mutants: a static source attacked once an objective; an all-exits model shown what fools its own backbone.
    study = parse_study(
        HEAD.replace('targets = ["static", "early-exit"]', 'targets = ["toy-*"]').replace(
            'sources = ["static"', 'images_per_cell = 5\nsources = ["static"'
        )
        + '[[attacks]]\npreset = "pgd"\nobjective = ["taken", "final", "mean"]\n',
        "test",
    )
    cells = study_cells(study, cards(), {"toy:test": [0, 1, 2, 3, 4, 6, 7]})
    assert [(cell.source, cell.images, cell.attack and cell.attack.aim) for cell in cells] == [
        (source, images, aim)
        for images in ("toy:test:0-4", "toy:test:6-7")
        for source, aim in [
            ("", None), ("toy-static", "final"), *(("toy-early-exit", aim) for aim in ("taken", "final", "mean")),
        ]
    ]  # fmt: skip
    assert [cell.num_images for cell in cells[::5]] == [5, 2]
    others = ("toy-early-exit", "toy-early-exit-other")
    assert cells[0].targets == ("toy-static", "toy-early-exit", "toy-early-exit-other", "toy-all-exits")
    assert set(cells[1].targets) == {"toy-static", *others} and cells[1].targets[0] == "toy-static"
    assert set(cells[2].targets) == {*others, "toy-static", "toy-all-exits"}
    assert len({cell.key for cell in cells}) == len({cell.made_key for cell in cells}) == len(cells)


def test_made_anew_repeats_only_what_depends_on_the_policy() -> None:
    # Mutant: every attack made at every threshold, which costs time and says nothing.
    table = HEAD + 'made_anew = true\n[[attacks]]\npreset = "pgd"\nobjective = ["taken", "final"]\n'
    study = parse_study(table + "[[policies]]\nthreshold = [0.5, 0.7, 0.9]\n", "test")
    made = [
        (cell.source, cell.attack.aim, cell.made_at.threshold)
        for cell in study_cells(study, cards(), {"toy:test": [0]})
        if cell.attack
    ]
    assert made == [
        ("toy-static", "final", 0.5),
        *(("toy-early-exit", "taken", threshold) for threshold in (0.5, 0.7, 0.9)),
        ("toy-early-exit", "final", 0.5),
    ]


# Files


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_study_can_be_read_and_is_named_as_its_file(name: str) -> None:
    # Mutant: a shipped file that this version does not read.
    study, text = load_study(name)
    assert study.name == name and study.title in text and study.question.endswith("?")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("name = ", "not valid TOML"),
        (HEAD, "attacks"),
        (HEAD + "colour = 1\n" + ATTACK, "colour"),
        (HEAD + ATTACK + "epsilon = 'eight'\n", "eight"),
        (HEAD + ATTACK + "epsilon = 300\n", "epsilon"),
        (HEAD + ATTACK + "speed = 1\n", "speed"),
        (HEAD + ATTACK + "num_steps = 'two'\n", "num_steps"),
        (HEAD + ATTACK.replace("pgd", "cw"), "cw"),
        (HEAD + "[[attacks]]\nepsilon = 0.1\n", "Unknown attack"),
        (HEAD + ATTACK.replace("pgd", "jpeg") + "epsilon = 0.1\n", "no radius"),
        (HEAD + ATTACK.replace("pgd", "jpeg") + 'objective = "each-exit"\n', "aims at no exit"),
        (HEAD + "attacks = 3\n", "[[attacks]]"),
        (HEAD + ATTACK + ATTACK, "twice"),
        (HEAD + ATTACK + "[[policies]]\n", "either a threshold or an operating point"),
        (HEAD + ATTACK + "[[policies]]\nthreshold = 1.5\n", "1.5"),
        (HEAD + ATTACK + "[[policies]]\nthreshold = 1.5\nscore = 'patience'\n", "whole number"),
        (HEAD.replace("toy:test", "toys:test") + ATTACK, "toys:test"),
        (HEAD.replace('"toys"', '"../up"') + ATTACK, "../up"),
        (HEAD + "batch_size = 0\n" + ATTACK, "batch_size"),
        (HEAD.replace('sources = ["static", "early-exit"]', "sources = []") + ATTACK, "sources"),
    ],
)
def test_a_study_that_cannot_be_read_names_file_and_field(text: str, named: str) -> None:
    # Mutant: any one check dropped; a stack trace of pydantic's.
    with pytest.raises(ExitLensError, match=r"^mine\.toml") as refused:
        parse_study(text, "mine.toml")
    assert named in str(refused.value)


def test_a_study_that_is_not_there_names_those_that_are() -> None:
    # Mutant: an error that leaves the user guessing.
    with pytest.raises(ExitLensError, match="transfer"):
        load_study("nothing")


POLICY, PLACEMENT = "[[policies]]\nthreshold = 0.9\n", "[[placements]]\nname = 'x'\ncosts = [0.5]\n"
HUGE = "1" + "0" * 400


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (HEAD + ATTACK + POLICY + 'fallbak = "most_confident"\n', "policies.0.fallbak: there is no such field"),
        (HEAD + ATTACK + POLICY + 'scor = "entropy"\n', "policies.0.scor: there is no such field"),
        (HEAD + ATTACK + PLACEMENT + "cost = 0.2\n", "placements.0.cost: there is no such field"),
        (HEAD + ATTACK + POLICY.replace("0.9", "true"), "threshold: Input should be a valid number, but is True"),
        (HEAD + ATTACK + POLICY.replace("0.9", HUGE), "threshold"),
        (HEAD + ATTACK + POLICY.replace("0.9", "[]"), "threshold is an empty list"),
        (HEAD + ATTACK + '[[policies]]\npoint = ""\n', "either a threshold or an operating point"),
        (HEAD + ATTACK + "epsilon = []\n", "epsilon is an empty list"),
        (HEAD + ATTACK + "objective = 1\n", "objective is 1; it must be text"),
        (HEAD + ATTACK + "objective = true\n", "objective is True; it must be text"),
        (HEAD + ATTACK + f"objective = 'exit-{'9' * 5000}'\n", "Unknown objective 'exit-9"),
        (HEAD + ATTACK + "objective = 'exit-2'\nexit_index = 0\n", "leave out the exit_index"),
        (HEAD + ATTACK + "name = 'mi-fgsm'\n", "takes no --name"),
        (HEAD + ATTACK + 'goal_class = "a\\nb"\n', "goal_class is a b"),
        (HEAD + ATTACK.replace('"pgd"', "3"), "preset is 3; it must be text"),
        (HEAD + ATTACK.replace("pgd", "universal") + "fitted_on = 3\n", "fitted_on is 3; it must be text"),
        (HEAD + ATTACK.replace("pgd", "universal") + "fitted_on = 'x:validation'\n", "Unknown image set"),
        (HEAD + ATTACK.replace("pgd", "jpeg") + "step_size = 0.1\n", "takes no step_size"),
        (HEAD.replace('["toy:test"]', '"toy:test"') + ATTACK, "images: Input should be a valid list, but is 'toy"),
        (HEAD + "num_images = true\n" + ATTACK, "num_images: Input should be a valid integer, but is True"),
        (HEAD + "batch_size = true\n" + ATTACK, "batch_size: Input should be a valid integer, but is True"),
        (HEAD + f"batch_size = {HUGE}\n" + ATTACK, "must lie between 1 and 1000000"),
        (HEAD + "num_threads = 1000000\n" + ATTACK, "must lie between 1 and 1000"),
        (HEAD + "seeds = [true]\n" + ATTACK, "seeds.0: Input should be a valid integer, but is True"),
        (HEAD + "seeds = [0, -1]\n" + ATTACK, "seeds names -1"),
        (HEAD + f"seeds = [{HUGE}]\n" + ATTACK, "a seed must lie between 0 and 2147483647"),
        (HEAD + f"num_images = {'9' * 5000}\n" + ATTACK, "not valid TOML"),
        (HEAD + f"seeds = {'[' * 10_000}\n" + ATTACK, "not valid TOML"),
        (HEAD + "placements = 3\n" + ATTACK, "write [[placements]]"),
        (HEAD + ATTACK + 2 * PLACEMENT, "placements need a name each"),
        (HEAD + ATTACK + PLACEMENT + PLACEMENT.replace("x", "y"), "two placements have the same costs"),
    ],
)  # fmt: skip
def test_a_value_that_means_nothing_is_one_clear_sentence(text: str, named: str) -> None:
    # Mutants: any one check dropped, which is a stack trace, or another study than the file seems to ask for.
    with pytest.raises(ExitLensError, match=r"^mine\.toml: ") as refused:
        parse_study(text, "mine.toml")
    said = str(refused.value)
    assert named in said and "\n" not in said and "tuple" not in said and said.endswith(". See docs/studies.md.")


@pytest.mark.parametrize(
    ("images", "are_refused"),
    [
        (["toy:test", "toy:test:0-9"], True),
        (["toy:test:0-9", "toy:test:5,20"], True),
        (["cifar10:test", "cifar10:samples"], True),
        (["toy:test:0-9", "toy:test:10-19"], False),
        (["cifar10:test", "cifar10:validation", "cifar100:test"], False),
    ],
)
def test_no_image_counts_twice(images: list[str], are_refused: bool) -> None:
    # Mutants: sets compared by name, so that images of both count twice; samples taken for others than test images.
    text = HEAD.replace('["toy:test"]', str(images)) + ATTACK
    if not are_refused:
        assert parse_study(text, "test").images == tuple(images)
        return
    with pytest.raises(ExitLensError, match=f"images names {images[0]} and {images[1]}, which overlap"):
        parse_study(text, "test")


def test_a_file_that_cannot_be_read_is_one_clear_sentence(tmp_path: Path) -> None:
    # Mutants: stack traces of the decoder's or of the file system's.
    file = tmp_path / "mine.toml"
    file.write_bytes((HEAD + ATTACK).replace("Toys", "Tøys").encode("latin-1"))
    with pytest.raises(ExitLensError, match=r"mine\.toml is not text in UTF-8 .* Save it as UTF-8"):
        load_study(file)
    for path in (tmp_path, "a\0b", "x" * 5000):
        with pytest.raises(ExitLensError, match=r"There is no study .* Give a TOML file or one of black-box"):
            load_study(path)


def test_another_number_of_images_stands_in_the_text_that_is_kept() -> None:
    # Mutants: the file's own number kept beside tables of fewer images; a field of a table taken for the study's.
    for name in shipped_studies():
        spec, text = load_study(name)
        assert parse_study(with_num_images(text, 37), name) == replace(spec, num_images=37), name
