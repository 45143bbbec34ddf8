"""What the figures of exit shift and confidence say: read from their traces, not from their pixels."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from test_confidence_tables import ANSWERS, log_shares
from test_figures import MARKS, colours_in
from test_shift_tables import COSTS, MOVES

from core.confidence_tables import attacked_calibration_tables, confidence_spread_table, top_classes_table
from core.figures import (
    calibration_figure,
    confidence_spread_figure,
    cost_change_figure,
    exit_flow_figure,
    exits_made_at_figure,
    flow_figure,
    reliability_figure,
    share_out_figure,
    shift_figure,
    theme,
    top_classes_figure,
)
from core.shift_tables import efficiency_table, exit_flow_table, share_out_table

DECISIONS = MOVES.assign(image_id=["x/0", "x/1", "x/2", "x/3"])
EFFICIENCY = efficiency_table(DECISIONS, COSTS)
FLOW = exit_flow_table(DECISIONS, 3)
MADE_AT = pd.DataFrame(
    {
        "step": [0, 0, 1, 1],
        "exit_index": [0, 1, 0, 1],
        "num_images": [1, 3, 4, 0],
        "num_all": 4,
        "share": [0.25, 0.75, 1.0, 0.0],
        "low": 0.0,
        "high": 1.0,
    }
)
CLASSES = ("red", "green", "blue", "grey")
TOP = top_classes_table(
    log_shares([0.6, 0.37, 0.02, 0.01], [0.9, 0.08, 0.01, 0.01]),
    log_shares([0.3, 0.05, 0.64, 0.01], [0.02, 0.01, 0.96, 0.01]),
    0,
    "x/0",
)
TAKEN = {"clean": 1, "adversarial": 0}
CALIBRATION, RELIABILITY = attacked_calibration_tables(ANSWERS)


def all_figures() -> list[go.Figure]:
    return [
        exit_flow_figure(FLOW),
        flow_figure(FLOW),
        cost_change_figure(DECISIONS, EFFICIENCY),
        share_out_figure(share_out_table(DECISIONS, COSTS), EFFICIENCY),
        exits_made_at_figure(MADE_AT),
        confidence_spread_figure(confidence_spread_table(ANSWERS), 0.9),
        top_classes_figure(TOP, TAKEN, 0, CLASSES),
        reliability_figure(RELIABILITY[RELIABILITY.exit_index == 0], None),
        calibration_figure(CALIBRATION, None),
    ]


def test_figures_use_no_colour_but_those_that_stand_out_on_both_backgrounds() -> None:
    # Mutant: a bar in one of EXITS, or a colour typed in.
    used = {colour for figure in all_figures() for colour in colours_in(figure.to_plotly_json())}
    assert used <= set(MARKS.values())
    assert {theme.CLEAN, theme.ADVERSARIAL, theme.EARLIER, theme.SAME, theme.LATER} <= used


def test_figures_name_their_axes() -> None:
    # Mutant: a title dropped. Ribbons have no axes; the panels of classes have theirs in words at each row.
    for figure in all_figures():
        layout = figure.to_plotly_json()["layout"]
        axes = {name: axis for name, axis in layout.items() if name[1:5] == "axis"}
        titles = {name for name, axis in axes.items() if axis.get("title", {}).get("text")}
        if isinstance(figure.data[0], go.Parcats):
            assert not any(axis["visible"] for axis in axes.values())
        elif "xaxis2" not in axes:
            assert titles == {"xaxis", "yaxis"}
        else:
            # Classes; or calibration error beside AUROC, each named above its panel.
            above = " ".join(words.get("text", "") for words in layout.get("annotations", ()))
            assert titles == {"xaxis2"} or ("ECE" in above and "AUROC" in above)


# From exit to exit


def test_matrix_of_exits_says_counts_in_cells_and_rates_under_the_pointer() -> None:
    # Mutant: transposed, noughts written out, or an exit that nobody leaves drawn as 0 %.
    cells, marks = exit_flow_figure(FLOW).data
    np.testing.assert_allclose(np.array(cells.z, dtype=float), [[0, 0, 100], [0, 100, 0], [50, 50, 0]])
    assert [list(row) for row in cells.text] == [["", "", "1"], ["", "1", ""], ["1", "1", ""]]
    assert list(cells.x) == list(cells.y) == ["1", "2", "Final"]
    assert [list(cell) for cell in marks.customdata] == [[row, column] for row in range(3) for column in range(3)]
    assert marks.hovertext[6] == "Final → Exit 1: 1 of 2 (50 %, 9–91 %)"
    some = exit_flow_figure(exit_flow_table(DECISIONS[DECISIONS.clean_computed_exit == 2], 3))
    np.testing.assert_array_equal(np.isnan(np.array(some.data[0].z, dtype=float)).all(axis=1), [True, True, False])
    assert some.data[1].hovertext[0] == "Exit 1 → Exit 1: 0 of 0"


@pytest.mark.parametrize("num_exits", [2, 7, 27])
def test_matrix_and_flow_read_with_any_number_of_exits(num_exits: int) -> None:
    # Mutant: a cell height that makes 27 exits two screens high, or markers that cover the neighbouring cells.
    everywhere = pd.DataFrame(
        {"clean_computed_exit": range(num_exits), "adversarial_computed_exit": list(range(num_exits))[::-1]}
    )
    flow = exit_flow_table(everywhere, num_exits)
    matrix, ribbons = exit_flow_figure(flow), flow_figure(flow)
    assert matrix.layout.height <= 850 and ribbons.layout.height <= 850
    cell = (matrix.layout.height - 120) / num_exits
    assert cell >= 24 and matrix.data[1].marker.size < cell
    assert len(matrix.layout.shapes) == num_exits
    assert matrix.layout.xaxis.type == "category"  # "1", "2" are names here, not numbers


def test_flow_is_as_wide_as_its_images_and_coloured_by_direction() -> None:
    # Mutant: sides swapped, ways without an image drawn, or directions turned round.
    ribbons, *legend = flow_figure(FLOW).data
    clean, adversarial = ribbons.dimensions
    assert (clean.label, adversarial.label) == ("clean", "adversarial")
    ways = list(zip(clean["values"], adversarial["values"], ribbons.counts, ribbons.line.color, strict=True))
    assert ways == [(0, 2, 1, theme.LATER), (1, 1, 1, theme.SAME), (2, 0, 1, theme.EARLIER), (2, 1, 1, theme.EARLIER)]
    assert list(clean.ticktext) == ["Exit 1: 1", "Exit 2: 1", "Final: 2"]
    assert list(adversarial.ticktext) == ["Exit 1: 1", "Exit 2: 2", "Final: 1"]
    assert [trace.name for trace in legend] == ["◀ earlier", "= same", "▶ later"]


def test_parts_of_shift_bars_say_which_they_are() -> None:
    # Mutant: the word of another part, or no number of the bar.
    figure = shift_figure(
        {"all": {"earlier": 2, "same": 1, "later": 1}, "fooled": {"earlier": 2, "same": 0, "later": 0}}
    )
    assert [[list(part) for part in trace.customdata] for trace in figure.data] == [
        [[0, word], [1, word]] for word in ("earlier", "same", "later")
    ]


# Cost


def test_cost_change_draws_every_image_once_in_order_with_the_mean_and_its_interval() -> None:
    # Mutant: unsorted, rows of other images, adversarial - clean turned round, or the interval of another group.
    figure = cost_change_figure(DECISIONS, EFFICIENCY)
    earlier, same, later = figure.data
    assert (list(earlier.x), list(same.x), list(later.x)) == ([1, 2], [3], [4])
    np.testing.assert_allclose([*earlier.y, *same.y, *later.y], [-80, -40, 0, 80])
    assert [row[:2] for trace in figure.data for row in trace.customdata] == [
        [0, "x/0"],
        [1, "x/1"],
        [3, "x/3"],
        [2, "x/2"],
    ]
    assert (earlier.marker.color, same.marker.color, later.marker.color) == (theme.EARLIER, theme.SAME, theme.LATER)
    band, line = figure.layout.shapes
    whole = EFFICIENCY.iloc[0]
    assert (band.y0, band.y1) == pytest.approx((100 * whole.cost_change_low, 100 * whole.cost_change_high))
    assert line.y0 == line.y1 == pytest.approx(-10)
    assert figure.layout.annotations[0].text == "mean −10 points"


def test_share_out_curves_start_at_nought_and_say_accuracy_beside_them() -> None:
    # Mutant: no point (0, 0), accuracies swapped, or a floor that rises at the first exit.
    clean, adversarial, floor = share_out_figure(share_out_table(DECISIONS, COSTS), EFFICIENCY).data
    np.testing.assert_allclose(clean.x, [0, 20, 60, 100])
    np.testing.assert_allclose(clean.y, [0, 25, 50, 100])
    np.testing.assert_allclose(adversarial.y, [0, 25, 75, 100])
    assert (clean.name, adversarial.name) == ("clean: 75 % right", "adversarial: 25 % right")
    np.testing.assert_allclose(floor.x, [0, 20, 60, 100])
    np.testing.assert_allclose(floor.y, [0, 0, 0, 100])
    assert clean.error_y.array[0] == 0 and clean.error_y.array[1] > 0
    assert clean.line.dash != adversarial.line.dash and clean.marker.symbol != adversarial.marker.symbol


def test_density_while_generating_has_exits_from_the_top_and_steps_from_the_left() -> None:
    # Mutant: transposed, counts of another step, numbers in cells too narrow for them, or empty cells to click.
    heat, marks = exits_made_at_figure(MADE_AT).data
    assert [list(cell) for cell in marks.customdata] == [[0, 0], [1, 0], [0, 1]]
    assert marks.hovertext[1] == "step 0, Final: 75 % (3 images)"
    np.testing.assert_allclose(np.array(heat.z), [[25, 100], [75, 0]])
    assert (list(heat.x), list(heat.y), heat.zmin, heat.zmax) == ([0, 1], ["1", "Final"], 0, 100)
    assert [list(row) for row in heat.text] == [["1", "4"], ["3", ""]]
    long = pd.concat([MADE_AT.assign(step=MADE_AT.step + 2 * times) for times in range(50)])
    heat, _ = exits_made_at_figure(long).data
    assert heat.texttemplate is None and len(heat.x) == 100


# Confidence


def test_spread_stands_back_to_back_filled_where_right_and_hollow_where_wrong() -> None:
    # Mutant: sides swapped, wrong answers filled, or drawn over the right ones of their bin.
    figure = confidence_spread_figure(confidence_spread_table(ANSWERS), 0.9)
    traces = {trace.name: trace for trace in figure.data}
    assert list(traces) == ["clean, right", "clean, wrong", "adversarial, right", "adversarial, wrong"]
    for name, trace in traces.items():
        assert (trace.marker.color == "rgba(0,0,0,0)") == name.endswith("wrong")
        assert all((length < 0) == name.startswith("clean") for length in trace.x)
    right, wrong = traces["clean, right"], traces["clean, wrong"]
    unit = 0.46 / 3  # the longest bar has three images
    np.testing.assert_allclose(right.x, [-2 * unit, -3 * unit])
    np.testing.assert_allclose(list(right.base), [0, 1])
    np.testing.assert_allclose(list(wrong.base), [-2 * unit])
    np.testing.assert_allclose(wrong.y, [0.35])
    assert [shape.y0 for shape in figure.layout.shapes] == [0.9]
    assert not confidence_spread_figure(confidence_spread_table(ANSWERS), None).layout.shapes
    assert [list(bar)[:4] for bar in wrong.customdata] == [["clean", 0, 3, False]]


def test_top_classes_show_both_states_in_one_order_and_frame_the_exit_that_answers() -> None:
    # Mutant: states swapped, rows in the order of each state, or the frame at the other state's exit.
    figure = top_classes_figure(TOP, TAKEN, 0, CLASSES)
    clean, adversarial = figure.data
    assert list(clean.y) == list(adversarial.y) == ["red (true)", "blue", "green"]
    np.testing.assert_allclose(np.array(clean.z), [[0.6, 0.9], [0.02, 0.01], [0.37, 0.08]])
    np.testing.assert_allclose(np.array(adversarial.z), [[0.3, 0.02], [0.64, 0.96], [0.05, 0.01]])
    assert list(clean.text[0]) == ["0.60", "0.90"]
    assert [(frame.x0 + frame.x1) / 2 for frame in figure.layout.shapes] == [1, 0]
    assert [note.text for note in figure.layout.annotations] == [
        "<b>clean</b>, answered at Final",
        "<b>adversarial</b>, answered at Exit 1",
    ]


def test_numbers_stand_in_cells_only_where_there_is_room() -> None:
    # Mutant: 27 columns of numbers over each other, and no scale where there are none.
    logits = torch.zeros(27, 4, dtype=torch.float64)
    many = top_classes_figure(top_classes_table(logits, logits, 0, "x"), {"clean": 0, "adversarial": 0}, 0, CLASSES)
    assert many.data[0].texttemplate is None and many.data[0].showscale
    few = top_classes_figure(TOP, TAKEN, 0, CLASSES)
    assert few.data[0].texttemplate and not few.data[0].showscale


def test_trust_in_attacked_images_is_drawn_in_the_colours_of_the_states() -> None:
    # Mutant: the colours of a model's kind, or the states in the other order.
    for figure in (
        reliability_figure(RELIABILITY[RELIABILITY.exit_index == 0], None),
        calibration_figure(CALIBRATION, None),
    ):
        colours = {trace.name.split(",")[0]: trace.marker.color for trace in figure.data if trace.marker.color}
        assert colours == {"clean": theme.CLEAN, "adversarial": theme.ADVERSARIAL}


def test_bins_of_few_images_are_not_joined_by_a_line() -> None:
    # Mutant: a line through bins of one image each.
    rows = RELIABILITY[RELIABILITY.exit_index == 0]
    assert {trace.mode for trace in reliability_figure(rows, None).data[1:]} == {"markers"}
    many = rows.assign(num_images=rows.num_images * 50)
    assert {trace.mode for trace in reliability_figure(many, None).data[1:]} == {"lines+markers"}


@pytest.mark.parametrize(("value", "words"), [(-7.4, "−7"), (3.0, "+3"), (0.2, "0"), (-0.4, "0")])
def test_signs_are_printed_as_signs(value: float, words: str) -> None:
    # Mutant: a hyphen, or −0.
    assert theme.signed(value) == words
