"""Tables about attribution maps: how much they agree, how far they can be believed, and whole populations."""

import numpy as np
import pandas as pd
import torch

from core.agreement import Agreement, agreement
from core.attribution import Attribution
from core.attribution_population import Population
from core.belief import Belief
from core.shift_tables import STATES
from core.tables import TableSchema

_MAP = {"image_id": "text", "method": "text", "state": "text", "exit_index": "whole"}
_AGREEMENT = {"rank_correlation": "number", "overlap": "number"}

MAPS = TableSchema(
    "maps",
    "one exit's map of one image, clean or adversarial, and the exit's agreement between the two",
    {**_MAP, "class_index": "whole", "logit": "number", "sum": "number", **_AGREEMENT, "problem": "text"},
)
BETWEEN_EXITS = TableSchema(
    "between_exits",
    "two exits' maps of one image, clean or adversarial",
    {**_MAP, "other_exit": "whole", **_AGREEMENT},
)
BELIEF = TableSchema(
    "belief",
    "one exit's map of one image, clean or adversarial: what speaks for and against it",
    {
        **_MAP,
        "infidelity": "number",
        "sensitivity": "number",
        "classifier_redrawn": "number",
        "all_redrawn": "number",
        "sum": "number",
        "change": "number",
    },
)
POPULATION = TableSchema(
    "attribution_population",
    "one image: how much a clean and an adversarial map of it agree, and how its exit shifted",
    {
        "image_id": "text",
        "label": "whole",
        "method": "text",
        "clean_exit": "whole",
        "adversarial_exit": "whole",
        "exit_shift": "whole",
        "attackable": "truth",
        "succeeded": "truth",
        "clean_right": "truth",
        "adversarial_right": "truth",
        **_AGREEMENT,
    },
)


def maps_table(attribution: Attribution, image_id: str) -> pd.DataFrame:
    """The maps of one image, clean and adversarial: schema ``MAPS``.

    Args:
        attribution: Of two images, the clean and the adversarial one, at the same exits.
        image_id: Of the image.
    """
    both = _between_states(attribution)
    frames = [
        _rows(attribution, image_id, state).assign(
            class_index=attribution.classes[row].numpy(),
            logit=attribution.logits[row].double().numpy(),
            sum=attribution.maps[row].flatten(1).sum(dim=1).double().numpy(),
            rank_correlation=both.rank_correlation[0].diagonal().numpy(),
            overlap=both.overlap[0].diagonal().numpy(),
            problem=list(attribution.problems[row]),
        )
        for row, state in enumerate(STATES)
    ]
    return MAPS.check(pd.concat(frames, ignore_index=True))


def between_exits_table(attribution: Attribution, image_id: str) -> pd.DataFrame:
    """How much the exits of one image agree with each other: schema ``BETWEEN_EXITS``; arguments as ``maps_table``."""
    alike, exits = agreement(attribution.maps, attribution.maps), attribution.exits[0].numpy()
    frames = [
        pd.DataFrame(
            {
                "image_id": image_id,
                "method": attribution.spec.label,
                "state": state,
                "exit_index": np.repeat(exits, len(exits)),
                "other_exit": np.tile(exits, len(exits)),
                "rank_correlation": alike.rank_correlation[row].flatten().numpy(),
                "overlap": alike.overlap[row].flatten().numpy(),
            }
        )
        for row, state in enumerate(STATES)
    ]
    return BETWEEN_EXITS.check(pd.concat(frames, ignore_index=True))


def belief_table(attribution: Attribution, belief: Belief, image_id: str) -> pd.DataFrame:
    """What can be believed of the maps of one image: schema ``BELIEF``; arguments as ``maps_table``."""
    frames = [
        _rows(attribution, image_id, state).assign(
            infidelity=belief.infidelity[row].numpy(),
            sensitivity=belief.sensitivity[row].numpy(),
            classifier_redrawn=belief.classifier_redrawn[row].numpy(),
            all_redrawn=belief.all_redrawn[row].numpy(),
            sum=belief.total[row].numpy(),
            change=belief.change[row].numpy(),
        )
        for row, state in enumerate(STATES)
    ]
    return BELIEF.check(pd.concat(frames, ignore_index=True))


def population_table(population: Population, decisions: pd.DataFrame, exit_index: int | None) -> pd.DataFrame:
    """Agreement between clean and adversarial maps beside exit shift, one row per image: schema ``POPULATION``.

    Args:
        population: What was measured.
        decisions: Rows of the same model under its own attack (schema ``DECISIONS``), in the order of the images.
        exit_index: The exit whose two maps are compared; None compares those at the exits that answer, which may be
            two different ones.
    """
    rows = torch.arange(len(decisions))
    exits = {
        state: torch.full_like(rows, exit_index)
        if exit_index is not None
        else torch.from_numpy(decisions[f"{state}_answered_exit"].to_numpy(copy=True))
        for state in STATES
    }
    place = rows, exits["clean"], exits["adversarial"]
    return POPULATION.check(
        pd.DataFrame(
            {
                "image_id": decisions.image_id.to_numpy(),
                "label": decisions.label.to_numpy(),
                "method": population.spec.attribution.label,
                "clean_exit": exits["clean"].numpy(),
                "adversarial_exit": exits["adversarial"].numpy(),
                "exit_shift": decisions.exit_shift.to_numpy(),
                "attackable": decisions.attackable.to_numpy(),
                "succeeded": decisions.succeeded.to_numpy(),
                "clean_right": (decisions.clean_prediction == decisions.label).to_numpy(),
                "adversarial_right": (decisions.adversarial_prediction == decisions.label).to_numpy(),
                "rank_correlation": population.agreement.rank_correlation[place].numpy(),
                "overlap": population.agreement.overlap[place].numpy(),
            }
        )
    )


def _between_states(attribution: Attribution) -> Agreement:
    clean, adversarial = attribution.maps.split(1)
    return agreement(clean, adversarial)


def _rows(attribution: Attribution, image_id: str, state: str) -> pd.DataFrame:
    exits = attribution.exits[0].numpy()
    return pd.DataFrame({"image_id": image_id, "method": attribution.spec.label, "state": state, "exit_index": exits})
