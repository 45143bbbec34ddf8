"""Surrogates on disk, in the folder of their study, and on their way to the workers that attack them."""

import hashlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from core.checkpoints import (
    CARD_FILE,
    WEIGHTS_FILE,
    LoadedModel,
    ModelCard,
    card_json,
    load_card,
    load_model,
    save_model,
)
from core.errors import ExitLensError
from core.study.models import model_hash
from core.study.parts import write_whole
from core.study.surrogates import Surrogate, surrogate_key

FOLDER, STATES_FOLDER = "models", ".training"


@dataclass(frozen=True)
class StoredModel:
    """A model that travels with its cell, as its worker's checkpoints do not hold it.

    Attributes:
        name: Of the model.
        hash: Its ``model_hash``.
        card: Content of its card.
        weights: Content of its weights file.
    """

    name: str
    hash: str
    card: ModelCard = field(compare=False, repr=False)
    weights: bytes = field(compare=False, repr=False)

    def load(self) -> tuple[LoadedModel, ModelCard]:
        """The network and its card, as ``load_model`` gives them."""
        with tempfile.TemporaryDirectory() as folder:
            save_model(self.weights, self.card, Path(folder))
            return load_model(self.name, Path(folder))


def states_folder(folder: Path) -> Path:
    """Where unfinished trainings of a study lie."""
    return folder / FOLDER / STATES_FOLDER


def write_surrogate(folder: Path, card: ModelCard, weights: bytes) -> None:
    """Puts a surrogate in the folder of its study: first the weights, then the card that makes them count.

    Raises:
        ExitLensError: If the folder cannot be written.
    """
    place = folder / FOLDER / card.name
    write_whole(place / WEIGHTS_FILE, weights)
    write_whole(place / CARD_FILE, card_json(card).encode())


def card_of(folder: Path, surrogate: Surrogate) -> ModelCard | None:
    """The card of a surrogate that is there, whole and trained as planned; None otherwise."""
    try:
        card = load_card(surrogate.name, folder / FOLDER)
        content = (folder / FOLDER / surrogate.name / WEIGHTS_FILE).read_bytes()
    except (ExitLensError, OSError):
        return None
    is_it = surrogate_key(card) == surrogate.key and hashlib.sha256(content).hexdigest() == card.weights_sha256
    return card if is_it else None


def stored_model(folder: Path, name: str) -> StoredModel:
    """A surrogate as it travels.

    Raises:
        ExitLensError: If it is not in the folder of its study: weights do not travel with shipped results.
    """
    try:
        card = load_card(name, folder / FOLDER)
        content = (folder / FOLDER / name / WEIGHTS_FILE).read_bytes()
    except (ExitLensError, OSError) as error:
        raise ExitLensError(
            f"The surrogate {name} is not in {folder / FOLDER}: shipped results hold no weights. Take the folder that "
            "the study was run in."
        ) from error
    return StoredModel(name, model_hash(card), card, content)
