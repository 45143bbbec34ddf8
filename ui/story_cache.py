"""Jobs and caches of the Story page: attacks on some pictures, reused from what is kept or was made already."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import pandas as pd
import streamlit as st

from core.attacks.run import AttackResult
from core.checkpoints import LoadedModel, ModelCard, load_card
from core.data import ImageSet, selection_text
from core.errors import ExitLensError
from core.experiment import ExperimentSpec
from core.kept import KeptRun
from core.remedies import Remedies, RemediesSpec, remedies_table, run_remedies
from core.restored import find_run, restored_result
from core.story import Made, Story, StorySpec, run_story
from core.story_tables import candidates_table, price_table, ranked
from core.tables import decisions_table, exits_table
from ui import cache, kept_cache
from ui.controls import Setting
from ui.jobs import Job


def story_spec(setting: Setting, num_pictures: int) -> StorySpec:
    """The story of the chosen early-exit model on the first pictures of the chosen set."""
    first = cache.image_set(setting.set_name).indices[:num_pictures].tolist()
    twin = next(iter(cache.pair_names(setting.card)[1:]), None)
    return StorySpec(
        images=f"{setting.set_name}:{selection_text(first)}",
        model=setting.card.name,
        weights_sha256=setting.card.weights_sha256,
        twin=twin,
        twin_sha256=load_card(twin).weights_sha256 if twin else "",
        policy=setting.policy,
    )


def start_story(spec: StorySpec) -> Job[Story]:
    """Starts the story's attacks in the background, or finds those made or under way."""
    models, images = _models(spec), cache.images_of(spec.images)
    made = _made([*spec.attacks_on_model().values(), *spec.attacks_on_twin().values()], models, images)
    return cache.job_board().start(spec, partial(run_story, spec, images, models, made=made))


def start_remedies(spec: RemediesSpec, story: Story) -> Job[Remedies]:
    """Starts the attacks under other policies in the background, or finds those made or under way."""
    models, images = _models(spec.story), story.image_set
    by_attack = {(each.spec.attack, each.spec.made_at): each.results for each in story.on_model.values()}
    kept = _made(list(spec.experiments().values()), models, images)

    def made(wanted: ExperimentSpec) -> Mapping[str, AttackResult]:
        return by_attack.get((wanted.attack, wanted.made_at)) or kept(wanted)

    return cache.job_board().start(spec, partial(run_remedies, spec, images, models, made=made))


def _models(spec: StorySpec) -> dict[str, tuple[LoadedModel, ModelCard]]:
    hashes = {spec.model: spec.weights_sha256} | ({spec.twin: spec.twin_sha256} if spec.twin else {})
    return {name: cache.loaded_model(name, weights) for name, weights in hashes.items()}


def _made(specs: list[ExperimentSpec], models: Mapping[str, tuple[LoadedModel, ModelCard]], images: ImageSet) -> Made:
    """Looks up now which attacks are kept on disk; they are read and judged anew by the job that needs them."""
    runs = list(kept_cache.gallery().kept.runs.values())
    found: dict[ExperimentSpec, KeptRun] = {}
    for spec in specs:
        weights = models[spec.model][1].weights_sha256
        run = find_run(runs, spec.images, spec.model, weights, spec.attack, spec.made_at)
        if run:
            found[spec] = run

    def made(spec: ExperimentSpec) -> Mapping[str, AttackResult]:
        if spec not in found:
            return {}
        try:
            return {spec.model: restored_result(found[spec], spec.model, models[spec.model][0], images)}
        except ExitLensError:  # damaged, which the gallery says; attacked anew
            return {}

    return made


@dataclass(frozen=True, eq=False)
class StoryTables:
    """What a story comes to.

    Attributes:
        decisions: By radius, on model and twin under the Early Attack on the model.
        exits: By radius, what every exit says of the same.
        candidates: Every picture at every radius, and whether it can tell the story.
        best: The pictures that tell it, the most striking first.
        price: How many behave so at each radius, and how the twin fares.
    """

    decisions: dict[float, pd.DataFrame]
    exits: dict[float, pd.DataFrame]
    candidates: pd.DataFrame
    best: pd.DataFrame
    price: pd.DataFrame


@st.cache_resource(max_entries=16, show_spinner=False)
def story_tables(spec: StorySpec, _story: Story) -> StoryTables:
    """The tables of a story; shared, so never changed."""
    decisions = {epsilon: decisions_table(each, spec.policy) for epsilon, each in _story.on_model.items()}
    exits = {epsilon: exits_table(each) for epsilon, each in _story.on_model.items()}
    on_twin = {epsilon: decisions_table(each, spec.policy) for epsilon, each in _story.on_twin.items()}
    candidates = pd.concat(
        [candidates_table(decisions[each], exits[each], spec.model, spec.twin) for each in decisions],
        ignore_index=True,
    )
    return StoryTables(
        decisions,
        exits,
        candidates,
        ranked(candidates, spec.policy.threshold),
        price_table(decisions, on_twin, spec.model, spec.twin),
    )


@st.cache_data(max_entries=16, show_spinner=False)
def remedies(spec: RemediesSpec, image_id: str, _remedies: Remedies) -> pd.DataFrame:
    """What each remedy does and costs."""
    return remedies_table(_remedies, image_id)
