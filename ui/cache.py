"""Every cache of the dashboard. Keys are strings and frozen specs, never arrays, frames or modules."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
import torch

from core import checkpoints, data, fetch
from core.attacks.checks import Checked, check_attack
from core.attacks.run import AttackResult, images_at_step
from core.attribution import attribute
from core.attribution_spec import AttributionSpec
from core.checkpoints import LoadedModel, ModelCard
from core.confidence_tables import attacked_calibration_tables, confidence_spread_table
from core.data import ImageSet, ImageSetStatus
from core.errors import ExitLensError
from core.evaluation import Evaluation, EvaluationSpec, evaluate, exit_logits
from core.exits import ExitPolicy, Fallback
from core.experiment import Experiment, ExperimentSpec, offered_in_order, run_experiment, twin_of
from core.figures import MapRow, exits_made_at_figure, maps_figure
from core.figures.theme import exit_names
from core.model_tables import (
    confusion_table,
    curve_table,
    model_exits_table,
    overthinking_table,
    reliability_tables,
)
from core.models.costs import multiply_adds
from core.models.prepared import prepared
from core.shift_tables import STATES, efficiency_table, exits_made_at_table
from core.tables import decisions_table, exits_table, steps_table
from core.timing import ExitTimes, ExitTimingSpec, Timing, TimingSpec, time_dynamic, time_exits
from core.transfer import ExitTransfer, ExitTransferSpec, evenly_spread, run_exit_transfer
from core.uploads import read_picture
from ui.jobs import Job, JobBoard
from ui.state import visitor

POOL_SIZE = 256
USUAL_SPEED = 4e10  # multiply-adds a second on two cores; replaced by what is measured


@st.cache_resource
def job_board() -> JobBoard:
    """The one job board of the server."""
    return JobBoard(visitor)


@st.cache_resource
def fetch_board() -> JobBoard:
    """Fetches of data sets by name, on a board of their own so that no attack waits for a download.

    Whoever sits at this machine may cancel one, from whichever tab.
    """
    return JobBoard()


@st.cache_resource(max_entries=12, show_spinner=False)
def loaded_model(name: str, weights_sha256: str) -> tuple[LoadedModel, ModelCard]:
    """A model, shared by all sessions and never changed; the hash makes a retrained model a new entry.

    Raises:
        ExitLensError: If it cannot be loaded, or has other weights by now.
    """
    model, card = checkpoints.load_model(name)
    if card.weights_sha256 != weights_sha256:
        raise ExitLensError(f"{card.label} has been replaced since this result was made. Run it again.")
    return model, card


@st.cache_resource(max_entries=4, show_spinner="Reading images …")
def image_set(name: str) -> ImageSet:
    """A whole image set."""
    return data.open_image_set(name)


@st.cache_data(ttl=30, show_spinner=False)
def image_set_statuses() -> list[ImageSetStatus]:
    """All image sets, ready or not."""
    return data.list_image_sets()


@st.cache_data(ttl=30, show_spinner=False)
def missing_data_sets() -> list[str]:
    """The data sets that a fetch would bring."""
    return fetch.missing_data_sets()


def forget_data_sets() -> None:
    """Makes the next look at the image sets a fresh one, as after a fetch."""
    image_set_statuses.clear()
    missing_data_sets.clear()


def start_fetch(name: str) -> None:
    """Starts to fetch a data set in the background."""
    fetch_board().start(name, partial(fetch.fetch, name))


def cards() -> tuple[list[ModelCard], list[str]]:
    """The cards of models that can be used, as they are offered, and one sentence for each that cannot."""
    usable = []
    read, problems = _read_cards(str(checkpoints.checkpoints_folder()), _cards_signature())
    problems = list(problems)
    for card in read:
        problem = _import_problem(card.name, card.weights_sha256) if card.imported else ""
        if problem:
            problems.append(f"{card.name}: {problem}")
        else:
            usable.append(card)
    return usable, problems


def _cards_signature() -> tuple[tuple[str, int, int], ...]:
    """As long as it stays, so do the cards: every pass through a page asks for them several times."""
    found = []
    for path in checkpoints.checkpoints_folder().glob(f"*/{checkpoints.CARD_FILE}"):
        status = path.stat()
        found.append((path.parent.name, status.st_mtime_ns, status.st_size))
    return tuple(sorted(found))


@st.cache_resource(max_entries=2, show_spinner=False)
def _read_cards(folder: str, signature: tuple[tuple[str, int, int], ...]) -> tuple[list[ModelCard], list[str]]:
    cards, problems = [], []
    for name, *_ in signature:
        try:
            cards.append(checkpoints.load_card(name))
        except ExitLensError as error:
            problems.append(str(error))
    return sorted(cards, key=offered_in_order), problems


@st.cache_data(ttl=60, show_spinner=False)
def _import_problem(name: str, weights_sha256: str) -> str:
    """Why an imported model cannot be used: its code is not in this project and may be gone; empty when it can."""
    try:
        loaded_model(name, weights_sha256)
    except ExitLensError as error:
        return str(error)
    return ""


def pair_names(card: ModelCard) -> tuple[str, ...]:
    """A model and, where there is one, its twin of the other kind."""
    twin = twin_of(card, cards()[0])
    return (card.name, twin.name) if twin else (card.name,)


def as_now(spec: ExperimentSpec) -> ExperimentSpec:
    """An experiment on the weights that its models have now: what was made on others is another experiment."""
    weights = {card.name: card.weights_sha256 for card in cards()[0]}
    return replace(spec, weights=tuple(weights.get(name, "") for name in spec.targets))


def find_experiment(spec: ExperimentSpec) -> Job[Experiment] | None:
    """An experiment that was made on the weights of now, or is under way."""
    return job_board().find(as_now(spec))


def start_experiment(spec: ExperimentSpec) -> Job[Experiment]:
    """Starts an experiment on the weights of now in the background, or finds it made or under way."""
    spec = as_now(spec)
    # Cached values are fetched here: workers call nothing of Streamlit.
    models = {name: loaded_model(name, checkpoints.load_card(name).weights_sha256) for name in spec.targets}
    images = images_of(spec.images)
    made = _made_already(spec)
    return job_board().start(spec, partial(run_experiment, spec, images, models, made=made))


def start_checks(experiment: Experiment) -> Job[Checked]:
    """Starts looking for signs that the attack on the model in question misleads, or finds that done or under way."""
    name = experiment.spec.model
    model, _ = loaded_model(name, experiment.cards[name].weights_sha256)
    result = experiment.results[name]
    return job_board().start(("checks", experiment.spec), partial(check_attack, model, result, search=prepared(model)))


def images_of(name: str) -> ImageSet:
    """The images that an experiment names, this session's uploads among them."""
    uploads: dict[str, ImageSet] = st.session_state.get("uploads", {})
    if name in uploads:
        return uploads[name]
    dataset, split, indices = data.parse_image_set_name(name)
    whole = image_set(f"{dataset}:{split}")
    return whole if indices is None else whole.select(indices)


