"""One kept example: its pictures, what every exit and every model says, how it was made, and what to take away."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import pandas as pd
import streamlit as st
from torch import Tensor

from core import kept
from core.attacks.success import SUCCESS_RULES
from core.data import ImageSet
from core.errors import ExitLensError
from core.examples import KeptExample
from core.export import command_of
from core.figures import confidence_figure
from core.figures.theme import SHIFT_GLYPHS, exit_names
from core.gallery import address_of, parse_address
from core.kept import KeptRun
from ui import bound, cache, kept_cache
from ui.close_up import PERTURBATION_GAIN
from ui.controls import FALLBACKS
from ui.fetching import is_local_visit
from ui.gallery import model_labels, open_example, shift_word
from ui.kept_cache import Gallery
from ui.panels import figure_panel
from ui.pictures import adversarial_pixels, as_bytes, clean_image, npy, png
from ui.words import column_help, meaning

STORY = "pages/story.py"
PICTURE_WIDTH = 224


def find_example(gallery: Gallery, address: str) -> KeptExample:
    """The example of an address.

    Raises:
        ExitLensError: If there is none, or none any more.
    """
    run, image_id, source = parse_address(address)
    rows = gallery.rows
    found = rows[(rows.run == run) & (rows.image_id == image_id) & (rows.source == source)]
    if found.empty:
        raise ExitLensError(
            f"The example {address} is not kept here. The gallery shows those that are; the attack lab can make it "
            "again."
        )
    return cast(KeptExample, next(found.itertuples()))


def way_back(shown: pd.DataFrame, address: str) -> None:
    """Back to all examples, and on to the neighbours among those that the filters let through."""
    addresses = (shown.run + ":" + shown.image_id + ":" + shown.source).tolist()
    position = addresses.index(address) if address in addresses else None
    before = addresses[position - 1] if position else None
    after = addresses[position + 1] if position is not None and position + 1 < len(addresses) else None
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("All examples", key="back", on_click=_close)
        st.button("Previous", key="previous", on_click=open_example, args=(before,), disabled=before is None)
        st.button("Next", key="next", on_click=open_example, args=(after,), disabled=after is None)
        if position is not None:
            st.caption(f"{position + 1:,} of {len(addresses):,} that match")


def _close() -> None:
    st.query_params.pop("example", None)


def example_view(example: KeptExample, gallery: Gallery) -> None:
    """Everything about an example."""
    run = gallery.kept.runs[example.run]
    names = exit_names(run.model(example.source).num_exits)
    label = model_labels(gallery.kept)[example.source]
    st.header(f"{example.clean_class} → {example.adversarial_class}")
    st.markdown(
        f"**{names[example.clean_answered_exit]}, {example.clean_confidence:.2f} → "
        f"{names[example.adversarial_answered_exit]}, {example.adversarial_confidence:.2f}** · "
        f"{SHIFT_GLYPHS[shift_word(example.exit_shift)]} leaves {_shift_words(example.exit_shift)} · "
        f"{100 * example.clean_cost:.0f} % → {100 * example.adversarial_cost:.0f} % of the multiply-adds · "
        f"true class {example.class_name}"
    )
    st.caption(
        f"{example.image_id} · made on {label} by {example.attack} · made and judged at T = {example.made_at:.2f}; "
        f"when no exit is sure, {FALLBACKS[example.fallback]} · kept {example.kept_at[:16].replace('T', ' ')} UTC"
    )
    if not example.is_current:
        here = {card.name for card in cache.cards()[0]}
        st.warning(
            "Made on earlier weights: this model has been trained again since."
            if example.source in here
            else "The model that this was made on is not here any more."
        )
    decisions, exits = kept_cache.kept_verdicts(
        str(kept.kept_folder()), run.key, gallery.changed[run.key], example.image_id, example.source
    )
    image = clean_image(example, gallery)
    pixels = _pictures(example, gallery, run, image)
    _verdicts(example, gallery, run, decisions, exits)
    _how_it_was_made(example, run)
    _take_away(example, pixels)
    _remove(run)


def _shift_words(shift: int) -> str:
    if not shift:
        return "at the same exit"
    return f"{abs(shift)} exit{'s' * (abs(shift) > 1)} {shift_word(shift)}"


def _pictures(example: KeptExample, gallery: Gallery, run: KeptRun, image: ImageSet | None) -> Tensor | None:
    """Clean, perturbation and adversarial; returns the adversarial pixels where there are any."""
    if image is None:
        st.info(
            f"The picture {example.image_id} is not on this machine, so only the numbers are shown. It belongs to "
            f"{':'.join(run.spec.images.split(':')[:2])}: see README.md for the data root."
        )
        return None
    perturbation, origin = _perturbation(example, gallery, run, image)
    clean = image.pixels()[0]
    if perturbation is None:
        st.image(as_bytes(clean), width=PICTURE_WIDTH, caption="clean", alt=f"clean image, {example.class_name}")
        return None
    adversarial = adversarial_pixels(image, perturbation)
    noise = (adversarial - clean) * PERTURBATION_GAIN + 0.5
    with st.container(horizontal=True, gap="medium"):
        for each, name, words in (
            (clean, "clean", f"answered {example.clean_class}"),
            (noise, f"perturbation ×{PERTURBATION_GAIN}", f"at most {255 * example.linf:.2f}/255 per pixel"),
            (adversarial, "adversarial", f"answered {example.adversarial_class}"),
        ):
            st.image(as_bytes(each), width=PICTURE_WIDTH, caption=f"{name}: {words}", alt=f"{name} image, {words}")
    if example.is_current and kept_cache.verdict_holds(example, image, perturbation):
        st.caption(f"The {origin} perturbation was checked just now: the model here gives the same answer and exit.")
    elif example.is_current:
        st.warning(
            f"The {origin} perturbation does not give the stored verdict on this machine: the model here answers "
            "otherwise or leaves at another exit. The numbers on this page are those that were stored."
        )
    return adversarial


def _perturbation(
    example: KeptExample, gallery: Gallery, run: KeptRun, image: ImageSet
) -> tuple[Tensor | None, Literal["stored", "remade"]]:
    """As stored, or made again where that is lost; None where other weights would make another one."""
    try:
        return kept_cache.stored_perturbation(gallery, example), "stored"
    except ExitLensError as error:
        if not example.is_current:
            st.warning(f"{error} It cannot be made again here, as the model that it was made on is not here.")
            return None, "stored"
    st.info("The stored perturbation is missing or damaged, so it was made again from its spec and the weights.")
    return kept_cache.remade(run.key, example.source, example.weights_sha256, example.image_id, run, image), "remade"


def _verdicts(
    example: KeptExample, gallery: Gallery, run: KeptRun, decisions: pd.DataFrame, exits: pd.DataFrame
) -> None:
    """One model's exits as a chart, and what all models answer as a table."""
    labels = model_labels(gallery.kept)
    st.subheader("What every exit says", help=meaning("exit", "confidence"))
    by_label = {labels[name]: name for name in [example.source, *(n for n in decisions.target if n != example.source)]}
    target = example.source
    if len(by_label) > 1:
        target = by_label[
            str(
                bound.choose(
                    st.selectbox, "Seen by", list(by_label), key="seen_by", persist_state=None, help=meaning("target")
                )
            )
        ]
    row = decisions[decisions.target == target].iloc[0]
    names = exit_names(run.model(target).num_exits)
    taken = {state: int(row[f"{state}_answered_exit"]) for state in ("clean", "adversarial")}
    rows = exits[exits.target == target]
    figure_panel(
        confidence_figure(rows, example.made_at, taken, run.class_names),
        key="kept-confidence",
        alt=f"Confidence at every exit of {labels[target]} for {example.image_id}: leaves at {names[taken['clean']]} "
        f"as {run.class_names[row.clean_prediction]} when clean, at {names[taken['adversarial']]} as "
        f"{run.class_names[row.adversarial_prediction]} when attacked.",
        caption=f"{example.image_id} · {example.attack}, made on {labels[example.source]} · judged at "
        f"T = {example.made_at:.2f} · filled: right, hollow: wrong, faded: not computed when deployed.",
        table=rows,
    )
    st.subheader("What every model answers")
    verdicts = pd.DataFrame([_verdict(each, run, labels) for _, each in decisions.iterrows()])
    st.dataframe(
        verdicts,
        hide_index=True,
        column_config=column_help(tuple(verdicts.columns)),
        alt=f"The answers of {len(decisions)} models, clean and adversarial",
    )


