"""Every key of the session state, by where it lives.

Keys in ``LINK`` are bound to the address: they are the link. Keys in ``SESSION`` live as long as the tab.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import streamlit as st

from core.experiment import Experiment, ExperimentSpec
from core.timing import TimingSpec
from ui.jobs import ANYBODY, Job, Visitor

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
    "norm",
    "epsilon_l2",
    "for_all",
    "through",
    "tries",
    "early_steps",
    "alpha",
    "published_steps",
    "start",
    "loss",
    "ball",
    "unsure",
    "slow_steps",
    "worst_steps",
    "restarts",
    "corruption",
    "severity",
    "seed",
    "made_at",
    "detail",
    "close_up",
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
    "methods",
    "explained",
    "explained_class",
    "map_view",
    "own_scales",
    "map_num_steps",
    "map_num_samples",
    "map_noise",
    "map_window",
    "map_stride",
    "map_baseline",
    "map_seed",
    "in_question",
    "compared_at",
    "scene",
    "looked_at",
    "told_with",
    "study",
    "study_policy",
    "study_attack",
    "study_strength",
    "study_images",
    "study_aim",
    "other_study",
    "placed_study",
    "placed_on",
    "placed_examples",
    "blocks",
    "no_block",
)


# Before a control's key in the address of a link inside the dashboard. What a session keeps of a control outweighs
# the control's own key in an address, and Streamlit drops that on the way from page to page.
SET = "set-"
FOLLOWED = ("set", "images", "attack", "aim")  # what links inside the dashboard set; all are text, as an address is
MAX_HISTORY = 10
PLACES = (IMAGE_SET, OWN_PICTURES) = ("the image set", "my own pictures")  # where the lab's images come from


@dataclass
class RunState:
    """What a page that runs experiments remembers between reruns.

    Attributes:
        asked: The experiment that was last started. Whatever the board forgets, a session keeps what it looks at.
        shown: The experiment whose result is on screen.
        wants_run: A callback asked for a run at the next pass through the page.
        controls: What the controls of the page at hand ask for.
        history: Experiments that were shown, each once, the latest last; at most ``MAX_HISTORY``.
    """

    asked: Job[Experiment] | None = None
    shown: Job[Experiment] | None = None
    wants_run: bool = False
    controls: ExperimentSpec | None = None
    history: list[ExperimentSpec] = field(default_factory=list)

    def show(self, job: Job[Experiment]) -> None:
        """Puts an experiment on screen and at the end of the history, unless its images are uploads."""
        self.shown = job
        spec = by_name(job.spec)
        if not of_uploads(spec.images) and self.history[-1:] != [spec]:
            self.history = [*(other for other in self.history if other != spec), spec][-MAX_HISTORY:]

    def before(self) -> list[ExperimentSpec]:
        """The history up to what is on screen; all of it where that is of uploads."""
        shown = by_name(self.shown.spec) if self.shown else None
        return self.history[: self.history.index(shown)] if shown in self.history else self.history


def by_name(spec: ExperimentSpec) -> ExperimentSpec:
    """An experiment on whichever weights its models have when it is brought back."""
    return replace(spec, weights=())


def of_uploads(images: str) -> bool:
    """Whether images, by the name that experiments have for them, are a user's own pictures."""
    return ":upload-" in images


@dataclass
class ModelsState:
    """What the page of models remembers between reruns.

    Attributes:
        timed: What was last timed.
    """

    timed: TimingSpec | None = None


@dataclass
class AttributionState:
    """What the page of attribution remembers between reruns.

    Attributes:
        opened: Id of the image whose point was clicked last.
    """

    opened: str | None = None


@dataclass
class StoryState:
    """What the Story page remembers between reruns.

    Attributes:
        taken_up: Address of the kept example whose model and policy the controls were set to.
        put_aside: Address of one that the controls no longer fit; empty when there is none.
        wants_back: A callback asked for that one at the next pass through the page.
    """

    taken_up: str = ""
    put_aside: str = ""
    wants_back: bool = False


# The pages about one model and its twin look at one experiment; the transfer page compares many models.
PAIR_RUN, TRANSFER_RUN = "pair-run", "transfer-run"
SESSION: dict[str, type] = {
    "visitor": Visitor,
    "uploads": dict,
    "own_pictures": list,
    "own_classes": dict,
    "link": dict,
    "refused": dict,
    "opened_page": str,
    "waits_for": dict,
    PAIR_RUN: RunState,
    TRANSFER_RUN: RunState,
    "models": ModelsState,
    "attribution": AttributionState,
    "story": StoryState,
}


def visitor() -> Visitor:
    """Who this session is to the jobs that sessions share."""
    found: Visitor = st.session_state.get("visitor", ANYBODY)
    return found


def waited_for(panel: str) -> tuple[Job[Any], ...]:
    """What this session waits for at a panel of a page since it last said so: none before."""
    found: tuple[Job[Any], ...] = st.session_state["waits_for"].get(panel, ())
    return found


def wait_only_for(panel: str, *jobs: Job[Any]) -> None:
    """Leaves what this session waited for at a panel before: once it asks for something else, nobody looks at it.

    Args:
        panel: Of a page, by any name.
        jobs: What it waits for now; none for nothing.
    """
    before = waited_for(panel)
    waits_for: dict[str, tuple[Job[Any], ...]] = st.session_state["waits_for"]
    waits_for[panel] = jobs
    still = {job for waited in waits_for.values() for job in waited}
    for job in before:
        if job not in still and not job.is_over:
            job.leave()


def link_to(page: str, label: str, controls: Mapping[str, str]) -> None:
    """A link to a page with some controls of ``FOLLOWED`` set; the others stay as they are."""
    st.page_link(page, label=label, query_params={f"{SET}{key}": value for key, value in controls.items()})


def follow_link() -> None:
    """Sets the controls that a followed link names; before any control is drawn."""
    for key in FOLLOWED:
        if SET + key in st.query_params:
            st.session_state[key] = st.query_params[SET + key]
            del st.query_params[SET + key]
            run_state().wants_run = True
            if key == "images":
                st.session_state["from"] = IMAGE_SET


def run_state(run: str = PAIR_RUN) -> RunState:
    """The memory of an experiment in this session: ``PAIR_RUN`` or ``TRANSFER_RUN``."""
    state: RunState = st.session_state[run]
    return state


def models_state() -> ModelsState:
    """The memory of the page of models in this session."""
    state: ModelsState = st.session_state["models"]
    return state


def attribution_state() -> AttributionState:
    """The memory of the page of attribution in this session."""
    state: AttributionState = st.session_state["attribution"]
    return state


def story_state() -> StoryState:
    """The memory of the Story page in this session."""
    state: StoryState = st.session_state["story"]
    return state
