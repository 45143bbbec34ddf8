"""Running an attack: what the controls ask for, progress with Cancel, and what became of it."""

import streamlit as st

from core.attacks.spec import LinfAttack
from core.exits import ExitPolicy
from core.experiment import Experiment, ExperimentSpec, attack_for
from ui import cache
from ui.controls import Setting
from ui.jobs import Job
from ui.picking import selection_text
from ui.state import lab_state


def spec_of(setting: Setting, picked: list[int], attack: LinfAttack, made_at: ExitPolicy) -> ExperimentSpec:
    """The experiment that the controls ask for; what does not change it is left out of its key."""
    attack = attack_for(setting.card, attack)
    models = cache.pair_names(setting.card)
    return ExperimentSpec(f"{setting.set_name}:{selection_text(sorted(picked))}", models, models, attack, made_at)


def run_button(spec: ExperimentSpec, setting: Setting) -> None:
    """The Run button, and progress with Cancel while an attack is under way."""
    state = lab_state()
    first_visit = state.asked is None
    columns = st.columns([1, 4], vertical_alignment="center")
    clicked = columns[0].button("Run attack", type="primary", key="run", width="stretch", shortcut="Ctrl+Enter")
    if clicked or state.wants_run or first_visit:
        state.asked, state.wants_run = spec, False
        cache.start_experiment(spec)
    job = cache.job_board().find(state.asked) if state.asked else None
    with columns[1]:
        if job is None:
            st.caption("This result is no longer kept. Run the attack again.")
        elif not job.is_over:
            progress(job)
        elif job.was_cancelled:
            st.warning(
                "Cancelled: nothing of that run was kept. The result below is the one before it, if there was one."
            )
        else:
            _settle(job, spec, setting)


def _settle(job: Job, spec: ExperimentSpec, setting: Setting) -> None:
    state = lab_state()
    experiment = job.result()
    state.shown = job.spec
    result = experiment.results[job.spec.model]
    if job.spec != spec:
        st.caption("The controls have changed since this result was made. Run the attack to bring it up to date.")
    elif (
        result.spec.depends_on_policy
        and setting.policy.threshold != job.spec.made_at.threshold
        and setting.card.num_exits > 1
    ):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(
                f"Made at T = {job.spec.made_at.threshold:.2f}, judged at T = {setting.policy.threshold:.2f}: "
                "an attacker who knows the new threshold would make other images."
            )
            st.button(
                f"Attack again at {setting.policy.threshold:.2f}",
                on_click=_attack_again,
                args=(setting.policy.threshold,),
            )
    else:
        st.caption(f"Done in {experiment.seconds:.1f} s.")


def _attack_again(threshold: float) -> None:
    st.session_state["made_at"] = threshold
    lab_state().wants_run = True


@st.fragment(run_every=0.5)
def progress(job: Job) -> None:
    """Progress and Cancel of a job; reruns the page once the job is over."""
    if job.is_over:
        st.rerun()
    latest = job.progress
    columns = st.columns([4, 1], vertical_alignment="center")
    if latest is None:
        waiting = cache.job_board().position(job)
        columns[0].progress(0.0, f"waiting for {waiting} other attacks" if waiting else "loading the models")
    else:
        columns[0].progress(
            latest.share,
            f"step {latest.step} of {latest.num_steps} · {latest.num_images} images · {latest.seconds:.1f} s",
        )
    if columns[1].button("Cancel", key="cancel", disabled=job.cancel.is_set()):
        job.cancel.set()


def shown_experiment() -> Experiment | None:
    """The experiment whose result is on screen."""
    state = lab_state()
    job = cache.job_board().find(state.shown) if state.shown else None
    return job.result() if job and job.is_over and not job.was_cancelled else None
