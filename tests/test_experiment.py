"""A model and its twin attacked side by side: who is shown what, progress, cancel, and the attack that fits each."""

import dataclasses
import threading
from functools import cache

import pytest
import torch
from toys import answered_image_set, toy_card, toy_model

from core.attacks.run import AttackProgress
from core.attacks.spec import fgsm, pgd
from core.data import ImageSet
from core.errors import Cancelled, ExitLensError
from core.exits import ExitPolicy
from core.experiment import (
    Experiment,
    ExperimentSpec,
    attack_for,
    counterpart_of,
    offered_in_order,
    run_experiment,
    twin_of,
)
from core.models.imported import Imported

EARLY, STATIC = "toy-early-exit", "toy-static"
SPEC = ExperimentSpec("toy:test:0-11", (EARLY, STATIC), (EARLY, STATIC), pgd(num_steps=3), ExitPolicy(0.6))


@cache
def pair() -> dict:
    early, static = (toy_model(num_exits=count, dtype=torch.float32, seed=count) for count in (3, 1))
    images = answered_image_set(early)
    return {EARLY: (early, toy_card(early, EARLY, images)), STATIC: (static, toy_card(static, STATIC, images))}


@cache
def image_set() -> ImageSet:
    return answered_image_set(pair()[EARLY][0])


@cache
def experiment() -> Experiment:
    return run_experiment(SPEC, image_set(), pair())