def _verdict(row: pd.Series, run: KeptRun, labels: dict[str, str]) -> dict[str, str]:
    names = exit_names(run.model(row.target).num_exits)
    answers = {
        state: f"{run.class_names[row[f'{state}_prediction']]} · {names[row[f'{state}_answered_exit']]} · "
        f"{row[f'{state}_confidence']:.2f}"
        for state in ("clean", "adversarial")
    }
    was_right, is_right = (row[f"{state}_prediction"] == row.label for state in ("clean", "adversarial"))
    verdict = ("holds" if is_right else "fooled") if was_right else "wrong already when clean"
    return {
        "model": labels[row.target],
        "clean": answers["clean"],
        "adversarial": answers["adversarial"],
        "verdict": verdict,
        "exit shift": f"{SHIFT_GLYPHS[shift_word(row.exit_shift)]} {abs(row.exit_shift)}",
        "cost": f"{100 * row.clean_cost:.0f} % → {100 * row.adversarial_cost:.0f} %",
    }


def _how_it_was_made(example: KeptExample, run: KeptRun) -> None:
    st.subheader("How it was made")
    held = [rule.label for name, rule in SUCCESS_RULES.items() if getattr(example, name)]
    aim = SUCCESS_RULES[example.success_rule].label
    st.markdown(
        f"{example.attack}. It wanted: {aim}. **{'It succeeded' if example.succeeded else 'It did not succeed'}.**  \n"
        + (f"Rules that hold: {'; '.join(held)}." if held else "No success rule holds.")
    )
    st.caption("Command that remakes it")
    dataset, split = run.spec.images.split(":")[:2]
    index = example.image_id.rsplit("/", 1)[-1]
    alone = (example.source,)
    spec = replace(
        run.spec,
        images=f"{dataset}:{split}:{index}",
        sources=alone,
        targets=alone,
        attack=run.attacks[example.source],
    )
    st.code(command_of(spec), language="bash", wrap_lines=True)


