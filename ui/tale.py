"""What the Story page tells: one picture with all that was said of it, from a live attack or from a kept example."""

from dataclasses import dataclass
from typing import Protocol, cast

import pandas as pd
import streamlit as st
from torch import Tensor

from core import kept
from core.attacks.spec import as_255
from core.checkpoints import ModelCard
from core.errors import ExitLensError
from core.examples import KeptExample
from core.exits import ExitPolicy
from core.experiment import twin_of
from core.story import STORY_EPSILONS, Story
from core.story_tables import candidates_table
from ui import cache, kept_cache
from ui.controls import Setting
from ui.example import find_example
from ui.kept_cache import Gallery
from ui.pictures import adversarial_pixels, clean_image
from ui.state import story_state
from ui.story_cache import StoryTables

NOT_TELLING = {
    "static": "it was made on a static network, which has no early exit to fool",
    "wrong_when_clean": "the network was not right about the clean picture, early and at its end",
    "not_early_when_clean": "the clean picture does not leave early",
    "still_right": "the network's answer is still right",
    "final_wrong_too": "the network's own end is wrong, too, so nothing inside it knew better",
    "not_early_when_attacked": "with the noise the network computes everything, so no early answer fails",
    "noise_is_visible": f"its noise moves a pixel by more than {as_255(STORY_EPSILONS[-1])} and can be seen on a large "
    "picture",
}


class Candidate(Protocol):
    """A row of schema ``CANDIDATES``, as ``DataFrame.itertuples`` gives it."""

    image_id: str
    label: int
    epsilon: float
    linf: float
    clean_exit: int
    adversarial_exit: int
    answer: int
    clean_confidence: float
    adversarial_confidence: float
    final_confidence: float
    twin_right: bool
    twin_confidence: float
    tells: bool
    reason: str


@dataclass(frozen=True, eq=False)
class Tale:
    """One picture that tells the story.

    Attributes:
        picked: Exits, answers and confidences in one row.
        card: Of the early-exit model.
        twin: Of its independently trained static twin, where it was shown the picture.
        policy: That the attack was made at and is judged under.
        attack: In words.
        clean: (3, H, W) in [0, 1].
        adversarial: The same with the noise on it.
        decisions: On the model and its twin, schema ``DECISIONS``, of this picture.
        exits: What every exit says of it, schema ``EXITS``.
        class_names: One per class.
        was_sent: Whether it is a kept example that somebody sent here.
    """

    picked: Candidate
    card: ModelCard
    twin: ModelCard | None
    policy: ExitPolicy
    attack: str
    clean: Tensor
    adversarial: Tensor
    decisions: pd.DataFrame
    exits: pd.DataFrame
    class_names: tuple[str, ...]
    was_sent: bool

    @property
    def truth(self) -> str:
        """Name of the true class."""
        return self.class_names[self.picked.label]

    @property
    def wrong_answer(self) -> str:
        """Name of the class answered once attacked."""
        return self.class_names[self.picked.answer]

    @property
    def noise(self) -> float:
        """The most that a pixel moves: in a sent example as it is, in a picture picked here as its attack allowed."""
        return self.picked.linf if self.was_sent else self.picked.epsilon

    def cost(self, state: str) -> float:
        """Cost fraction of the picture, ``clean`` or ``adversarial``."""
        own = self.decisions[self.decisions.target == self.card.name]
        return float(own[f"{state}_cost"].iloc[0])


def picked_tale(story: Story, tables: StoryTables, picked: Candidate) -> Tale:
    """The tale of one of the pictures that were attacked live."""
    name, experiment = story.spec.model, story.on_model[picked.epsilon]
    result, row = experiment.results[name], story.image_set.image_ids.index(picked.image_id)
    decisions, exits = tables.decisions[picked.epsilon], tables.exits[picked.epsilon]
    return Tale(
        picked=picked,
        card=story.cards[name],
        twin=story.cards.get(story.spec.twin or ""),
        policy=story.spec.policy,
        attack=result.spec.label,
        clean=result.images[row],
        adversarial=result.adversarial[row],
        decisions=decisions[decisions.image_id == picked.image_id],
        exits=exits[exits.image_id == picked.image_id],
        class_names=tuple(story.image_set.class_names),
        was_sent=False,
    )


