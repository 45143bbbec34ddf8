"""The attack lab's three beats: picking, running, and the result from headline to close-up."""

import random
from dataclasses import dataclass
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import streamlit as st
import torch

from core.attacks.spec import LinfAttack
from core.data import ImageSet, parse_image_set_name
from core.errors import ExitLensError
from core.exits import ExitPolicy, decide, decide_from_confidences
from core.experiment import Experiment, ExperimentSpec, attack_for
from core.export import command_of
from core.figures import confidence_figure, saliency_figure, shift_figure, steps_figure, transfer_figure
from core.figures.theme import SHIFT_GLYPHS, exit_names
from core.metrics import rate
from core.tables import transfer_table
from ui import cache
from ui.controls import Setting, glyph_label
from ui.jobs import Job
from ui.panels import figure_panel, rate_words, table_panel
from ui.state import LabState

MAX_IMAGES = 256
TILES_PER_PAGE = 20
PERTURBATION_GAIN = 10
NUM_SURPRISES = 8


def _state() -> LabState:
    state: LabState = st.session_state["lab"]
    return state


# ---- 1 · picking -----------------------------------------------------------------------------------------


def picking(setting: Setting, whole: ImageSet) -> list[int]:
    """Tiles and filters; returns the official indices that are picked.

    Raises:
        ExitLensError: If the selection cannot be read, or names images that are not there.
    """
    pool = _pool_table(setting, whole)
    text = st.text_input(
        "Picked images, by official index",
        "0-7",
        key="images",
        bind="query-params",
        persist_state="session",
        help="Such as 0-7 or 3,12,40-47; at most 256. Tiles below change this line.",
    )
    picked = parse_image_set_name(f"{setting.set_name}:{text}")[2] or []
    whole.rows_of(picked)
    if len(picked) > MAX_IMAGES:
        raise ExitLensError(
            f"{len(picked)} images are picked; the lab takes {MAX_IMAGES}. Use the command line for more."
        )
    names = exit_names(setting.card.num_exits)
    columns = st.columns([1.2, 1, 1, 1], vertical_alignment="bottom")
    wanted_class = columns[0].selectbox("Class", ["any", *whole.class_names], key="filter_class")
    wanted_right = columns[1].selectbox("When clean", ["right or wrong", "right", "wrong"], key="filter_right")
    wanted_exit = columns[2].selectbox("Leaves at", ["any exit", *names], key="filter_exit")
    matching = pool[
        ((wanted_class == "any") | (pool.class_name == wanted_class))
        & ((wanted_right == "right or wrong") | (pool.right == (wanted_right == "right")))
        & ((wanted_exit == "any exit") | (pool.exit_name == wanted_exit))
    ]
    columns[3].button("Surprise me", on_click=_surprise, args=(matching.image_index.tolist(),), width="stretch")
    if matching.empty:
        st.info("No image here is like that. Loosen a filter.")
        return picked
    _tiles(matching, whole, picked)
    more = f"; tiles show the first {len(pool)} of {len(whole):,}, any can be picked by index"
    st.caption(
        f"{len(picked)} picked. {len(matching)} of {len(pool)} images match{more if len(whole) > len(pool) else ''}. "
        f"Exits and answers of {glyph_label(setting.card)} at threshold {setting.policy.threshold:.2f}."
    )
    return picked


def _pool_table(setting: Setting, whole: ImageSet) -> pd.DataFrame:
    logits = torch.tensor(cache.pool_logits(setting.card.name, setting.card.weights_sha256, whole.name, 0))
    decisions = decide(logits, setting.policy)
    names = exit_names(setting.card.num_exits)
    labels = whole.labels[: len(logits)]
    return pd.DataFrame(
        {
            "image_index": whole.indices[: len(logits)].numpy(),
            "row": np.arange(len(logits)),
            "class_name": [whole.class_names[label] for label in labels],
            "answer": [whole.class_names[answer] for answer in decisions.prediction],
            "right": (decisions.prediction == labels).numpy(),
            "exit_name": [names[index] for index in decisions.computed_exit],
        }
    )


