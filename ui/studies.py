"""The page of studies in parts: which one, its claims, its charts, the images behind them, and another run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import streamlit as st

from core.datasets import DATASETS
from core.errors import ExitLensError
from core.figures.studies import claims_figure
from core.study.black_box_charts import BLACK_BOX_KEY, black_box_charts
from core.study.charts import Setting, attack_titles, charts, labels_of, offered, records, strength_title
from core.study.claims import count_words, interval_words
from core.study.differences import spec_differences, summary_differences
from core.study.making_charts import making_charts, stopping_charts
from core.study.report import again_words, command_of, with_bounds
from core.study.spec import policy_words
from core.study.store import PROJECT, Study
from ui import bound, cache, study_cache
from ui.linked import linked_images
from ui.panels import figure_panel, folded_table
from ui.study_cache import StudyPlace
from ui.words import help_of, meaning

NONE = "none"
MAX_TILES = 24
VERDICT_GLYPHS = {"holds": "●", "does not hold": "○", "undecided": "◐", "not measured": "–"}


@dataclass(frozen=True)
class Opened:
    """The study on screen.

    Attributes:
        place: Where it lies.
        study: What it is about.
        summary: It in brief.
        setting: Which rows are drawn.
    """

    place: StudyPlace
    study: Study
    summary: pd.DataFrame
    setting: Setting


def controls(places: dict[str, StudyPlace]) -> Opened:
    """Which study, and which of its rows; in the sidebar."""
    with st.sidebar:
        name = _choice("Study", "study", list(places), meaning("study"))
        place = places[name]
        study, summary = study_cache.study(place), study_cache.summary(place)
        choices = offered(study, summary)
        if not choices.strengths:
            raise ExitLensError(
                f"Nothing of {name} can be shown: no attack is done yet, or each stops when it fools. "
                f"`{command_of(Path(place.folder), study, goes_on=True)}` goes on."
            )
        titles = attack_titles(study)
        attacks = {titles[name]: name for name in choices.strengths}
        policies = {policy_words(name): name for name in choices.policies}
        several = len(choices.images) > 1
        images = _choice("Images", "study_images", choices.images) if several else choices.images[0]
        policy = policies[_choice("Judged under", "study_policy", list(policies), meaning("policy"))]
        attack = attacks[_choice("Attack", "study_attack", list(attacks))]
        strength = strength_title(study, attack)
        explained = "corruption" if strength == "severity" else strength
        setting = Setting(
            policy=policy,
            attack_name=attack,
            strength=_choice(strength.capitalize(), "study_strength", choices.strengths[attack], meaning(explained)),
            objective=_choice("Aimed at", "study_aim", choices.objectives[attack], meaning("objective")),
            images=images,
        )
    return Opened(place, study, summary, setting)


def _choice(label: str, key: str, options: Sequence[str], help: str | None = None) -> str:
    if st.session_state.get(key) not in options:  # a link, or the study before, may name what this one lacks
        st.session_state.pop(key, None)
    return str(bound.choose(st.selectbox, label, options, key=key, help=help))


def facts(opened: Opened) -> None:
    """What the study asks, of which models and images, and how it was run."""
    study = opened.study
    surrogates = {model.name for model in study.models if model.surrogate}
    named = [label for name, label in labels_of(study).items() if name not in surrogates]
    named += [f"{len(surrogates)} surrogates"] * bool(surrogates)
    st.markdown(f"**{study.spec.question}**")
    sets = ", ".join(f"{name}, {count:,} images" for name, count in study.num_images.items())
    policies = ", ".join(policy_words(policy.name) for policy in study.spec.policies)
    origin = "came with the project" if opened.place.is_shipped else "run on this machine"
    st.caption(f"{', '.join(named)} · {sets} · judged under {policies} · {origin}; not figures of the paper.")
    if given := [labels_of(study)[model.name] for model in study.models if not model.stops_early]:
        st.caption(f"Cannot stop early, so their costs are those their owners gave: {', '.join(given)}.")
    if not study.is_complete:
        st.warning(
            f"{study.num_done} of {len(study.cells)} cells are done: what follows is about fewer images. "
            f"`{command_of(Path(opened.place.folder), study, goes_on=True)}` goes on."
        )


def claims_panel(opened: Opened) -> None:
    """Every claim with its verdict, whatever it is."""
    st.header("What is claimed", help=meaning("policy-dependent"))
    claims = study_cache.claims(opened.place)
    if claims.empty:
        st.caption("No claim is about this study.")
        return
    for row in records(claims):
        measured = interval_words(row)
        notes = [row["scope"]] if measured else []
        notes += ["policy-dependent"] if row["policy_dependent"] else []
        st.markdown(
            f"{VERDICT_GLYPHS[row['verdict']]} **{row['verdict'].capitalize()}**"
            f"{' (' + ', '.join(notes) + ')' if notes else ''}: {row['text']}"
        )
        details = f"{row['measure']} It holds {row['region']}."
        if measured:
            elsewhere = f"; {row['elsewhere']}" if row["elsewhere"] else ""
            details += f" Measured: {measured}, {count_words(row)}, under {policy_words(row['policy'])}{elsewhere}."
        st.caption(details)
    drawn = claims[claims.verdict != "not measured"]
    if len(drawn):
        figure_panel(
            claims_figure(with_bounds(drawn)),
            key="claims",
            alt="Measured intervals of claims. "
            + "; ".join(f"{row['claim']}: {interval_words(row)}, {row['verdict']}" for row in records(drawn)),
            caption="Paired percentile bootstraps, adjusted by Holm within each family (95 % together); shaded: where "
            "the claim holds; filled: it does.",
            table=claims,
        )


def charts_panel(opened: Opened) -> None:
    """Every chart that the tables allow; a cell of the matrix, or a point of a surrogate, opens its images."""
    study, setting = opened.study, opened.setting
    drawn = [
        *black_box_charts(study, study_cache.black_box(opened.place), setting),
        *making_charts(study, study_cache.making(opened.place), setting),
        *charts(study, opened.summary, setting),
        *stopping_charts(study, opened.summary, setting),
    ]
    if not drawn:
        st.info("Nothing to draw of this setting: choose another attack, strength or objective.")
    for chart in drawn:
        is_black_box = chart.key.startswith(BLACK_BOX_KEY)
        st.subheader(chart.title, help=help_of(chart.title))
        selected = figure_panel(
            chart.figure,
            key=f"study-{chart.key}",
            alt=chart.alt,
            caption=chart.caption,
            table=chart.table,
            selectable=chart.key == "matrix" or is_black_box,
        )
        for first, second in selected[:1]:
            if is_black_box:
                _images_behind(opened, chart.table.rename(columns={"surrogate": "source"}), first, second)
                continue
            labels = labels_of(opened.study)
            sources = [name for name in labels if name in set(chart.table.source)]
            targets = [name for name in labels if name in set(chart.table.target)]
            _images_behind(opened, chart.table, sources[first], targets[second])


def _images_behind(opened: Opened, rows: pd.DataFrame, source: str, target: str) -> None:
    """The images that fooled a target, as tiles where their pictures are here."""
    labels = labels_of(opened.study)
    cell = rows[(rows.source == source) & (rows.target == target)]
    if cell.empty:
        st.caption("These two stand on one backbone: nothing was shown.")
        return
    is_surrogate = opened.study.model(source).surrogate is not None
    row = cell.iloc[0]
    found = study_cache.fooled_images(
        opened.place, row.attack, source, target, opened.setting.policy, seed=int(row.seed),
        made_anew=bool(row.made_anew), is_surrogate=is_surrogate,
    )  # fmt: skip
    title = f"Made on {labels[source]}, fooled {labels[target]}"
    ids = found.image_id.str.rsplit("/", n=1, expand=True)
    if ids.empty:
        st.caption(f"{title}: no image.")
        return
    set_name = ids[0].iloc[0].replace("/", ":")
    if not any(status.name == set_name and status.is_ready for status in cache.image_set_statuses()):
        _neutral_tiles(found, title)
        return
    whole = cache.image_set(set_name)
    indices = ids[1].astype(int).tolist()
    try:
        hashes = whole.select(indices).pixel_hashes
    except ExitLensError:
        _neutral_tiles(found, title, "Not all of its pictures are on this machine.")
        return
    if hashes == found.pixel_hash.tolist():
        linked_images(indices, whole, title=title, key="study-cell")
    else:
        _neutral_tiles(found, title, "The pictures on this machine are others than those of the study.")


def _neutral_tiles(found: pd.DataFrame, title: str, why: str = "") -> None:
    """Which images they are, where the pictures are not on this machine, and the way to them."""
    st.markdown(f"**{title}: {len(found)} images**")
    st.caption(why or "Their pictures are not on this machine; the numbers are.")
    names = DATASETS[found.image_id.iloc[0].partition("/")[0]].class_names
    with st.grid(min_column_width=104, gap="small", key="study-neutral"):
        for row in records(found.head(MAX_TILES)):
            with st.container(border=True, height=104, horizontal_alignment="center", vertical_alignment="center"):
                label = names[row["label"]] if names else f"class {row['label']}"
                st.caption(f"{row['image_id'].rpartition('/')[2]} {label}")
    if len(found) > MAX_TILES:
        st.caption(f"… and {len(found) - MAX_TILES:,} more.")
    if not why:
        st.page_link("app.py", label="Fetch the pictures: Home offers the data set")


def compare_panel(opened: Opened, places: dict[str, StudyPlace]) -> None:
    """Another run beside this one: only what differs."""
    st.header("Beside another run")
    others = {name: place for name, place in places.items() if place != opened.place}
    name = _choice("Compare with", "other_study", [NONE, *others])
    if name == NONE:
        return
    other = study_cache.study(others[name])
    told = spec_differences(opened.study, other)
    st.markdown("\n".join(f"- {line}" for line in told) or "They ask the same, of the same models.")
    there = study_cache.summary(others[name])
    rows, num_both = summary_differences(opened.summary, there)
    for summary, where in ((opened.summary, "here"), (there, "there")):
        if len(summary) > num_both:
            st.caption(f"{len(summary) - num_both:,} of {len(summary):,} rows are only {where}.")
    if rows.empty:
        st.caption("No row that both have differs." if num_both else "They have no row in common.")
        return
    apart = int(rows.apart.sum())
    st.caption(f"{len(rows):,} rows that both have differ; in {apart:,} the intervals do not meet.")
    folded_table(rows, key="differences", title="Rows that differ")


def report_panel(opened: Opened) -> None:
    """The report as a file, and the command that runs the study again."""
    st.header("To take away")
    write: Callable[[], str] = lambda: study_cache.report(opened.place)  # noqa: E731 - made when it is asked for
    st.download_button(
        "Report (HTML, about 5 MB)", write, f"exitlens-{opened.study.spec.name}.html", "text/html", key="study-report"
    )
    st.caption("One file with figures, tables, claims, models and machine; it opens offline.")
    folder = Path(opened.place.folder)
    shown = folder.relative_to(PROJECT) if folder.is_relative_to(PROJECT) else folder
    st.code(f"{command_of(folder, opened.study)}\npython -m core study verify {shown}", language="shell")
    if words := again_words(opened.study):
        st.caption(words)
