"""Of which images a share is said to be, against what the tables count under each success rule."""

import pandas as pd
import pytest
from test_experiment import SPEC, image_set, pair
from test_shift_tables import MOVES
from test_transfer import transfer_of

from core.attacks.spec import PublishedEarlyAttack, SlowdownAttack, early, pgd
from core.attacks.success import SUCCESS_RULES
from core.counted import RULE_WORDS, counted_words, transfer_words
from core.exits import ExitPolicy, decide
from core.experiment import ExperimentSpec, run_experiment
from core.figures import transfer_figure
from core.tables import DENOMINATORS, decisions_table, transfer_images, transfer_table
from ui.shift import left_out_words

POLICY = ExitPolicy(0.6)
EARLY, STATIC = pair()


def test_every_rule_has_its_words() -> None:
    # Mutant: a new rule that is told in the words of another.
    assert set(RULE_WORDS) == set(SUCCESS_RULES)


@pytest.mark.parametrize(
    ("rule", "attackable", "common"),
    [
        ("misclassified_taken", "that source and target answer rightly", "every model here answers rightly"),
        ("misclassified_final", "the source's final exit and the target", "every source's final exit and every target"),
        ("taken_broken_final_kept", "the source, its final exit and the target", "every source, its final exit and"),
        ("early_broken_final_kept", "that the target answers rightly", "every target but an attack's own source"),
        ("slowed", "leave early on both source and target", "leave early on every model here"),
        ("goal_reached", "those of the goal class aside", "those of the goal class aside"),
    ],
)
def test_denominators_are_said_by_the_rule_of_the_attack(rule: str, attackable: str, common: str) -> None:
    # Mutant: right when clean said of every rule.
    assert attackable in counted_words("attackable", rule) and common in counted_words("common", rule)
    assert counted_words("fooled the source", rule) == (
        f"{counted_words('attackable', rule)}, those on which the attack succeeded at its source"
    )
    for denominator in DENOMINATORS:
        assert ("rightly" in counted_words(denominator, rule)) == (rule != "slowed")


def decisions(attack: object, sources: tuple[str, ...]) -> pd.DataFrame:
    spec = ExperimentSpec(SPEC.images, sources, (EARLY, STATIC), attack, POLICY)  # type: ignore[arg-type]
    return decisions_table(run_experiment(spec, image_set(), pair()), POLICY)


@pytest.mark.parametrize(
    "attack",
    [PublishedEarlyAttack(num_steps=2), early(2 / 255, num_steps=2), SlowdownAttack(num_steps=2), pgd(num_steps=1)],
    ids=lambda attack: attack.title,
)
def test_images_counted_are_those_that_the_words_name(attack: object) -> None:
    # Mutants: the target's rule asked of the source, or the source's of the target.
    images = transfer_images(decisions(attack, (EARLY,)))
    labels, logits = image_set().labels, {name: model(image_set().pixels()) for name, (model, _) in pair().items()}
    clean = {name: decide(each, POLICY) for name, each in logits.items()}
    right = {name: each.prediction == labels for name, each in clean.items()}
    final_right = logits[EARLY][:, -1].argmax(-1) == labels
    quick = {name: each.computed_exit < logits[name].shape[1] - 1 for name, each in clean.items()}
    at_source, at_target = {
        "early_broken_final_kept": (labels >= 0, right[STATIC]),
        "taken_broken_final_kept": (right[EARLY] & final_right, right[STATIC]),
        "slowed": (quick[EARLY], quick[STATIC]),
        "misclassified_taken": (right[EARLY], right[STATIC]),
    }[attack.success_rule]  # type: ignore[attr-defined]
    own, other = (images[images.target == name] for name in (EARLY, STATIC))
    assert own.attackable.tolist() == at_source.tolist()
    assert other.attackable.tolist() == (at_source & at_target).tolist()
    assert own.common.tolist() == other.common.tolist() == (at_source & at_target).tolist()


def test_a_matrix_says_outlined_only_where_it_is_and_by_which_rule_its_own_source_counts() -> None:
    # Mutants: outlined said of every matrix; one rule said for cells of two.
    def words(counts: dict[tuple[str, str], tuple[int, int]], rule: str) -> str:
        shown = transfer_of(counts)
        figure = transfer_figure(shown, {"A": "A", "B": "B"})
        said = transfer_words(shown, "attackable", rule)
        assert ("Outlined" in said) == bool(figure.layout.shapes)
        return said

    square = {(one, other): (1, 2) for one in "AB" for other in "AB"}
    row = {pair: counts for pair, counts in square.items() if pair[0] == "A"}
    assert "Outlined" in words(square, "misclassified_taken") and "Outlined" not in words(row, "misclassified_taken")
    assert "own source counts" not in words(row, "misclassified_taken")
    said = words(row, "taken_broken_final_kept")
    assert "own source counts where the model's answer is wrong though its final exit is right" in said
    assert said.endswith("shown to another model, where the model's answer is wrong")
    slowed = transfer_table(decisions(SlowdownAttack(num_steps=2), (EARLY,)))
    assert transfer_words(slowed, "attackable", "slowed").startswith("Slowed down, of the images that leave early")


def test_images_that_a_rule_does_not_count_are_named_where_they_are_drawn() -> None:
    # Mutants: named under a rule that counts every image, or where every image succumbed.
    own = MOVES.assign(success_rule="slowed")
    assert left_out_words(own) == "Not slowed down: images that compute everything when clean included. "
    assert left_out_words(own[:2]) == ""
    assert left_out_words(own.assign(success_rule="early_broken_final_kept")) == ""
    assert "Not fooled: images already wrong" in left_out_words(own.assign(success_rule="misclassified_taken"))
