"""Which attribution maps are made and how they are shown: widgets in, specs out."""

from dataclasses import dataclass
from typing import Any, cast

import streamlit as st

from core.attribution_spec import METHODS, AttributionSpec, Explained, Method
from core.errors import ExitLensError
from ui import bound
from ui.words import help_of, meaning

DEFAULT_METHODS: list[Method] = ["grad_cam", "saliency"]
CLASSES = {"predicted": "own answer", "true": "true class", "chosen": "chosen class"}
VIEWS = {"maps": "heat maps", "overlay": "over the picture"}
# Field of the spec, label, range and step of its widget.
NUMBERS: dict[str, tuple[str, Any, Any, Any]] = {
    "num_steps": ("Steps from baseline to image", 1, 256, 8),
    "num_samples": ("Noisy copies", 1, 256, 5),
    "noise": ("Noise (standard deviation, pixels of 0–1)", 0.0, 1.0, 0.05),
    "window": ("Covered square (pixels)", 1, 64, 1),
    "stride": ("Pixels between squares", 1, 64, 1),
    "baseline": ("Grey level of the baseline", 0.0, 1.0, 0.1),
    "seed": ("Seed", 0, 2**31 - 1, 1),
}


@dataclass(frozen=True)
class Asked:
    """What the controls say.

    Attributes:
        specs: Of each method, at all exits.
        overlay: Whether maps lie over the picture.
        own_scales: Whether each exit has a scale of its own.
    """

    specs: tuple[AttributionSpec, ...]
    overlay: bool
    own_scales: bool


def controls(class_names: tuple[str, ...]) -> Asked:
    """Methods, class and look of the maps.

    Raises:
        ExitLensError: If no method is chosen, or the numbers do not fit each other.
    """
    left, right = st.columns(2)
    methods: list[Method] = bound.choose(
        left.multiselect,
        "Methods",
        list(METHODS),
        default=DEFAULT_METHODS,
        format_func=lambda name: METHODS[name].label,
        key="methods",
        help="\n".join(f"- **{facts.label}**: {facts.meaning} ({facts.source})" for facts in METHODS.values()),
    )
    explained = bound.choose(
        right.segmented_control,
        "Class explained",
        list(CLASSES),
        default="predicted",
        required=True,
        format_func=CLASSES.__getitem__,
        key="explained",
        help=meaning(
            "class explained",
            more="Own answer: the class that each exit predicts, which an attack changes. With the true or a chosen "
            "class, clean and adversarial maps explain the same logit.",
        ),
    )
    if not methods:
        raise ExitLensError("No method is chosen. Choose one or more, such as Grad-CAM.")
    fields: dict[str, Any] = {"explained": cast(Explained, explained)}
    left, middle, right = st.columns([1, 1, 2], vertical_alignment="bottom")
    view = bound.choose(
        left.segmented_control,
        "Shown as",
        list(VIEWS),
        default="maps",
        required=True,
        format_func=VIEWS.__getitem__,
        key="map_view",
    )
    own_scales = bound.switch(
        middle.toggle,
        "One scale for each exit",
        key="own_scales",
        help="Clean and adversarial always share a scale. Without this, all exits share it too, so that an exit whose "
        "logits hardly depend on pixels is pale.",
    )
    if explained == "chosen":
        chosen = bound.choose(right.selectbox, "Chosen class", class_names, key="explained_class")
        fields["class_index"] = class_names.index(str(chosen))
    read = dict.fromkeys(field for name in methods for field in METHODS[name].reads)
    if read:
        with st.expander("Numbers of the methods"):
            fields |= _numbers(list(read))
    return Asked(tuple(AttributionSpec(method=name, **fields) for name in methods), view == "overlay", own_scales)


def _numbers(fields: list[str]) -> dict[str, Any]:
    chosen = {}
    plain = AttributionSpec()
    with st.grid(min_column_width=240, gap="small"):
        for field in fields:
            label, low, high, step = NUMBERS[field]
            chosen[field] = bound.number(
                st.number_input, label, low, high, getattr(plain, field), step, key=f"map_{field}", help=help_of(label)
            )
    return chosen
