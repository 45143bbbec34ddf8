"""The gallery's parts: filters, tiles and table of kept adversarial examples."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import pandas as pd
import streamlit as st
from torch import Tensor

from core.attacks.common import ATTACK_TITLES, norm_of, strength_words
from core.attacks.success import SUCCESS_RULES
from core.corruptions import CORRUPTIONS
from core.errors import ExitLensError
from core.examples import KeptExample
from core.figures.theme import SHIFT_GLYPHS, exit_names
from core.gallery import ORDERS, Fooled, KeptFilter, Shift, address_of, filter_examples, sort_examples
from core.kept import Kept
from ui import bound, kept_cache
from ui.controls import glyph_label
from ui.kept_cache import Gallery
from ui.panels import table_downloads
from ui.pictures import adversarial_pixels, as_bytes, clean_image, data_url
from ui.words import column_help, help_of, meaning

T = TypeVar("T")
ANY = "any"
TILES_PER_PAGE = 24
ROWS_PER_PAGE = 100
TILE_WIDTH = 96
NO_PICTURE = "no picture here"
MADE_AGAIN = "clean picture: the perturbation is made again when opened"
LOST = "clean picture: the perturbation is lost"
SHIFTS: dict[str, Shift] = {f"{glyph} {word}": word for word, glyph in SHIFT_GLYPHS.items()}  # type: ignore[misc]


def chosen_examples(gallery: Gallery) -> pd.DataFrame:
    """The sidebar's filters and order; returns the examples that they let through, in that order."""
    examples, labels = gallery.examples, model_labels(gallery.kept)

    def words(column: str, in_words: Callable[[Any], str]) -> dict[str, Any]:
        return {in_words(value): value for value in sorted(examples[column].unique().tolist())}

    rules = {rule.label: name for name, rule in SUCCESS_RULES.items() if examples[name].any()}
    strengths = {
        strength_words(norm, epsilon): (norm, epsilon)
        for norm, epsilon in sorted(set(zip(examples.attack_name.map(norm_of), examples.epsilon, strict=True)))
        if epsilon < 1 or norm == "l2"
    }
    with st.sidebar:
        source = _filter("Made on", "by_model", words("source", labels.__getitem__), help=meaning("source"))
        attack_name = _filter("Attack", "by_attack", words("attack_name", attack_label))
        norm, epsilon = _filter("Epsilon", "by_epsilon", strengths, help=meaning("epsilon")) or (None, None)
        wanted = KeptFilter(
            source=source,
            attack_name=attack_name,
            epsilon=epsilon,
            norm=norm,
            class_name=_filter("True class", "by_class", words("class_name", lambda name: name)),
            success_rule=_filter("Success rule", "by_rule", rules, help=meaning("success rule")),
            shift=_filter("Exit shift", "by_shift", SHIFTS, help=meaning("exit shift")),
            fooled=_filter("Models fooled", "by_fooled", _fooled_words(int(examples.num_shown.max()))),
            survives_rounding=_filter(
                "Rounded to 8 bits",
                "by_rounding",
                {"still succeeds": True, "does not": False},
                help=meaning("survives rounding"),
            ),
        )
        order = bound.choose(st.selectbox, "Order", list(ORDERS), key="order")
    return sort_examples(filter_examples(examples, wanted), str(order))


def _filter(label: str, key: str, values: dict[str, T], help: str | None = None) -> T | None:
    """One of the values, chosen by its words; None lets all through."""
    chosen = bound.choose(st.selectbox, label, [ANY, *values], key=key, help=help, on_change=_first_page)
    return values.get(str(chosen))


def _fooled_words(most: int) -> dict[str, Fooled]:
    counts: dict[str, Fooled] = {f"{count} or more": count for count in range(1, most + 1)}
    return counts | {"every model shown": "every", "only the one it was made on": "source"}


def _first_page() -> None:
    st.session_state["page"] = 1