def take_up() -> tuple[Tale | None, str]:
    """The tale of the kept example that the address names, and one sentence where it tells none.

    The first time, the controls are set to the model and the policy that it was made on, unless the address says
    otherwise itself or the example is brought back. Called before the controls are drawn.
    """
    state = story_state()
    is_back, state.wants_back = state.wants_back, False
    if is_back:
        st.query_params["example"], state.put_aside = state.put_aside, ""
    address = st.query_params.get("example")
    if not address:
        return None, ""
    gallery = kept_cache.gallery()
    try:
        example = find_example(gallery, address)
    except ExitLensError as error:
        return None, str(error)
    tale, why = _sent_tale(example, gallery)
    if tale and state.taken_up != address:
        state.taken_up, state.put_aside = address, ""
        if is_back or not {"model", "threshold", "fallback"} & set(st.query_params):
            _set_controls(example, gallery)
    return tale, why and f"The example that was sent here cannot tell this story: {why}."


def fits(tale: Tale, setting: Setting) -> bool:
    """Whether the controls still say what a sent example was made on."""
    return (tale.card.name, tale.policy) == (setting.card.name, setting.policy)


def put_aside() -> None:
    """Takes the sent example out of the address, as the controls no longer fit it, and remembers it."""
    state = story_state()
    state.put_aside, state.taken_up = str(st.query_params.pop("example")), ""


def send_away() -> None:
    """Takes the sent example out of the address for good; only for callbacks."""
    story_state().taken_up = ""
    st.query_params.pop("example", None)


def bring_back() -> None:
    """Sends the example that was put aside once more; only for callbacks.

    What a callback raises ends in a stack trace, and the example may be gone, so the page itself looks for it.
    """
    story_state().wants_back = True


def _set_controls(example: KeptExample, gallery: Gallery) -> None:
    place = gallery.places[example.image_id, example.pixel_hash]
    values = {
        "set": place[0],
        "model": example.source,
        "threshold": example.made_at,
        "fallback": example.fallback,
    }
    for key, value in values.items():
        st.session_state[key] = value


def _sent_tale(example: KeptExample, gallery: Gallery) -> tuple[Tale | None, str]:
    cards = {card.name: card for card in cache.cards()[0]}
    image = clean_image(example, gallery)
    if not example.is_current:
        return None, "the network that it was made on is not here any more, or has been trained again"
    if image is None:
        return None, "its picture is not on this machine"
    card = cards[example.source]
    twin = twin_of(card, list(cards.values()))
    run = gallery.kept.runs[example.run]
    folder = str(kept.kept_folder())
    decisions, exits = kept_cache.kept_verdicts(
        folder, run.key, gallery.changed[run.key], example.image_id, example.source
    )
    if twin and not any((model.name, model.weights_sha256) == (twin.name, twin.weights_sha256) for model in run.models):
        twin = None
    rows = candidates_table(decisions, exits, card.name, twin.name if twin else None)
    picked = cast(Candidate, next(rows.itertuples()))
    if not picked.tells:
        return None, NOT_TELLING[picked.reason]
    try:
        perturbation = kept_cache.stored_perturbation(gallery, example)
    except ExitLensError:  # missing or damaged, which the gallery says
        perturbation = kept_cache.remade(run.key, card.name, example.weights_sha256, example.image_id, run, image)
    if not kept_cache.verdict_holds(example, image, perturbation):
        return None, "the network on this machine answers it otherwise than when it was kept"
    tale = Tale(
        picked=picked,
        card=card,
        twin=twin,
        policy=ExitPolicy(example.made_at, example.fallback),
        attack=example.attack,
        clean=image.pixels()[0],
        adversarial=adversarial_pixels(image, perturbation),
        decisions=decisions,
        exits=exits,
        class_names=run.class_names,
        was_sent=True,
    )
    return tale, ""
