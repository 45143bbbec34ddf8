"""The page of placements in parts: which exits, what comes of them, and what each exit is worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pandas as pd
import streamlit as st

from core.attacks.success import DONE_WORDS, SUCCESS_RULES
from core.errors import ExitLensError
from core.exits import ExitPolicy
from core.figures.placement import CHOSEN, exit_rates_figure, placement_figure
from core.metrics import rate
from core.study.charts import labels_of
from core.study.models import StudyModel
from core.study.placements import split_name
from core.study.placing import (
    FIXED,
    TRAINED,
    WholeAnswers,
    all_exits_models,
    exit_rates,
    placed_rows,
    studied_rows,
)
from core.study.report import command_of
from core.study.spec import policy_words
from core.study.store import Study
from ui import bound, study_cache
from ui.panels import figure_panel, rate_words
from ui.study_cache import StudyPlace
from ui.words import meaning

NO_BLOCK = "no_block"  # stands in the address in the place of ``blocks``


@dataclass(frozen=True)
class Placing:
    """What the controls say.

    Attributes:
        place: Of the study.
        study: With placements.
        model: Whose exits are chosen from.
        whole: What all its exits say.
        exits: Chosen, 0-based, the final one last.
        policy: In force.
        key: Source and attack of the fixed examples.
        examples: The same in words.
    """

    place: StudyPlace
    study: Study
    model: StudyModel
    whole: WholeAnswers
    exits: tuple[int, ...]
    policy: ExitPolicy
    key: tuple[str, str]
    examples: str

    @property
    def looks_at_no_model(self) -> bool:
        """Whether the examples would be the same for every model, as those of a corruption are."""
        return self.key[0] == self.model.name


def places_with_placements(places: dict[str, StudyPlace]) -> dict[str, StudyPlace]:
    """Those studies whose all-exits models can be asked about any placement."""
    return {name: place for name, place in places.items() if all_exits_models(study_cache.study(place))}


def controls(places: dict[str, StudyPlace]) -> Placing:
    """Study, model, examples and threshold in the sidebar; the exits on the page."""
    with st.sidebar:
        place = places[_choice("Study", "placed_study", list(places), meaning("study"))]
        study = study_cache.study(place)
        labels = labels_of(study)
        models = {labels[model.name]: model for model in all_exits_models(study)}
        model = models[_choice("Exits of", "placed_on", list(models))]
        whole = study_cache.whole(place, model.name)
        if not whole.attacked:
            raise ExitLensError(
                f"No attack on all images of this study is done yet: {study.num_done} of {len(study.cells)} cells are. "
                f"`{command_of(Path(place.folder), study, goes_on=True)}` goes on."
            )
        examples = {
            _example_words(source, attack, model, labels): (source, attack) for source, attack in whole.attacked
        }
        explained = meaning("example", more="Fixed: made on another model.")
        chosen = _choice("Examples", "placed_examples", list(examples), explained)
        threshold = bound.number(
            st.slider, "Threshold", 0.0, 1.0, 0.9, 0.01, key="threshold", help=meaning("threshold")
        )
    exits = _exits_control(study, model)
    return Placing(place, study, model, whole, exits, ExitPolicy(float(threshold)), examples[chosen], chosen)


def _choice(label: str, key: str, options: list[str], help: str | None = None) -> str:
    if st.session_state.get(key) not in options:
        st.session_state.pop(key, None)
    return str(bound.choose(st.selectbox, label, options, key=key, help=help))


def _example_words(source: str, attack: str, model: StudyModel, labels: dict[str, str]) -> str:
    """Fixed examples in words; what looks at no model was made on none."""
    return attack if source == model.name else f"{attack}, made on {labels[source]}"


def _exits_control(study: Study, model: StudyModel) -> tuple[int, ...]:
    """One pill for every block; named placements set them all."""
    done = list(accumulate(model.layer_multiply_adds))
    total = done[-1] + model.classifier_multiply_adds[-1]
    blocks = [str(index + 1) for index in range(model.num_exits - 1)]
    named = {
        other.label.rpartition(": ")[2]: split_name(other.name, model.num_exits)[1]
        for other in study.models
        if split_name(other.name, model.num_exits)[0] == model.name and other.name != model.name
    }
    first = next(iter(named.values()), (*range(0, model.num_exits - 1, 4), model.num_exits - 1))
    if "blocks" not in st.session_state or not set(st.session_state["blocks"]) <= set(blocks):
        st.session_state["blocks"] = [] if NO_BLOCK in st.query_params else [str(index + 1) for index in first[:-1]]
    else:  # set anew, it stands in the address: what it starts with moves with study and model
        st.session_state["blocks"] = st.session_state["blocks"]
    with st.container(horizontal=True):
        for name, exits in named.items():
            st.button(name.capitalize(), key=f"placed-{name}", on_click=_choose, args=(exits,))
    chosen = bound.choose(
        st.pills,
        "Blocks with an early exit after them",
        blocks,
        selection_mode="multi",
        key="blocks",
        help="From the first block on; the final exit is always there.",
    )
    _say_no_block(not chosen)
    exits = (*sorted(int(block) - 1 for block in chosen), model.num_exits - 1)
    shares = ", ".join(f"{100 * done[index] / total:.0f} %" for index in exits[:-1])
    st.caption(f"Exits after {shares or 'no block'} of the backbone's multiply-adds, and the final one.")
    return exits


def _say_no_block(is_so: bool) -> None:
    """Names the choice of no block in the address, where Streamlit leaves out what is empty."""
    if is_so and NO_BLOCK not in st.query_params:
        st.query_params[NO_BLOCK] = "true"
    elif not is_so and NO_BLOCK in st.query_params:
        del st.query_params[NO_BLOCK]


def _choose(exits: Sequence[int]) -> None:
    st.session_state["blocks"] = [str(index + 1) for index in exits[:-1]]


def headline(placing: Placing) -> pd.DataFrame:
    """Accuracy, cost and how often it is fooled, in one sentence and four numbers; returns the rows."""
    rows = placed_rows(placing.whole, placing.exits, placing.policy, CHOSEN)
    source, attack = placing.key
    row = rows[(rows.made_on == source) & (rows.attack == attack)].iloc[0]
    share = rate(int(row.num_fooled), int(row.num_images))
    st.markdown(
        f"With {_exits_in_words(placing.exits)}, **{rate_words(share)}** {DONE_WORDS[row.success_rule]} by "
        f"{placing.examples}; clean images take **{100 * row.clean_cost:.0f} %** of its multiply-adds."
    )
    columns = st.columns(4)
    columns[0].metric(
        "Right when clean", f"{100 * row.clean_accuracy:.1f} %", help=f"n = {len(placing.whole.labels):,}"
    )
    columns[1].metric("Mean cost", f"{100 * row.clean_cost:.0f} %", help=meaning("mean cost"))
    columns[2].metric(DONE_WORDS[row.success_rule].capitalize(), f"{100 * row.rate:.0f} %", help=rate_words(share))
    columns[3].metric("Mean cost attacked", f"{100 * row.adversarial_cost:.0f} %", help=meaning("mean cost"))
    return rows


def _exits_in_words(exits: Sequence[int]) -> str:
    early = ", ".join(str(index + 1) for index in exits[:-1])
    return f"exits after block{'s' * (len(exits) > 2)} {early} and at the end" if early else "the final exit alone"


def placements_panel(placing: Placing, chosen: pd.DataFrame) -> None:
    """The chosen placement among those that were studied: fixed examples, attacks made anew, and trained variants."""
    st.subheader("What a placement costs, and what fools it", help=meaning("placement"))
    source, attack = placing.key
    named = [
        placed_rows(placing.whole, split_name(model.name, placing.model.num_exits)[1], placing.policy, name)
        for model in placing.study.models
        if split_name(model.name, placing.model.num_exits)[0] == placing.model.name and model.name != placing.model.name
        for name in [model.label.rpartition(": ")[2]]
    ]
    fixed = pd.concat([chosen, *named])
    fixed = fixed[(fixed.made_on == source) & (fixed.attack == attack)]
    policies = placing.study.spec.policies if placing.study.spec.made_anew else placing.study.spec.policies[:1]
    policy = min(policies, key=lambda each: abs((each.threshold or 9) - placing.policy.threshold))
    own = next((each for each in _attacks_alike(placing, attack)), attack)
    anew = studied_rows(placing.study, study_cache.summary(placing.place), placing.model, policy.name, own)
    if placing.looks_at_no_model:  # made anew on a placement, they are the fixed ones
        anew = anew[anew.how == TRAINED]
    others = "models trained with such exits" if placing.looks_at_no_model else "made anew on each placement"
    rows = pd.concat([fixed, anew], ignore_index=True) if len(anew) else fixed
    figure_panel(
        placement_figure(rows),
        key="placements",
        alt="Success of an attack over mean cost. "
        + "; ".join(
            f"{row['placement']}, {row['how']}: {100 * row['rate']:.0f} % {DONE_WORDS[row['success_rule']]} at "
            f"{100 * row['clean_cost']:.0f} %"
            for row in rows.to_dict("records")
        ),
        caption=f"{FIXED.capitalize()}: {placing.examples}, judged under T = {placing.policy.threshold:.2f}; "
        f"{others}: {own}, judged under {policy_words(policy.name)}. {_counted(rows)} "
        f"n = {len(placing.whole.labels):,} images; 95 % Wilson intervals.",
        table=rows,
    )


def _counted(rows: pd.DataFrame) -> str:
    """What counts as success for each way of measuring, and among which images; ends before their number."""
    rules = {str(how): SUCCESS_RULES[group.success_rule.iloc[0]] for how, group in rows.groupby("how", sort=False)}
    said = {rule.label for rule in rules.values()}
    words = said.pop() if len(said) == 1 else "; ".join(f"{how}: {rule.label}" for how, rule in rules.items())
    return f"Counted: {words}; of the attackable among"


def _attacks_alike(placing: Placing, attack: str) -> list[str]:
    """The attack as it is called on an early-exit model: a static source's aims at its final exit."""
    summary = study_cache.summary(placing.place)
    like = summary[summary.attack == attack]
    if like.empty:
        return []
    name, strength = like.iloc[0][["attack_name", "strength"]]
    own = summary[summary.source == summary.target]
    same = own[(own.attack_name == name) & (own.strength == strength)]
    names = {model.name for model in placing.study.models if model.kind == "early-exit"}
    return list(dict.fromkeys(same[same.source.isin(names)].attack))


def exits_panel(placing: Placing) -> None:
    """What every exit that can be chosen gets right, clean and attacked."""
    st.subheader("What each exit gets right")
    rates = exit_rates(placing.whole, placing.key)
    figure_panel(
        exit_rates_figure(rates, placing.exits),
        key="placement-exits",
        alt="Share right at every exit. "
        + "; ".join(
            f"exit {row['exit_index'] + 1} {row['state']}: {100 * row['accuracy']:.0f} %"
            for row in rates.to_dict("records")
        ),
        caption=f"All {placing.model.num_exits} exits, the chosen ones filled, whatever the threshold · "
        f"{placing.examples} · n = {len(placing.whole.labels):,}",
        table=rates,
    )