def headline(shown: pd.DataFrame, gallery: Gallery) -> None:
    """How many examples match, and what is to be known of them."""
    total, num_runs = len(gallery.examples), len(gallery.kept.runs)
    st.markdown(f"**{len(shown):,} of {total:,} kept examples match** · {num_runs} run{'s' * (num_runs != 1)}")
    missing, earlier = int((~shown.is_here).sum()), int((~shown.is_current).sum())
    notes = ["Each is judged under the policy it was made at."]
    notes += [f"{missing:,} stand at the end: their pictures are not on this machine."] if missing else []
    notes += [f"{earlier:,} were made on earlier weights, or on a model that is gone."] if earlier else []
    st.caption(" ".join(notes))
    for problem in gallery.kept.problems:
        st.warning(problem)


def examples_view(shown: pd.DataFrame, gallery: Gallery) -> None:
    """Tiles or table, page by page; a click opens an example."""
    if shown.empty:
        st.info("No kept example is like that. Loosen a filter.")
        return
    view = bound.choose(
        st.segmented_control,
        "Show as",
        ["tiles", "table"],
        default="tiles",
        required=True,
        key="view",
        on_change=_first_page,
    )
    per_page = TILES_PER_PAGE if view == "tiles" else ROWS_PER_PAGE
    num_pages = -(-len(shown) // per_page)
    page = 1
    if num_pages > 1:
        if st.session_state.get("page", 1) > num_pages:
            st.session_state["page"] = num_pages
        page = st.pagination(num_pages, key="page", bind="query-params", persist_state="session")
    rows = shown.iloc[(page - 1) * per_page : page * per_page]
    pictures = [_picture(example, gallery) for example in _each(rows)]
    _say_clean(pictures)
    if view == "tiles":
        _tiles(rows, pictures, gallery)
    else:
        _table(rows, pictures, gallery)
    st.caption(f"All {len(shown):,} matching examples as a table")
    table_downloads(shown, key="gallery")


@dataclass(frozen=True, eq=False)
class Picture:
    """What is shown of an example.

    Attributes:
        pixels: (3, H, W) in [0, 1]; None where the clean image is not on this machine.
        instead: Why it is the clean image that is shown; empty for the adversarial one.
    """

    pixels: Tensor | None
    instead: str = ""


def _picture(example: KeptExample, gallery: Gallery) -> Picture:
    """The adversarial picture, or the clean one where the perturbation is lost; an opened example makes it again."""
    image = clean_image(example, gallery)
    if image is None:
        return Picture(None)
    try:
        return Picture(adversarial_pixels(image, kept_cache.stored_perturbation(gallery, example)))
    except ExitLensError:
        return Picture(image.pixels()[0], MADE_AGAIN if example.is_current else LOST)


def _say_clean(pictures: list[Picture]) -> None:
    clean = [picture.instead for picture in pictures if picture.instead]
    if clean:
        lost = f" {clean.count(LOST):,} of them cannot, as their models are not here." * (LOST in clean)
        st.info(
            f"{len(clean):,} of these {len(pictures):,} examples show the clean picture, for their stored "
            f"perturbations are missing or damaged. An example makes its perturbation again when it is opened.{lost}"
        )


def _tiles(rows: pd.DataFrame, pictures: list[Picture], gallery: Gallery) -> None:
    labels = model_labels(gallery.kept)
    with st.grid(min_column_width=TILE_WIDTH + 48, gap="small", key="examples"):
        for example, picture in zip(_each(rows), pictures, strict=True):
            address = address_of(example)
            answers = f"{example.clean_class} → {example.adversarial_class}"
            with st.container(key=f"tile-{address}"):
                if picture.pixels is None:
                    st.caption(NO_PICTURE)
                else:
                    words = f"{example.image_id}, {example.attack}, made on {labels[example.source]}: {answers}"
                    words += f"; {picture.instead}" * bool(picture.instead)
                    st.image(as_bytes(picture.pixels), width=TILE_WIDTH, alt=words)
                st.button(answers, key=f"open-{address}", type="tertiary", on_click=open_example, args=(address,))
                notes = [picture.instead, "" if example.is_current else "made on earlier weights"]
                st.caption(
                    f"{labels[example.source]}  \n{attack_label(example.attack_name)}{_strength(example)} · "
                    f"fools {example.num_fooled} of {example.num_shown}  \n{_exits(example, gallery)}"
                    + "".join(f"  \n{note}" for note in notes if note)
                )


def _table(rows: pd.DataFrame, pictures: list[Picture], gallery: Gallery) -> None:
    labels = model_labels(gallery.kept)
    table = pd.DataFrame(
        {
            "picture": [None if each.pixels is None else data_url(each.pixels) for each in pictures],
            "picture shown": ["" if each.pixels is None else each.instead or "adversarial" for each in pictures],
            "image": rows.image_id.to_numpy(),
            "true class": rows.class_name.to_numpy(),
            "clean": rows.clean_class.to_numpy(),
            "adversarial": rows.adversarial_class.to_numpy(),
            "made on": rows.source.map(labels).to_numpy(),
            "exits": [_exits(example, gallery) for example in _each(rows)],
            "confidence": rows.adversarial_confidence.to_numpy(),
            "cost": (100 * rows.adversarial_cost).to_numpy(),
            "models fooled": [f"{row.num_fooled} of {row.num_shown}" for row in rows.itertuples()],
            "attack": rows.attack.to_numpy(),
            "made at": rows.made_at.to_numpy(),
            "still succeeds in 8 bits": rows.survives_rounding.to_numpy(),
            "on the weights of now": rows.is_current.to_numpy(),
        }
    )
    st.dataframe(
        table,
        hide_index=True,
        height=560,
        row_height=48,
        key="examples-table",
        on_select=lambda: _open_selected(rows),
        selection_mode="single-row",
        column_config=column_help(tuple(table.columns))
        | {
            "picture": st.column_config.ImageColumn(width="small"),
            "made at": st.column_config.NumberColumn(format="T = %.2f", help=help_of("made at")),
            "confidence": st.column_config.ProgressColumn(
                format="%.2f", min_value=0, max_value=1, help=help_of("confidence")
            ),
            "cost": st.column_config.NumberColumn(format="%.0f %%"),
        },
        alt=f"{len(rows)} kept adversarial examples; select a row to open one",
    )


def _open_selected(rows: pd.DataFrame) -> None:
    selected = st.session_state["examples-table"]["selection"]["rows"]
    if selected:
        open_example(address_of(next(_each(rows.iloc[selected[:1]]))))


def _each(rows: pd.DataFrame) -> Iterator[KeptExample]:
    return cast(Iterator[KeptExample], rows.itertuples())


def _exits(example: KeptExample, gallery: Gallery) -> str:
    """Where an image left before and leaves now, such as ``◀ Exit 5 → Exit 2``."""
    names = exit_names(gallery.kept.runs[example.run].model(example.source).num_exits)
    before, after = names[example.clean_computed_exit], names[example.adversarial_computed_exit]
    return f"{SHIFT_GLYPHS[shift_word(example.exit_shift)]} {before} → {after}"


def shift_word(shift: int) -> str:
    """Which way an image moved."""
    return "same" if not shift else "earlier" if shift < 0 else "later"


def model_labels(kept: Kept) -> dict[str, str]:
    """Label with glyph of every model that kept runs name; the name is added where two models share a label."""
    models = {model.name: model for run in kept.runs.values() for model in run.models}
    labels = {name: glyph_label(model) for name, model in models.items()}
    shared = list(labels.values())
    return {name: f"{label} ({name})" if shared.count(label) > 1 else label for name, label in labels.items()}


def _strength(example: KeptExample) -> str:
    if example.epsilon >= 1:
        return ""  # nothing bounds it
    return f" {strength_words(norm_of(example.attack_name), example.epsilon)}"


def attack_label(name: str) -> str:
    """An attack's name as on its button."""
    if name in CORRUPTIONS:
        return CORRUPTIONS[name].label
    return ATTACK_TITLES.get(name, name.upper()) + (" (L2)" if norm_of(name) == "l2" else "")


def open_example(address: str) -> None:
    """Puts an example into the address, which the page shows instead of the tiles."""
    st.query_params["example"] = address