def estimated_seconds(spec: ExperimentSpec) -> float:
    """About how long an experiment takes here: by its multiply-adds, at the speed of those finished so far."""
    speeds = [_work(done.spec, len(done.image_set)) / max(done.seconds, 1e-3) for done in _experiments()]
    return _work(spec, len(images_of(spec.images))) / (float(np.median(speeds)) if speeds else USUAL_SPEED)


def usual_seconds(spec: ExperimentSpec) -> float:
    """About how long an experiment takes on a machine with nothing else to do."""
    return _work(spec, len(images_of(spec.images))) / USUAL_SPEED


def evaluation_seconds(spec: EvaluationSpec) -> float:
    """About how long an evaluation takes here, in the same way."""
    here = _names_here()
    jobs = [job for job in job_board().finished() if isinstance(job.spec, EvaluationSpec) and job.spec.model in here]
    # Of a few images, most of the time is the first batch's warming up.
    speeds = [_evaluation_work(job.spec) / job.result().seconds for job in jobs if job.spec.num_images >= POOL_SIZE]
    return _evaluation_work(spec) / (float(np.median(speeds)) if speeds else USUAL_SPEED)


def _experiments() -> list[Experiment]:
    """The experiments that are kept and whose models are still here, the oldest first."""
    here = _names_here()
    jobs = [job for job in job_board().finished() if isinstance(job.spec, ExperimentSpec)]
    return [job.result() for job in jobs if here.issuperset(job.spec.targets)]


