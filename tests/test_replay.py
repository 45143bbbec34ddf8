"""The replay of an attack step by step: offered where it can be, and otherwise why not."""

from itertools import pairwise

import pytest
from every_page import fresh_caches, warm
from streamlit.testing.v1 import AppTest
from test_models_page import zoo

from core.attacks.spec import AttackSpec, UniversalAttack
from ui.close_up import MAX_REPLAYED, why_no_replay

__all__ = ["fresh_caches", "zoo"]
pytestmark = pytest.mark.usefixtures("zoo")


def opened(**link: str) -> AppTest:
    return warm("attack_lab", images="0,1", close_up="step by step", **link)


def offered(test: AppTest) -> list[int]:
    """The steps of the slider."""
    return [int(option) for each in test.select_slider if each.key == "replay" for option in each.options]


def why_not(test: AppTest) -> list[str]:
    return [caption.value for caption in test.caption if caption.value.startswith("No replay: ")]


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ({"attack": "Early"}, "the best image that it met"),
        ({"attack": "Early", "through": "every early exit, as published", "published_steps": "3"}, "are not kept"),
        ({"attack": "Worst case", "worst_steps": "2"}, "several attacks"),
        ({"attack": "PGD", "steps": "2", "aim": "each exit, the worst for all"}, "worst for all of them"),
        ({"attack": "FGSM"}, "one step"),
        ({"attack": "Corruption"}, "one step"),
    ],
    ids=str,
)
def test_why_an_attack_cannot_be_replayed_is_said(link: dict[str, str], words: str) -> None:
    # Mutants: no slider and no word of it; a slider that makes other images than the attack met.
    test = opened(**link)
    assert offered(test) == [] and len(why_not(test)) == 1 and words in why_not(test)[0]


def test_one_perturbation_for_all_images_is_not_replayed() -> None:
    # Mutant: a replay of a fit on other images.
    spec: AttackSpec = UniversalAttack(fitted_on="cifar10:validation:0-127")
    assert "fitted on other images" in why_no_replay(spec, spec.num_steps)


def test_a_long_attack_is_replayed_at_evenly_spread_steps() -> None:
    # Mutants: none at all; the start or the last step left out; more stops than anybody looks at.
    test = opened(attack="PGD", steps="100")
    steps = offered(test)
    assert (steps[0], steps[-1], len(steps)) == (0, 100, MAX_REPLAYED) and why_not(test) == []
    assert {later - sooner for sooner, later in pairwise(steps)} == {2, 3}
    test.select_slider(key="replay").set_value(steps[1]).run()
    assert not test.exception and any("step 2 of 100: " in str(image.proto) for image in test.get("image"))
    assert offered(opened(attack="PGD", steps="10")) == list(range(11))
