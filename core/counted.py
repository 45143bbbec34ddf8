"""Of which images a share is, and what became of them, in words, under every success rule."""

from dataclasses import dataclass

import pandas as pd

from core.attacks.success import SUCCESS_RULES
from core.figures.transfer import is_in_percent, is_outlined


@dataclass(frozen=True)
class RuleWords:
    """How to speak of images under the success rule of an attack.

    Attributes:
        done: Those on which it succeeded.
        not_done: All others.
        attackable: Those that it is counted on.
        left_out: Those that it is not counted on, which are among the others; empty where it is counted on all.
        of_pair: Those that count for one source and one target, after "the images".
        of_all: Those that count for every model compared.
        does: What an example does to another model.
        did: What it did.
    """

    done: str = "fooled"
    not_done: str = "not fooled"
    attackable: str = "those answered rightly when clean"
    left_out: str = "already wrong when clean"
    of_pair: str = "that source and target answer rightly when clean"
    of_all: str = "that every model here answers rightly when clean"
    does: str = "fool"
    did: str = "fooled"

    @property
    def of_target(self) -> str:
        """What is counted of another model."""
        return self.did.removesuffix(" on")


_SLOWED = RuleWords(
    done="slowed down",
    not_done="not slowed down",
    attackable="those that do not compute everything when clean",
    left_out="that compute everything when clean",
    of_pair="that leave early on both source and target when clean",
    of_all="that leave early on every model here when clean",
    does="slow down",
    did="slowed down",
)
_NO_GOAL = ", those of the goal class aside"
_BOTH_RIGHT = "those that the model and its final exit answer rightly when clean"
_BOTH_OF_PAIR = "that the source, its final exit and the target answer rightly when clean"
_BOTH_OF_ALL = "that every source, its final exit and every target answer rightly when clean"
RULE_WORDS = {
    "misclassified_taken": RuleWords(),
    "misclassified_final": RuleWords(
        attackable="those that the final exit answers rightly when clean",
        left_out="that the final exit answers wrongly when clean",
        of_pair="that the source's final exit and the target answer rightly when clean",
        of_all="that every source's final exit and every target answer rightly when clean",
    ),
    "taken_broken_final_kept": RuleWords(
        attackable=_BOTH_RIGHT,
        left_out="that the model or its final exit answers wrongly when clean",
        of_pair=_BOTH_OF_PAIR,
        of_all=_BOTH_OF_ALL,
    ),
    "early_broken_final_kept": RuleWords(
        done="early exits broken",
        not_done="early exits not broken",
        attackable="all of them, whatever they were answered when clean",
        left_out="",
        of_pair="that the target answers rightly when clean (an attack shown to its own source: all images)",
        of_all="that every target but an attack's own source answers rightly when clean",
    ),
    "slowed": _SLOWED,
    "slowed_label_kept": _SLOWED,
    "goal_reached": RuleWords(
        done="reach the goal",
        not_done="do not reach the goal",
        attackable=RuleWords.attackable + _NO_GOAL,
        left_out="already wrong when clean, and those of the goal class",
        of_pair=RuleWords.of_pair + _NO_GOAL,
        of_all=RuleWords.of_all + _NO_GOAL,
        does="reach the goal on",
        did="reached the goal on",
    ),
    "goal_reached_final": RuleWords(
        done="reach the goal",
        not_done="do not reach the goal",
        attackable=f"those that the final exit answers rightly when clean{_NO_GOAL}",
        left_out="that the final exit answers wrongly when clean, and those of the goal class",
        of_pair=f"that the source's final exit and the target answer rightly when clean{_NO_GOAL}",
        of_all=f"that every source's final exit and every target answer rightly when clean{_NO_GOAL}",
        does="reach the goal on",
        did="reached the goal on",
    ),
    "goal_taken_final_kept": RuleWords(
        done="reach the goal",
        not_done="do not reach the goal",
        attackable=_BOTH_RIGHT + _NO_GOAL,
        left_out="that the model or its final exit answers wrongly when clean, and those of the goal class",
        of_pair=_BOTH_OF_PAIR + _NO_GOAL,
        of_all=_BOTH_OF_ALL + _NO_GOAL,
        does="reach the goal on",
        did="reached the goal on",
    ),
}


def counted_words(denominator: str, success_rule: str) -> str:
    """Of which images a share of a table of transfer is.

    Args:
        denominator: One of ``core.tables.DENOMINATORS``.
        success_rule: That of the attack, by which it is counted at its source.
    """
    words = RULE_WORDS[success_rule]
    if denominator == "common":
        return f"Of the images {words.of_all}, so that cells compare"
    at_source = ", those on which the attack succeeded at its source"
    return f"Of the images {words.of_pair}{at_source * (denominator == 'fooled the source')}"


def transfer_words(shown: pd.DataFrame, denominator: str, success_rule: str) -> str:
    """What the cells of a transfer matrix count, and of which images.

    Args:
        shown: Rows of one denominator (schema ``TRANSFER``).
        denominator: Which one.
        success_rule: That of the attack.
    """
    counted = counted_words(denominator, success_rule)
    unit = ", in percent" * is_in_percent(shown)
    words = [f"{RULE_WORDS[success_rule].of_target.capitalize()}{unit}, {counted[0].lower()}{counted[1:]}"]
    elsewhere = [str(rule) for rule in shown[shown.source != shown.target].success_rule.unique()]
    if elsewhere and elsewhere != [success_rule]:
        own, other = SUCCESS_RULES[success_rule].label, SUCCESS_RULES[elsewhere[0]].label
        words.append(f"An attack shown to its own source counts where {own}; shown to another model, where {other}")
    words += ["Outlined: an attack shown to its own source"] * is_outlined(shown)
    return ". ".join(words)
