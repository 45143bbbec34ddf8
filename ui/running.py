"""Running an attack: what the controls ask for, progress with Cancel, and what became of it."""

from typing import Any

import streamlit as st

from core.attacks.spec import AttackSpec
from core.data import parse_image_set_name, selection_text
from core.exits import ExitPolicy
from core.experiment import Experiment, ExperimentSpec, attack_for
from ui import cache
from ui.attack_controls import attack_controls
from ui.captions import policy_words
from ui.controls import Setting
from ui.jobs import Job, jobs_before
from ui.picking import selection_line
from ui.restoring import set_controls
from ui.state import IMAGE_SET, OWN_PICTURES, PAIR_RUN, RunState, by_name, of_uploads, run_state, wait_only_for

PATIENCE_SECONDS = 10.0  # all nine models that ship, attacked on a few images, are reckoned at 9.3
QUICK_SECONDS = 1.5  # what is over by then is waited for: progress, and the pass through the page after it, take longer


def spec_of(setting: Setting, images: str, attack: AttackSpec, made_at: ExitPolicy) -> ExperimentSpec:
    """The experiment on a model and its twin that the controls ask for; what does not change it is left out.

    Args:
        setting: Says which model.
        images: Image set with its selection, or the name of an upload.
        attack: The attack.
        made_at: The policy in force while attacking.
    """
    attack = attack_for(setting.card, attack)
    targets = cache.pair_names(setting.card)
    # A static twin only looks on where the attack goes through early exits.
    sources = targets[:1] if attack.needs_early_exits else targets
    # Its toggle stands below the result, so on a cold link the address alone knows of it.
    if st.session_state.get("everyone", st.query_params.get("everyone", "").lower() == "true"):
        others = (card.name for card in cache.cards()[0] if card.dataset == setting.card.dataset)
        targets = tuple(dict.fromkeys([*sources, *others]))
    return ExperimentSpec(images, sources, targets, attack, made_at)


def pair_experiment(setting: Setting) -> Experiment | None:
    """The controls of a page about one model and its twin, folded away: images, attack and Run; then the result.

    Raises:
        ExitLensError: If the selection cannot be used.
    """
    whole = cache.image_set(setting.set_name)
    with st.expander("What is attacked, and how"):
        picked = selection_line(setting, whole)
        attack, made_at = attack_controls(setting.card, whole.class_names)
    run_button(spec_of(setting, f"{setting.set_name}:{selection_text(sorted(picked))}", attack, made_at), setting)
    experiment = shown_experiment()
    if experiment is None:
        st.info("The result appears here as soon as the attack is done.")
    return experiment


def run_button(spec: ExperimentSpec, setting: Setting, run: str = PAIR_RUN) -> None:
    """The Run button, and progress with Cancel while an attack is under way.

    An experiment that is kept already, or that takes no longer than ``PATIENCE_SECONDS``, opens with its result;
    so does one that usually would, however busy the machine is now: a page never opens empty.
    """
    state, spec = run_state(run), cache.as_now(spec)
    state.controls = spec
    columns = st.columns([1, 4], vertical_alignment="center")
    clicked = columns[0].button("Run attack", type="primary", key="run", width="stretch", shortcut="Ctrl+Enter")
    seconds, usual = cache.estimated_seconds(spec), cache.usual_seconds(spec)
    if clicked or state.wants_run or (state.asked is None and min(seconds, usual) <= PATIENCE_SECONDS):
        state.wants_run = False
        state.asked = cache.start_experiment(spec)
        wait_only_for(run, state.asked)
        if seconds <= QUICK_SECONDS:
            state.asked.wait(QUICK_SECONDS)
    elif not _holds_upload(state):
        state.asked = cache.find_experiment(spec) or state.asked
    job = state.asked
    with columns[1]:
        if job is None:
            st.caption(f"This takes about {seconds:.0f} s on this machine, so it waits for you to run it.")
        elif not _is_of_now(job):
            st.caption("A model of the last attack has been replaced since. Run the attack again.")
        elif not job.is_over:
            progress(job)
        elif job.was_cancelled:
            st.warning(
                "Cancelled: nothing of that run was kept. The result below is the one before it, if there was one."
            )
        elif job.failure:
            st.error(f"{job.failure} The result below is the one before it, if there was one.")
        else:
            _settle(job, spec, setting, state)


def _holds_upload(state: RunState) -> bool:
    """Whether own pictures are on screen, on a page whose controls know of image sets alone."""
    shown = state.shown is not None and of_uploads(state.shown.spec.images)
    on_own = st.session_state.get("from") == OWN_PICTURES
    return shown and on_own and state.controls is not None and not of_uploads(state.controls.images)


