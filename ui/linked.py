"""What a clicked cell, bar or point stands for: its images, and the way to them."""

import streamlit as st
from torch import Tensor

from core.data import ImageSet, selection_text
from ui import cache
from ui.picking import MAX_IMAGES, TILES_PER_PAGE
from ui.state import link_to


def linked_rows(chosen: Tensor, set_name: str, *, title: str, key: str) -> None:
    """The same for the first images of a whole set, (N,) truths that say which."""
    whole = cache.image_set(set_name)
    linked_images(whole.indices[: len(chosen)][chosen].tolist(), whole, title=title, key=key)


def linked_images(indices: list[int], whole: ImageSet, *, title: str, key: str) -> None:
    """The images behind a selection as tiles, and a link that opens them in the attack lab.

    Args:
        indices: Official indices, present in ``whole``.
        whole: The image set.
        title: What was selected, in words.
        key: Of this selection's widgets; one per page and figure.
    """
    if not indices:
        st.caption(f"{title}: no image.")
        return
    st.markdown(f"**{title}: {len(indices)} image{'s' if len(indices) > 1 else ''}**")
    num_pages = -(-len(indices) // TILES_PER_PAGE)
    page = st.pagination(num_pages, key=f"{key}-page") if num_pages > 1 else 1
    shown = indices[(page - 1) * TILES_PER_PAGE : page * TILES_PER_PAGE]
    with st.grid(min_column_width=104, gap="small", key=f"{key}-linked"):
        for index, row in zip(shown, whole.rows_of(shown), strict=True):
            name = whole.class_names[int(whole.labels[row])]
            picture = whole.images[row].permute(1, 2, 0).numpy()
            st.image(picture, width=96, caption=f"{index} {name}", alt=f"Image {index}, {name}")
    if ":upload-" in whole.name or whole.dataset not in {card.dataset for card in cache.cards()[0]}:
        return  # uploads are in no link, and the lab offers no image set that it has no model for
    which = f"the first {MAX_IMAGES} of these" if len(indices) > MAX_IMAGES else "these"
    images = selection_text(sorted(indices)[:MAX_IMAGES])
    link_to("pages/attack_lab.py", f"Attack {which} alone, in the lab", {"set": whole.name, "images": images})
