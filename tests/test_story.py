"""The story: which picture is picked, how many behave like it, and that the bundled samples always yield one."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pandas as pd
import pytest
import torch
from toys import answered_image_set, toy_card, toy_model

from core import kept, remedies
from core.attacks import AttackSpec
from core.attacks.run import AttackResult, attack
from core.checkpoints import ModelCard, list_models, load_card, load_model
from core.data import ImageSet, open_image_set
from core.errors import Cancelled, ExitLensError
from core.exits import ExitPolicy, decide, run_dynamic
from core.experiment import ExperimentSpec, run_experiment, twin_of
from core.figures import Lane, price_figure, remedies_figure, road_figure
from core.models import ExitModel
from core.models.classifiers import ExitNetwork
from core.models.prepared import prepared
from core.progress import Progress
from core.remedies import RemediesSpec, help_of, plain_attack, remedies_table, run_remedies, surer
from core.restored import find_run, restored_result
from core.story import STORY_EPSILONS, Story, StorySpec, run_story, story_attack, twin_attack, warm_up_story
from core.story_tables import CANDIDATES, PRICE, REASONS, candidates_table, price_table, ranked
from core.tables import DECISIONS, EXITS, decisions_table, exits_table

EARLY, STATIC = "toy-early-exit", "toy-static"
POLICY = ExitPolicy(0.7)
Models = dict[str, tuple[ExitNetwork, ModelCard]]


# Hand-made tables: one picture on a model of three exits, and on its twin. It leaves right at exit 1 with 0.95,
# and attacked at exit 2 with the wrong class 3 and 0.9, while the final exit gives 0.8 to the true class 1.

CLEAN, ATTACKED = [(1, 0.95), (1, 0.9), (1, 0.99)], [(1, 0.5), (3, 0.9), (1, 0.8)]


def decision(image_id: str, target: str, epsilon: float, **changes: object) -> dict[str, object]:
    own = target == EARLY
    fields: dict[str, object] = {
        "image_id": image_id,
        "pixel_hash": "0" * 16,
        "label": 1,
        "source": EARLY,
        "target": target,
        "attack": "Early Attack",
        "epsilon": epsilon,
        "made_at": 0.9,
        "threshold": 0.9,
        "fallback": "final",
        "clean_answered_exit": 0,
        "clean_computed_exit": 0,
        "clean_prediction": 1,
        "clean_confidence": 0.95,
        "clean_cost": 0.2,
        "adversarial_answered_exit": 1 if own else 0,
        "adversarial_computed_exit": 1 if own else 0,
        "adversarial_prediction": 3 if own else 1,
        "adversarial_confidence": 0.9 if own else 0.7,
        "adversarial_cost": 0.5,
        "exit_shift": 1,
        "success_rule": "taken_broken_final_kept" if own else "misclassified_taken",
        "attackable": True,
        "succeeded": own,
        "linf": epsilon,
        "l2": 1.0,
        "precision": "float32",
    }
    return fields | changes


def exit_rows(image_id: str, target: str, state: str, said: list[tuple[int, float]]) -> list[dict[str, object]]:
    """Rows of the exits; what a wrong class gets, the true one does not."""
    return [
        {
            "image_id": image_id,
            "source": EARLY,
            "target": target,
            "state": state,
            "exit_index": index,
            "predicted": predicted,
            "confidence": confidence,
            "true_probability": confidence if predicted == 1 else 1 - confidence,
            "right": predicted == 1,
        }
        for index, (predicted, confidence) in enumerate(said)
    ]


def picture(
    image_id: str = "a",
    epsilon: float = 1 / 255,
    *,
    clean: list[tuple[int, float]] = CLEAN,
    attacked: list[tuple[int, float]] = ATTACKED,
    twin: Mapping[str, object] | None = None,
    **changes: object,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Decisions and exits of one picture on the model and on its twin."""
    twin_changes = dict(twin or {})
    decisions = [decision(image_id, EARLY, epsilon, **changes), decision(image_id, STATIC, epsilon, **twin_changes)]
    twin_said = (int(str(twin_changes.get("adversarial_prediction", 1))), 0.7)
    exits = [
        *exit_rows(image_id, EARLY, "clean", clean),
        *exit_rows(image_id, EARLY, "adversarial", attacked),
        *exit_rows(image_id, STATIC, "clean", [(1, 0.99)]),
        *exit_rows(image_id, STATIC, "adversarial", [twin_said]),
    ]
    return DECISIONS.check(pd.DataFrame(decisions)), EXITS.check(pd.DataFrame(exits))


