"""Every key of the session state, by where it lives.

Keys in ``LINK`` are bound to the address: they are the link. Keys in ``SESSION`` live as long as the tab.
"""

from dataclasses import dataclass, field

import streamlit as st

from core.experiment import ExperimentSpec
from core.timing import TimingSpec

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
    "everyone",
    "measured_on",
    "reliability_exit",
    "by_model",
    "by_attack",
    "by_epsilon",
    "by_class",
    "by_rule",
    "by_shift",
    "by_fooled",
    "by_rounding",
    "order",
    "view",
    "page",
    "seen_by",
    "sources",
    "targets",
    "counted",
    "step",
    "example",
    "image",
)


MAX_HISTORY = 10


@dataclass
class RunState:
    """What a page that runs experiments remembers between reruns.

    Attributes:
        asked: The experiment that was last started.
        shown: The experiment whose result is on screen.
        wants_run: A callback asked for a run at the next pass through the page.
        history: Experiments that were shown, each once, the latest last; at most ``MAX_HISTORY``.
    """

    asked: ExperimentSpec | None = None
    shown: ExperimentSpec | None = None
    wants_run: bool = False
    history: list[ExperimentSpec] = field(default_factory=list)

    def show(self, spec: ExperimentSpec) -> None:
        """Puts an experiment on screen and at the end of the history, unless its images are uploads."""
        self.shown = spec
        if ":upload-" in spec.images:
            return
        if self.history[-1:] != [spec]:
            self.history = [*(other for other in self.history if other != spec), spec][-MAX_HISTORY:]


@dataclass
class ModelsState:
    """What the page of models remembers between reruns.

    Attributes:
        timed: What was last timed.
    """

    timed: TimingSpec | None = None


# The pages about one model and its twin look at one experiment; the transfer page compares many models.
PAIR_RUN, TRANSFER_RUN = "pair-run", "transfer-run"
SESSION: dict[str, type] = {"uploads": dict, PAIR_RUN: RunState, TRANSFER_RUN: RunState, "models": ModelsState}


def run_state(run: str = PAIR_RUN) -> RunState:
    """The memory of an experiment in this session: ``PAIR_RUN`` or ``TRANSFER_RUN``."""
    state: RunState = st.session_state[run]
    return state


def models_state() -> ModelsState:
    """The memory of the page of models in this session."""
    state: ModelsState = st.session_state["models"]
    return state
