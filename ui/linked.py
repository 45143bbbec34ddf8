"""What a clicked cell, bar or point stands for: its images, and the way to them."""

import streamlit as st

from core.data import ImageSet
from ui.picking import MAX_IMAGES, TILES_PER_PAGE, selection_text


def linked_images(indices: list[int], whole: ImageSet, *, title: str, key: str) -> None:
    """The images behind a selection as tiles, and a button that opens them in the attack lab.

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
    if st.button("Open these in the attack lab", key=f"{key}-open"):
        st.session_state["images"] = selection_text(sorted(indices)[:MAX_IMAGES])
        st.switch_page(
            "pages/attack_lab.py", query_params=dict(_link_with(selection_text(sorted(indices)[:MAX_IMAGES])))
        )


def _link_with(images: str) -> list[tuple[str, str]]:
    kept = [(key, value) for key in st.query_params for value in st.query_params.get_all(key) if key != "images"]
    return [*kept, ("images", images)]
