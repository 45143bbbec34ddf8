"""Every cache of what is kept; as in ``ui/cache.py``, keys are strings and frozen specs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
import torch

from core import kept as kept_store
from core.checkpoints import ModelCard
from core.data import ImageSet
from core.examples import KeptExample, remade_perturbation, same_verdict
from core.experiment import Experiment
from core.gallery import distinct_examples, find_pictures
from core.kept import Kept, KeptRun
from ui.cache import cards, image_set, image_set_statuses, job_board, loaded_model
from ui.jobs import JobBoard
from ui.maps_cache import maps_board
from ui.warm_up import WarmUp


@dataclass(frozen=True, eq=False)
class Gallery:
    """What is kept, and what of it this machine has pictures and models for; shared, so never changed.

    Attributes:
        kept: All runs.
        rows: Of all runs, schema ``KEPT``, with ``is_here``: the picture is on this machine, and ``is_current``:
            the source still has the weights that the example was made on.
        examples: The same with each example once, though several runs may hold it.
        places: Image id and pixel hash of a picture to its image set and row.
        changed: When each run's folder last changed.
    """

    kept: Kept
    rows: pd.DataFrame
    examples: pd.DataFrame
    places: dict[tuple[str, str], tuple[str, int]]
    changed: dict[str, int]


def gallery() -> Gallery:
    """All that is kept; read again only when a folder, a model or an image set comes or goes."""
    folder = kept_store.kept_folder()
    ready = tuple(status.name for status in image_set_statuses() if status.is_ready)
    return _gallery(str(folder), kept_store.kept_signature(folder), ready, _weights_here())


@st.cache_resource(max_entries=2, show_spinner="Reading what was kept …")
def _gallery(
    folder: str, signature: tuple[tuple[str, int], ...], ready: tuple[str, ...], weights: tuple[tuple[str, str], ...]
) -> Gallery:
    kept = kept_store.read_kept(Path(folder))
    asked = {":".join(run.spec.images.split(":")[:2]) for run in kept.runs.values()}
    samples = [name for name in ready if name.endswith(":samples")]  # looked in first: they open at once
    others = [name for name in ready if name in asked and name not in samples]
    places = find_pictures(kept.examples, (image_set(name) for name in [*samples, *others]))
    identities = zip(kept.examples.image_id, kept.examples.pixel_hash, strict=True)
    made_on = zip(kept.examples.source, kept.examples.weights_sha256, strict=True)
    rows = kept.examples.assign(
        is_here=np.array([identity in places for identity in identities], dtype=bool),
        is_current=np.array([pair in weights for pair in made_on], dtype=bool),
    )
    return Gallery(kept, rows, distinct_examples(rows), places, dict(signature))


def _weights_here() -> tuple[tuple[str, str], ...]:
    return tuple((card.name, card.weights_sha256) for card in cards()[0])


def stored_perturbation(gallery: Gallery, example: KeptExample) -> torch.Tensor:
    """The perturbation of a kept example as it was stored, (3, H, W) float16.

    Raises:
        ExitLensError: If the run's file of perturbations is missing or damaged.
    """
    run = gallery.kept.runs[example.run]
    stored = _perturbations(str(kept_store.kept_folder()), run.key, gallery.changed.get(run.key, 0))
    return stored[example.source][run.image_ids.index(example.image_id)]


@st.cache_resource(max_entries=64, show_spinner=False)
def _perturbations(folder: str, key: str, changed: int) -> dict[str, torch.Tensor]:
    return kept_store.read_perturbations(kept_store.read_run(key, Path(folder)), Path(folder))


@st.cache_resource(max_entries=64, show_spinner="Making the perturbation again …")
def remade(run: str, source: str, weights_sha256: str, image_id: str, _run: KeptRun, _image: ImageSet) -> torch.Tensor:
    """The perturbation of a kept example made again from spec and weights, (3, H, W) float16."""
    model, _ = loaded_model(source, weights_sha256)
    return remade_perturbation(model, _image, _run.attacks[source], _run.spec.made_at)[0]


def verdict_holds(example: KeptExample, image: ImageSet, perturbation: torch.Tensor) -> bool:
    """Whether the model here answers a kept example as it did when it was kept."""
    model, _ = loaded_model(example.source, example.weights_sha256)
    return same_verdict(model, image.pixels()[0], perturbation, example)


@st.cache_data(max_entries=64, show_spinner=False)
def kept_verdicts(folder: str, run: str, changed: int, image_id: str, source: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All models' decisions on a kept example and what all their exits say, schemas ``DECISIONS`` and ``EXITS``.

    Raises:
        ExitLensError: If one of the tables is missing or damaged.
    """
    read = kept_store.read_run(run, Path(folder))
    tables = kept_store.read_decisions(read, Path(folder)), kept_store.read_exits(read, Path(folder))
    decisions, exits = (table[(table.source == source) & (table.image_id == image_id)] for table in tables)
    return decisions.reset_index(drop=True), exits.reset_index(drop=True)


def keep(experiment: Experiment) -> KeptRun:
    """Keeps an experiment for the gallery.

    Raises:
        ExitLensError: If it cannot be written.
    """
    models = {name: loaded_model(name, experiment.cards[name].weights_sha256) for name in experiment.results}
    return kept_store.keep(experiment, models)


def warm_up() -> WarmUp:
    """What fills the gallery of a fresh machine; begins with the first page, and anew when models change."""
    return _warm_up(str(kept_store.kept_folder()), _weights_here(), cards()[0], (job_board(), maps_board()))


@st.cache_resource(max_entries=1, show_spinner=False, on_release=WarmUp.stop)
def _warm_up(
    folder: str, weights: tuple[tuple[str, str], ...], _cards: list[ModelCard], _boards: tuple[JobBoard, ...]
) -> WarmUp:
    return WarmUp(Path(folder), _cards, lambda: all(board.is_idle() for board in _boards))