def candidate(shown_to: str | None = STATIC, **changes: object) -> pd.Series:
    table = candidates_table(*picture(**changes), EARLY, shown_to)  # type: ignore[arg-type]
    assert len(table) == 1
    return CANDIDATES.check(table).iloc[0]


def test_a_picture_that_leaves_early_right_then_early_wrong_with_its_end_right_tells_the_story() -> None:
    # Mutants: the twin's row taken for the model's; the final exit's confidence in whatever it says.
    row = candidate()
    assert row.tells and row.reason == "" and row.twin_right
    assert (row.clean_exit, row.adversarial_exit, row.answer) == (0, 1, 3)
    assert (row.adversarial_confidence, row.final_confidence, row.twin_confidence) == (0.9, 0.8, 0.7)
    assert row.strength == 0.7  # the weakest of the three
    alone = candidate(None)
    assert alone.tells and not alone.twin_right and np.isnan(alone.twin_confidence) and alone.strength == 0.8
    fooled = candidate(twin={"adversarial_prediction": 2, "succeeded": True})
    assert fooled.tells and not fooled.twin_right and fooled.strength == 0.8
    assert not candidate(twin={"clean_prediction": 2}).twin_right


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("wrong_when_clean", {"clean_prediction": 2}),
        ("wrong_when_clean", {"clean": [*CLEAN[:2], (2, 0.9)]}),
        ("not_early_when_clean", {"clean_computed_exit": 2}),
        ("still_right", {"adversarial_prediction": 1}),
        ("final_wrong_too", {"attacked": [*ATTACKED[:2], (3, 0.6)]}),
        ("not_early_when_attacked", {"adversarial_computed_exit": 2}),
        ("noise_is_visible", {"epsilon": 8 / 255}),
        ("noise_is_visible", {"epsilon": 0.5, "linf": 5 / 255}),
    ],
)
def test_one_thing_amiss_and_it_is_named(reason: str, changes: dict[str, object]) -> None:
    # Mutants: each condition left out, or another one named first; the length of an L2 change taken for a pixel's.
    row = candidate(**changes)
    assert not row.tells and row.reason == reason
    assert candidate(epsilon=4 / 255).tells
    within_l2 = candidate(epsilon=0.5, linf=3 / 255)
    assert within_l2.tells and within_l2.linf == 3 / 255


def test_of_several_the_first_thing_amiss_is_named_and_a_static_model_has_no_story() -> None:
    # Mutants: the last of the reasons; a model of one exit that "leaves early" at its only one.
    assert candidate(clean_prediction=2, adversarial_prediction=1, epsilon=8 / 255).reason == "wrong_when_clean"
    decisions, exits = picture()
    exits = exits[(exits.exit_index == 0) | (exits.target == STATIC)]
    assert candidates_table(decisions, exits, EARLY, None).iloc[0].reason == "static"
    assert REASONS[0] == "static"


def test_every_picture_is_judged_by_its_own_exits_in_any_order() -> None:
    # Mutant: rows of decisions and exits put together by position.
    first, second = picture("a"), picture("b", attacked=[*ATTACKED[:2], (3, 0.6)])
    decisions, exits = pd.concat([first[0], second[0]]), pd.concat([second[1], first[1]])
    table = candidates_table(decisions, exits, EARLY, STATIC).set_index("image_id")
    assert table.tells.to_dict() == {"a": True, "b": False}


def ranking(*rows: tuple[str, float, bool, int, float], tells: bool = True) -> list[tuple[str, float]]:
    """Image ids and radii (in 1/255) in the order picked, from id, radius, twin right, clean exit and strength."""
    table = pd.concat([candidates_table(*picture(name), EARLY, STATIC) for name, *_ in rows], ignore_index=True)
    for column, position in (("epsilon", 1), ("twin_right", 2), ("clean_exit", 3), ("strength", 4)):
        table[column] = [row[position] for row in rows]
    best = ranked(table.assign(epsilon=table.epsilon / 255, tells=tells), enough=0.9)
    return list(zip(best.image_id, (best.epsilon * 255).round(3), strict=True))