def _names_here() -> set[str]:
    """Models that can be used now: some may have been removed while the dashboard is open."""
    return {card.name for card in cards()[0]}


def _work(spec: ExperimentSpec, num_images: int) -> float:
    """Multiply-adds of an experiment's attacks: a step costs a forward and twice that backward."""
    per_image = sum(
        whole_multiply_adds(card) * (3 * spec.attack.passes(card.num_exits) + 2)
        for card in map(checkpoints.load_card, spec.sources)
    )
    return float(num_images * per_image)


def _evaluation_work(spec: EvaluationSpec) -> float:
    return float(spec.num_images * whole_multiply_adds(checkpoints.load_card(spec.model)))


def _made_already(spec: ExperimentSpec) -> dict[str, AttackResult]:
    """Attacks of earlier experiments that differ in sources and targets only."""
    made: dict[str, AttackResult] = {}
    for experiment in _experiments():
        if replace(experiment.spec, sources=spec.sources, targets=spec.targets, weights=spec.weights) == spec:
            made |= {
                name: result
                for name, result in experiment.results.items()
                if experiment.cards[name].weights_sha256 == checkpoints.load_card(name).weights_sha256
            }
    return {name: result for name, result in made.items() if name in spec.sources}


@st.cache_data(max_entries=64, show_spinner=False)
def uploaded_picture(file_id: str, name: str, image_size: int, _content: bytes) -> np.ndarray:
    """A user's picture, (3, image_size, image_size) bytes: a photograph takes a second, and every pass needs it."""
    return read_picture(_content, name, image_size).numpy()


@st.cache_resource(max_entries=64, show_spinner=False)
def pool_logits(model_name: str, weights_sha256: str, set_name: str, first_row: int) -> np.ndarray:
    """Logits of the images that the lab offers for picking, (N, K, C)."""
    model, _ = loaded_model(model_name, weights_sha256)
    whole = image_set(set_name)
    rows = whole.indices[first_row : first_row + POOL_SIZE].tolist()
    return exit_logits(model, whole.select(rows)).numpy()


# Tables of a result are shared by all sessions and never changed: a copy for each reader, as st.cache_data makes,
# takes longer than deciding anew.
@st.cache_resource(max_entries=64, show_spinner=False)
def decisions(spec: ExperimentSpec, policy: ExitPolicy, _experiment: Experiment) -> pd.DataFrame:
    """The decisions of an experiment under a policy: what a threshold moves."""
    return decisions_table(_experiment, policy)


def own_decisions(experiment: Experiment, policy: ExitPolicy) -> pd.DataFrame:
    """The decisions on the model in question under the attack made on it, one row per image."""
    table = decisions(experiment.spec, policy, experiment)
    name = experiment.spec.model
    return table[(table.source == name) & (table.target == name)]


@st.cache_resource(max_entries=64, show_spinner=False)
def efficiency(spec: ExperimentSpec, policy: ExitPolicy, _experiment: Experiment) -> pd.DataFrame:
    """Cost and accuracy of the model in question, clean and attacked: its bootstrap takes a while."""
    return efficiency_table(own_decisions(_experiment, policy), _experiment.cards[spec.model].exit_costs)


@st.cache_resource(max_entries=32, show_spinner=False)
def exits(spec: ExperimentSpec, _experiment: Experiment) -> pd.DataFrame:
    """What every exit says, whatever the policy."""
    return exits_table(_experiment)