def _tiles(matching: pd.DataFrame, whole: ImageSet, picked: list[int]) -> None:
    num_pages = -(-len(matching) // TILES_PER_PAGE)
    page = st.pagination(num_pages, key="tile_page") if num_pages > 1 else 1
    shown = matching.iloc[(page - 1) * TILES_PER_PAGE : page * TILES_PER_PAGE]
    with st.grid(min_column_width=104, gap="small", key="tiles"):
        for tile in (Tile(*row) for row in shown.itertuples(index=False)):
            index = tile.image_index
            with st.container(key=f"tile-{index}"):
                answer = "right" if tile.right else f"answers {tile.answer}"
                st.image(
                    _picture(whole.images[tile.row]),
                    width=96,
                    alt=f"Image {index}, {tile.class_name}; the model is {answer} at {tile.exit_name}",
                )
                st.session_state[f"pick-{index}"] = index in picked
                st.checkbox(f"{index} {tile.class_name}", key=f"pick-{index}", on_change=_toggle, args=(index, picked))
                st.caption(
                    f"{'●' if tile.right else '○'} {tile.exit_name}" + ("" if tile.right else f": {tile.answer}")
                )


@dataclass(frozen=True)
class Tile:
    """One image offered for picking, and what the model makes of it.

    Attributes:
        image_index: Official index.
        row: In the image set.
        class_name: True class.
        answer: Class answered under the policy.
        right: Whether that is the true class.
        exit_name: Where it leaves.
    """

    image_index: int
    row: int
    class_name: str
    answer: str
    right: bool
    exit_name: str


def _toggle(index: int, picked: list[int]) -> None:
    kept = [other for other in picked if other != index] if index in picked else [*picked, index]
    if kept:
        st.session_state["images"] = selection_text(sorted(kept))


def _surprise(candidates: list[int]) -> None:
    if candidates:
        chosen = random.sample(candidates, min(NUM_SURPRISES, len(candidates)))
        st.session_state["images"] = selection_text(sorted(chosen))
        _state().wants_run = True


def selection_text(indices: list[int]) -> str:
    """Rising indices as a selection reads: ``0-3,7``."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


# ---- 2 · running -----------------------------------------------------------------------------------------


def spec_of(setting: Setting, picked: list[int], attack: LinfAttack, made_at: ExitPolicy) -> ExperimentSpec:
    """The experiment that the controls ask for; what does not change it is left out of its key."""
    attack = attack_for(setting.card, attack)
    return ExperimentSpec(f"{setting.set_name}:{selection_text(sorted(picked))}", setting.card.name, attack, made_at)


def running(spec: ExperimentSpec, setting: Setting) -> None:
    """The Run button, and progress with Cancel while an attack is under way."""
    state = _state()
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
    state = _state()
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
        st.caption(f"Done in {experiment.seconds:.1f} s for {len(experiment.results)} models.")


def _attack_again(threshold: float) -> None:
    st.session_state["made_at"] = threshold
    _state().wants_run = True


@st.fragment(run_every=0.3)
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
    state = _state()
    job = cache.job_board().find(state.shown) if state.shown else None
    return job.result() if job and job.is_over and not job.was_cancelled else None


# ---- 3 · result ------------------------------------------------------------------------------------------


def headline(experiment: Experiment, setting: Setting) -> pd.DataFrame:
    """The result in words and four numbers; returns the decisions on the model in question."""
    name = experiment.spec.model
    card = experiment.cards[name]
    table = cache.decisions(experiment.spec, setting.policy, experiment)
    own = table[(table.source == name) & (table.target == name)]
    attackable = own[own.attackable]
    success = rate(int(attackable.succeeded.sum()), len(attackable))
    counts = shift_counts_of(own)
    fooled = "reach the goal" if own.success_rule.iloc[0] == "goal_reached" else "fooled"
    st.markdown(
        f"**{success.num_hits} of {success.num_images} {fooled}** · {rate_words(success)} · leave earlier "
        f"{counts['earlier']}, same {counts['same']}, later {counts['later']} · {glyph_label(card)}"
    )
    columns = st.columns(4)
    columns[0].metric(
        fooled.capitalize(),
        f"{success.num_hits} of {success.num_images}",
        help="Of the attackable images: those answered rightly when clean.",
    )
    columns[1].metric(
        "Mean cost",
        f"{100 * own.clean_cost.mean():.0f} % → {100 * own.adversarial_cost.mean():.0f} %",
        help="Multiply-adds done, over those of the whole network; clean → adversarial.",
    )
    columns[2].metric(
        "Mean exit", f"{own.clean_computed_exit.mean() + 1:.1f} → {own.adversarial_computed_exit.mean() + 1:.1f}"
    )
    twin = _twin_rows(table, experiment)
    if twin is not None:
        twin_card, own_attack, same_noise = twin
        columns[3].metric(
            f"{glyph_label(twin_card)}",
            f"{_count(own_attack)} · {_count(same_noise)}",
            help="Fooled by the same attack made on it · fooled by the very same perturbations.",
        )
    st.caption(
        f"{experiment.results[name].spec.label} · made at T = {experiment.spec.made_at.threshold:.2f} · judged at "
        f"T = {setting.policy.threshold:.2f} · {experiment.spec.images} · n = {len(own)} · 95 % Wilson interval"
    )
    return own


def _twin_rows(table: pd.DataFrame, experiment: Experiment):  # type: ignore[no-untyped-def]
    others = [card for name, card in experiment.cards.items() if name != experiment.spec.model]
    if not others:
        return None
    twin = others[0]
    own_attack = table[(table.source == twin.name) & (table.target == twin.name)]
    same_noise = table[(table.source == experiment.spec.model) & (table.target == twin.name)]
    return twin, own_attack, same_noise


def _count(rows: pd.DataFrame) -> str:
    attackable = rows[rows.attackable]
    return f"{int(attackable.succeeded.sum())} of {len(attackable)}"


def shift_counts_of(rows: pd.DataFrame) -> dict[str, int]:
    """How many rows leave earlier, at the same exit and later."""
    shift = rows.exit_shift
    return {"earlier": int((shift < 0).sum()), "same": int((shift == 0).sum()), "later": int((shift > 0).sum())}


def population(experiment: Experiment, setting: Setting, own: pd.DataFrame) -> None:
    """Exit shift and transfer over all picked images."""
    left, right = st.columns([3, 2])
    card = experiment.cards[experiment.spec.model]
    where = f"{glyph_label(card)}, {experiment.spec.images}, T = {setting.policy.threshold:.2f}"
    with left:
        st.subheader("Exit shift")
        if card.num_exits == 1:
            st.info("A static model has one exit, so nothing can shift. Choose its early-exit twin in the sidebar.")
        else:
            fooled = own.attackable & own.succeeded
            groups = {"all": own, "fooled": own[fooled], "not fooled": own[~fooled]}
            counts = {f"{label}, n = {len(rows)}": shift_counts_of(rows) for label, rows in groups.items() if len(rows)}
            words = "; ".join(
                f"{label}: " + ", ".join(f"{SHIFT_GLYPHS[word]} {word} {value}" for word, value in each.items())
                for label, each in counts.items()
            )
            figure_panel(
                shift_figure(counts),
                key="exit-shift",
                alt=f"Exit shift. {words}",
                caption=f"{words}. {where}.",
                table=own,
            )
    with right:
        st.subheader("Who fools whom")
        transfer = transfer_table(cache.decisions(experiment.spec, setting.policy, experiment))
        shown = transfer[transfer.denominator == "attackable"]
        labels = {name: glyph_label(card) for name, card in experiment.cards.items()}
        if len(experiment.cards) == 1:
            st.info("There is no twin of this model to compare with.")
        figure_panel(
            transfer_figure(shown, labels),
            key="transfer",
            alt="Transfer. "
            + "; ".join(
                f"{row.source} to {row.target}: {row.num_fooled} of {row.num_images}" for row in shown.itertuples()
            ),
            caption="Fooled, of the images that source and target answer rightly when clean. "
            f"n = {len(own)}, T = {setting.policy.threshold:.2f}.",
            table=transfer,
        )


def close_up(experiment: Experiment, setting: Setting, own: pd.DataFrame) -> None:
    """One image: pictures, the central chart, its twin beside it, the trajectory and the saliency maps."""
    st.subheader("One image in close-up")
    class_names = experiment.image_set.class_names
    indices = experiment.image_set.indices.tolist()
    by_index = dict(zip(indices, own.itertuples(), strict=True))

    def in_words(index: int) -> str:
        row = by_index[index]
        arrow = f"{class_names[row.clean_prediction]} → {class_names[row.adversarial_prediction]}"
        return f"{index} · {class_names[row.label]} · {arrow}"

    if st.session_state.get("detail") not in indices:
        st.session_state.pop("detail", None)
    index = st.selectbox(
        "Image", indices, format_func=in_words, index=_most_telling(own), key="detail", bind="query-params"
    )
    position = indices.index(index)
    row = own.iloc[position]
    name = experiment.spec.model
    names = exit_names(experiment.cards[name].num_exits)
    _pictures(experiment, position, row, class_names)
    before, after = (
        f"{class_names[row[f'{state}_prediction']]}, {names[row[f'{state}_answered_exit']]}, "
        f"{row[f'{state}_confidence']:.2f}"
        for state in ("clean", "adversarial")
    )
    st.markdown(
        f"**{before} → {after}** · {100 * row.clean_cost:.0f} % → {100 * row.adversarial_cost:.0f} % of the "
        f"multiply-adds · true class {class_names[row.label]}"
    )
    others = [target for target in experiment.cards if target != name]
    columns = st.columns([3, 2] if others else 1)
    for column, target in zip(columns, [name, *others], strict=True):
        with column:
            _confidence_panel(experiment, setting, target, position)
    _trajectory(experiment, setting, position)
    _saliency(experiment, position)


def _most_telling(own: pd.DataFrame) -> int:
    """The row to open with: fooled, and moved the furthest towards the front."""
    score = own.succeeded.astype(int) * own.attackable.astype(int) * 100 - own.exit_shift
    return int(np.argmax(score.to_numpy()))


def _pictures(experiment: Experiment, position: int, row: pd.Series, class_names: tuple[str, ...]) -> None:
    result = experiment.results[experiment.spec.model]
    clean, adversarial = result.images[position], result.adversarial[position]
    noise = ((adversarial - clean) * PERTURBATION_GAIN + 0.5).clamp(0, 1)
    with st.container(horizontal=True, gap="medium"):
        for picture, label, words in (
            (clean, "clean", f"answered {class_names[row.clean_prediction]}"),
            (noise, f"perturbation ×{PERTURBATION_GAIN}", f"at most {255 * row.linf:.2f}/255 per pixel"),
            (adversarial, "adversarial", f"answered {class_names[row.adversarial_prediction]}"),
        ):
            st.image(_bytes(picture), width=224, caption=f"{label}: {words}", alt=f"{label} image, {words}")


def _confidence_panel(experiment: Experiment, setting: Setting, target: str, position: int) -> None:
    spec, card = experiment.spec, experiment.cards[target]
    # The twin is shown under the same attack made on it, as a fair comparison; the strip above has the rest.
    exits = cache.exits(spec, experiment)
    image_id = experiment.image_set.image_ids[position]
    rows = exits[(exits.source == target) & (exits.target == target) & (exits.image_id == image_id)]
    decisions = cache.decisions(spec, setting.policy, experiment)
    mine = decisions[(decisions.source == target) & (decisions.target == target)].iloc[position]
    taken = {state: int(mine[f"{state}_answered_exit"]) for state in ("clean", "adversarial")}
    class_names = experiment.image_set.class_names
    names = exit_names(card.num_exits)
    st.markdown(f"**{glyph_label(card)}**")
    figure_panel(
        confidence_figure(rows, setting.policy.threshold, taken, class_names),
        key=f"confidence-{card.kind}",
        alt=f"Confidence at every exit of {card.label} for {image_id}: leaves at {names[taken['clean']]} as "
        f"{class_names[mine.clean_prediction]} when clean, at {names[taken['adversarial']]} as "
        f"{class_names[mine.adversarial_prediction]} when attacked.",
        caption=f"{image_id} · {experiment.results[target].spec.label}, made on this model · "
        "filled: right, hollow: wrong, faded: not computed when deployed.",
        table=rows,
    )


def _trajectory(experiment: Experiment, setting: Setting, position: int) -> None:
    name = experiment.spec.model
    steps = cache.steps(experiment.spec, name, experiment)
    image_id = experiment.image_set.image_ids[position]
    rows = steps[steps.image_id == image_id]
    st.markdown("**How each exit gave way**")
    confidence = rows.pivot(index="step", columns="exit_index", values="confidence").to_numpy()
    predicted = rows.pivot(index="step", columns="exit_index", values="predicted").to_numpy()
    taken = decide_from_confidences(torch.tensor(confidence), torch.tensor(predicted), setting.policy).computed_exit
    figure_panel(
        steps_figure(rows, taken.tolist(), experiment.image_set.class_names),
        key="steps",
        alt=f"Probability of the true class at every exit over {len(taken) - 1} steps; the exit taken moves from "
        f"{int(taken[0]) + 1} to {int(taken[-1]) + 1}.",
        caption=f"{image_id} · {experiment.results[name].spec.label} · exit taken at "
        f"T = {setting.policy.threshold:.2f}, made at T = {experiment.spec.made_at.threshold:.2f}.",
        table=rows,
    )


def _saliency(experiment: Experiment, position: int) -> None:
    st.markdown("**What each exit looked at**")
    name = experiment.spec.model
    clean, adversarial = cache.saliency(experiment.spec, name, position, experiment)
    figure_panel(
        saliency_figure(clean, adversarial),
        key="saliency",
        alt=f"Saliency maps of {len(clean)} exits, clean above adversarial.",
        caption=f"{experiment.image_set.image_ids[position]} · gradient of each exit's predicted class, "
        "summed over colours; one scale for all maps: orange lowers, purple raises.",
    )


def take_away(experiment: Experiment, setting: Setting) -> None:
    """The link, the command and the tables."""
    st.subheader("Take it with you")
    st.caption("Link that opens this page with its result")
    query = urlencode([(key, value) for key in st.query_params for value in st.query_params.get_all(key)])
    st.code(f"{(st.context.url or '').split('?')[0]}?{query}".rstrip("?"), language=None, wrap_lines=True)
    st.caption("Command that remakes the attack on this model")
    st.code(command_of(experiment.spec), language="bash", wrap_lines=True)
    with st.expander("All decisions: every image, source and target"):
        table_panel(cache.decisions(experiment.spec, setting.policy, experiment), key="decisions")


def _picture(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def _bytes(image: torch.Tensor) -> np.ndarray:
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
