"""A fresh machine is not empty: the bundled samples are attacked in the background, and what came of it is kept."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from core import checkpoints, data, kept
from core.attacks.spec import LinfAttack, fgsm, mi_fgsm, pgd
from core.checkpoints import LoadedModel, ModelCard
from core.datasets import DATASETS
from core.errors import Cancelled, ExitLensError
from core.exits import ExitPolicy
from core.experiment import ExperimentSpec, attack_for, run_experiment
from core.story import warm_up_story

SWITCH = "EXITLENS_WARM_UP"
# The quickest first, so that every model has something to show within seconds. At 2/255 nothing is seen.
ATTACKS: tuple[LinfAttack, ...] = (fgsm(), pgd(), mi_fgsm(), pgd(2 / 255, step_size=0.5 / 255))
NUM_SAMPLES = 20
QUIET_SECONDS = 2.0
_LOOK_SECONDS = 0.1


def warm_up_specs(cards: list[ModelCard]) -> list[ExperimentSpec]:
    """Every attack of ``ATTACKS`` on every model with bundled samples, shown to all models of its data set.

    Then what the Story page needs, whatever of it is not among those.
    """
    specs = []
    for attack in ATTACKS:
        for card in cards:
            if DATASETS[card.dataset].has_samples:
                others = [other.name for other in cards if other.dataset == card.dataset and other is not card]
                images = f"{card.dataset}:samples:0-{NUM_SAMPLES - 1}"
                specs.append(
                    ExperimentSpec(images, (card.name,), (card.name, *others), attack_for(card, attack), ExitPolicy())
                )
    return list(dict.fromkeys([*specs, *_story_specs(cards)]))


def _story_specs(cards: list[ModelCard]) -> list[ExperimentSpec]:
    specs = []
    for card in cards:
        if DATASETS[card.dataset].has_samples:
            others = [other.name for other in cards if other.dataset == card.dataset and other is not card]
            specs += warm_up_story(card, f"{card.dataset}:samples:0-{NUM_SAMPLES - 1}", (card.name, *others))
    return specs


class WarmUp:
    """A thread of its own, which works only while nobody else does and makes no run that is kept already.

    A click stops the attack under way at its next step; that attack begins again once all is quiet.
    """

    def __init__(self, folder: Path, cards: list[ModelCard], is_quiet: Callable[[], bool]) -> None:
        """Begins, unless ``EXITLENS_WARM_UP=off`` says not to.

        Args:
            folder: Where runs are kept.
            cards: Of the models to attack.
            is_quiet: Whether no user waits for a job.
        """
        self._folder, self._cards, self._is_quiet = folder, cards, is_quiet
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.num_done, self.num_all = 0, 0
        self.current: ExperimentSpec | None = None
        self.problems: list[str] = []
        if os.environ.get(SWITCH, "").lower() != "off":
            self.go_on()

    @property
    def is_running(self) -> bool:
        """Whether there is more to come."""
        return self._thread is not None and self._thread.is_alive() and not self._stopped.is_set()

    @property
    def was_stopped(self) -> bool:
        """Whether it was told to end before it was done."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Ends at the next step; what is kept stays."""
        self._stopped.set()

    def go_on(self) -> None:
        """Begins, or takes up what is missing."""
        if self.is_running:
            return
        # Each thread has its own token: one that is still ending must not be called back.
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._stopped,), name="warm-up", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Waits for the end; False where it takes longer."""
        if self._thread:
            self._thread.join(seconds)
        return not self.is_running

    def _run(self, stopped: threading.Event) -> None:
        token = _Interruption(stopped, self._is_quiet)
        self.problems = []
        try:
            if self._missing(self._cards):
                token.wait_for_quiet()
                # Its own models, not the shared ones: a background thread calls nothing of Streamlit.
                models = self._load()
                for spec in self._missing([card for _, card in models.values()]):
                    self.current = spec
                    try:
                        self._make(spec, models, token)
                    except ExitLensError as error:
                        self.problems.append(str(error))
                    else:
                        self.num_done += 1
        except Cancelled:
            return
        finally:
            self.current = None

    def _missing(self, cards: list[ModelCard]) -> list[ExperimentSpec]:
        """The runs on these models that are not kept yet; counts all of them and those that are."""
        specs, weights = warm_up_specs(cards), {card.name: card.weights_sha256 for card in cards}
        missing = [spec for spec in specs if not kept.is_kept(kept.run_key(spec, weights), self._folder)]
        self.num_all, self.num_done = len(specs), len(specs) - len(missing)
        return missing

    def _load(self) -> dict[str, tuple[LoadedModel, ModelCard]]:
        """All models that can be loaded; the others are named and left out."""
        models = {}
        for card in self._cards:
            try:
                models[card.name] = checkpoints.load_model(card.name)
            except ExitLensError as error:
                self.problems.append(str(error))
        return models

    def _make(
        self, spec: ExperimentSpec, models: dict[str, tuple[LoadedModel, ModelCard]], token: "_Interruption"
    ) -> None:
        """Makes and keeps one run; begins again whenever somebody else's job came between.

        Raises:
            Cancelled: Once told to stop.
        """
        images = data.open_image_set(spec.images)
        while True:
            token.wait_for_quiet()
            try:
                experiment = run_experiment(spec, images, models, cancel=token)
            except Cancelled:
                continue
            kept.keep(experiment, models, self._folder)
            return


class _Interruption:
    """A cancel token that is set by a user's job or by ``stop``."""

    def __init__(self, stopped: threading.Event, is_quiet: Callable[[], bool]) -> None:
        self._stopped, self._is_quiet = stopped, is_quiet
        self._busy_at = time.monotonic()  # the page that began this is being drawn

    def is_set(self) -> bool:
        if not self._is_quiet():
            self._busy_at = time.monotonic()
            return True
        return self._stopped.is_set()

    def wait_for_quiet(self) -> None:
        """Waits until nobody has had a job for a while, so that a page with several is not met halfway.

        Raises:
            Cancelled: Once told to stop.
        """
        while self.is_set() or time.monotonic() - self._busy_at < QUIET_SECONDS:
            if self._stopped.wait(_LOOK_SECONDS):
                raise Cancelled