@st.cache_resource(max_entries=32, show_spinner=False)
def steps(spec: ExperimentSpec, source: str, _experiment: Experiment) -> pd.DataFrame:
    """How every exit gave way, step by step."""
    return steps_table(_experiment.results[source], _experiment.image_set.image_ids, source)


@st.cache_data(max_entries=256, show_spinner="Making the attack again up to this step …")
def picture_at_step(spec: ExperimentSpec, source: str, row: int, step: int, _experiment: Experiment) -> np.ndarray:
    """One image after some steps of the attack on it, (H, W, 3) bytes."""
    result = _experiment.results[source]
    if step == len(result.steps) - 1:
        image = result.adversarial[row]
    else:
        model, _ = loaded_model(source, _experiment.cards[source].weights_sha256)
        rows = slice(row, row + 1)
        image = images_at_step(
            prepared(model), result.images[rows], result.labels[rows], result.spec, result.made_at, step
        )[0]
    return (image * 255).round().byte().permute(1, 2, 0).numpy()


@st.cache_resource(max_entries=64, show_spinner="Asking every exit what it looked at …")
def saliency_chart(spec: ExperimentSpec, source: str, row: int, _experiment: Experiment) -> go.Figure:
    """Saliency of the predicted class at ``shown_exits`` for one image, clean above adversarial.

    The chart itself is kept, not its numbers: drawing it takes longer than all else that a moved threshold does. So
    the exits that answer are those under the policy that the attack was made at.
    """
    result = _experiment.results[source]
    model, _ = loaded_model(source, _experiment.cards[source].weights_sha256)
    num_exits, table = model.num_exits, decisions(spec, spec.made_at, _experiment)
    own = table[(table.source == source) & (table.target == source)].iloc[row]
    exits = shown_exits(own, num_exits)
    asked = AttributionSpec(exits="all" if len(exits) == num_exits else exits)
    made = attribute(model, torch.stack([result.images[row], result.adversarial[row]]), asked)
    states = zip(("clean", "adversarial"), made.maps.numpy(), made.classes.tolist(), made.problems, strict=True)
    names = _experiment.image_set.class_names
    rows = [MapRow(state, maps, [names[i] for i in classes], problems=why) for state, maps, classes, why in states]
    note = (
        f"{len(exits)} of {num_exits} exits: evenly spread, and those that answer at T = {spec.made_at.threshold:.2f}."
    )
    titles = exit_names(num_exits)
    return maps_figure(rows, [titles[index] for index in exits], note=note if len(exits) < num_exits else "")


def shown_exits(own: pd.Series, num_exits: int) -> tuple[int, ...]:
    """The exits whose maps are shown, as all of many would be stamps: evenly spread ones, and those that answer.

    Args:
        own: Decisions on one image, clean and adversarial.
        num_exits: K of the model.
    """
    taken = {int(own[f"{state}_answered_exit"]) for state in STATES}
    return tuple(sorted(taken | set(evenly_spread(num_exits))))


def start_evaluation(spec: EvaluationSpec) -> Job[Evaluation]:
    """Starts showing images to a model in the background, or finds that already done or under way."""
    model, _ = loaded_model(spec.model, spec.weights_sha256)
    images = image_set(spec.image_set)
    return job_board().start(spec, partial(evaluate, spec, model, images))


def start_timing(spec: TimingSpec) -> Job[Timing]:
    """Starts timing an early-exit model against its twin in the background."""
    model, _ = loaded_model(spec.model, spec.weights_sha256)
    twin = loaded_model(spec.twin, spec.twin_sha256)[0] if spec.twin else None
    images = image_set(spec.image_set)
    return job_board().start(spec, partial(time_dynamic, spec, model, twin, images))


def start_exit_timing(spec: ExitTimingSpec) -> Job[ExitTimes]:
    """Starts timing a model's exits in the background, or finds that done: once as long as its result is kept."""
    model, _ = loaded_model(spec.model, spec.weights_sha256)
    images = image_set(spec.image_set)
    return job_board().start(spec, partial(time_exits, spec, model, images))