def _take_away(example: KeptExample, pixels: Tensor | None) -> None:
    st.subheader("Take it with you")
    name = f"{example.image_id.replace('/', '-')}-{example.source}-{example.attack_name}"
    with st.container(horizontal=True, vertical_alignment="center"):
        if pixels is not None:
            st.download_button(
                "Adversarial image, exact (.npy)", npy(pixels), f"{name}.npy", "application/octet-stream", key="npy"
            )
            st.download_button("Adversarial image, 8 bits (.png)", png(pixels), f"{name}.png", "image/png", key="png")
        if (Path(__file__).parents[1] / STORY).exists():
            st.page_link(STORY, label="Send to Story", query_params={"example": address_of(example)})
    if not example.succeeded:
        survival = "This attack had not succeeded, so there is nothing for rounding to undo."
    elif example.survives_rounding:
        survival = "This example survives it: the attack's own rule holds for the rounded image, too."
    else:
        survival = "This example does not survive it: rounded, it no longer does what the attack wanted."
    st.caption(f"The exact pixels are 32-bit numbers. A PNG rounds them to 8 bits, which changes results. {survival}")


def _remove(run: KeptRun) -> None:
    if not is_local_visit():  # what is kept belongs to this machine
        return
    with st.popover(f"Remove the run that holds this, {run.num_examples} examples"):
        st.markdown(
            f"Removes run `{run.key}` with all of its {run.num_examples} examples from this machine. Runs on the "
            "bundled samples are made again when the dashboard starts next."
        )
        if st.button("Remove it", key="remove", type="primary"):
            kept.remove(run.key)
            _close()
            st.rerun()
