"""Every key of the session state, by where it lives.

Keys in ``LINK`` are bound to the address: they are the link. Keys in ``SESSION`` live as long as the tab.
"""

from dataclasses import dataclass

import streamlit as st

from core.experiment import ExperimentSpec

LINK = (
    "set",
    "model",
    "threshold",
    "fallback",
    "images",
    "attack",
    "epsilon",
    "steps",
    "step_size",
    "decay",
    "aim",
    "goal",
    "random_start",
    "stop",
    "made_at",
    "detail",
)


@dataclass
class LabState:
    """What the attack lab remembers between reruns.

    Attributes:
        asked: The experiment that was last started.
        shown: The experiment whose result is on screen.
        wants_run: A callback asked for a run at the next pass through the page.
    """

    asked: ExperimentSpec | None = None
    shown: ExperimentSpec | None = None
    wants_run: bool = False


SESSION = {"lab": LabState}


def lab_state() -> LabState:
    """The lab's memory in this session."""
    state: LabState = st.session_state["lab"]
    return state
