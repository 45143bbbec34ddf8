"""Cards in words: complete, and equal to the file that ships."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import answered_image_set, toy_card, toy_model

from core.card_text import POINT_NAMES, cards_markdown, how_it_was_made
from core.checkpoints import ModelCard, list_models, load_card
from core.metrics import OperatingPoint

ROOT = Path(__file__).parents[1]
MODEL = toy_model(num_exits=3, dtype=torch.float32)


@pytest.fixture
def card(toy_registry: None) -> ModelCard:
    point = OperatingPoint("loses_5_percent", 0.42, 0.75, 0.4, (0.5, 0.25, 0.25), 8)
    return toy_card(
        MODEL,
        "toy-early-exit",
        answered_image_set(MODEL),
        operating_points=(point,),
        recipe={"name": "toy-recipe", "num_epochs": 7, "batch_size": 16},
        seed=3,
        training_seconds=5400.4,
        versions={"python": "3.11", "torch": "2.14"},
        machine={"cores": "2", "threads": "1", "instructions": "AVX512", "architecture": "x86_64"},
        temperatures=(1.25, 1.0, 0.8),
    )


def test_the_shipped_file_equals_the_cards() -> None:
    # Mutant: a card changed without `python -m core models --markdown > checkpoints/README.md`.
    cards = [load_card(name) for name in list_models(ROOT / "checkpoints")]
    shipped = (ROOT / "checkpoints" / "README.md").read_text(encoding="utf-8")
    assert shipped == cards_markdown(cards), "run: python -m core models --markdown > checkpoints/README.md"


@pytest.mark.parametrize("name", list_models(ROOT / "checkpoints"))
def test_every_shipped_card_says_how_its_model_was_made(name: str) -> None:
    # Mutant: a card written by hand, without machine, versions, counts or operating points.
    card = load_card(name, ROOT / "checkpoints")
    assert card.recipe["name"] == name and card.recipe["seed"] == card.seed and card.training_seconds > 60
    assert {"python", "torch", "numpy"} <= card.versions.keys()
    assert {"architecture", "instructions", "cores", "threads", "omp_wait_policy"} <= card.machine.keys()
    counts = (card.test, card.validation_accuracy, card.layer_multiply_adds, card.classifier_multiply_adds)
    assert {len(each) for each in counts} == {card.num_exits}
    names = [point.name for point in card.operating_points]
    assert names == ([] if card.kind == "static" else list(POINT_NAMES))


def test_how_it_was_made_says_everything_that_the_card_knows(card: ModelCard) -> None:
    # Mutant: any part dropped.
    words = how_it_was_made(card)
    for part in (
        "toy-recipe",
        "7 epochs",
        "batches of 16",
        "seed 3",
        "5,400 s (1.5 h)",
        "2 cores and 1 threads (x86_64 AVX512)",
        "python 3.11, torch 2.14",
        "1.25, 1.00, 0.80",
        f"{card.num_parameters:,} parameters",
        "float32",
        card.weights_sha256,
    ):
        assert part in words, part


def test_a_model_on_anothers_backbone_names_it(card: ModelCard) -> None:
    # Mutant: exits on a frozen backbone passed off as a network trained as a whole.
    assert "backbone is that of `toy-static`" in how_it_was_made(replace(card, shares="toy-static"))
    assert "backbone" not in how_it_was_made(card)


def test_what_a_card_lacks_is_left_out(card: ModelCard) -> None:
    # Mutant: a KeyError, or "None" in a sentence, for a model that was trained elsewhere.
    words = how_it_was_made(replace(card, recipe={}, versions={}, machine={}, temperatures=()))
    assert "None" not in words and "()" not in words and "recipe" not in words and "temperature" not in words
    assert card.weights_sha256 in words


def test_markdown_has_a_row_for_every_exit_and_point(card: ModelCard) -> None:
    # Mutant: the final exit left out, costs of other exits, or points without their thresholds.
    text = cards_markdown([card])
    assert "## toy-early-exit" in text
    rows = [line for line in text.splitlines() if line.startswith(("| Exit", "| Final"))]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == ["Exit 1", "Exit 2", "Final"]
    for row, cost, share in zip(rows, card.exit_costs, card.test, strict=True):
        assert f"{100 * cost:.1f} %" in row and f"{100 * share.value:.1f} % ({100 * share.low:.1f}–" in row
    assert f"| {POINT_NAMES['loses_5_percent']} | 0.42 | 75.0 % | 40.0 % | 50, 25, 25 % |" in text


def test_a_static_card_has_no_operating_points(card: ModelCard) -> None:
    # Mutant: an empty table under a heading.
    assert "Operating points" not in cards_markdown([replace(card, operating_points=())])
