"""Picking images: filters, tiles, and the line of official indices that is the selection."""

import random

import numpy as np
import pandas as pd
import streamlit as st
import torch

from core.data import ImageSet, parse_image_set_name, selection_text
from core.errors import ExitLensError
from core.exits import decide
from core.figures.theme import exit_names
from ui import cache
from ui.controls import Setting, glyph_label
from ui.pictures import data_url
from ui.state import IMAGE_SET, OWN_PICTURES, PLACES, run_state
from ui.tiles import Tile, tiles
from ui.words import meaning

MAX_IMAGES = 256
TILES_PER_PAGE = 20
TILES_HEIGHT = 330
NUM_SURPRISES = 8
POPULATIONS = (20, 256)


def selection_line(setting: Setting, whole: ImageSet) -> list[int]:
    """The line that is the selection, with shortcuts to whole populations; returns the official indices picked.

    Raises:
        ExitLensError: If the selection cannot be read, or names images that are not there.
    """
    columns = st.columns([3, 1, 1], vertical_alignment="bottom")
    with columns[0]:
        picked = _typed_selection(setting, whole)
    for column, count in zip(columns[1:], POPULATIONS, strict=True):
        shown = min(count, len(whole))
        column.button(
            f"First {shown}",
            key=f"first-{count}",
            on_click=_pick,
            args=(whole.indices[:shown].tolist(),),
            width="stretch",
            disabled=count > POPULATIONS[0] and len(whole) <= POPULATIONS[0],
        )
    return picked


def _typed_selection(setting: Setting, whole: ImageSet) -> list[int]:
    text = st.text_input(
        "Picked images, by official index",
        "0-7",
        key="images",
        bind="query-params",
        persist_state="session",
        help=f"Such as 0-7 or 3,12,40-47; at most {MAX_IMAGES}.",
    )
    picked = parse_image_set_name(f"{setting.set_name}:{text}")[2] or []
    whole.rows_of(picked)
    if len(picked) > MAX_IMAGES:
        raise ExitLensError(
            f"{len(picked)} images are picked; a page takes {MAX_IMAGES}. Use the command line for more."
        )
    return picked


def wants_own_pictures() -> bool:
    """Whether the lab works on uploads instead of an image set."""
    chosen = st.segmented_control(
        "Images from",
        PLACES,
        default=None if "from" in st.session_state else IMAGE_SET,  # what brings a run back sets it
        required=True,
        key="from",
        persist_state="session",
        label_visibility="collapsed",
    )
    return bool(chosen == OWN_PICTURES)


def picked_images(setting: Setting, whole: ImageSet) -> str:
    """Tiles and filters; returns the selection by name, such as ``cifar10:samples:0-7``.

    Raises:
        ExitLensError: If the selection cannot be read, or names images that are not there.
    """
    picked = _typed_selection(setting, whole)
    selected = f"{setting.set_name}:{selection_text(sorted(picked))}"
    _offers(setting, whole, picked, _asked())
    return selected


@st.fragment
def _offers(setting: Setting, whole: ImageSet, picked: list[int], drawn_for: tuple[str, int]) -> None:
    """Filters and tiles: a filter changes nothing else on the page, so nothing else is drawn again for it."""
    if _asked() != drawn_for:
        st.rerun()
    pool = _pool_table(setting, whole)
    names = exit_names(setting.card.num_exits)
    columns = st.columns([1.2, 1, 1, 1], vertical_alignment="bottom")
    wanted_class = columns[0].selectbox("Class", ["any", *whole.class_names], key="filter_class")
    wanted_right = columns[1].selectbox(
        "When clean", ["right or wrong", "right", "wrong"], key="filter_right", help=meaning("clean")
    )
    wanted_exit = columns[2].selectbox(
        "Leaves at", ["any exit", *names], key="filter_exit", help=meaning("computed exit")
    )
    matching = pool[
        ((wanted_class == "any") | (pool.class_name == wanted_class))
        & ((wanted_right == "right or wrong") | (pool.right == (wanted_right == "right")))
        & ((wanted_exit == "any exit") | (pool.exit_name == wanted_exit))
    ]
    columns[3].button("Surprise me", on_click=_surprise, args=(matching.image_index.tolist(),), width="stretch")
    if matching.empty:
        st.info("No image here is like that. Loosen a filter.")
        return
    _tiles(matching, whole, picked)
    more = f"; tiles show the first {len(pool)} of {len(whole):,}, any can be picked by index"
    st.caption(
        f"{len(picked)} picked. {len(matching)} of {len(pool)} images match{more if len(whole) > len(pool) else ''}. "
        f"Exits and answers of {glyph_label(setting.card)} at threshold {setting.policy.threshold:.2f}."
    )


