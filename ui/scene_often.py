"""The story's fourth step, the price: how often it works, and how the twin fares."""

import pandas as pd
import streamlit as st

from core.attacks.spec import as_255
from core.figures import price_figure
from core.metrics import Rate, rate
from core.story import Story
from ui import story_cache
from ui.controls import glyph_label
from ui.panels import figure_panel
from ui.scene_parts import Card, cards, spread, tiles, words
from ui.story import Told, waiting


def often(told: Told) -> None:
    """How many of the pictures behave like the one told, and how the twin fares when it is attacked itself."""
    story = told.story
    if story is None:
        words("Is this one unlucky picture?", "The same is done to more pictures.")
        waiting(told.spec, told.job)
        return
    tables, model = story_cache.story_tables(told.spec, story), told.spec.model
    at_epsilon = tables.price[tables.price.epsilon == told.epsilon].set_index("what")
    early = _rate(at_epsilon, "early")
    title = f"Not one unlucky picture: {early.num_hits} of {early.num_images}"
    words(title if early.num_hits > 1 else "How often does it work?", _often_words(told, at_epsilon))
    decisions = tables.decisions[told.epsilon]
    left, right = st.columns([1, 1.15], gap="large")
    with left:
        tiles(story.image_set, decisions[(decisions.source == model) & (decisions.target == model)])
    with right:
        cards(_price_cards(at_epsilon))
        _price_panel(told, story, tables.price)


def _often_words(told: Told, at_epsilon: pd.DataFrame) -> str:
    body = f"Noise of at most {as_255(told.epsilon)} was computed for each of these pictures."
    if "twin_attacked" not in at_epsilon.index:
        return f"{body} There is no twin to compare with."
    falls = _rate(at_epsilon, "twin_attacked").num_hits
    return body + (
        " And to have no early exits is no armour: **attacked itself, the twin falls, too**."
        if falls
        else " The twin, attacked itself, holds."
    )


def _price_cards(at_epsilon: pd.DataFrame) -> list[Card]:
    """How many, of how many, and how sure that is."""
    early = _rate(at_epsilon, "early")
    shown = [Card("Fooled early", _counts(early), f"{spread(early)}, the end right")]
    if "same_noise" in at_epsilon.index:
        same = _rate(at_epsilon, "same_noise")
        right = rate(same.num_images - same.num_hits, same.num_images)
        shown.append(Card("Twin right on these", _counts(right), f"{spread(right)}"))
    if "twin_attacked" in at_epsilon.index:
        own = _rate(at_epsilon, "twin_attacked")
        shown.append(Card("Twin attacked itself", _counts(own), f"{spread(own)} fooled"))
    return shown


def _price_panel(told: Told, story: Story, price: pd.DataFrame) -> None:
    names = {"early": f"{glyph_label(story.cards[told.spec.model])}: early answer wrong, end right"}
    if told.spec.twin:
        names["twin_attacked"] = f"{glyph_label(story.cards[told.spec.twin])}: wrong, attacked itself"
    drawn = price[price.what.isin(names)]
    counted = [
        f"{a}, {as_255(b)}: {c} of {d}"
        for a, b, c, d in zip(drawn.what.map(names), drawn.epsilon, drawn.num_fooled, drawn.num_images, strict=True)
    ]
    figure_panel(
        price_figure(drawn, names),
        key="story-price",
        alt=f"Pictures fooled. {'; '.join(counted)}",
        caption=f"{told.spec.images} · Early Attack in steps of 1/255, made at T = {told.spec.policy.threshold:.2f}; "
        "twin: PGD, 10 steps of a quarter of the radius · of the pictures right when clean (the network: early and at "
        f"its end), n = {len(story.image_set)} · 95 % Wilson intervals",
        table=price,
    )


def _rate(price: pd.DataFrame, what: str) -> Rate:
    row = price[price.index == what].iloc[0]
    return rate(int(row.num_fooled), int(row.num_images))


def _counts(share: Rate) -> str:
    return f"{share.num_hits} of {share.num_images}"
