"""What helps: the story's pictures attacked anew under other policies, and what those cost."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from core.attacks.spec import LinfAttack, pgd
from core.checkpoints import ModelCard
from core.data import ImageSet
from core.exits import ExitPolicy
from core.experiment import Experiment, ExperimentSpec
from core.metrics import rate
from core.models import ExitModel
from core.progress import CancelToken, Progress
from core.story import Made, StorySpec, run_in_turn, story_attack
from core.tables import TableSchema, decisions_table

Remedy = Literal["as_it_is", "surer", "surer_other_fallback", "no_early_exit"]
LESS_DOUBT = 10

_RATE = {"num_fooled": "whole", "num_images": "whole", "rate": "number", "low": "number", "high": "number"}
REMEDIES = TableSchema(
    "remedies",
    "one way of deciding when to leave, every attack made anew under it",
    {
        "remedy": "text",
        "threshold": "number",
        "fallback": "text",
        "epsilon": "number",
        "num_right": "whole",
        "num_all": "whole",
        "mean_cost": "number",
        **{f"early_{column}": kind for column, kind in _RATE.items()},
        **{f"any_{column}": kind for column, kind in _RATE.items()},
        "picture": "text",
    },
)


def plain_attack(epsilon: float, objective: Literal["taken", "final"]) -> LinfAttack:
    """PGD, for which any wrong answer will do, in steps of a quarter of the radius."""
    return pgd(epsilon, step_size=epsilon / 4, objective=objective)


def surer(threshold: float) -> float:
    """A threshold that leaves a tenth of the doubt, such as 0.99 for 0.90."""
    return round(1 - (1 - threshold) / LESS_DOUBT, 4)


@dataclass(frozen=True)
class RemediesSpec:
    """What is tried; also the key of its job.

    Attributes:
        story: Says which pictures, which model and which policy.
        epsilon: Radius of every attack, in pixels of [0, 1].
    """

    story: StorySpec
    epsilon: float

    def policies(self) -> dict[Remedy, ExitPolicy]:
        """The policies that are compared, the story's own first; to leave never is no policy."""
        own = self.story.policy
        strict = replace(own, threshold=surer(own.threshold))
        other = replace(strict, fallback="final" if own.fallback == "most_confident" else "most_confident")
        return {"as_it_is": own, "surer": strict, "surer_other_fallback": other}

    def experiments(self) -> dict[tuple[Remedy, str], ExperimentSpec]:
        """By remedy and attack (``early`` or ``plain``), what has to be made."""
        images, alone = self.story.images, (self.story.model,)
        specs: dict[tuple[Remedy, str], ExperimentSpec] = {}
        for remedy, policy in self.policies().items():
            specs[remedy, "early"] = ExperimentSpec(images, alone, alone, story_attack(self.epsilon), policy)
            specs[remedy, "plain"] = ExperimentSpec(images, alone, alone, plain_attack(self.epsilon, "taken"), policy)
        # It aims at the final exit, so no policy has a say in it.
        never = ExperimentSpec(images, alone, alone, plain_attack(self.epsilon, "final"), ExitPolicy())
        return specs | {("no_early_exit", "plain"): never}


@dataclass(frozen=True, eq=False)
class Remedies:
    """What came of it.

    Attributes:
        spec: What was asked for.
        experiments: By remedy and attack.
    """

    spec: RemediesSpec
    experiments: dict[tuple[Remedy, str], Experiment]


def run_remedies(
    spec: RemediesSpec,
    image_set: ImageSet,
    models: Mapping[str, tuple[ExitModel, ModelCard]],
    *,
    made: Made | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: CancelToken | None = None,
) -> Remedies:
    """Makes both attacks anew under every policy.

    Args:
        spec: What is asked.
        image_set: The story's pictures.
        models: At least the story's model.
        made: Gives the attacks of an experiment that were already made.
        on_progress: Called after each step with the progress over all attacks.
        cancel: Checked after each step.

    Raises:
        ExitLensError: If the model has no early exit, or spec, pictures and models do not fit each other.
        Cancelled: Once ``cancel`` is set.
    """
    specs = spec.experiments()
    done = run_in_turn(list(specs.values()), image_set, models, made=made, on_progress=on_progress, cancel=cancel)
    return Remedies(spec, dict(zip(specs, done, strict=True)))


