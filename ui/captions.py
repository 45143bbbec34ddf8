"""What stands under the figures of an experiment, in the same words: attack, policy, images."""

from core.exits import ExitPolicy
from core.experiment import Experiment
from ui.controls import FALLBACKS, glyph_label

WILSON = "95 % Wilson intervals"


def made_words(experiment: Experiment, judged: ExitPolicy | None = None, source: str | None = None) -> str:
    """What was attacked and how, under which policy it was made and judged, on which images, and how many.

    Args:
        experiment: The experiment.
        judged: The policy in force; None for what no threshold moves.
        source: The model that was attacked; None: the model in question.
    """
    name = source or experiment.spec.model
    words = [glyph_label(experiment.cards[name]), experiment.results[name].spec.label, made_at_words(experiment)]
    if judged is not None:
        words.append(judged_words(judged))
    return " · ".join([*words, images_words(experiment)])


def made_at_words(experiment: Experiment) -> str:
    """The policy that the attacks reckoned with."""
    return f"made at {policy_words(experiment.spec.made_at)}"


def judged_words(policy: ExitPolicy) -> str:
    """The policy that the result is judged under."""
    return f"judged at {policy_words(policy)}"


def policy_words(policy: ExitPolicy) -> str:
    """A policy, such as ``T = 0.90``; its fallback is named where it is not the usual one."""
    fallback = "" if policy.fallback == "final" else f"; when no exit is sure, {FALLBACKS[policy.fallback]}"
    return f"T = {policy.threshold:.2f}{fallback}"


def images_words(experiment: Experiment) -> str:
    """Which images, and how many."""
    return f"{experiment.spec.images} · n = {len(experiment.image_set)}"
