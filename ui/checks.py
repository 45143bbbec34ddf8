"""Signs that a result misleads: quiet notes under it, each with what docs/checks.md says of it."""

from functools import cache as kept
from pathlib import Path

import streamlit as st

from core.attacks.checks import Checked, Note
from core.exits import ExitPolicy
from core.experiment import Experiment
from ui import cache
from ui.captions import policy_words
from ui.jobs import Job
from ui.state import wait_only_for

PAGE = Path(__file__).parents[1] / "docs" / "checks.md"


def notes(experiment: Experiment, policy: ExitPolicy) -> None:
    """What the checks found in the attack on the model in question; one quiet line where all is well.

    Args:
        experiment: The attack.
        policy: In force on the page.
    """
    job = cache.start_checks(experiment)
    wait_only_for("checks", job)
    if not job.is_over:
        _wait(job)
    elif job.has_result:  # signs are an extra: nothing is said without
        checked = job.result()
        for note in checked.notes:
            _show(note)
        words = []
        if not checked.notes:
            looked = f"{checked.num_images} image{'s' * (checked.num_images > 1)}"
            words += [f"Looked for signs that this result misleads, on {looked}: none found."]
        if checked.left_out:
            words += [f"Not looked for in an attack of this kind: {', '.join(checked.left_out)}."]
        if (made_at := experiment.spec.made_at) != policy and experiment.cards[experiment.spec.model].num_exits > 1:
            words += [f"Judged under {policy_words(made_at)}, as the attack was made."]
        if words:
            st.caption(" ".join(words))


@st.fragment(run_every=0.5)
def _wait(job: Job[Checked]) -> None:
    """A line while the checks run; reruns the page once they are over."""
    if job.is_over:
        st.rerun()
    st.caption("Looking for signs that this result misleads …")


def _show(note: Note) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption(f"Note: {note.text}", width="content")
        with st.popover("What this means", type="tertiary", key=f"note-{note.code}"):
            st.markdown(explanation(note.code))
            st.caption(f"`{note.code}` in docs/checks.md")


@kept
def explanation(code: str) -> str:
    """What docs/checks.md says of a code, in Markdown."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {code}\n")[2]
    return section.partition("\n## ")[0].strip()
