"""What the story's steps are made of: large words, cards, roads through networks, and tiles."""

from dataclasses import dataclass

import pandas as pd
import streamlit as st

from core.data import ImageSet
from core.figures import Lane, road_figure
from core.figures.theme import exit_names
from core.metrics import Rate
from ui.controls import FALLBACKS, glyph_label
from ui.panels import figure_panel
from ui.pictures import as_bytes
from ui.tale import Tale

TILE_WIDTH, MOST_TILES = 80, 20


@dataclass(frozen=True)
class Card:
    """A fact to be read from afar.

    Attributes:
        head: What it is about.
        fact: In one or two words.
        foot: More of it.
    """

    head: str
    fact: str
    foot: str


def words(title: str, body: str) -> None:
    """The title of a step and what is said below it."""
    with st.container(key="story-words"):
        st.title(title, anchor=False)
        st.markdown(unbroken(body))


def cards(shown: list[Card], per_row: int = 3) -> None:
    """Facts side by side, so many in a row."""
    with st.container(key="story-cards"):
        columns = [column for _ in range(0, len(shown), per_row) for column in st.columns(min(per_row, len(shown)))]
        for column, card in zip(columns[: len(shown)], shown, strict=True):
            with column, st.container(border=True, height="stretch"):
                lines = (f":gray[{card.head}]", f"**{card.fact}**", f":gray[{card.foot}]")
                st.markdown(unbroken("  \n".join(lines)))


def unbroken(text: str) -> str:
    """A text whose percentages are not torn apart at the end of a line."""
    return text.replace(" %", "\u00a0%")


def percent(share: float) -> str:
    """A fraction as whole percent."""
    return f"{100 * share:.0f} %"


def certainty(threshold: float) -> str:
    """A threshold with as many digits as it needs, two at least: ``0.90``, ``0.999``."""
    return f"{threshold:.2f}" if round(threshold, 2) == threshold else f"{threshold:g}"


def spread(share: Rate) -> str:
    """A rate and its interval without the counts: ``60 % (39–78 %)``."""
    if not share.num_images:
        return "none"
    return f"{percent(share.value)} ({100 * share.low:.0f}–{percent(share.high)})"


def lane(tale: Tale, name: str, target: str, state: str) -> Lane:
    """The way of the picture through the tale's network or its twin.

    Args:
        tale: The picture.
        name: At the left end of the road.
        target: Name of the network.
        state: ``clean`` or ``adversarial``.
    """
    card = tale.card if target == tale.card.name else tale.twin
    assert card is not None  # a lane is asked for only of those that are there
    rows = tale.exits[(tale.exits.target == target) & (tale.exits.state == state)]
    row = tale.decisions[tale.decisions.target == target].iloc[0]
    return Lane(name, card.kind, state, card.exit_costs, rows, int(row[f"{state}_answered_exit"]))


def road(tale: Tale, lanes: list[Lane], key: str) -> None:
    """Ways through networks as roads, with their table."""
    policy = tale.policy
    attacked = f" · {tale.attack}" if any(each.state == "adversarial" for each in lanes) else ""
    figure_panel(
        road_figure(lanes, tale.class_names),
        key=key,
        alt="The way through the network. " + " ".join(_way(each, tale) for each in lanes),
        caption=f"{tale.picked.image_id} · {glyph_label(tale.card)}, leaves when {policy.threshold:.2f} sure; when no "
        f"exit is sure, {FALLBACKS[policy.fallback]}{attacked} · filled: right, hollow: wrong, faded: not computed · "
        "in brackets the confidence · work: multiply-adds, of the whole network",
        table=tale.exits,
    )


def _way(each: Lane, tale: Tale) -> str:
    names = exit_names(len(each.exits))
    row = each.exits[each.exits.exit_index == each.taken].iloc[0]
    return (
        f"{each.name.replace('<br>', ' ')}: leaves at {names[each.taken]} after {percent(each.costs[each.taken])} of "
        f"the work as {tale.class_names[int(row.predicted)]}, {'right' if row.right else 'wrong'}."
    )


def tiles(image_set: ImageSet, own: pd.DataFrame) -> None:
    """All pictures, or the first of many, with what the network answers once attacked.

    Args:
        image_set: The pictures.
        own: Decisions on the network, one row for each of them.
    """
    names = image_set.class_names
    shown = list(zip(image_set.pixels()[:MOST_TILES], own.head(MOST_TILES).itertuples(), strict=True))
    with st.grid(min_column_width=TILE_WIDTH + 16, gap="small", key="story-tiles"):
        for number, (pixels, row) in enumerate(shown):
            is_fooled = row.succeeded and row.attackable
            answer = names[int(row.adversarial_prediction)]  # type: ignore[arg-type]
            said = f"◆ {answer}" if is_fooled else "holds" if row.attackable else "not counted"
            truth = names[int(row.label)]  # type: ignore[arg-type]
            with st.container(key=f"tile-story-{number}"):
                st.image(as_bytes(pixels), width=TILE_WIDTH, alt=f"{truth}: {said.replace('◆', 'fooled, answered')}")
                st.caption(said)
    more = f" These are the first {len(shown)} of {len(image_set)}." if len(image_set) > len(shown) else ""
    st.caption(f"◆ wrong early though right at the end, with the wrong answer.{more}")