def start_exit_transfer(spec: ExitTransferSpec) -> Job[ExitTransfer]:
    """Starts attacking the exits of a model one by one in the background, or finds that done or under way."""
    model, _ = loaded_model(spec.model, spec.weights_sha256)
    images = images_of(spec.images)
    return job_board().start(spec, partial(run_exit_transfer, spec, images, model))


def exit_transfer_seconds(spec: ExitTransferSpec) -> float:
    """About how long the attacks on all exits take here."""
    one = ExperimentSpec(spec.images, (spec.model,), (spec.model,), spec.attack, ExitPolicy())
    return len(spec.exits) * estimated_seconds(one)


@st.cache_data(max_entries=32, show_spinner=False)
def stage_multiply_adds(model_name: str, weights_sha256: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Multiply-adds of a model's layers from exit to exit, and of its classifiers; counted if the card lacks them."""
    model, card = loaded_model(model_name, weights_sha256)
    if card.layer_multiply_adds and card.classifier_multiply_adds:
        return card.layer_multiply_adds, card.classifier_multiply_adds
    layers, classifiers = multiply_adds(model, card.image_size)
    return tuple(layers), tuple(classifiers)


def whole_multiply_adds(card: ModelCard) -> int:
    """Multiply-adds of a whole network, counted if the card lacks them; never 0, so that speeds can be taken."""
    return max(1, sum(map(sum, stage_multiply_adds(card.name, card.weights_sha256))))


@st.cache_resource(max_entries=32, show_spinner=False)
def curve(spec: EvaluationSpec, fallback: Fallback, static_cost: float, _evaluation: Evaluation) -> pd.DataFrame:
    """Accuracy and cost of an early-exit model over all thresholds."""
    _, card = loaded_model(spec.model, spec.weights_sha256)
    return curve_table(_evaluation, card, fallback, static_cost)


@st.cache_resource(max_entries=64, show_spinner=False)
def model_tables(spec: EvaluationSpec, policy: ExitPolicy, _evaluation: Evaluation) -> dict[str, pd.DataFrame]:
    """What a threshold moves in the report of a model, by the names of the schemas."""
    _, card = loaded_model(spec.model, spec.weights_sha256)
    layers, classifiers = stage_multiply_adds(spec.model, spec.weights_sha256)
    calibration, reliability = reliability_tables(_evaluation, policy)
    return {
        "model_exits": model_exits_table(_evaluation, card, policy, layers, classifiers),
        "calibration": calibration,
        "reliability": reliability,
        "overthinking": overthinking_table(_evaluation, policy),
        "confusion": confusion_table(_evaluation, policy, card.num_classes),
    }


@st.cache_resource(max_entries=32, show_spinner=False)
def made_at_chart(spec: ExperimentSpec, _experiment: Experiment) -> tuple[pd.DataFrame, go.Figure]:
    """Where images were about to leave while the model in question was attacked, as a table and drawn."""
    table = exits_made_at_table(_experiment.results[spec.model])
    return table, exits_made_at_figure(table)


def own_exits(experiment: Experiment) -> pd.DataFrame:
    """What every exit of the model in question says of its clean images and of what was made on it."""
    table = exits(experiment.spec, experiment)
    name = experiment.spec.model
    return table[(table.source == name) & (table.target == name)]


@st.cache_resource(max_entries=32, show_spinner=False)
def confidence_spread(spec: ExperimentSpec, _experiment: Experiment) -> pd.DataFrame:
    """How sure every exit of the model in question is of all images, clean and attacked."""
    return confidence_spread_table(own_exits(_experiment))


@st.cache_resource(max_entries=32, show_spinner=False)
def attacked_calibration(spec: ExperimentSpec, _experiment: Experiment) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Calibration and reliability of every exit of the model in question, clean and attacked."""
    return attacked_calibration_tables(own_exits(_experiment))
