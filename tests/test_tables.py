"""Tables against their schemas, against logits decided by hand, and a transfer matrix counted by hand."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from toys import answered_image_set, toy_card, toy_model

from core.attacks.spec import pgd
from core.exits import ExitPolicy
from core.experiment import Experiment, ExperimentSpec, run_experiment
from core.metrics import rate
from core.tables import (
    DECISIONS,
    EXITS,
    SCHEMAS,
    STEPS,
    TRANSFER,
    TableSchema,
    decisions_table,
    exits_table,
    steps_table,
    transfer_table,
)

EARLY, STATIC = "toy-early-exit", "toy-static"
POLICY = ExitPolicy(0.6)
NUM_IMAGES, NUM_STEPS = 12, 2


class Counted:
    """A model that counts how often it is called."""

    def __init__(self, model) -> None:
        self.model, self.num_calls = model, 0

    def __call__(self, images):
        self.num_calls += 1
        return self.model(images)

    def __getattr__(self, name: str):
        return getattr(self.model, name)


@cache
def models() -> dict:
    early, static = (toy_model(num_exits=count, dtype=torch.float32, seed=count) for count in (3, 1))
    images = answered_image_set(early, NUM_IMAGES)
    return {
        EARLY: (Counted(early), toy_card(early, EARLY, images)),
        STATIC: (Counted(static), toy_card(static, STATIC, images)),
    }


@cache
def experiment(objective: str = "taken", goal_class: int | None = None) -> Experiment:
    attack = pgd(num_steps=NUM_STEPS, objective=objective, goal_class=goal_class)
    images = answered_image_set(models()[EARLY][0].model, NUM_IMAGES)
    return run_experiment(
        ExperimentSpec("toy:test", (EARLY, STATIC), (EARLY, STATIC), attack, POLICY), images, models()
    )


def by_hand(logits: list[list[float]], policy: ExitPolicy) -> tuple[int, int, int, float]:
    """Answered exit, computed exit, prediction and confidence of one image, without torch's help."""
    shares = [np.exp(np.array(exit) - max(exit)) for exit in logits]
    shares = [share / share.sum() for share in shares]
    computed = next((index for index, share in enumerate(shares[:-1]) if share.max() >= policy.threshold), None)
    answered = computed
    if computed is None:
        computed = answered = len(shares) - 1
        if policy.fallback == "most_confident":
            answered = int(np.argmax([share.max() for share in shares]))
    return answered, computed, int(shares[answered].argmax()), float(shares[answered].max())


# Schemas


def good() -> pd.DataFrame:
    return pd.DataFrame({"b": [1, 2], "a": ["x", "y"], "c": [0.5, 1.0], "d": [True, False]})


SCHEMA = TableSchema("small", "one row", {"a": "text", "b": "whole", "c": "number", "d": "truth"})


def test_schema_puts_columns_in_its_order() -> None:
    # Mutant: the frame returned as it came.
    assert list(SCHEMA.check(good()).columns) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda frame: frame.drop(columns="b"), "b"),
        (lambda frame: frame.assign(e=1), "e"),
        (lambda frame: frame.assign(a=[1, 2]), "a is int64, not a text"),
        (lambda frame: frame.assign(a=pd.Series([1, 2], dtype=object)), "a is object, not a text"),
        (lambda frame: frame.assign(b=[1.0, 2.0]), "b is float64, not a whole"),
        (lambda frame: frame.assign(c=[1, 2]), "c is int64, not a number"),
        (lambda frame: frame.assign(d=[0, 1]), "d is int64, not a truth"),
    ],
)
def test_wrong_columns_and_kinds_are_refused(change, named: str) -> None:
    # Mutant: either check dropped, or any object column taken for text.
    with pytest.raises(ValueError, match=named):
        SCHEMA.check(change(good()))


def test_every_builder_fits_its_schema() -> None:
    # Mutant: a builder that returns its frame unchecked with a column more.
    done = experiment()
    decisions = decisions_table(done, POLICY)
    steps = steps_table(done.results[EARLY], done.image_set.image_ids, EARLY)
    tables = [decisions, exits_table(done), steps, transfer_table(decisions)]
    assert len({schema.name for schema in SCHEMAS}) == len(SCHEMAS)
    for schema, table in zip((DECISIONS, EXITS, STEPS, TRANSFER), tables, strict=True):
        assert list(schema.check(table).columns) == list(schema.columns)
        assert not table.drop(columns=["rate"], errors="ignore").isna().any().any()