def _settle(job: Job[Experiment], spec: ExperimentSpec, setting: Setting, state: RunState) -> None:
    experiment = job.result()
    state.show(job)
    result = experiment.results[job.spec.model]
    if of_uploads(job.spec.images) and not of_uploads(spec.images):
        st.caption("This is the result on your own pictures. A run from here attacks the image set.")
    elif job.spec != spec:
        st.caption("The controls have changed since this result was made. Run the attack to bring it up to date.")
    elif result.spec.depends_on_policy and setting.policy != job.spec.made_at and setting.card.num_exits > 1:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(
                f"Made at {policy_words(job.spec.made_at)}, judged at {policy_words(setting.policy)}: "
                "an attacker who knows the new policy would make other images."
            )
            st.button(
                f"Attack again at {setting.policy.threshold:.2f}",
                on_click=_attack_again,
                args=(setting.policy.threshold, state),
            )
    else:
        st.caption(f"Done in {experiment.seconds:.1f} s.")


def history() -> None:
    """The last runs of this session as chips that bring them back, and undo."""
    state, known = run_state(), {card.name for card in cache.cards()[0]}
    state.history = [spec for spec in state.history if spec.model in known]
    # A chip changes nothing where the controls say its run and the result is on screen.
    here = {by_name(each) for each in (state.controls,) if each and state.shown and state.shown.spec == each}
    if set(state.history) <= here:
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if state.before():
            st.button("Undo", on_click=_undo, help="Back to the run before.")
        for number, spec in enumerate(reversed(state.history)):
            words = f"{spec.attack.short_label} · {spec.images.partition(':')[2]}"
            st.button(
                words,
                key=f"past-{number}",
                on_click=_bring_back,
                args=(spec,),
                disabled=spec in here,
                help=f"{spec.model} · {spec.attack.label} · made at {policy_words(spec.made_at)}",
                type="tertiary",
            )


def _undo() -> None:
    state = run_state()
    state.history = state.before()
    _bring_back(state.history[-1])


def _bring_back(spec: ExperimentSpec) -> None:
    dataset, split, _ = parse_image_set_name(spec.images)
    set_controls(spec, cache.image_set(f"{dataset}:{split}").class_names)
    pair = {name for card in cache.cards()[0] if card.name == spec.model for name in cache.pair_names(card)}
    st.session_state["everyone"] = not set(spec.targets) <= pair
    st.session_state["from"] = IMAGE_SET
    run_state().wants_run = True


def _attack_again(threshold: float, state: RunState) -> None:
    st.session_state["made_at"] = threshold
    state.wants_run = True


def came_to_nothing(job: Job[Any] | None, what: str) -> bool:
    """Whether a job was cancelled or failed, and can be asked for again; says so.

    Args:
        job: Any; None has come to nothing of which there is anything to say.
        what: It was, such as ``measurement``.
    """
    if job is None or not job.is_over or not (job.was_cancelled or job.failure):
        return False
    if job.was_cancelled:
        st.info(f"Cancelled: nothing of that {what} was kept.")
    else:
        st.error(job.failure)
    return True


@st.fragment(run_every=0.5)
def progress(job: Job[Any], key: str = "cancel", starting: str = "loading the models") -> None:
    """Progress and Cancel of a job; reruns the page once the job is over.

    Args:
        job: Under way, or waiting for its turn.
        key: Of the Cancel button; one per job on the page.
        starting: Said before the first progress.
    """
    if job.is_over:
        st.rerun()
    latest = job.progress
    columns = st.columns([4, 1], vertical_alignment="center")
    if latest is None:
        waiting = jobs_before(job)
        columns[0].progress(0.0, f"waiting for {waiting} other job{'s' * (waiting > 1)}" if waiting else starting)
    else:
        columns[0].progress(latest.share, latest.words)
    if columns[1].button("Cancel", key=key, disabled=job.cancel.is_set()):
        job.leave()
        if job.is_over:  # for this session, though others wait for it
            st.rerun()


def shown_experiment(run: str = PAIR_RUN) -> Experiment | None:
    """The experiment whose result is on screen."""
    job = run_state(run).shown
    return job.result() if job and _is_of_now(job) else None


def _is_of_now(job: Job[Experiment]) -> bool:
    """Whether all models still have the weights that they had."""
    return bool(job.spec == cache.as_now(job.spec))
