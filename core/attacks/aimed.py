"""A model as one attack needs it: only the layers that matter, and a gradient only where one is asked for."""

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from core.attacks.spec import AttackSpec, StepAttack
from core.attacks.steps import Step
from core.attacks.success import FINAL_RULES
from core.errors import ExitLensError
from core.exits import ExitPolicy, agreeing, decide
from core.models import ExitModel

Watch = Literal["every exit", "computed exits", "nothing"]
NOT_COMPUTED = -1


def aimed(
    model: ExitModel, spec: AttackSpec, policy: ExitPolicy, watch: Watch = "computed exits"
) -> tuple[ExitModel, AttackSpec]:
    """The model that an attack searches with, and the attack as it applies to that.

    Args:
        model: Any exit model.
        spec: The attack.
        policy: In force.
        watch: What is recorded on the way. ``every exit``: what all exits say; those behind the attacked one are
            computed for that alone, without a gradient. ``computed exits``: nothing is computed behind an attacked
            exit, and nothing recorded there. ``nothing``: no other exit's classifier runs either, and of an attack
            on the exit taken each image runs only as far as it would when deployed.

    Returns:
        A model whose logits end with the last exit that is computed, and the spec for it; both as they were where
        there is nothing to spare.

    Raises:
        ExitLensError: If ``watch`` is unknown.
    """
    if watch not in get_args(Watch):
        raise ExitLensError(f"Unknown watch {watch!r}. Choose one of {', '.join(get_args(Watch))}.")
    # What cannot stop is called whole; so are models that are already compiled as a whole.
    if not isinstance(spec, StepAttack) or not getattr(model, "stops_early", False) or model.num_exits == 1:
        return model, spec
    if spec.objective == "taken" and not getattr(model, "is_compiled", False):
        # Entropy and patience need what no single exit says of itself, so every exit is asked.
        as_deployed = watch == "nothing" and policy.score == "confidence"
        return _AtExitTaken(model, policy, as_deployed=as_deployed), spec
    # Success anywhere but at the final exit is that of the exit taken, which asks for all exits.
    asks_for_all = spec.stop_when_fooled and spec.success_rule not in FINAL_RULES
    if spec.objective not in ("exit", "final") or asks_for_all:
        return model, spec
    exit_index = model.num_exits - 1 if spec.exit_index is None else spec.exit_index
    if watch == "nothing":
        return _AtOneExit(model, exit_index), replace(spec, objective="final", exit_index=None)
    return _UpToExit(model, exit_index, watch == "every exit"), spec


def fill_records(step: Step, num_exits: int, policy: ExitPolicy) -> Step:
    """A record of all exits from one that ends with the attacked exit.

    Returns:
        The record with ``NOT_COMPUTED`` and NaN where nothing was computed: at later exits, and for the exit taken of
        images that are not known to be sure of themselves at any computed one.
    """
    missing = num_exits - step.predicted.shape[1]
    if not missing:
        return step
    if policy.score == "confidence":
        leaves = (step.confidence >= policy.threshold).any(dim=1)
    elif policy.score == "patience":
        leaves = (agreeing(step.predicted) >= policy.threshold).any(dim=1)
    else:  # certainty is not recorded, so whether the last exit computed is sure is not known
        leaves = step.exit_taken < step.predicted.shape[1] - 1
    taken = torch.where(leaves, step.exit_taken, NOT_COMPUTED)
    numbers = step.confidence.new_full((len(taken), missing), torch.nan)
    return Step(
        loss=step.loss,
        predicted=torch.cat([step.predicted, torch.full_like(numbers, NOT_COMPUTED, dtype=torch.long)], dim=1),
        confidence=torch.cat([step.confidence, numbers], dim=1),
        true_probability=torch.cat([step.true_probability, numbers], dim=1),
        exit_taken=taken,
    )


class _Aimed:
    """What all aimed models share: they are the model but for ``__call__``."""

    def __init__(self, model: ExitModel) -> None:
        self.model = model
        self.num_exits, self.num_classes = model.num_exits, model.num_classes
        self.exit_layers, self.exit_costs = model.exit_layers, model.exit_costs
        self.stops_early = model.stops_early

    def run_until(self, images: Tensor, exit_index: int) -> Tensor:
        """As the model does it."""
        return self.model.run_until(images, exit_index)

    def begin(self, images: Tensor) -> Tensor:
        """As the model does it."""
        return self.model.begin(images)

    def advance(self, features: Tensor, exit_index: int) -> Tensor:
        """As the model does it."""
        return self.model.advance(features, exit_index)

    def classify(self, features: Tensor, exit_index: int) -> Tensor:
        """As the model does it."""
        return self.model.classify(features, exit_index)

    @torch.no_grad()
    def _watched(self, features: Tensor, exit_index: int) -> Tensor:
        return self.model.classify(features.detach(), exit_index)


