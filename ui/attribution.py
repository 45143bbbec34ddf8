"""Attribution of one image: the maps of every exit, clean and adversarial, and how much its exits agree."""

import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import streamlit as st

from core.attribution import Attribution
from core.attribution_spec import METHODS, Method
from core.errors import ExitLensError
from core.experiment import Experiment
from core.figures import MapRow, between_exits_figure, maps_figure
from core.figures.theme import exit_names
from core.shift_tables import STATES
from ui import bound, cache, maps_cache, running
from ui.captions import made_words
from ui.close_up import answers_words, chosen_image, pictures
from ui.controls import Setting
from ui.jobs import Job
from ui.map_controls import Asked
from ui.panels import figure_panel
from ui.state import wait_only_for, waited_for

PANEL = "maps"
PATIENCE_SECONDS = 1.0  # what takes longer shows its progress


@dataclass(frozen=True, eq=False)
class Looked:
    """One image and its maps.

    Attributes:
        row: Among the images of the experiment.
        image_id: Of the image.
        decisions: Its row of the decisions.
        methods: Those asked for whose maps are made, under way or still to come.
        maps: For each method whose maps are made, their key and the maps.
    """

    row: int
    image_id: str
    decisions: pd.Series
    methods: list[Method]
    maps: dict[Method, tuple[maps_cache.ImageMapsSpec, Attribution]]


def one_image(asked: Asked, experiment: Experiment, setting: Setting, own: pd.DataFrame) -> Looked:
    """An image, and for each method the maps of all its exits, clean above adversarial above their difference."""
    row = chosen_image(experiment, own)
    decisions, class_names = own.iloc[row], experiment.image_set.class_names
    names = exit_names(maps_cache.card_of(experiment).num_exits)
    pictures(experiment, row, decisions, class_names, width=128)
    st.markdown(answers_words(experiment, decisions))
    exits = cache.shown_exits(decisions, len(names))
    if len(exits) < len(names):
        st.caption(f"{len(exits)} of {len(names)} exits: evenly spread, and those that answer.")
    specs = [
        maps_cache.maps_spec(experiment, row, maps_cache.at_exits(spec, exits, len(names))) for spec in asked.specs
    ]
    ended, under_way = _in_turn(specs, experiment)
    looked = Looked(row, experiment.image_set.image_ids[row], decisions, [], {})
    for spec in specs:
        method, facts = spec.attribution.method, spec.attribution.facts
        st.subheader(facts.label, help=f"{facts.meaning[:1].upper()}{facts.meaning[1:]} ({facts.source}).")
        if spec not in ended:
            looked.methods.append(method)
            if under_way is not None and under_way.spec == spec:
                running.progress(under_way, key=f"cancel-{method}", starting="copying the model")
            else:
                st.caption("These maps come next.")
            continue
        made = _made(ended[spec], spec, experiment)
        if made is not None:
            looked.methods.append(method)
            looked.maps[method] = spec, made
            _maps_panel(spec, made, looked, asked, experiment, setting)
    return looked


def _in_turn(
    specs: list[maps_cache.ImageMapsSpec], experiment: Experiment
) -> tuple[dict[maps_cache.ImageMapsSpec, Job[Attribution]], Job[Attribution] | None]:
    """The jobs that are over, and the one under way: nothing is begun before it ends, as few may wait at a time.

    Those of another image are left: nobody looks at them any more.
    """
    until, before = time.monotonic() + PATIENCE_SECONDS, waited_for(PANEL)
    ended: dict[maps_cache.ImageMapsSpec, Job[Attribution]] = {}
    found: list[Job[Attribution]] = []
    under_way: Job[Attribution] | None = None
    for spec in specs:
        job = maps_cache.maps_board().find(spec)
        if job is not None and job not in before and (job.was_left or job.cancel.is_set()):
            job = None  # left with its image, not cancelled by a click: coming back asks for it anew
        if under_way is None:
            job = job or maps_cache.start_maps(spec, experiment)
            job.wait(max(0.0, until - time.monotonic()))
        if job is None:
            continue
        found.append(job)
        if job.is_over:
            ended[spec] = job
        else:
            under_way = under_way or job
    wait_only_for(PANEL, *found)
    return ended, under_way


def _made(job: Job[Attribution], spec: maps_cache.ImageMapsSpec, experiment: Experiment) -> Attribution | None:
    """The maps of a job that is over, or why there are none."""
    method = spec.attribution.method
    if job.was_cancelled:
        st.info("Cancelled: nothing of these maps was kept.")
        st.button("Make these maps", key=f"again-{method}", on_click=_start, args=(spec, experiment))
        return None
    try:
        return job.result()
    except ExitLensError as error:  # one method that cannot work must not end the others
        st.warning(str(error))
        return None


def _start(spec: maps_cache.ImageMapsSpec, experiment: Experiment) -> None:
    maps_cache.start_maps(spec, experiment)


