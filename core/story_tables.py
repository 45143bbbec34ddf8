"""Tables of the story: which pictures can tell it and in what order, and how many behave like the one picked."""

import numpy as np
import pandas as pd

from core.metrics import rate
from core.story import STORY_EPSILONS
from core.tables import TableSchema, fooled_columns, transfer_table

# Why a picture cannot tell the story, in the order in which it would fail; none for one that can.
REASONS = (
    "static",
    "wrong_when_clean",
    "not_early_when_clean",
    "still_right",
    "final_wrong_too",
    "not_early_when_attacked",
    "noise_is_visible",
)
_RATE = {"num_fooled": "whole", "num_images": "whole", "rate": "number", "low": "number", "high": "number"}

CANDIDATES = TableSchema(
    "candidates",
    "one picture attacked within one radius, and whether it can tell the story",
    {
        "image_id": "text",
        "label": "whole",
        "epsilon": "number",
        "linf": "number",
        "clean_exit": "whole",
        "adversarial_exit": "whole",
        "answer": "whole",
        "clean_confidence": "number",
        "adversarial_confidence": "number",
        "final_confidence": "number",
        "twin_right": "truth",
        "twin_confidence": "number",
        "strength": "number",
        "tells": "truth",
        "reason": "text",
    },
)
PRICE = TableSchema(
    "price",
    "one radius and one way of being fooled, with how many pictures are",
    {
        "epsilon": "number",
        "what": "text",
        "model": "text",
        "success_rule": "text",
        "denominator": "text",
        **_RATE,
    },
)


def candidates_table(decisions: pd.DataFrame, exits: pd.DataFrame, model: str, twin: str | None) -> pd.DataFrame:
    """Which pictures can tell the story, from one attack: schema ``CANDIDATES``.

    A picture tells it if the model leaves early and right when clean, with its final exit right too; leaves early
    and wrong under an attack that moves no pixel by more than the largest of ``STORY_EPSILONS`` (whatever the attack
    calls epsilon: within L2 it is the length of the whole change); and its final exit is then still right. That is
    the rule ``taken_broken_final_kept`` with exits that are really left early. ``twin_right``: the twin is right
    on the clean picture and on the very same adversarial one. ``strength`` is the least of three probabilities:
    that of the wrong answer, and those that the final exit and, where it is right, the twin give to the true class.

    Args:
        decisions: Schema ``DECISIONS``; the rows whose source is the model count.
        exits: Schema ``EXITS`` of the same images.
        model: The one attacked.
        twin: Its static twin; None, or one that was not shown the pictures, makes ``twin_right`` false.
    """
    shown = decisions[decisions.source == model]
    own = shown[shown.target == model].set_index("image_id")
    last = int(exits[(exits.source == model) & (exits.target == model)].exit_index.max())
    final = {state: _final(exits, model, model, state).loc[own.index] for state in ("clean", "adversarial")}
    twin_right, twin_confidence = _twin(shown, exits, model, twin, own.index)
    fails = {
        "static": np.full(len(own), last == 0),
        "wrong_when_clean": (own.clean_prediction != own.label) | ~final["clean"].right,
        "not_early_when_clean": own.clean_computed_exit == last,
        "still_right": own.adversarial_prediction == own.label,
        "final_wrong_too": ~final["adversarial"].right,
        "not_early_when_attacked": own.adversarial_computed_exit == last,
        "noise_is_visible": own.linf > STORY_EPSILONS[-1] + 1e-6,  # float32 pixels are no more exact
    }
    reason = np.select([np.asarray(fails[name], dtype=bool) for name in REASONS], REASONS, default="")
    final_confidence = final["adversarial"].true_probability
    witnesses = np.minimum(own.adversarial_confidence, final_confidence)
    return CANDIDATES.check(
        pd.DataFrame(
            {
                "image_id": own.index.to_numpy(),
                "label": own.label.to_numpy(),
                "epsilon": own.epsilon.to_numpy(),
                "linf": own.linf.to_numpy(),
                "clean_exit": own.clean_answered_exit.to_numpy(),
                "adversarial_exit": own.adversarial_answered_exit.to_numpy(),
                "answer": own.adversarial_prediction.to_numpy(),
                "clean_confidence": own.clean_confidence.to_numpy(),
                "adversarial_confidence": own.adversarial_confidence.to_numpy(),
                "final_confidence": final_confidence.to_numpy(),
                "twin_right": twin_right,
                "twin_confidence": twin_confidence,
                "strength": np.where(twin_right, np.fmin(witnesses, twin_confidence), witnesses),
                "tells": reason == "",
                "reason": reason,
            }
        )
    )