class _AtOneExit(_Aimed):
    """One exit as if it were the only one: logits (N, 1, C)."""

    def __init__(self, model: ExitModel, exit_index: int) -> None:
        super().__init__(model)
        self.exit_index = exit_index
        self.num_exits, self.exit_layers, self.exit_costs = 1, (), (1.0,)

    def __call__(self, images: Tensor) -> Tensor:
        return self.model.run_until(images, self.exit_index)[:, None]


class _UpToExit(_Aimed):
    """Logits up to one exit, or of all, with a gradient at that one alone."""

    def __init__(self, model: ExitModel, exit_index: int, every_exit: bool) -> None:
        super().__init__(model)
        self.exit_index, self.every_exit = exit_index, every_exit

    def __call__(self, images: Tensor) -> Tensor:
        features = self.model.begin(images)
        columns = []
        for index in range(self.exit_index + 1):
            features = self.model.advance(features, index)
            classify = self.model.classify if index == self.exit_index else self._watched
            columns.append(classify(features, index))
        if self.every_exit:
            features = features.detach()
            with torch.no_grad():
                for index in range(self.exit_index + 1, self.num_exits):
                    features = self.model.advance(features, index)
                    columns.append(self.model.classify(features, index))
        return torch.stack(columns, dim=1)


class _AtExitTaken(_Aimed):
    """Logits of all exits, (N, K, C), with a gradient for each image at the exit it takes alone.

    ``as_deployed``: nothing is computed for an image behind the exit it takes; its logits there are 0.
    """

    def __init__(self, model: ExitModel, policy: ExitPolicy, *, as_deployed: bool) -> None:
        super().__init__(model)
        self.policy, self.as_deployed = policy, as_deployed

    def __call__(self, images: Tensor) -> Tensor:
        return self._as_deployed(images) if self.as_deployed else self._of_every_exit(images)

    def _of_every_exit(self, images: Tensor) -> Tensor:
        features, reached, columns = self.model.begin(images), [], []
        for index in range(self.num_exits):
            features = self.model.advance(features, index)
            reached.append(features)
            columns.append(self._watched(features, index))
        logits = torch.stack(columns, dim=1)
        answered = decide(logits, self.policy).answered_exit
        rows = {index: (answered == index).nonzero()[:, 0] for index in answered.unique().tolist()}
        return self._graded(logits, {index: (of, reached[index][of]) for index, of in rows.items()})

    def _as_deployed(self, images: Tensor) -> Tensor:
        last = self.num_exits - 1
        undecided = torch.arange(len(images), device=images.device)
        features, found, columns = self.model.begin(images), {}, []
        for index in range(self.num_exits):
            if not len(undecided):
                break
            features = self.model.advance(features, index)
            here = self._watched(features, index)
            columns.append(here.new_zeros(len(images), self.num_classes).index_copy_(0, undecided, here))
            leaves = here.softmax(dim=-1).amax(dim=-1) >= self.policy.threshold
            if index == last or self.policy.fallback == "most_confident":
                # Which exit answers the images that run to the end is known only there.
                found[index] = (undecided, features)
            elif leaves.any():
                found[index] = (undecided[leaves], features[leaves])
            if index < last and leaves.any():
                undecided, features = undecided[~leaves], features[~leaves]
        columns += [torch.zeros_like(columns[0])] * (self.num_exits - len(columns))
        logits = torch.stack(columns, dim=1)
        if self.policy.fallback == "most_confident":
            answered = decide(logits, self.policy).answered_exit
            chosen = {index: (rows, answered[rows] == index, kept) for index, (rows, kept) in found.items()}
            found = {index: (rows[here], kept[here]) for index, (rows, here, kept) in chosen.items() if here.any()}
        return self._graded(logits, found)

    def _graded(self, logits: Tensor, found: dict[int, tuple[Tensor, Tensor]]) -> Tensor:
        """The same logits, with a gradient where images answer: rows and their features by exit."""
        rows, columns, graded = [], [], []
        for index, (of, features) in found.items():
            rows.append(of)
            columns.append(torch.full_like(of, index))
            graded.append(self.model.classify(features, index))
        where, values = (torch.cat(rows), torch.cat(columns)), torch.cat(graded)
        # The values stay those decided by: another batch size moves them a little.
        return logits.index_put(where, values + (logits[where] - values).detach())
