"""The Story page around its five steps: what is told, the way through it, and why there may be nothing to tell."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import streamlit as st

from core.attacks.spec import as_255
from core.checkpoints import ModelCard
from core.story import NUM_PICTURES, Story, StorySpec
from ui import bound, cache, running, tale
from ui.controls import Setting, glyph_label
from ui.jobs import Job
from ui.links import copy_link
from ui.panels import table_panel
from ui.state import story_state
from ui.story_cache import StoryTables, start_story, story_spec, story_tables
from ui.tale import NOT_TELLING, Candidate, Tale

SCENES = ("1 Early", "2 Noise", "3 Wrong", "4 How often", "5 What helps")
CROWDS = (NUM_PICTURES, 100, 256)
USUAL_THRESHOLD = 0.9


@dataclass(frozen=True, eq=False)
class Told:
    """What is on the page.

    Attributes:
        tale: The picture that is told.
        spec: Of the attacks on all pictures, under the policy of the tale.
        job: Makes them, or has made them.
        setting: What the sidebar says.
    """

    tale: Tale
    spec: StorySpec
    job: Job[Story] | None
    setting: Setting

    @property
    def story(self) -> Story | None:
        """The attacks on all pictures, once they are made."""
        return self.job.result() if self.job and self.job.has_result else None

    @property
    def epsilon(self) -> float:
        """The radius at which all pictures are looked at: the smallest that holds the tale's noise."""
        return min(each for each in self.spec.attacks_on_model() if each >= self.tale.noise - 1e-6)


def steps() -> int:
    """The way through the five steps, by button, arrow key or click; returns the step at hand, from 0."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center", key="story-way"):
        back, way, onwards = (
            st.container(width="content", key=f"story-way-{each}") for each in ("back", "step", "next")
        )
        # First, as on a cold link it is the one that knows the step.
        scene = bound.choose(
            way.segmented_control,
            "Step",
            SCENES,
            default=None if "scene" in st.session_state else SCENES[0],  # the buttons set it, and it takes one alone
            required=True,
            key="scene",
            persist_state=None,
            label_visibility="collapsed",
        )
        number = SCENES.index(str(scene))
        back.button("Back", key="story-back", shortcut="Left", on_click=_go, args=(-1,), disabled=number == 0)
        last = number == len(SCENES) - 1
        onwards.button(
            "Next", key="story-next", type="primary", shortcut="Right", on_click=_go, args=(1,), disabled=last
        )
    return number


def _go(by: int) -> None:
    number = SCENES.index(st.session_state["scene"]) + by
    st.session_state["scene"] = SCENES[min(max(number, 0), len(SCENES) - 1)]


def told(setting: Setting, sent: Tale | None, why_not: str) -> Told | None:
    """What is told: the example that was sent here, else the picture picked from attacks made now.

    Shows progress, or why there is nothing to tell, and then returns None.

    Args:
        setting: What the sidebar says.
        sent: The tale of the example that the address names.
        why_not: Why that example tells none.
    """
    if sent and not tale.fits(sent, setting):
        tale.put_aside()
        sent = None
    if setting.card.num_exits == 1:
        _nothing_early(setting.card)
        return None
    spec = story_spec(setting, _crowd(setting))
    job = _job(spec)
    if sent:
        return Told(sent, spec, job, setting)
    if why_not or story_state().put_aside:
        _note(why_not)
    if job is None or not job.has_result:
        waiting(spec, job)
        return None
    story = job.result()
    tables = story_tables(spec, story)
    if tables.best.empty:
        _nothing_to_tell(spec, tables)
        return None
    return Told(tale.picked_tale(story, tables, _chosen(tables, story)), spec, job, setting)


def waiting(spec: StorySpec, job: Job[Any] | None, start: Callable[[], object] | None = None) -> None:
    """Progress with Cancel, or the button that begins: what stands in the place of a result.

    Args:
        spec: The story, for how long it takes.
        job: Under way, cancelled, or not yet begun.
        start: Begins it; the story's attacks if missing.
    """
    if job and not job.is_over:
        with st.container(key="story-words-waiting"):
            st.markdown("Real networks are being attacked now, on this machine. This takes a moment.")
        running.progress(job, key="cancel-story")
        return
    if not running.came_to_nothing(job, "run"):
        seconds = sum(map(cache.estimated_seconds, spec.attacks_on_model().values()))
        st.markdown(f"This takes about {seconds:.0f} s at most on this machine, so it waits for you to run it.")
    if st.button("Run it", key="story-run", type="primary"):
        if start:
            start()
        else:
            start_story(spec)
        st.rerun()


def fine_print(told: Told) -> None:
    """How the picture was picked, out of how many, and the link that opens this very step."""
    with st.expander("How this picture was picked"):
        picked = told.tale.picked
        if told.tale.was_sent:
            st.markdown(f"It is a kept example, {picked.image_id}, that was sent here from the gallery.")
            st.button("Tell it with a picture picked here", on_click=tale.send_away)
        if told.story:
            tables = story_tables(told.spec, told.story)
            counts = tables.candidates.groupby("epsilon").tells.sum()
            within = ", ".join(
                f"{count} within {as_255(epsilon)}" for epsilon, count in zip(counts.index, counts, strict=True)
            )
            st.markdown(
                f"Of {len(told.story.image_set)} pictures attacked on this machine, **{len(tables.best)} tell this "
                f"story** ({within}). First come those that the twin gets right, then the least noise, then answers "
                f"all as sure as {told.spec.policy.threshold:.2f}, then those that leave earliest, then the surest. "
                "The sidebar has them all in this order, under Told with."
            )
            table_panel(tables.best, key="story-pictures")
    copy_link()


def _job(spec: StorySpec) -> Job[Story] | None:
    """The story's job; on few pictures it begins by itself, but once cancelled it waits for a click."""
    known = cache.job_board().find(spec)
    few = len(cache.images_of(spec.images)) <= NUM_PICTURES
    return start_story(spec) if known is None and few else known