def ranked(candidates: pd.DataFrame, enough: float) -> pd.DataFrame:
    """Every picture that tells the story once, at its best radius, the most striking first: schema ``CANDIDATES``.

    In this order: the twin is right; the least noise; a strength of ``enough`` or more; left earlier when clean;
    the greater strength.

    Args:
        candidates: Schema ``CANDIDATES``, of any number of radii.
        enough: A probability that counts as sure, such as the threshold.
    """
    telling = candidates[candidates.tells].assign(is_sure=lambda rows: rows.strength >= enough)
    order = ["twin_right", "epsilon", "is_sure", "clean_exit", "strength"]
    best = telling.sort_values(order, ascending=[False, True, False, True, False], kind="stable")
    return CANDIDATES.check(best.drop_duplicates("image_id").drop(columns="is_sure").reset_index(drop=True))


def price_table(
    on_model: dict[float, pd.DataFrame], on_twin: dict[float, pd.DataFrame], model: str, twin: str | None
) -> pd.DataFrame:
    """How many pictures behave so at each radius, and how the twin fares: schema ``PRICE``.

    ``what`` is ``early`` (the model is wrong early and right at its end, of the pictures right at both when clean),
    ``same_noise`` (of those, and right on the twin when clean: the twin is wrong on the same adversarial picture)
    or ``twin_attacked`` (the twin is wrong under its own attack, of those that it gets right when clean).

    Args:
        on_model: By radius, decisions (schema ``DECISIONS``) on model and twin under the Early Attack on the model.
        on_twin: By radius, decisions on the twin under its own attack; empty without one.
        model: The one attacked.
        twin: Its twin.
    """
    parts = []
    for epsilon, decisions in on_model.items():
        own = decisions[(decisions.source == model) & (decisions.target == model)]
        parts.append(_price(own).assign(epsilon=epsilon, what="early", model=model))
        if twin and twin in set(decisions.target):
            same = transfer_table(decisions)
            chosen = same[(same.target == twin) & (same.denominator == "fooled the source")]
            chosen = chosen.drop(columns=["source", "target"])
            parts.append(chosen.assign(epsilon=epsilon, what="same_noise", model=twin))
        if twin and epsilon in on_twin:
            parts.append(_price(on_twin[epsilon]).assign(epsilon=epsilon, what="twin_attacked", model=twin))
    return PRICE.check(pd.concat(parts, ignore_index=True))


def _price(own: pd.DataFrame) -> pd.DataFrame:
    share = rate(int((own.succeeded & own.attackable).sum()), int(own.attackable.sum()))
    rule = own.success_rule.iloc[0]
    return pd.DataFrame([{"success_rule": rule, "denominator": "attackable", **fooled_columns(share)}])


def _final(exits: pd.DataFrame, source: str, target: str, state: str) -> pd.DataFrame:
    """The final exit's rows of one pair and state, by image id."""
    rows = exits[(exits.source == source) & (exits.target == target) & (exits.state == state)]
    final: pd.DataFrame = rows[rows.exit_index == rows.exit_index.max()].set_index("image_id")
    return final


def _twin(
    shown: pd.DataFrame, exits: pd.DataFrame, model: str, twin: str | None, image_ids: pd.Index
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the twin is right both times, and what it gives to the true class under attack; NaN without a twin."""
    if twin is None or twin not in set(shown.target):
        return np.zeros(len(image_ids), dtype=bool), np.full(len(image_ids), np.nan)
    rows = shown[shown.target == twin].set_index("image_id").loc[image_ids]
    right = (rows.clean_prediction == rows.label) & (rows.adversarial_prediction == rows.label)
    attacked = _final(exits, model, twin, "adversarial").loc[image_ids]
    return right.to_numpy(), attacked.true_probability.to_numpy()