def remedies_table(remedies: Remedies, image_id: str) -> pd.DataFrame:
    """What each remedy does against the story's attack and against any, and what it costs: schema ``REMEDIES``.

    ``early``: wrong early though right at the end, under the Early Attack, of the pictures right at both when
    clean. ``any``: the answer is wrong under the Early Attack or under PGD, of the pictures answered rightly when
    clean. ``mean_cost`` is that of the clean pictures. Without early exits the answer is the final exit's, so
    ``early`` cannot happen: 0 by definition, not by measurement.

    Args:
        remedies: The attacks.
        image_id: The picture of the story. ``picture`` says of it ``fooled_early``, ``fooled`` (by another attack),
            ``holds`` or, where it is not among the pictures, ``not_attacked``.
    """
    rows = []
    for remedy, policy in remedies.spec.policies().items():
        early = _own(remedies.experiments[remedy, "early"], policy)
        plain = _own(remedies.experiments[remedy, "plain"], policy)
        right = early.clean_prediction == early.label
        wrong = (early.adversarial_prediction != early.label) | (plain.adversarial_prediction != plain.label)
        broken = early.succeeded & early.attackable
        rows.append(
            {
                **_head(remedies.spec, remedy, right, float(early.clean_cost.mean())),
                "threshold": float(policy.threshold),
                "fallback": policy.fallback,
                **_rate("early", broken, early.attackable),
                **_rate("any", wrong & right, right),
                "picture": _picture(image_id, broken, wrong & right),
            }
        )
    never = _own(remedies.experiments["no_early_exit", "plain"], ExitPolicy())
    fooled = never.succeeded & never.attackable  # by the rule ``misclassified_final``
    rows.append(
        {
            **_head(remedies.spec, "no_early_exit", never.attackable, 1.0),
            "threshold": float("nan"),
            "fallback": "final",
            **_rate("early", fooled & False, never.attackable),
            "early_high": 0.0,  # by definition, so there is no doubt about it
            **_rate("any", fooled, never.attackable),
            "picture": _picture(image_id, fooled & False, fooled),
        }
    )
    return REMEDIES.check(pd.DataFrame(rows))


def help_of(before: float, after: float) -> Literal["much", "little", "none"]:
    """How much less often something succeeds: at most half as often, at most nine tenths as often, or more.

    Args:
        before: A rate in [0, 1].
        after: The same under a remedy.
    """
    if after <= before / 2 and before:
        return "much"
    return "little" if after <= 0.9 * before and before else "none"


def _own(experiment: Experiment, policy: ExitPolicy) -> pd.DataFrame:
    return decisions_table(experiment, policy).set_index("image_id")


def _picture(image_id: str, early: pd.Series, fooled: pd.Series) -> str:
    if image_id not in early.index:
        return "not_attacked"
    return "fooled_early" if early[image_id] else "fooled" if fooled[image_id] else "holds"


def _head(spec: RemediesSpec, remedy: Remedy, right: pd.Series, mean_cost: float) -> dict[str, object]:
    counts = {"num_right": int(right.sum()), "num_all": len(right)}
    return {"remedy": remedy, "epsilon": spec.epsilon, **counts, "mean_cost": mean_cost}


def _rate(name: str, hits: pd.Series, among: pd.Series) -> dict[str, object]:
    share = rate(int(hits.sum()), int(among.sum()))
    return {
        f"{name}_num_fooled": share.num_hits,
        f"{name}_num_images": share.num_images,
        f"{name}_rate": share.value,
        f"{name}_low": share.low,
        f"{name}_high": share.high,
    }
