"""Showing many images to a model: how many, in the background, and what came of it."""

from dataclasses import dataclass

import streamlit as st

from core.checkpoints import ModelCard
from core.evaluation import Evaluation, EvaluationSpec
from core.exits import ExitDecisions, ExitPolicy
from core.experiment import counterpart_of
from core.metrics import Rate, rate_of
from core.models.costs import static_fraction
from ui import bound, cache, running
from ui.controls import Setting, glyph_label
from ui.state import wait_only_for

AT_ONCE = 256
SIZES = {"256": "first 256", "1000": "first 1,000", "all": "all"}


@dataclass(frozen=True, eq=False)
class Measured:
    """A model and what its exits say of the chosen images.

    Attributes:
        card: Of the model.
        evaluation: What its exits say.
    """

    card: ModelCard
    evaluation: Evaluation

    @property
    def static_cost(self) -> float:
        """Cost of the same network without early exits, over its own."""
        return static_fraction(*cache.stage_multiply_adds(self.card.name, self.card.weights_sha256))

    def accuracy(self, policy: ExitPolicy) -> tuple[Rate, ExitDecisions]:
        """Share of images answered rightly under a policy, and the decisions."""
        decisions = self.evaluation.decide(policy)
        return rate_of(decisions.prediction == self.evaluation.labels), decisions


@dataclass(frozen=True, eq=False)
class Pair:
    """The chosen model and, where there is one, its counterpart of the other kind, on the same images.

    Attributes:
        own: The chosen model.
        counterpart: Its twin, or the model whose backbone it stands on; None without one.
        images: Which images, in words.
    """

    own: Measured
    counterpart: Measured | None
    images: str

    @property
    def relation(self) -> str:
        """What the counterpart is to the chosen model, in words."""
        stands_on_it = self.counterpart and self.own.card.shares == self.counterpart.card.name
        return "the model whose backbone it stands on," if stands_on_it else "its twin"

    def of_kind(self, kind: str) -> Measured | None:
        """The one of a kind, if it is here."""
        return next((each for each in (self.own, self.counterpart) if each and each.card.kind == kind), None)


def measured_pair(setting: Setting) -> Pair | None:
    """The controls, then progress or the outcome; None while there is none."""
    num_images, images = _images_control(setting)
    other = counterpart_of(setting.card, cache.cards()[0])
    cards = [setting.card, other] if other else [setting.card]
    specs = [EvaluationSpec(card.name, card.weights_sha256, setting.set_name, num_images) for card in cards]
    jobs = [cache.job_board().find(spec) for spec in specs]
    failed = any(running.came_to_nothing(job, "measurement") for job in jobs)
    if failed or (num_images > AT_ONCE and None in jobs):
        seconds = sum(map(cache.evaluation_seconds, specs))
        if not st.button(f"Measure {num_images:,} images (about {seconds:.0f} s)", type="primary"):
            return None
        jobs = [cache.start_evaluation(spec) for spec in specs]
    started = [job or cache.start_evaluation(spec) for job, spec in zip(jobs, specs, strict=True)]
    wait_only_for("measured", *started)
    for card, job in zip(cards, started, strict=True):
        if not job.is_over:
            st.caption(f"Showing {num_images:,} images to {glyph_label(card)}")
            running.progress(job)
            return None
    own, *others = (Measured(card, job.result()) for card, job in zip(cards, started, strict=True))
    return Pair(own, others[0] if others else None, images)


def _images_control(setting: Setting) -> tuple[int, str]:
    """How many images are shown, and which in words."""
    whole = next(status.num_images for status in cache.image_set_statuses() if status.name == setting.set_name)
    sizes = [size for size in SIZES if size == "all" or int(size) < whole]
    if len(sizes) == 1:
        return whole, f"{setting.set_name}, all {whole:,} images"
    size = bound.choose(
        st.segmented_control,
        "Images",
        sizes,
        default=sizes[0],
        required=True,
        format_func=SIZES.__getitem__,
        key="measured_on",
    )
    if size == "all":
        return whole, f"{setting.set_name}, all {whole:,} images"
    return int(str(size)), f"{setting.set_name}, {SIZES[str(size)]} images"