def _crowd(setting: Setting) -> int:
    """How many pictures are looked at."""
    whole = len(cache.image_set(setting.set_name))
    counts = sorted({min(count, whole) for count in CROWDS})
    return int(
        bound.choose(
            st.sidebar.selectbox,
            "Pictures looked at",
            counts,
            format_func=lambda count: f"the first {count}",
            key="looked_at",
            persist_state=None,
            help="The story is picked from these pictures, and counted on all of them.",
        )
    )


def _chosen(tables: StoryTables, story: Story) -> Candidate:
    """The picture to tell it with: the most striking one unless the viewer chooses another."""
    rows = {row.image_id: cast(Candidate, row) for row in tables.best.itertuples()}
    if st.session_state.get("told_with") not in rows:
        st.session_state.pop("told_with", None)

    def in_words(image_id: str) -> str:
        return f"{image_id.rsplit('/', 1)[-1]} · {story.image_set.class_names[rows[image_id].label]}"

    chosen = bound.choose(
        st.sidebar.selectbox,
        "Told with",
        list(rows),
        format_func=in_words,
        said_more=True,
        key="told_with",
        persist_state=None,
        help="Every picture that tells the story, the most striking first: the twin right, the least noise, all "
        "answers as sure as the threshold, left early, and then the surest.",
    )
    return rows[str(chosen)]


def _nothing_early(card: ModelCard) -> None:
    st.info(
        "This story is about networks that may answer early. A static network has no early exit, so there is nothing "
        "to tell of it."
    )
    twin = next((other for other in cache.cards()[0] if other.name in cache.pair_names(card)[1:]), None)
    if twin:
        st.button(f"Tell it of {glyph_label(twin)}", type="primary", on_click=_choose, args=("model", twin.name))
    else:
        st.caption("There is no early-exit twin of this network here yet. Choose another model in the sidebar.")


def _nothing_to_tell(spec: StorySpec, tables: StoryTables) -> None:
    """Why none of the pictures tells the story, by how far each of them comes at its best."""
    rows = tables.candidates
    st.info(
        f"None of these {rows.image_id.nunique()} pictures tells the story at threshold {spec.policy.threshold:.2f}. "
        f"Most often, {NOT_TELLING[rows.reason.mode().iloc[0]]}."
    )
    if spec.policy.threshold != USUAL_THRESHOLD:
        label = f"Set the threshold to {USUAL_THRESHOLD:.2f}"
        st.button(label, type="primary", on_click=_choose, args=("threshold", USUAL_THRESHOLD))
    with st.expander("Every picture and why"):
        table_panel(tables.candidates, key="story-candidates")


def _choose(key: str, value: object) -> None:
    st.session_state[key] = value


def _note(why_not: str) -> None:
    """Says kindly that another picture is told than the one that was sent."""
    with st.container(horizontal=True, vertical_alignment="center"):
        if why_not:
            st.info(f"{why_not} Here is one that was picked on this machine instead.")
        else:
            st.info("The example that was sent here was made on another network or threshold than the sidebar says.")
            st.button("Back to that example", on_click=tale.bring_back)