# Decisions


@pytest.mark.parametrize("policy", [POLICY, ExitPolicy(0.95), ExitPolicy(0.95, "most_confident"), ExitPolicy(0.0)])
def test_decisions_are_those_made_by_hand_from_the_logits(policy: ExitPolicy) -> None:
    # Mutant: clean and adversarial swapped, the source's clean logits used for the target, or shift turned round.
    done = experiment()
    table = decisions_table(done, policy)
    assert len(table) == 4 * NUM_IMAGES
    for (source, target), rows in table.groupby(["source", "target"]):
        costs = done.cards[target].exit_costs
        sides = {"clean": done.clean_logits[target], "adversarial": done.logits[source, target]}
        for position, row in enumerate(rows.itertuples()):
            assert row.image_id == f"toy/test/{position}"
            decided = {state: by_hand(logits[position].tolist(), policy) for state, logits in sides.items()}
            for state, (answered, computed, prediction, confidence) in decided.items():
                assert getattr(row, f"{state}_answered_exit") == answered
                assert getattr(row, f"{state}_computed_exit") == computed
                assert getattr(row, f"{state}_prediction") == prediction
                assert getattr(row, f"{state}_confidence") == pytest.approx(confidence, abs=1e-6)
                assert getattr(row, f"{state}_cost") == costs[computed]
            assert row.exit_shift == decided["adversarial"][1] - decided["clean"][1]
            assert row.attackable == (decided["clean"][2] == row.label)
            assert row.succeeded == (decided["adversarial"][2] != row.label)


def test_decisions_carry_identity_and_the_distances_of_the_stored_perturbations() -> None:
    # Mutant: distances per pixel, or of what was not stored; the threshold in force written as made_at.
    done = experiment()
    table = decisions_table(done, ExitPolicy(0.8))
    own = table[(table.source == EARLY) & (table.target == EARLY)]
    result = done.results[EARLY]
    change = ((result.images + result.perturbations.float()).clamp(0, 1) - result.images).double()
    assert own.linf.tolist() == pytest.approx(change.abs().flatten(1).max(1).values.tolist())
    assert own.l2.tolist() == pytest.approx(change.square().sum((1, 2, 3)).sqrt().tolist())
    assert 0 < own.linf.max() <= 8 / 255 + 1e-6
    assert own.pixel_hash.tolist() == done.image_set.pixel_hashes
    assert own.label.tolist() == done.image_set.labels.tolist()
    assert set(own.made_at) == {0.6} and set(own.threshold) == {0.8}
    assert set(table.precision) == {"float32"} and set(own.attack) == {result.spec.label}


def test_source_is_judged_by_its_attack_and_targets_at_their_answer() -> None:
    # Mutant: the rule of the source used for its targets too.
    table = decisions_table(experiment("final"), POLICY)
    rules = table.groupby(["source", "target"]).success_rule.unique().map(list).to_dict()
    assert rules[EARLY, EARLY] == ["misclassified_final"]
    assert rules[EARLY, STATIC] == ["misclassified_taken"]
    table = decisions_table(experiment("taken", 2), POLICY)
    # A static model's only exit is the final one.
    assert table.groupby(["source", "target"]).success_rule.unique().map(list).to_dict() == {
        (EARLY, EARLY): ["goal_reached"],
        (EARLY, STATIC): ["goal_reached"],
        (STATIC, STATIC): ["goal_reached_final"],
        (STATIC, EARLY): ["goal_reached"],
    }


def test_threshold_decides_again_and_calls_no_model() -> None:
    # Mutant: a table that runs the network once more.
    done = experiment()
    before = [model.num_calls for model, _ in models().values()]
    exits = [decisions_table(done, ExitPolicy(share)).clean_computed_exit.sum() for share in (0.0, 0.6, 1.0)]
    assert [model.num_calls for model, _ in models().values()] == before
    assert exits[0] == 0 and exits[0] < exits[1] < exits[2]


# Exits and steps