def test_the_most_striking_comes_first() -> None:
    # Mutants: each of the five orders left out or turned round.
    assert ranking(("a", 1, False, 0, 0.99), ("b", 4, True, 3, 0.5)) == [("b", 4), ("a", 1)]
    assert ranking(("a", 2, True, 0, 0.99), ("b", 1, True, 3, 0.5)) == [("b", 1), ("a", 2)]
    assert ranking(("a", 1, True, 0, 0.8), ("b", 1, True, 3, 0.9)) == [("b", 1), ("a", 1)]
    assert ranking(("a", 1, True, 2, 0.99), ("b", 1, True, 1, 0.91)) == [("b", 1), ("a", 1)]
    assert ranking(("a", 1, True, 1, 0.93), ("b", 1, True, 1, 0.95)) == [("b", 1), ("a", 1)]


def test_each_picture_is_told_once_at_its_best_radius_and_only_if_it_tells() -> None:
    # Mutants: a picture per radius; the largest radius kept; pictures that do not tell offered.
    rows = (("a", 4, True, 0, 0.99), ("a", 2, True, 0, 0.6), ("b", 1, False, 0, 0.9), ("b", 2, True, 0, 0.9))
    assert ranking(*rows) == [("b", 2), ("a", 2)]
    assert ranking(*rows, tells=False) == []


def test_the_price_counts_each_way_of_being_fooled_among_its_own() -> None:
    # Mutants: denominators mixed; pictures that the twin gets wrong anyway counted; the twin's attack left out.
    epsilon = 1 / 255
    told = pd.concat(
        [
            picture("a")[0],
            picture("b", twin={"adversarial_prediction": 2, "succeeded": True})[0],
            picture("c", twin={"attackable": False})[0],
            picture("d", succeeded=False)[0],
            picture("e", attackable=False)[0],
        ]
    )
    on_twin = pd.concat([picture(name)[0] for name in "abcd"]).query("target == @STATIC")
    on_twin = on_twin.assign(source=STATIC, success_rule="misclassified_final", succeeded=[True, True, True, False])
    price = price_table({epsilon: told}, {epsilon: on_twin}, EARLY, STATIC)
    counts = {row.what: (row.model, row.num_fooled, row.num_images, row.denominator) for row in price.itertuples()}
    assert counts == {
        "early": (EARLY, 3, 4, "attackable"),
        "same_noise": (STATIC, 1, 2, "fooled the source"),
        "twin_attacked": (STATIC, 3, 4, "attackable"),
    }
    alone = price_table({epsilon: told[told.target == EARLY]}, {}, EARLY, None)
    assert PRICE.check(alone).what.tolist() == ["early"] and alone.iloc[0].rate == 0.75


# On toys


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return replace(answered_image_set(toy_model(dtype=torch.float32), 12), split="test")


@pytest.fixture(scope="module")
def models(images: ImageSet) -> Models:
    made = {}
    for name, num_exits, seed in ((EARLY, 3, 0), (STATIC, 1, 5)):
        model = toy_model(num_exits=num_exits, dtype=torch.float32, seed=seed)
        made[name] = (model, toy_card(model, name, images, exit_positions=tuple(range(num_exits - 1))))
    return made


@pytest.fixture(scope="module")
def spec(models: Models) -> StorySpec:
    hashes = [models[name][1].weights_sha256 for name in (EARLY, STATIC)]
    return StorySpec("toy:test:0-11", EARLY, hashes[0], STATIC, hashes[1], POLICY)


def attacked(model: ExitModel, images: torch.Tensor, labels: torch.Tensor, spec: AttackSpec, policy: ExitPolicy):
    """The attack as experiments make it."""
    return attack(model, images, labels, spec, policy, search=prepared(model), watch="every exit")


@pytest.fixture(scope="module")
def story(spec: StorySpec, images: ImageSet, models: Models) -> Story:
    return run_story(spec, images, models)


def test_a_story_is_the_attack_at_every_radius_shown_to_the_twin_and_the_twins_own(
    story: Story, images: ImageSet, models: Models
) -> None:
    # Mutants: one radius for all; the twin never shown; the model's attack on the twin.
    assert tuple(story.on_model) == tuple(story.on_twin) == STORY_EPSILONS
    assert max(STORY_EPSILONS) <= 4 / 255
    for epsilon, experiment in story.on_model.items():
        alone = attacked(models[EARLY][0], images.pixels(), images.labels, story_attack(epsilon), POLICY)
        assert torch.equal(experiment.results[EARLY].perturbations, alone.perturbations)
        shown = models[STATIC][0](alone.adversarial)
        assert torch.allclose(experiment.logits[EARLY, STATIC], shown, atol=1e-5)
    for epsilon, experiment in story.on_twin.items():
        alone = attacked(models[STATIC][0], images.pixels(), images.labels, twin_attack(epsilon), ExitPolicy())
        assert torch.equal(experiment.results[STATIC].perturbations, alone.perturbations)


