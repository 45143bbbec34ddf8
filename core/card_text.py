"""Model cards in words and as Markdown."""

from collections.abc import Sequence

from core.checkpoints import ModelCard
from core.metrics import Rate

POINT_NAMES = {
    "loses_1_percent": "loses < 1 %",
    "loses_5_percent": "loses < 5 %",
    "loses_15_percent": "loses < 15 %",
    "half_cost": "half the cost",
    "threshold_0.90": "0.90",
}

_HEAD = """# Models
Written by `python -m core models --markdown` from the cards; do not edit. Accuracies with 95 % Wilson intervals.
Cost is multiply-adds done up to an exit, the classifiers passed included, over those of the whole network.
"""


def how_it_was_made(card: ModelCard) -> str:
    """Recipe, seed, time, machine, versions and hash of a model, in sentences; what the card lacks is left out."""
    calibrated = (
        f"One temperature per exit, fitted on validation, is part of the weights: "
        f"{', '.join(f'{value:.2f}' for value in card.temperatures)}."
        if card.temperatures
        else ""
    )
    stored = (
        f"{card.num_parameters:,} parameters, matrices stored as {card.storage}; sha256 of the weights "
        f"`{card.weights_sha256}`."
    )
    shared = f"Its backbone is that of `{card.shares}`; only its exits were trained." if card.shares else ""
    return " ".join(filter(None, (_origin(card), shared, calibrated, stored)))


def _origin(card: ModelCard) -> str:
    """How a model was trained, or where it was imported from."""
    if card.imported:
        return f"Imported from `{card.imported.factory}`; how it was trained is not known here."
    recipe, machine = card.recipe, card.machine
    trained = f"Trained on `{card.dataset}` with seed {card.seed}"
    if recipe.get("name"):
        trained += f" by the recipe `{recipe['name']}`"
    if "num_epochs" in recipe and "batch_size" in recipe:
        trained += f", {recipe['num_epochs']} epochs of batches of {recipe['batch_size']}"
    trained += f", in {card.training_seconds:,.0f} s ({card.training_seconds / 3600:.1f} h)"
    if {"cores", "threads"} <= machine.keys():
        processor = " ".join(filter(None, (machine.get("architecture"), machine.get("instructions"))))
        trained += f", on {machine['cores']} cores and {machine['threads']} threads ({processor})"
    versions = ", ".join(f"{name} {number}" for name, number in card.versions.items())
    return f"{trained}. Made with {versions}." if versions else f"{trained}."


def cards_markdown(cards: Sequence[ModelCard]) -> str:
    """All cards as one Markdown document: the content of ``checkpoints/README.md``."""
    return "\n".join([_HEAD, *(_card_markdown(card) for card in cards)])


def _card_markdown(card: ModelCard) -> str:
    lines = [
        f"## {card.name}",
        f"{card.label}, {card.num_classes} classes, {card.image_size}×{card.image_size} pixels. "
        + how_it_was_made(card),
        "",
        f"| exit | after | cost | accuracy on {card.test_set} (n = {card.test[0].num_images:,}) | on validation |",
        "|---|---|---|---|---|",
    ]
    validation = card.validation_accuracy or (None,) * card.num_exits
    for index, (share, cost, other) in enumerate(zip(card.test, card.exit_costs, validation, strict=True)):
        name = "Final" if index == card.num_exits - 1 else f"Exit {index + 1}"
        seen = "" if other is None else f"{100 * other:.1f} %"
        layer = f"`{card.exit_layers[index]}`" if card.exit_layers else "not known"
        lines.append(f"| {name} | {layer} | {100 * cost:.1f} % | {_rate(share)} | {seen} |")
    if card.operating_points:
        lines += [
            "",
            f"Operating points, chosen on validation (n = {card.operating_points[0].num_images:,}):",
            "",
            "| point | threshold | accuracy | mean cost | share that leaves at each exit |",
            "|---|---|---|---|---|",
        ]
        for point in card.operating_points:
            shares = ", ".join(f"{100 * share:.0f}" for share in point.exit_shares)
            lines.append(
                f"| {POINT_NAMES.get(point.name, point.name)} | {point.threshold:.2f} | {100 * point.accuracy:.1f} % | "
                f"{100 * point.mean_cost:.1f} % | {shares} % |"
            )
    return "\n".join([*lines, ""])


def _rate(share: Rate) -> str:
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f}–{100 * share.high:.1f} %)"