def _maps_panel(
    spec: maps_cache.ImageMapsSpec,
    made: Attribution,
    looked: Looked,
    asked: Asked,
    experiment: Experiment,
    setting: Setting,
) -> None:
    table, _ = maps_cache.tables(spec, looked.image_id, made)
    names, exits = exit_names(maps_cache.card_of(experiment).num_exits), made.exits[0].tolist()
    columns = [names[index] for index in exits]
    class_names, maps = experiment.image_set.class_names, made.maps.numpy()
    images = (maps_cache.both_states(experiment, looked.row) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    agree = table[table.state == "clean"]
    rows = [
        MapRow(
            state,
            maps[number],
            [class_names[index] for index in made.classes[number].tolist()],
            exits.index(looked.decisions[f"{state}_answered_exit"]),
            images[number] if asked.overlay else None,
            made.problems[number],
        )
        for number, state in enumerate(STATES)
    ]
    either = [clean or adversarial for clean, adversarial in zip(*made.problems, strict=True)]
    rows.append(MapRow("difference", maps[1] - maps[0], _agreement_words(agree), problems=either))
    st.markdown(_headline(agree, columns))
    for state, problems in zip(STATES, made.problems, strict=True):
        for problem in filter(None, problems):
            st.caption(f"{state.capitalize()}: {problem}")
    colours = ", summed over colours" if made.values.shape[2] == 3 else ""
    scale = "One scale for each exit" if asked.own_scales else "One scale for all maps"
    with st.container(key=f"maps-{spec.attribution.method}"):
        figure_panel(
            maps_figure(rows, columns, own_scales=asked.own_scales),
            key=f"maps-{spec.attribution.method}",
            alt=f"{spec.attribution.facts.label} of {looked.image_id} at {len(columns)} exits, clean above adversarial "
            f"above their difference. {_spoken(agree, columns)}",
            caption=f"{spec.attribution.label}: {spec.attribution.facts.meaning}{colours}. {scale}: orange "
            "lowers, purple raises. Framed: the exit that answers. Under the difference (adversarial − clean): rank "
            "correlation ρ of all pixels, and how many of the strongest 10 % both maps share (by chance 10 %). "
            f"{looked.image_id} · {made_words(experiment, setting.policy)}.",
            table=table,
        )


def _agreement_words(agree: pd.DataFrame) -> list[str]:
    values = zip(agree.rank_correlation.tolist(), agree.overlap.tolist(), strict=True)
    return ["" if np.isnan(rank) else f"ρ {_minus(rank)} · {100 * overlap:.0f} %" for rank, overlap in values]


def _headline(agree: pd.DataFrame, columns: list[str]) -> str:
    known = agree.rank_correlation.dropna()
    if known.empty:
        return "No exit has two maps to compare."
    if len(columns) == 1:
        return f"**Clean and adversarial map: rank correlation {_minus(known.iloc[0])}.**"
    least, most = int(np.nanargmin(agree.rank_correlation)), int(np.nanargmax(agree.rank_correlation))
    return (
        f"**Least alike before and after: {columns[least]}, rank correlation "
        f"{_minus(agree.rank_correlation.iloc[least])}; most alike: {columns[most]}, "
        f"{_minus(agree.rank_correlation.iloc[most])}.**"
    )


def _spoken(agree: pd.DataFrame, columns: list[str]) -> str:
    return "; ".join(f"{name}: {words}" for name, words in zip(columns, _agreement_words(agree), strict=True) if words)


def _minus(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def method_in_question(looked: Looked) -> Method | None:
    """Which of the methods the rest of the page is about; None while it has no maps."""
    methods = looked.methods
    if len(methods) < 2:
        return next(iter(looked.maps), None)
    if st.session_state.get("in_question") not in methods:
        st.session_state.pop("in_question", None)
    method: Method = bound.choose(
        st.segmented_control,
        "Method in question",
        methods,
        default=methods[0],
        required=True,
        format_func=lambda name: METHODS[name].label,
        key="in_question",
        persist_state=None,
    )
    if method not in looked.maps:
        st.info(f"The {METHODS[method].label} maps of this image are still being made.")
        return None
    return method


def between_exits(method: Method, looked: Looked, experiment: Experiment) -> None:
    """Which exits look at the same pixels, clean and adversarial side by side."""
    card = maps_cache.card_of(experiment)
    spec, made = looked.maps[method]
    if card.num_exits == 1:
        st.info("A static model has one exit, so there are no two exits to compare.")
        return
    _, table = maps_cache.tables(spec, looked.image_id, made)
    apart = table[table.exit_index < table.other_exit]
    mean = apart.groupby("state").overlap.mean()
    st.markdown(_shared_words(mean))
    for column, state in zip(st.columns(2), STATES, strict=True):
        rows = table[table.state == state]
        with column:
            st.markdown(f"**{state.capitalize()}**")
            figure_panel(
                between_exits_figure(rows, card.num_exits),
                key=f"between-exits-{state}",
                alt=f"Share of the strongest 10 % of pixels that two exits have in common, {state}; "
                + ("no two maps to compare." if np.isnan(mean[state]) else f"mean {100 * mean[state]:.0f} %."),
                caption=f"Share of the strongest 10 % of pixels that two exits have in common, in percent, {state}. "
                f"{spec.attribution.label}; {looked.image_id} · {made_words(experiment)}.",
                table=rows,
            )


def _shared_words(mean: pd.Series) -> str:
    """What pairs of exits share on average, by state, in Markdown; a mean of nothing is NaN."""
    when = {"clean": "when clean", "adversarial": "once attacked"}
    shares = [f"{100 * mean[state]:.0f} % {words}" for state, words in when.items() if pd.notna(mean[state])]
    if not shares:
        return "No two exits have maps to compare."
    shares[0] = shares[0].replace(" %", " % of their strongest pixels")
    missing = "".join(
        f" There are no two maps to compare {words}." for state, words in when.items() if pd.isna(mean[state])
    )
    return f"**Two exits share {', '.join(shares)}**, on average over all pairs; unrelated maps share 10 %.{missing}"
