"""The story's last step: what helps, measured with every attack made anew, and what it costs."""

from typing import Any

import pandas as pd
import streamlit as st

from core.attacks.spec import as_255
from core.figures import remedies_figure
from core.metrics import rate
from core.remedies import RemediesSpec, help_of
from core.story import NUM_PICTURES
from ui import cache, story_cache
from ui.controls import glyph_label
from ui.panels import figure_panel
from ui.scene_parts import Card, cards, certainty, percent, spread, words
from ui.story import Told, waiting


def helps(told: Told) -> None:
    """What more certainty does against the trick and against any attack, every attack made anew, and its cost."""
    story, asks = told.story, "What helps, and what does it cost?"
    if story is None:
        words(asks, "The same is done to more pictures first.")
        waiting(told.spec, told.job)
        return
    spec = RemediesSpec(told.spec, told.epsilon)
    job = cache.job_board().find(spec)
    if job is None and len(story.image_set) <= NUM_PICTURES:
        job = story_cache.start_remedies(spec, story)
    if job is None or not job.has_result:
        words(asks, "Every attack is made anew for every way of deciding when to leave.")
        waiting(told.spec, job, lambda: story_cache.start_remedies(spec, story))
        return
    table = story_cache.remedies(spec, told.tale.picked.image_id, job.result())
    rows: dict[str, Any] = {str(row.remedy): row for row in table.itertuples()}
    before, after = rows["as_it_is"], rows["surer"]
    words(_help_title(before, after), _help_words(before, after, rows["no_early_exit"]))
    left, right = st.columns([1, 1.6], gap="large")
    with left:
        cards(_help_cards(before, after), per_row=2)
    with right:
        _help_panel(told, table, rows)


def _help_title(before: Any, after: Any) -> str:
    at_all, this = help_of(before.any_rate, after.any_rate), help_of(before.early_rate, after.early_rate)
    if at_all != "none":
        return "Asking for more certainty helps" + (" a little" if at_all == "little" else ", at a price")
    return "Asking for more certainty hardly helps" if this == "none" else "This trick gets harder. Others stay"


def _help_words(before: Any, after: Any, never: Any) -> str:
    """What more certainty does, and what it does not, plainly."""
    this = {"much": "half as often or less", "little": "a little less often", "none": "about as often as before"}
    at_all = {
        "much": "Counted over both attacks it is fooled half as often or less",
        "little": "Counted over both attacks it is fooled a little less often",
        "none": "**But some attack still fools it about as often as before**",
    }
    overlap = after.early_high >= before.early_low and after.early_rate < before.early_rate
    return (
        f"Made to leave only when **{certainty(after.threshold)}** sure instead of {certainty(before.threshold)}, the "
        f"network falls for this trick {this[help_of(before.early_rate, after.early_rate)]}, and works more. "
        f"{at_all[help_of(before.any_rate, after.any_rate)]}. Never to answer early costs all the work, and an "
        f"ordinary attack still fools {_of(never, 'any')}."
        + (" On so few pictures some of it may be chance: the intervals overlap." if overlap else "")
    )


def _help_cards(before: Any, after: Any) -> list[Card]:
    picture = {
        "fooled_early": ("fooled early", "just as before"),
        "fooled": ("fooled", "but in another way"),
        "holds": ("right again", "under both attacks"),
        "not_attacked": ("not looked at", "it is not among these pictures"),
    }
    surer = f"when {certainty(after.threshold)} sure instead of {certainty(before.threshold)}"
    return [
        Card(
            "Fooled this way",
            f"{before.early_num_fooled} → {after.early_num_fooled}",
            _change(before, after, "early"),
        ),
        Card("Fooled at all", f"{before.any_num_fooled} → {after.any_num_fooled}", _change(before, after, "any")),
        Card("Work", f"{percent(before.mean_cost)} → {percent(after.mean_cost)}", "on clean pictures"),
        Card("This picture", picture[after.picture][0], f"{picture[after.picture][1]}, {surer}"),
    ]


def _help_panel(told: Told, table: pd.DataFrame, rows: dict[str, Any]) -> None:
    other = {"final": "the end", "most_confident": "the surest exit"}[rows["surer_other_fallback"].fallback]
    before, after = (certainty(rows[name].threshold) for name in ("as_it_is", "surer"))
    names = [f"{before} sure,<br>as it is", f"{after} sure", f"{after} sure,<br>else {other}", "never early"]
    counted = [
        f"{name.replace('<br>', ' ')}: {_of(row, 'early')} and {_of(row, 'any')}, {percent(row.mean_cost)} of the work"
        for name, row in zip(names, rows.values(), strict=True)
    ]
    figure_panel(
        remedies_figure(table, names),
        key="story-remedies",
        alt=f"Pictures fooled early and fooled at all, and the work. {'; '.join(counted)}",
        caption=f"{told.spec.images}, n = {rows['as_it_is'].num_all} · {glyph_label(told.tale.card)} · "
        f"noise of at most {as_255(told.epsilon)}, made anew for each · fooled at all: by this attack or by PGD on the "
        "exit taken (never early: on the final exit) · work: mean multiply-adds on the clean pictures · 95 % Wilson "
        "intervals",
        table=table,
    )


def _of(row: Any, prefix: str) -> str:
    return f"{getattr(row, f'{prefix}_num_fooled')} of {getattr(row, f'{prefix}_num_images')}"


def _change(before: Any, after: Any, prefix: str) -> str:
    """Of how many, and the rate that is left."""
    was, now = (
        rate(getattr(row, f"{prefix}_num_fooled"), getattr(row, f"{prefix}_num_images")) for row in (before, after)
    )
    among = f"of {now.num_images}" if now.num_images == was.num_images else f"of {was.num_images} → {now.num_images}"
    return f"{among}; now {spread(now)}"
