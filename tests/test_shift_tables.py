"""Who moves where and what it costs, against four images counted by hand; and where an attack passed through."""

import pandas as pd
import pytest
from test_tables import EARLY, NUM_IMAGES, NUM_STEPS, experiment

from core.metrics import rate
from core.shift_tables import (
    EFFICIENCY,
    EXIT_FLOW,
    EXITS_MADE_AT,
    SHARE_OUT,
    efficiency_table,
    exit_flow_table,
    exits_made_at_table,
    share_out_table,
    shift_groups,
)
from core.tables import steps_table

COSTS = (0.2, 0.6, 1.0)


def moves(*images: tuple[int, int, int, int, bool, bool]) -> pd.DataFrame:
    """Decisions of images: clean exit, adversarial exit, clean and adversarial answer, attackable, succeeded."""
    columns = ["clean_computed_exit", "adversarial_computed_exit", "clean_prediction", "adversarial_prediction"]
    frame = pd.DataFrame(list(images), columns=[*columns, "attackable", "succeeded"])
    return frame.assign(
        label=0,
        exit_shift=frame.adversarial_computed_exit - frame.clean_computed_exit,
        clean_cost=[COSTS[index] for index in frame.clean_computed_exit],
        adversarial_cost=[COSTS[index] for index in frame.adversarial_computed_exit],
    )


# Two fooled and earlier, one right throughout and later, one wrong from the start that stays where it is.
MOVES = moves((2, 0, 0, 1, True, True), (2, 1, 0, 1, True, True), (0, 2, 0, 0, True, False), (1, 1, 3, 3, False, True))


def test_groups_count_as_succeeded_only_what_was_attackable() -> None:
    # Mutant: ``attackable`` forgotten: the image that was wrong from the start counts as succeeded.
    groups = shift_groups(MOVES)
    assert {name: rows.index.tolist() for name, rows in groups.items()} == {
        "all": [0, 1, 2, 3],
        "succeeded": [0, 1],
        "not succeeded": [2, 3],
    }
    assert list(shift_groups(MOVES[:2])) == ["all", "succeeded"]


def test_flow_counts_every_cell_of_its_row() -> None:
    # Mutant: transposed, shares of all images, or rows without an image left out.
    flow = exit_flow_table(MOVES, 3)
    assert list(flow.columns) == list(EXIT_FLOW.columns) and len(flow) == 9
    cells = flow.set_index(["clean_exit", "adversarial_exit"])
    assert cells.num_images.to_dict() == {
        (clean, adversarial): int((clean, adversarial) in {(2, 0), (2, 1), (0, 2), (1, 1)})
        for clean in range(3)
        for adversarial in range(3)
    }
    half = rate(1, 2)
    assert cells.loc[(2, 0)].tolist() == [1, 2, half.value, half.low, half.high]
    assert cells.num_all.groupby("clean_exit").first().tolist() == [1, 1, 2]
    assert exit_flow_table(MOVES[MOVES.clean_computed_exit == 2], 3).share.isna().sum() == 6


def test_efficiency_is_counted_by_hand_for_each_group() -> None:
    # Mutant: clean and adversarial swapped, the accuracy of all beside each group, or the floor of other costs.
    table = efficiency_table(MOVES, COSTS)
    assert list(table.columns) == list(EFFICIENCY.columns)
    assert table.group.tolist() == ["all", "succeeded", "not succeeded"]
    rows = table.set_index("group")
    whole, fooled = rows.loc["all"], rows.loc["succeeded"]
    assert (whole.num_images, whole.clean_num_right, whole.adversarial_num_right) == (4, 3, 1)
    assert (whole.clean_low, whole.clean_high) == (rate(3, 4).low, rate(3, 4).high)
    assert whole.clean_mean_cost == pytest.approx((1 + 1 + 0.2 + 0.6) / 4)
    assert whole.adversarial_mean_cost == pytest.approx((0.2 + 0.6 + 1 + 0.6) / 4)
    assert whole.clean_mean_saving == pytest.approx(1 - whole.clean_mean_cost)
    assert whole.cost_change == pytest.approx(-0.1)
    assert whole.cost_change_low < -0.1 < whole.cost_change_high
    # Fooled: nobody out before the end when clean; a half by 0.2 and all by 0.6 once attacked.
    assert fooled.clean_eec_trapezoid == fooled.eec_floor == pytest.approx(0.2)
    assert fooled.adversarial_eec_trapezoid == pytest.approx(0.2 * 0.5 / 2 + 0.4 * 1.5 / 2 + 0.4)
    assert (fooled.clean_num_right, fooled.adversarial_num_right, fooled.num_images) == (2, 0, 2)


def test_share_out_adds_up_from_exit_to_exit() -> None:
    # Mutant: shares of each exit instead of all that left by then.
    table = share_out_table(MOVES, COSTS)
    assert list(table.columns) == list(SHARE_OUT.columns)
    assert table.num_images.tolist() == [1, 2, 4, 1, 3, 4]
    assert table.state.tolist() == ["clean"] * 3 + ["adversarial"] * 3
    assert table.cost.tolist() == [*COSTS, *COSTS] and set(table.num_all) == {4}
    assert (table.low[1], table.high[1]) == (rate(2, 4).low, rate(2, 4).high)


def test_exits_made_at_are_those_of_the_steps_table() -> None:
    # Mutant: the exits under another policy, one step late, or exits that nobody takes left out.
    result = experiment().results[EARLY]
    table = exits_made_at_table(result)
    assert list(table.columns) == list(EXITS_MADE_AT.columns)
    assert len(table) == (NUM_STEPS + 1) * 3 and set(table.num_all) == {NUM_IMAGES}
    steps = steps_table(result, experiment().image_set.image_ids, EARLY)
    counted = steps[steps.exit_index == 0].groupby(["step", "made_at_exit"]).size()
    for row in table.itertuples():
        assert row.num_images == counted.get((row.step, row.exit_index), 0)
        assert row.share == row.num_images / NUM_IMAGES
    assert table.groupby("step").num_images.sum().tolist() == [NUM_IMAGES] * (NUM_STEPS + 1)