def _asked() -> tuple[str, int]:
    """What a tile or Surprise me changes, and the whole page follows."""
    return st.session_state["images"], st.session_state.get("surprises", 0)


def _pool_table(setting: Setting, whole: ImageSet) -> pd.DataFrame:
    logits = torch.tensor(cache.pool_logits(setting.card.name, setting.card.weights_sha256, whole.name, 0))
    decisions = decide(logits, setting.policy)
    names = exit_names(setting.card.num_exits)
    labels = whole.labels[: len(logits)]
    return pd.DataFrame(
        {
            "image_index": whole.indices[: len(logits)].numpy(),
            "row": np.arange(len(logits)),
            "class_name": [whole.class_names[label] for label in labels],
            "answer": [whole.class_names[answer] for answer in decisions.prediction],
            "right": (decisions.prediction == labels).numpy(),
            "exit_name": [names[index] for index in decisions.computed_exit],
        }
    )


def _tiles(matching: pd.DataFrame, whole: ImageSet, picked: list[int]) -> None:
    num_pages = -(-len(matching) // TILES_PER_PAGE)
    page = st.pagination(num_pages, key="tile_page") if num_pages > 1 else 1
    shown = matching.iloc[(page - 1) * TILES_PER_PAGE : page * TILES_PER_PAGE]
    pictures = _pictures(whole.name, tuple(shown.row), whole)
    offered = []
    for row, picture in zip(shown.to_dict("records"), pictures, strict=True):
        index, name, leaves_at, answer = (row[key] for key in ("image_index", "class_name", "exit_name", "answer"))
        verdict = "is right" if row["right"] else f"answers {answer}"
        offered.append(
            Tile(
                index=index,
                picture=picture,
                alt=f"Image {index}, {name}; the model {verdict} at {leaves_at}",
                name=f"{index} {name}",
                caption=f"● {leaves_at}" if row["right"] else f"○ {leaves_at}: {answer}",
                is_picked=index in picked,
            )
        )
    tiles(offered, key="tiles", height=TILES_HEIGHT, on_toggle=lambda index: _toggle(index, picked))


@st.cache_data(max_entries=256, show_spinner=False)
def _pictures(set_name: str, rows: tuple[int, ...], _whole: ImageSet) -> list[str]:
    """Addresses that hold the pictures in some rows of an image set."""
    return [data_url(_whole.images[row] / 255) for row in rows]


def _toggle(index: int, picked: list[int]) -> None:
    kept = [other for other in picked if other != index] if index in picked else [*picked, index]
    if kept:
        st.session_state["images"] = selection_text(sorted(kept))


def _pick(indices: list[int]) -> None:
    st.session_state["images"] = selection_text(indices)


def _surprise(candidates: list[int]) -> None:
    if candidates:
        chosen = random.sample(candidates, min(NUM_SURPRISES, len(candidates)))
        st.session_state["images"] = selection_text(sorted(chosen))
        st.session_state["surprises"] = st.session_state.get("surprises", 0) + 1
        run_state().wants_run = True
