"""Attribution maps as background jobs, kept by what they depend on; as in ``ui/cache.py``, keys are frozen specs."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import streamlit as st
import torch

from core.attribution import Attribution, attribute
from core.attribution_population import Population, PopulationSpec, measure_population
from core.attribution_spec import AttributionSpec
from core.attribution_tables import between_exits_table, maps_table, population_table
from core.belief import NUM_REMAKES, NUM_SQUARES, Belief, measure_belief
from core.checkpoints import ModelCard
from core.exits import ExitPolicy
from core.experiment import Experiment, ExperimentSpec
from ui.cache import USUAL_SPEED, job_board, loaded_model, own_decisions, whole_multiply_adds
from ui.jobs import Job, JobBoard
from ui.state import visitor

_BACKWARD = 3  # of multiply-adds forward that a map takes: forward, and twice that backward


@dataclass(frozen=True)
class ImageMapsSpec:
    """What the maps of one image, clean and adversarial, depend on.

    Attributes:
        experiment: The attack.
        weights_sha256: Of its model in question.
        row: Of the image among those of the experiment.
        attribution: Which maps.
    """

    experiment: ExperimentSpec
    weights_sha256: str
    row: int
    attribution: AttributionSpec


@dataclass(frozen=True)
class BeliefSpec:
    """What can be believed of these maps.

    Attributes:
        maps: The maps.
    """

    maps: ImageMapsSpec


@st.cache_resource
def maps_board() -> JobBoard:
    """Maps of single images, on a board of their own: going through images pushes no attack off the common one."""
    return JobBoard(visitor)


def card_of(experiment: Experiment) -> ModelCard:
    """Of the model in question."""
    return experiment.cards[experiment.spec.model]


def maps_spec(experiment: Experiment, row: int, attribution: AttributionSpec) -> ImageMapsSpec:
    """The key of one image's maps."""
    return ImageMapsSpec(experiment.spec, card_of(experiment).weights_sha256, row, attribution)


def both_states(experiment: Experiment, row: int) -> torch.Tensor:
    """An image clean and adversarial, (2, 3, H, W)."""
    result = experiment.results[experiment.spec.model]
    return torch.stack([result.images[row], result.adversarial[row]])


def start_maps(spec: ImageMapsSpec, experiment: Experiment) -> Job[Attribution]:
    """Starts to make the maps of one image, or finds them made or under way."""
    model, _ = loaded_model(spec.experiment.model, spec.weights_sha256)
    images, labels = both_states(experiment, spec.row), experiment.image_set.labels[spec.row].expand(2)
    return maps_board().start(spec, partial(attribute, model, images, spec.attribution, labels=labels))


def start_belief(spec: BeliefSpec, experiment: Experiment, attribution: Attribution) -> Job[Belief]:
    """Starts to measure what can be believed of maps, or finds that done or under way."""
    model, _ = loaded_model(spec.maps.experiment.model, spec.maps.weights_sha256)
    images = both_states(experiment, spec.maps.row)
    return job_board().start(spec, partial(measure_belief, model, images, attribution))


def start_population(spec: PopulationSpec, experiment: Experiment) -> Job[Population]:
    """Starts to compare the maps of all images of an experiment, or finds that done or under way."""
    model, _ = loaded_model(spec.experiment.model, spec.weights_sha256)
    result = experiment.results[spec.experiment.model]
    return job_board().start(spec, partial(measure_population, spec, result, model))


def population_seconds(spec: PopulationSpec, experiment: Experiment) -> float:
    """About how long all images take here: by multiply-adds, at the speed of those finished so far."""
    finished = [job for job in job_board().finished() if isinstance(job.spec, PopulationSpec)]
    speeds = [
        _work(job.spec.attribution, experiment, len(job.result().agreement.overlap)) / max(job.result().seconds, 1e-3)
        for job in finished
        if job.spec.weights_sha256 == spec.weights_sha256
    ]
    speed = float(np.median(speeds)) if speeds else USUAL_SPEED
    return _work(spec.attribution, experiment, len(experiment.image_set)) / speed


def belief_seconds(attribution: AttributionSpec, experiment: Experiment) -> float:
    """About how long it takes to measure what can be believed of one image's maps."""
    squares = 2 * NUM_SQUARES * whole_multiply_adds(card_of(experiment))
    return (NUM_REMAKES * _work(attribution, experiment, 1) + squares) / USUAL_SPEED


def _work(attribution: AttributionSpec, experiment: Experiment, num_images: int) -> float:
    """Multiply-adds of the maps of images, clean and adversarial."""
    card = card_of(experiment)
    passes = attribution.num_passes(card.image_size)
    costs = card.exit_costs
    if not isinstance(attribution.exits, str):
        costs = tuple(costs[index] for index in attribution.exits)
    return float(
        2
        * num_images
        * whole_multiply_adds(card)
        * passes
        * (1 if attribution.method == "occlusion" else _BACKWARD * sum(costs))
    )


@st.cache_data(max_entries=64, show_spinner=False)
def tables(spec: ImageMapsSpec, image_id: str, _attribution: Attribution) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The maps of one image as a table, and how much its exits agree."""
    return maps_table(_attribution, image_id), between_exits_table(_attribution, image_id)


@st.cache_data(max_entries=64, show_spinner=False)
def population_rows(
    spec: PopulationSpec, policy: ExitPolicy, exit_index: int | None, _population: Population, _experiment: Experiment
) -> pd.DataFrame:
    """Agreement beside exit shift under a policy: what a threshold moves."""
    return population_table(_population, own_decisions(_experiment, policy), exit_index)


def at_exits(attribution: AttributionSpec, exits: tuple[int, ...], num_exits: int) -> AttributionSpec:
    """The same maps at some exits; at all of them where that is what they are."""
    return replace(attribution, exits="all" if len(exits) == num_exits else exits)
