"""A user's own pictures in the lab: upload, what was done to them, and what they show."""

from collections import Counter
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np
import streamlit as st
import torch

from core.errors import ExitLensError
from core.evaluation import logits_of
from core.exits import decide
from core.uploads import FORMATS, MAX_BYTES, RESIZING, uploaded_images
from ui import cache
from ui.controls import Setting

MAX_PICTURES = 16


def own_pictures(setting: Setting) -> str | None:
    """The uploader with a tile and a class for each picture.

    An uploader forgets its files with its page, so what was made of them is kept in the session.

    Returns:
        The name under which experiments find them; None while there is none that can be used.
    """
    size = setting.card.image_size
    files = st.file_uploader(
        "Your own pictures",
        [kind.lower() for kind in FORMATS] + ["jpg", "tif"],
        accept_multiple_files=True,
        max_upload_size=MAX_BYTES // 1_000_000,
        key="upload",
        on_change=_forget,
    )
    st.caption(
        f"Each is {RESIZING} to {size} × {size} pixels. They stay on this machine, in this tab, and are in no link: "
        "who opens a copied link sees the image set instead."
    )
    if files:
        st.session_state["own_pictures"] = _read(files, size)
    given = st.session_state["own_pictures"]
    if not given:
        st.session_state["own_classes"] = {}
        return None
    names, pictures = [name for name, _ in given], [torch.from_numpy(pixels) for _, pixels in given]
    if pictures[0].shape[-1] != size:
        st.info(f"Your pictures were resized for another model, and this one takes {size} × {size}. Give them again.")
        return None
    if not files:
        st.caption(f"Still here: {', '.join(names)}. Pictures that you give now take their place.")
    model, _ = cache.loaded_model(setting.card.name, setting.card.weights_sha256)
    answers = decide(logits_of(model, torch.stack(pictures).float() / 255), setting.policy).prediction.tolist()
    labels, seen = [], Counter[int]()
    with st.grid(min_column_width=150, gap="small", key="own-pictures"):
        for number, (picture, name, answer) in enumerate(zip(pictures, names, answers, strict=True)):
            content = crc32(picture.numpy().tobytes())
            with st.container(key=f"own-{number}"):
                st.image(picture.permute(1, 2, 0).numpy(), width=96, alt=f"{name}, resized")
                # By its pixels, as removing a picture moves the others; the same one again counts on.
                labels.append(_shown_class(setting, name, answer, f"{content:x}-{seen[content]}"))
            seen[content] += 1
    image_set = uploaded_images(setting.card.dataset, pictures, labels, setting.card.class_names)
    st.session_state["uploads"] = {image_set.name: image_set}
    return image_set.name


def _forget() -> None:
    """What is given now takes the place of what was given before; so does nothing, where the last file is removed."""
    st.session_state["own_pictures"] = []


def _read(files: Sequence[Any], size: int) -> list[tuple[str, np.ndarray]]:
    """Names and pixels, (3, size, size) bytes each, of the files that can be used; one sentence for each other."""
    read = []
    for file in files[:MAX_PICTURES]:
        try:
            read.append((file.name, cache.uploaded_picture(file.file_id, file.name, size, file.getvalue())))
        except ExitLensError as error:
            st.error(str(error))
    if len(files) > MAX_PICTURES:
        st.warning(f"{len(files)} pictures were given; the first {MAX_PICTURES} are taken.")
    return read


def _shown_class(setting: Setting, name: str, answer: int, key: str) -> int:
    """The class that a picture shows: what its owner chose, else what the model at hand answers."""
    class_names, chosen, box = list(setting.card.class_names), st.session_state["own_classes"], f"own-class-{key}"
    shown = chosen.get(key)
    st.session_state[box] = shown if shown in class_names else class_names[answer]
    said = st.selectbox(
        f"{name} shows",
        class_names,
        key=box,
        on_change=lambda: chosen.update({key: st.session_state[box]}),
        help="What counts as right. At first it is what the model answers.",
    )
    return class_names.index(said)