def test_exits_table_has_every_exits_view_of_every_image_in_both_states() -> None:
    # Mutant: images and exits crossed when flattened, or the final exit only.
    done = experiment()
    table = exits_table(done)
    assert len(table) == 2 * (2 * NUM_IMAGES * 3 + 2 * NUM_IMAGES * 1)  # two sources, two states
    cell = table.set_index(["source", "target", "state", "image_id", "exit_index"])
    labels = done.image_set.labels.tolist()
    for (source, target), adversarial in done.logits.items():
        for state, logits in (("clean", done.clean_logits[target]), ("adversarial", adversarial)):
            shares = logits.double().softmax(-1)
            for image in range(NUM_IMAGES):
                for index in range(logits.shape[1]):
                    row = cell.loc[(source, target, state, f"toy/test/{image}", index)]
                    share = shares[image, index]
                    assert row.predicted == int(share.argmax())
                    assert row.confidence == pytest.approx(float(share.max()), abs=1e-6)
                    assert row.true_probability == pytest.approx(float(share[labels[image]]), abs=1e-6)
                    assert row.right == (int(share.argmax()) == labels[image])


def test_steps_table_goes_from_the_clean_image_to_the_stored_one() -> None:
    # Mutant: the start or the end left out, the exit taken of another policy, or another image's loss.
    done = experiment()
    result = done.results[EARLY]
    table = steps_table(result, done.image_set.image_ids, EARLY)
    assert len(table) == (NUM_STEPS + 1) * NUM_IMAGES * 3
    assert set(table.source) == {EARLY} and sorted(set(table.step)) == [0, 1, 2]
    cell = table.set_index(["step", "image_id", "exit_index"])
    for step, logits in ((0, result.clean_logits), (NUM_STEPS, result.adversarial_logits)):
        shares = logits.double().softmax(-1)
        for image, label in enumerate(done.image_set.labels.tolist()):
            answered, computed, _, _ = by_hand(logits[image].tolist(), POLICY)
            for index in range(3):
                row = cell.loc[(step, f"toy/test/{image}", index)]
                share = shares[image, index]
                assert (row.predicted, row.made_at_exit) == (int(share.argmax()), computed)
                assert row.confidence == pytest.approx(float(share.max()), abs=1e-5)
                assert row.true_probability == pytest.approx(float(share[label]), abs=1e-5)
                assert row.loss == pytest.approx(-float(shares[image, answered, label].log()), abs=1e-4)


# Transfer


def decided(target: str, attackable: str, succeeded: str) -> pd.DataFrame:
    """Images a to e, made on S and shown to a target; ``+`` is true."""
    return pd.DataFrame(
        {
            "source": "S",
            "target": target,
            "image_id": list("abcde"),
            "attackable": [sign == "+" for sign in attackable],
            "succeeded": [sign == "+" for sign in succeeded],
            "success_rule": "misclassified_taken",
        }
    )


def test_transfer_counts_images_attackable_on_both_and_those_that_fooled_the_source() -> None:
    # Mutant: one side's attackable dropped, rows matched by position, denominators swapped, or ``common`` per pair.
    on_source = decided("S", attackable="+++-+", succeeded="++-+-")
    on_target = decided("T", attackable="+-+++", succeeded="++++-").iloc[::-1]
    table = transfer_table(pd.concat([on_source, on_target], ignore_index=True))
    counted = {(row.target, row.denominator): (row.num_fooled, row.num_images) for row in table.itertuples(index=False)}
    assert counted == {
        ("S", "attackable"): (2, 4),  # a, b of a, b, c, e
        ("S", "common"): (1, 3),  # a of a, c, e
        ("S", "fooled the source"): (2, 2),
        ("T", "attackable"): (2, 3),  # a, c of a, c, e
        ("T", "common"): (2, 3),
        ("T", "fooled the source"): (1, 1),  # a
    }
    row = table[(table.target == "T") & (table.denominator == "attackable")].iloc[0]
    share = rate(2, 3)
    assert (row.rate, row.low, row.high) == (share.value, share.low, share.high)


def test_transfer_of_no_images_has_no_rate() -> None:
    # Mutant: 0 written as if it had been measured.
    table = transfer_table(decided("S", attackable="-----", succeeded="+++++"))
    assert table.num_images.tolist() == [0, 0, 0] and table.rate.isna().all()
    assert (table.low.tolist(), table.high.tolist()) == ([0, 0, 0], [1, 1, 1])