def test_noise_is_in_whole_levels_so_that_a_picture_file_holds_it(story: Story) -> None:
    # Mutants: steps of a part of a level; a radius that does not bind.
    for epsilon, experiment in story.on_model.items():
        result = experiment.results[EARLY]
        levels = (result.adversarial - result.images) * 255
        assert (levels - levels.round()).abs().max() < 1e-3
        assert 1 <= levels.abs().max().round() <= round(255 * epsilon)


def test_progress_rises_over_all_attacks_and_a_cancelled_story_ends(
    spec: StorySpec, images: ImageSet, models: Models
) -> None:
    # Mutants: a bar that begins anew with every attack; a token that nobody looks at.
    seen: list[Progress] = []
    run_story(spec, images, models, on_progress=seen.append)
    shares = [each.share for each in seen]
    assert shares == sorted(shares) and 0 < shares[0] < 0.1 and shares[-1] == 1
    assert seen[0].words.startswith("attack 1 of 6: 12 pictures, noise of at most 1/255")
    cancel = Event()
    cancel.set()
    with pytest.raises(Cancelled):
        run_story(spec, images, models, cancel=cancel)


def test_what_was_made_already_is_not_made_again(
    spec: StorySpec, story: Story, images: ImageSet, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutant: results given that are not used.
    made = {each.spec: each.results for each in (*story.on_model.values(), *story.on_twin.values())}
    monkeypatch.setattr("core.experiment.attack", lambda *args, **kwargs: pytest.fail("an attack ran"))
    again = run_story(spec, images, models, made=made.__getitem__)
    for epsilon in STORY_EPSILONS:
        assert torch.equal(again.on_model[epsilon].logits[EARLY, STATIC], story.on_model[epsilon].logits[EARLY, STATIC])


def test_a_story_without_a_twin_attacks_the_model_alone_and_a_static_one_has_none(
    spec: StorySpec, images: ImageSet, models: Models
) -> None:
    # Mutant: a twin taken for granted.
    alone = run_story(replace(spec, twin=None, twin_sha256=""), images, models)
    assert alone.on_twin == {} and set(alone.cards) == {EARLY}
    with pytest.raises(ExitLensError, match="static"):
        run_story(replace(spec, model=STATIC, twin=None), images, models)


def test_what_is_warmed_up_is_what_a_story_asks_for(models: Models) -> None:
    # Mutants: other attacks than the page's; a twin attacked as an early-exit model.
    hashes = [models[name][1].weights_sha256 for name in (EARLY, STATIC)]
    usual = StorySpec("toy:test:0-11", EARLY, hashes[0], STATIC, hashes[1], ExitPolicy())
    for name, asked in ((EARLY, usual.attacks_on_model()), (STATIC, usual.attacks_on_twin())):
        warm = warm_up_story(models[name][1], usual.images, (name, "others"))
        assert [(each.attack, each.made_at, each.images, each.model) for each in warm] == [
            (each.attack, each.made_at, each.images, each.model) for each in asked.values()
        ]
        assert all(each.targets == (name, "others") for each in warm)


# What helps


def test_less_doubt_is_a_tenth_of_it() -> None:
    # Mutant: a step of a fixed size.
    assert [surer(threshold) for threshold in (0.9, 0.99, 0.5, 0.0, 1.0)] == [0.99, 0.999, 0.95, 0.9, 1.0]


def test_help_is_measured_by_how_much_less_often() -> None:
    # Mutants: a difference instead of a share; nothing to help counted as help.
    assert [help_of(0.6, after) for after in (0.0, 0.3, 0.31, 0.54, 0.55, 0.7)] == [
        "much",
        "much",
        "little",
        "little",
        "none",
        "none",
    ]
    assert help_of(0, 0) == "none"


def test_remedies_attack_anew_under_each_policy_and_count_the_worst_of_two(
    spec: StorySpec, images: ImageSet, models: Models
) -> None:
    # Mutants: attacks of the first policy judged under the others; one attack for "any"; costs of attacked pictures.
    asked = RemediesSpec(spec, 4 / 255)
    image_id = images.image_ids[1]
    table = remedies_table(run_remedies(asked, images, models), image_id).set_index("remedy")
    model, card = models[EARLY]
    pixels, labels = images.pixels(), images.labels
    strict = ExitPolicy(0.97)
    policies = {"as_it_is": POLICY, "surer": strict, "surer_other_fallback": replace(strict, fallback="most_confident")}
    assert asked.policies() == policies
    for name, policy in policies.items():
        early = attacked(model, pixels, labels, story_attack(4 / 255), policy)
        plain = attacked(model, pixels, labels, plain_attack(4 / 255, "taken"), policy)
        clean = decide(early.clean_logits, policy)
        wrong = [decide(each.adversarial_logits, policy).prediction != labels for each in (early, plain)]
        right, end_right = clean.prediction == labels, early.clean_logits[:, -1].argmax(-1) == labels
        broken = wrong[0] & (early.adversarial_logits[:, -1].argmax(-1) == labels) & right & end_right
        row = table.loc[name]
        assert (row.early_num_fooled, row.early_num_images) == (int(broken.sum()), int((right & end_right).sum()))
        assert (row.any_num_fooled, row.any_num_images) == (
            int((right & (wrong[0] | wrong[1])).sum()),
            int(right.sum()),
        )
        assert row.mean_cost == pytest.approx(clean.costs(card.exit_costs).mean().item())
        fooled = bool((right & (wrong[0] | wrong[1]))[1])
        assert row.picture == ("fooled_early" if broken[1] else "fooled" if fooled else "holds")
    final = attacked(model, pixels, labels, plain_attack(4 / 255, "final"), POLICY)
    never = table.loc["no_early_exit"]
    assert never.any_num_fooled == final.success_rate(POLICY).num_hits
    assert (never.early_num_fooled, never.early_high, never.mean_cost) == (0, 0, 1)
    assert table.any_num_fooled.max() > 0 and table.early_num_fooled.max() > 0, "nothing is fooled: says nothing"


def test_a_picture_that_is_not_among_them_was_not_attacked(spec: StorySpec, images: ImageSet, models: Models) -> None:
    # Mutant: a picture from elsewhere that "holds".
    made = run_remedies(RemediesSpec(spec, 1 / 255), images, models)
    assert set(remedies_table(made, "elsewhere").picture) == {"not_attacked"}
    assert set(remedies.REMEDIES.columns) == set(remedies_table(made, "elsewhere").columns)


# Kept runs again


@pytest.fixture
def kept_run(images: ImageSet, models: Models, toy_registry: None, tmp_path: Path) -> tuple[kept.KeptRun, Path]:
    folder = tmp_path / "kept"
    spec = ExperimentSpec("toy:test:0-11", (EARLY,), (EARLY, STATIC), story_attack(2 / 255), POLICY)
    return kept.keep(run_experiment(spec, images, models), models, folder), folder


def test_a_kept_attack_comes_back_as_it_was_made(
    kept_run: tuple[kept.KeptRun, Path], images: ImageSet, models: Models
) -> None:
    # Mutants: clean and adversarial logits swapped; steps or images out of order.
    run, folder = kept_run
    made = attacked(models[EARLY][0], images.pixels(), images.labels, story_attack(2 / 255), POLICY)
    back = restored_result(run, EARLY, models[EARLY][0], images, folder)
    assert (back.spec, back.made_at) == (made.spec, made.made_at)
    assert torch.equal(back.perturbations, made.perturbations) and torch.equal(back.labels, made.labels)
    for name in ("clean_logits", "adversarial_logits"):
        assert torch.allclose(getattr(back, name), getattr(made, name), atol=1e-5)
    assert len(back.steps) == len(made.steps)
    for one, other in zip(back.steps, made.steps, strict=True):
        for name in ("loss", "predicted", "confidence", "true_probability", "exit_taken"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_a_kept_attack_comes_back_with_the_precision_of_its_search(
    images: ImageSet, models: Models, toy_registry: None, tmp_path: Path
) -> None:
    # Mutants: float32 whatever it was; the precision of another source of the run.
    spec = ExperimentSpec("toy:test:0-11", (EARLY, STATIC), (EARLY, STATIC), plain_attack(2 / 255, "final"), POLICY)
    made = run_experiment(spec, images, models)
    searched = {EARLY: "float32", STATIC: "bfloat16"}
    results = {name: replace(result, precision=searched[name]) for name, result in made.results.items()}
    run = kept.keep(replace(made, results=results), models, tmp_path)
    for name, precision in searched.items():
        assert restored_result(run, name, models[name][0], images, tmp_path).precision == precision


def test_a_kept_attack_is_found_by_all_that_makes_it(kept_run: tuple[kept.KeptRun, Path], models: Models) -> None:
    # Mutants: weights, policy, attack, pictures or source not looked at; targets that have to be the same.
    run, _ = kept_run
    weights = models[EARLY][1].weights_sha256
    asked = {
        "images": "toy:test:0-11",
        "source": EARLY,
        "weights_sha256": weights,
        "attack": story_attack(2 / 255),
        "made_at": POLICY,
    }
    assert find_run([run], **asked) is run  # type: ignore[arg-type]
    others: list[tuple[str, object]] = [
        ("images", "toy:test:0-10"),
        ("source", STATIC),
        ("weights_sha256", "0" * 64),
        ("attack", story_attack(1 / 255)),
        ("made_at", ExitPolicy()),
    ]
    for name, other in others:
        assert find_run([run], **(asked | {name: other})) is None, name  # type: ignore[arg-type]
    assert find_run([], **asked) is None  # type: ignore[arg-type]


def test_a_damaged_kept_attack_is_no_result(
    kept_run: tuple[kept.KeptRun, Path], images: ImageSet, models: Models, tmp_path: Path
) -> None:
    # Mutant: a file that is read without its checksum.
    run, folder = kept_run
    copy = tmp_path / run.key
    copy.mkdir()
    for file in (folder / run.key).iterdir():
        content = file.read_bytes()
        (copy / file.name).write_bytes(content[:-4] + b"oops" if file.name.startswith("perturb") else content)
    with pytest.raises(ExitLensError, match="damaged"):
        restored_result(run, EARLY, models[EARLY][0], images, tmp_path)


# Charts


def test_a_road_ends_where_the_picture_leaves_and_is_hollow_where_wrong() -> None:
    # Mutants: the whole road drawn as travelled; right and wrong turned round; the twin's marker on the model.
    _, exits = picture()
    own = exits[exits.target == EARLY]
    rows = {state: own[own.state == state] for state in ("clean", "adversarial")}
    lanes = [
        Lane("before", "early-exit", "clean", (0.2, 0.5, 1.0), rows["clean"], 0),
        Lane("after", "early-exit", "adversarial", (0.2, 0.5, 1.0), rows["adversarial"], 1),
        Lane("twin", "static", "adversarial", (1.0,), exits[(exits.target == STATIC) & (exits.state == "clean")], 0),
    ]
    figure = road_figure(lanes, [f"class {number}" for number in range(10)])
    travelled, markers = figure.data[1::3], figure.data[2::3]
    assert [tuple(each.x) for each in travelled] == [(0, 0.2), (0, 0.5), (0, 1.0)]
    assert list(markers[0].marker.symbol) == ["circle"] * 3
    assert list(markers[1].marker.symbol) == ["circle", "circle-open", "circle"]
    assert list(markers[2].marker.symbol) == ["square"]
    assert list(markers[1].marker.opacity) == [1, 1, 0.4]
    said = [each.text for each in figure.layout.annotations]
    assert "<b>class 3</b> (0.90), wrong" in said and "would have said <b>class 1</b> (0.80), right" in said
    assert {"Exit 1", "<b>Exit 2</b>", "Final"} <= set(said)


def test_many_exits_are_named_only_where_the_picture_leaves() -> None:
    # Mutant: 27 names on top of each other.
    rows = pd.DataFrame(exit_rows("a", EARLY, "clean", [(1, 0.9)] * 27))
    costs = tuple((number + 1) / 27 for number in range(27))
    figure = road_figure([Lane("before", "early-exit", "clean", costs, rows, 11)], ["red", "green"])
    assert [each.text for each in figure.layout.annotations] == ["<b>green</b> (0.90), right", "<b>Exit 12</b>"]


def test_charts_show_the_rates_of_their_tables(story: Story, spec: StorySpec, images: ImageSet, models: Models) -> None:
    # Mutants: fractions for percent; one series drawn twice.
    on_model, on_twin = (
        {epsilon: decisions_table(each, POLICY) for epsilon, each in side.items()}
        for side in (story.on_model, story.on_twin)
    )
    price = price_table(on_model, on_twin, EARLY, STATIC)
    drawn = price_figure(price, {"early": "the model", "twin_attacked": "the twin"})
    assert [each.name for each in drawn.data] == ["the model", "the twin"]
    for trace, what in zip(drawn.data, ("early", "twin_attacked"), strict=True):
        rows = price[price.what == what]
        assert list(trace.y) == pytest.approx(list(100 * rows.rate)) and list(trace.x) == ["1/255", "2/255", "4/255"]
        assert list(trace.text) == [f"{row.num_fooled} of {row.num_images}" for row in rows.itertuples()]
    table = remedies_table(run_remedies(RemediesSpec(spec, 4 / 255), images, models), "")
    bars = remedies_figure(table, ["one", "two", "three", "four"]).data
    assert [list(each.x) for each in bars] == [list(100 * table.early_rate), list(100 * table.any_rate)]
    assert bars[0].y[3] == "four<br><b>100 % of the work</b>" and list(bars[0].error_x.array)[3] == 0


# The promise


SHIPPED = [name for name in list_models() if load_card(name).num_exits > 1 and load_card(name).dataset == "cifar10"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("threshold", [0.9, 0.75])
@pytest.mark.parametrize("name", SHIPPED)
def test_the_bundled_samples_always_yield_a_story(name: str, threshold: float) -> None:
    """Whichever of the samples are picked, every early-exit model that ships tells the story with one of them."""
    # Mutants: a condition of the story not looked at; noise above 4/255; a twin that is never right.
    samples = open_image_set("cifar10:samples")
    everything = [load_card(each) for each in list_models()]
    card = load_card(name)
    twin = twin_of(card, everything)
    models = {each.name: load_model(each.name) for each in (card, twin) if each}
    hashes = (card.weights_sha256, twin.weights_sha256 if twin else "")
    spec = StorySpec(samples.name, name, hashes[0], twin.name if twin else None, hashes[1], ExitPolicy(threshold))
    story = run_story(spec, samples, models, made=lambda asked: _no_attack(asked, twin, samples, models))
    tables = [
        candidates_table(decisions_table(each, spec.policy), exits_table(each), name, spec.twin)
        for each in story.on_model.values()
    ]
    best = ranked(pd.concat(tables, ignore_index=True), threshold)
    logits = next(iter(story.on_model.values())).clean_logits[name]
    clean = decide(logits, spec.policy)
    able = (clean.prediction == samples.labels) & (logits[:, -1].argmax(-1) == samples.labels)
    able &= clean.computed_exit < card.num_exits - 1
    # Any picking of these yields one: each of them tells the story by itself.
    assert set(best.image_id) == {samples.image_ids[row] for row in torch.nonzero(able)[:, 0].tolist()}
    assert int(able.sum()) >= 15
    if twin:
        assert best.iloc[0].twin_right and best.twin_right.mean() > 0.5
    _check_by_hand(best.iloc[0], story, models, samples, spec)


def _no_attack(
    asked: ExperimentSpec, twin: ModelCard | None, samples: ImageSet, models: dict
) -> Mapping[str, AttackResult]:
    """The twin's own attacks have no part in picking: one cheap step stands for them."""
    if twin is None or asked.model != twin.name:
        return {}
    quick = replace(asked.attack, num_steps=1)
    return {twin.name: attacked(models[twin.name][0], samples.pixels(), samples.labels, quick, asked.made_at)}


def _check_by_hand(best: pd.Series, story: Story, models: dict, samples: ImageSet, spec: StorySpec) -> None:
    """The picked one once more, really stopping, from the picture as a file of 8 bits holds it."""
    row = samples.image_ids.index(best.image_id)
    result = story.on_model[best.epsilon].results[spec.model]
    levels = (result.adversarial[row] * 255).round()
    assert (levels - samples.images[row].float()).abs().max() <= 4
    label, model = int(samples.labels[row]), models[spec.model][0]
    before = run_dynamic(model, samples.pixels()[row][None], spec.policy)
    after = run_dynamic(model, (levels / 255)[None], spec.policy)
    assert int(before.prediction) == label != int(after.prediction)
    assert max(int(before.computed_exit), int(after.computed_exit)) < model.num_exits - 1
    assert int(model((levels / 255)[None])[0, -1].argmax()) == label
    if spec.twin:
        twin = models[spec.twin][0]
        assert all(int(twin(each[None])[0, -1].argmax()) == label for each in (samples.pixels()[row], levels / 255))
