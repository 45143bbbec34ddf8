"""Confidence of populations and the classes that compete, against images counted by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from core.calibration import auroc
from core.confidence_tables import (
    CONFIDENCE_SPREAD,
    NUM_TOP_CLASSES,
    TOP_CLASSES,
    attacked_calibration_tables,
    confidence_bin,
    confidence_spread_table,
    top_classes_table,
)
from core.metrics import rate


def answers(*rows: tuple[str, str, int, float, bool]) -> pd.DataFrame:
    """Rows of exits: image, state, exit, confidence, right."""
    return pd.DataFrame(list(rows), columns=["image_id", "state", "exit_index", "confidence", "right"])


ANSWERS = answers(
    ("a", "clean", 0, 0.31, True),
    ("b", "clean", 0, 0.39, True),
    ("c", "clean", 0, 0.35, False),
    ("a", "clean", 1, 1.0, True),
    ("b", "clean", 1, 0.9, True),
    ("c", "clean", 1, 0.95, True),
    ("a", "adversarial", 0, 0.3, True),
    ("b", "adversarial", 0, 0.99, False),
    ("c", "adversarial", 0, 0.98, False),
    ("a", "adversarial", 1, 0.99, False),
    ("b", "adversarial", 1, 0.99, False),
    ("c", "adversarial", 1, 0.99, False),
)


def test_bins_hold_their_lower_end_and_the_last_one_holds_1() -> None:
    # Mutant: bins that hold their upper end, or 1 in a bin of its own.
    assert confidence_bin(pd.Series([0.0, 0.05, 0.1, 0.5, 0.89, 0.9, 0.999, 1.0])).tolist() == [0, 0, 1, 5, 8, 9, 9, 9]


def test_spread_counts_right_and_wrong_of_every_exit_and_state_apart() -> None:
    # Mutant: right and wrong together, states together, or the bin's own number as the denominator.
    spread = confidence_spread_table(ANSWERS)
    assert list(spread.columns) == list(CONFIDENCE_SPREAD.columns)
    counts = spread.set_index(["state", "exit_index", "bin_index", "right"]).num_images.to_dict()
    assert counts == {
        ("clean", 0, 3, True): 2,
        ("clean", 0, 3, False): 1,
        ("clean", 1, 9, True): 3,
        ("adversarial", 0, 3, True): 1,
        ("adversarial", 0, 9, False): 2,
        ("adversarial", 1, 9, False): 3,
    }
    assert set(spread.num_all) == {3}
    row = spread[(spread.state == "clean") & spread.right & (spread.exit_index == 0)].iloc[0]
    assert (row.bin_low, row.bin_high) == (0.3, 0.4)
    assert (row.share, row.low, row.high) == (2 / 3, rate(2, 3).low, rate(2, 3).high)


def test_calibration_compares_clean_with_adversarial_at_every_exit() -> None:
    # Mutant: the states swapped, or both measured on all rows.
    calibration, reliability = attacked_calibration_tables(ANSWERS)
    assert calibration.among.tolist() == ["clean", "adversarial"] * 2
    cells = calibration.set_index(["exit_index", "among"])
    assert cells.num_right.to_dict() == {(0, "clean"): 2, (0, "adversarial"): 1, (1, "clean"): 3, (1, "adversarial"): 0}
    # At exit 1 the right answers are 0.31 and 0.39, the wrong one 0.35: one pair of two in order.
    assert cells.auroc[0, "clean"] == 0.5
    assert cells.auroc[0, "adversarial"] == 0.0
    assert np.isnan(cells.auroc[1, "clean"]) and np.isnan(cells.auroc[1, "adversarial"])
    assert cells.ece[1, "adversarial"] == pytest.approx(0.99)
    assert cells.auroc[0, "clean"] == auroc(torch.tensor([0.31, 0.39, 0.35]), torch.tensor([True, True, False]))
    assert set(reliability.among) == {"clean", "adversarial"} and reliability.num_images.sum() == len(ANSWERS)


def log_shares(*exits: list[float]) -> torch.Tensor:
    return torch.tensor(exits, dtype=torch.float64).log()


def test_top_classes_are_the_true_one_and_those_that_come_near_anywhere() -> None:
    # Mutant: the clean state alone decides, classes that nobody believes in stay, or the true class may fall out.
    clean = log_shares([0.6, 0.37, 0.02, 0.01], [0.9, 0.08, 0.01, 0.01])
    adversarial = log_shares([0.3, 0.05, 0.64, 0.01], [0.02, 0.01, 0.96, 0.01])
    table = top_classes_table(clean, adversarial, 3, "x/0")
    assert list(table.columns) == list(TOP_CLASSES.columns)
    assert list(dict.fromkeys(table.class_index)) == [3, 2, 0, 1]
    cells = table.set_index(["state", "exit_index", "class_index"])
    assert cells.probability["clean", 0, 1] == pytest.approx(0.37)
    assert cells.probability["adversarial", 1, 2] == pytest.approx(0.96)
    assert (cells["rank"]["clean", 0, 0], cells["rank"]["adversarial", 0, 0]) == (1, 2)
    assert cells["rank"]["adversarial", 1, 2] == 1
    sure = log_shares([0.98, 0.01, 0.005, 0.005])
    assert set(top_classes_table(sure, sure, 0, "x/0").class_index) == {0}


def test_top_classes_stay_few_whatever_the_number_of_classes() -> None:
    # Mutant: no limit: a hundred rows for CIFAR-100.
    logits = torch.zeros(2, 100, dtype=torch.float64)
    logits[0, :10] = 8.0
    assert top_classes_table(logits, logits, 99, "x/0").class_index.nunique() == NUM_TOP_CLASSES


def test_class_that_wins_is_shown_however_unsure_the_exit_is() -> None:
    # Mutant: only the probability counts; the answer of an unsure exit would be missing.
    logits = torch.zeros(1, 100, dtype=torch.float64)
    logits[0, 7] = 0.5
    assert list(top_classes_table(logits, logits, 3, "x/0").class_index) == [3, 7, 3, 7]
