"""Tables about confidence: how sure exits are of many images, and which classes compete for one."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from core.metrics import rate
from core.model_tables import calibration_tables
from core.tables import TableSchema

NUM_BINS = 10
NUM_TOP_CLASSES = 6
LEAST_PROBABILITY = 0.05

CONFIDENCE_SPREAD = TableSchema(
    "confidence_spread",
    "the right or wrong answers of one exit whose confidence lies in one bin, of all images, clean or adversarial",
    {
        "state": "text",
        "exit_index": "whole",
        "bin_index": "whole",
        "bin_low": "number",
        "bin_high": "number",
        "right": "truth",
        "num_images": "whole",
        "num_all": "whole",
        "share": "number",
        "low": "number",
        "high": "number",
    },
)
TOP_CLASSES = TableSchema(
    "top_classes",
    "the probability that one exit gives to one class for one image, clean or adversarial",
    {
        "image_id": "text",
        "state": "text",
        "exit_index": "whole",
        "class_index": "whole",
        "rank": "whole",
        "probability": "number",
    },
)


def confidence_bin(confidence: pd.Series) -> np.ndarray:
    """The bin of each confidence in [0, 1], 0 to ``NUM_BINS`` - 1; each bin holds its lower end, the last also 1."""
    bins: np.ndarray = np.minimum((confidence.to_numpy() * NUM_BINS).astype(int), NUM_BINS - 1)
    return bins


def confidence_spread_table(exits: pd.DataFrame) -> pd.DataFrame:
    """How many answers of each exit are how sure, right and wrong apart: schema ``CONFIDENCE_SPREAD``.

    Bins without an answer have no row.

    Args:
        exits: Rows of one source and one target (schema ``EXITS``).
    """
    num_all = exits.image_id.nunique()
    keys = ["state", "exit_index", "bin_index", "right"]
    counts = exits.assign(bin_index=confidence_bin(exits.confidence)).groupby(keys).size().reset_index(name="hits")
    rows = []
    for state, exit_index, bin_index, right, num_images in counts.to_numpy().tolist():
        share = rate(num_images, num_all)
        place = (state, exit_index, bin_index, bin_index / NUM_BINS, (bin_index + 1) / NUM_BINS, right)
        rows.append((*place, num_images, num_all, share.value, share.low, share.high))
    return CONFIDENCE_SPREAD.check(pd.DataFrame(rows, columns=list(CONFIDENCE_SPREAD.columns)))


def attacked_calibration_tables(exits: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Calibration of every exit on clean and on adversarial images: schemas ``CALIBRATION`` and ``RELIABILITY``.

    Args:
        exits: Rows of one source and one target (schema ``EXITS``).
    """
    groups = [
        (
            exit_index,
            state,
            torch.from_numpy(rows.confidence.to_numpy(copy=True)),
            torch.from_numpy(rows.right.to_numpy(copy=True)),
        )
        for exit_index in range(int(exits.exit_index.max()) + 1)
        for state in ("clean", "adversarial")
        for rows in [exits[(exits.exit_index == exit_index) & (exits.state == state)]]
    ]
    return calibration_tables(groups)


def top_classes_table(clean_logits: Tensor, adversarial_logits: Tensor, label: int, image_id: str) -> pd.DataFrame:
    """The classes that compete for one image, at every exit: schema ``TOP_CLASSES``.

    They are the true class, then those that win or reach ``LEAST_PROBABILITY`` at any exit in either state, the
    most probable first; at most ``NUM_TOP_CLASSES``.

    Args:
        clean_logits: (K, C).
        adversarial_logits: (K, C).
        label: True class.
        image_id: Of the image.
    """
    probabilities = torch.stack([clean_logits, adversarial_logits]).double().softmax(dim=-1)  # (2, K, C)
    peak = probabilities.amax(dim=(0, 1))
    peak[label] = 2.0  # above all others
    ranks = probabilities.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1) + 1
    competes = (peak >= LEAST_PROBABILITY) | (ranks == 1).any(dim=1).any(dim=0)
    order = peak.argsort(descending=True, stable=True).tolist()
    classes = [index for index in order if competes[index]][:NUM_TOP_CLASSES]
    rows = [
        (
            image_id,
            state,
            exit_index,
            index,
            int(ranks[side, exit_index, index]),
            float(probabilities[side, exit_index, index]),
        )
        for side, state in enumerate(("clean", "adversarial"))
        for exit_index in range(probabilities.shape[1])
        for index in classes
    ]
    return TOP_CLASSES.check(pd.DataFrame(rows, columns=list(TOP_CLASSES.columns)))
