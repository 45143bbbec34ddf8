"""Pictures to pick from, as one component: a message for each part of each tile keeps a page waiting."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import streamlit as st
from streamlit.components import v2

_HTML = """
<ul></ul>
<template><li><label>
  <img width="96" height="96"><span class="name"><input type="checkbox"><b></b></span><small></small>
</label></li></template>
"""
_CSS = """
ul { list-style: none; margin: 0; padding: 3px; overflow-y: auto; display: grid; gap: 0.75rem;
  grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); }
label { display: flex; flex-direction: column; gap: 0.15rem; width: fit-content; cursor: pointer; }
img { image-rendering: pixelated; border-radius: var(--st-base-radius); outline: 1px solid var(--st-border-color); }
label:hover img { outline-color: var(--st-primary-color); }
label:has(:checked) img { outline: 3px solid var(--st-primary-color); }
label:has(:focus-visible) { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
.name { display: flex; align-items: center; gap: 0.35rem; font-size: 0.875rem; }
b { font-weight: 400; }
input { accent-color: var(--st-primary-color); width: 1rem; height: 1rem; margin: 0; cursor: pointer; outline: none; }
small { font-size: 0.8rem; opacity: 0.7; }
"""
# What is there already stays, so that the focus does, too. A tick follows what is picked and not the click alone: where
# nothing comes of a click, as the last picked image stays picked, no pass through the page would put it right.
_JS = """
export default function ({ parentElement: root, data, setTriggerValue }) {
  const list = root.querySelector("ul"), one = root.querySelector("template").content;
  list.style.maxHeight = `${data.height}px`;
  while (list.children.length > data.tiles.length) list.lastElementChild.remove();
  while (list.children.length < data.tiles.length) list.append(one.cloneNode(true));
  data.tiles.forEach((tile, place) => {
    const part = (name) => list.children[place].querySelector(name);
    if (part("img").getAttribute("src") !== tile.picture) part("img").src = tile.picture;
    part("img").alt = tile.alt;
    part("b").textContent = tile.name;
    part("small").textContent = tile.caption;
    part("input").ariaLabel = tile.name;
    part("input").checked = tile.is_picked;
    part("input").onchange = (event) => {
      event.target.checked = tile.is_picked;
      setTriggerValue("toggled", tile.index);
    };
  });
}
"""
_tiles = v2.component("exitlens_tiles", html=_HTML, css=_CSS, js=_JS)


@dataclass(frozen=True)
class Tile:
    """One picture to pick.

    Attributes:
        index: What is told when it is clicked.
        picture: Its address, which may hold the picture itself.
        alt: What it shows, in words.
        name: Beside the checkbox.
        caption: Under it.
        is_picked: Whether the checkbox is ticked.
    """

    index: int
    picture: str
    alt: str
    name: str
    caption: str
    is_picked: bool


def tiles(shown: Sequence[Tile], *, key: str, height: int, on_toggle: Callable[[int], None]) -> None:
    """Tiles with checkboxes in a window of their own.

    Args:
        shown: In this order.
        key: Of the component.
        height: Of the window at most, in pixels.
        on_toggle: Called with the index of a clicked tile, before the page is drawn again.
    """
    _tiles(
        key=key,
        data={"tiles": [asdict(tile) for tile in shown], "height": height},
        on_toggled_change=lambda: on_toggle(st.session_state[key]["toggled"]),
    )
