"""Which models a measurement of early exits is about."""

from collections.abc import Sequence

from core.checkpoints import ModelCard, list_models, load_card
from core.data import ImageSet
from core.errors import ExitLensError


def early_exit_cards(image_set: ImageSet, names: Sequence[str] | None = None) -> list[ModelCard]:
    """Cards of the early-exit models that know the images.

    Args:
        image_set: The images.
        names: Only of these; of all models here without.

    Raises:
        ExitLensError: If there is none, or a name is of no model.
    """
    cards = [load_card(name) for name in names or list_models()]
    chosen = [card for card in cards if card.num_exits > 1 and card.dataset == image_set.dataset]
    if not chosen:
        among = f"Among {', '.join(names)}" if names else "Here"
        raise ExitLensError(
            f"{among} is no early-exit model that knows the images {image_set.name}. Choose images of a model's data "
            "set."
        )
    return chosen