def test_every_target_is_judged_on_the_stored_images_of_every_source() -> None:
    # Mutant: source and target swapped, or clean images shown instead of adversarial ones.
    done = experiment()
    assert set(done.logits) == {(source, target) for source in pair() for target in pair()}
    for (source, target), logits in done.logits.items():
        model, _ = pair()[target]
        result = done.results[source]
        stored = (result.images + result.perturbations.float()).clamp(0, 1)
        torch.testing.assert_close(logits, model(stored), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(logits, done.clean_logits[target], atol=1e-3)


def test_experiment_keeps_its_spec_its_images_and_the_cards_in_order() -> None:
    # Mutant: the twin first, or seconds of one attack only.
    done = experiment()
    assert done.spec is SPEC and done.image_set is image_set()
    assert list(done.cards) == list(done.results) == [EARLY, STATIC]
    each = [result.seconds for result in done.results.values()]
    assert max(each) <= done.seconds <= sum(each) + 1


def test_progress_rises_to_one_over_both_models() -> None:
    # Mutant: the share of each model by itself, which reaches 1 twice.
    shares: list[float] = []
    run_experiment(SPEC, image_set(), pair(), on_progress=lambda progress: shares.append(progress.share))
    assert shares == pytest.approx([number / 6 for number in range(1, 7)])


def test_cancelled_experiment_ends_at_its_next_step_on_either_model() -> None:
    # Mutant: the token not handed on.
    token, seen = threading.Event(), []

    def on_progress(progress: AttackProgress) -> None:
        seen.append(progress.share)
        token.set()

    with pytest.raises(Cancelled):
        run_experiment(SPEC, image_set(), pair(), on_progress=on_progress, cancel=token)
    assert 1 <= len(seen) <= 2, "the other model may be amid a step"


def test_models_attacked_side_by_side_or_in_turn_come_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutants: results handed to the wrong model; random starts drawn from what both share.
    spec = dataclasses.replace(SPEC, attack=pgd(num_steps=3, random_start=True))
    monkeypatch.setattr("core.experiment.FEW_IMAGES", 0)
    in_turn = run_experiment(spec, image_set(), pair())
    monkeypatch.undo()
    beside = run_experiment(spec, image_set(), pair())
    assert list(beside.results) == list(in_turn.results)
    for name, result in in_turn.results.items():
        assert torch.equal(beside.results[name].perturbations, result.perturbations)


def test_static_model_is_attacked_at_its_only_exit_and_an_early_exit_model_as_asked() -> None:
    # Mutant: the exit asked for handed to a model that has none, or ``final`` given to both.
    early, static = (card for _, card in pair().values())
    asked = fgsm(objective="exit", exit_index=1, seed=3)
    assert attack_for(early, asked) == asked
    assert attack_for(static, asked) == fgsm(objective="final", seed=3)
    done = experiment()
    assert (done.results[EARLY].spec, done.results[STATIC].spec) == (SPEC.attack, attack_for(static, SPEC.attack))


def test_twin_is_the_model_of_the_other_kind_and_else_the_same() -> None:
    # Mutant: kind, data set or architecture not compared.
    early, static = (card for _, card in pair().values())
    strangers = [
        dataclasses.replace(static, name="a", dataset="cifar10"),
        dataclasses.replace(static, name="b", architecture="resnet56"),
        dataclasses.replace(early, name="c"),
    ]
    assert twin_of(early, [early, *strangers, static]) is static
    assert twin_of(static, [static, early]) is early
    assert twin_of(early, [early, *strangers]) is None


@pytest.mark.usefixtures("toy_registry")
def test_of_several_twins_the_independent_one_with_standard_exits_and_lowest_seed_is_taken() -> None:
    # Mutant: the first by name: an all-exits model on the very same backbone is no independent twin.
    early, static = (card for _, card in pair().values())
    early = dataclasses.replace(early, exit_positions=(0, 1, 2), seed=2)
    second = dataclasses.replace(early, name="a-second", seed=7)
    late = dataclasses.replace(early, name="a-late", exit_positions=(2,), seed=1)
    every = dataclasses.replace(early, name="a-all", shares=STATIC)
    cards = [every, late, second, early, static]
    assert twin_of(static, cards) is early
    assert twin_of(late, cards) is static
    assert twin_of(every, cards) is None
    assert twin_of(every, [*cards, dataclasses.replace(static, name="static-2", seed=5)]).name == "static-2"


@pytest.mark.usefixtures("toy_registry")
def test_exits_on_a_backbone_are_set_beside_its_own_model() -> None:
    # Mutants: no static model beside them, though theirs is here; an unrelated one of another seed.
    early, static = (card for _, card in pair().values())
    every = dataclasses.replace(early, name="a-all", shares=STATIC)
    second = dataclasses.replace(static, name="a-static-2", seed=5)
    assert counterpart_of(every, [second, every, early, static]) is static
    assert counterpart_of(early, [every, early, static]) is static
    assert counterpart_of(static, [every, early, static]) is early
    assert counterpart_of(every, [every, early]) is None


@pytest.mark.usefixtures("toy_registry")
def test_the_first_architecture_opens_pages_and_its_pair_stands_together() -> None:
    # Mutants: by name, so that a new model changes what a fresh page opens with; an import or a variant first.
    early, static = (card for _, card in pair().values())
    early = dataclasses.replace(early, exit_positions=(0, 1, 2))
    late = dataclasses.replace(early, name="a-late", exit_positions=(2,), seed=0)
    of_ours = [
        *(dataclasses.replace(card, architecture="resnet56", exit_positions=()) for card in (early, static)),
        *(dataclasses.replace(card, architecture="mobilenet", exit_positions=()) for card in (early, static)),
        *(early, static, late),
    ]
    import_ = dataclasses.replace(static, name="0", imported=Imported("a:b", (), stops_early=False))
    assert sorted([import_, *reversed(of_ours)], key=offered_in_order) == [*of_ours, import_]


@pytest.mark.parametrize("fault", ["model missing", "other images", "other twin"])
def test_experiment_whose_parts_do_not_fit_is_refused(fault: str) -> None:
    # Mutant: the check dropped: a missing model shows up as a KeyError in the summary, other images as nonsense.
    models, images = pair(), image_set()
    if fault == "model missing":
        models = {STATIC: models[STATIC]}
    elif fault == "other images":
        images = dataclasses.replace(images, dataset="cifar10")
    else:
        models = models | {STATIC: (models[STATIC][0], dataclasses.replace(models[STATIC][1], dataset="cifar10"))}
    with pytest.raises(ExitLensError, match=EARLY):
        run_experiment(SPEC, images, models)


@pytest.mark.parametrize(
    ("sources", "targets"),
    [((), (EARLY,)), ((EARLY,), (STATIC,)), ((EARLY, EARLY), (EARLY,)), ((EARLY,), (EARLY,) * 2)],
)
def test_sources_that_are_no_targets_or_named_twice_are_refused(
    sources: tuple[str, ...], targets: tuple[str, ...]
) -> None:
    # Mutant: no check: a source without its own verdict fails deep inside a table.
    with pytest.raises(ExitLensError, match="among the targets"):
        ExperimentSpec("toy:test", sources, targets, pgd(), ExitPolicy())


def test_target_that_is_no_source_is_shown_everything_and_attacked_by_nobody() -> None:
    # Mutant: every target attacked, or its clean logits left out.
    spec = dataclasses.replace(SPEC, sources=(EARLY,))
    done = run_experiment(spec, image_set(), pair())
    assert list(done.results) == [EARLY] and list(done.cards) == [EARLY, STATIC]
    assert set(done.logits) == {(EARLY, EARLY), (EARLY, STATIC)}
    static = pair()[STATIC][0]
    torch.testing.assert_close(done.clean_logits[STATIC], static(image_set().pixels()))
    torch.testing.assert_close(done.logits[EARLY, STATIC], static(done.results[EARLY].adversarial))


def test_attack_that_was_made_already_is_not_made_again() -> None:
    # Mutant: ``made`` ignored, or its progress counted.
    made, shares = {EARLY: experiment().results[EARLY]}, []
    done = run_experiment(
        SPEC, image_set(), pair(), made=made, on_progress=lambda progress: shares.append(progress.share)
    )
    assert done.results[EARLY] is made[EARLY] and list(done.results) == [EARLY, STATIC]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1])
    for pair_of_names, logits in experiment().logits.items():
        torch.testing.assert_close(done.logits[pair_of_names], logits)
