"""What the figures about one model say: read from their traces, not from their pixels."""

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from test_figures import MARKS, colours_in

from core.figures import (
    StaticPoint,
    calibration_figure,
    confusion_figure,
    curve_figure,
    model_exits_figure,
    reliability_figure,
)
from core.figures.confusion import MAX_NAMED, MAX_NUMBERED
from core.metrics import rate
from core.model_tables import AMONG


def rates(*counts: tuple[int, int]) -> dict[str, list[float]]:
    shares = [rate(*pair) for pair in counts]
    return {
        "num_right": [share.num_hits for share in shares],
        "num_images": [share.num_images for share in shares],
        "accuracy": [share.value for share in shares],
        "low": [share.low for share in shares],
        "high": [share.high for share in shares],
    }


EXITS = pd.DataFrame(
    {
        "exit_index": [0, 1, 2],
        "cost": [0.2, 0.6, 1.0],
        **rates((3, 6), (4, 6), (5, 6)),
        **{f"leaving_{name}": values for name, values in rates((2, 2), (0, 0), (3, 4)).items()},
    }
)
CURVE = pd.DataFrame(
    {
        "threshold": [0.0, 0.5, 0.9, math.inf],
        **rates((3, 6), (4, 6), (4, 6), (5, 6)),
        "cost": [0.2, 0.5, 0.55, 1.0],
        "relative_cost": [0.25, 0.625, 0.6875, 1.25],
    }
)
STATIC = StaticPoint("■ ResNet-56 static", 0.8, rate(5, 6))
RELIABILITY = pd.DataFrame(
    {
        "exit_index": 0,
        "among": [AMONG[0], AMONG[0], AMONG[1]],
        "bin_low": [7 / 15, 13 / 15, 13 / 15],
        "bin_high": [8 / 15, 14 / 15, 14 / 15],
        "mean_confidence": [0.5, 0.9, 0.9],
        **rates((1, 2), (3, 4), (1, 3)),
    }
)
CALIBRATION = pd.DataFrame(
    {
        "exit_index": [0, 0, 1, 1],
        "among": [*AMONG, *AMONG],
        "ece": [0.1, 0.1, 0.05, 0.3],
        "ece_floor": [0.02, 0.02, 0.03, 0.2],
        "auroc": [0.8, 0.8, 0.4, math.nan],
        **rates((3, 6), (3, 6), (4, 6), (1, 3)),
    }
)


def confusion(num_classes: int) -> pd.DataFrame:
    """Every class with two images: one answered rightly, one as the next class; the last has none."""
    rows = []
    for label in range(num_classes):
        for predicted in range(num_classes):
            total = 2 if label < num_classes - 1 else 0
            share = rate(int(predicted in (label, label + 1)) if total else 0, total)
            rows.append((label, predicted, share.num_hits, total, share.value, share.low, share.high))
    return pd.DataFrame(rows, columns=["label", "predicted", "num_answered", "num_images", "share", "low", "high"])


def all_figures() -> list[go.Figure]:
    return [
        model_exits_figure(EXITS, "early-exit"),
        model_exits_figure(EXITS[:1], "static"),
        curve_figure(CURVE, {0.9: "now"}, STATIC),
        reliability_figure(RELIABILITY, "early-exit"),
        calibration_figure(CALIBRATION, "static"),
        confusion_figure(confusion(3), "abc"),
        confusion_figure(confusion(40), [str(index) for index in range(40)]),
    ]


def test_figures_use_no_colour_but_those_that_stand_out_on_both_backgrounds() -> None:
    # Mutant: a colour typed in, or one of the exits' own.
    used = {colour for figure in all_figures() for colour in colours_in(figure.to_plotly_json())}
    assert used <= {*MARKS.values(), "#FFFFFF", "#11161D"}


def test_exits_show_accuracy_with_its_interval_and_cost_in_percent() -> None:
    # Mutant: fractions as they are, an interval upside down, or the cost of another exit under a name.
    whole, leaving = model_exits_figure(EXITS, "early-exit").data
    assert list(whole.y) == pytest.approx([50, 100 * 4 / 6, 100 * 5 / 6])
    assert whole.y[0] - whole.error_y.arrayminus[0] == pytest.approx(100 * rate(3, 6).low)
    assert whole.y[0] + whole.error_y.array[0] == pytest.approx(100 * rate(3, 6).high)
    assert [round(place) for place in leaving.x] == [0, 2], "an exit at which no image leaves has no point"
    ticks = model_exits_figure(EXITS, "early-exit").layout.xaxis.ticktext
    assert list(ticks) == ["Exit 1<br>20 %", "Exit 2<br>60 %", "Final<br>100 %"]


def test_a_static_model_has_one_series() -> None:
    # Mutant: the images that leave drawn over all images, which they are.
    (only,) = model_exits_figure(EXITS[:1], "static").data
    assert only.name == "all images"


def test_many_exits_leave_out_names_and_no_points() -> None:
    # Mutant: 27 names on top of each other, or exits that vanish with their names.
    many = pd.concat([EXITS[:1]] * 27, ignore_index=True).assign(exit_index=range(27))
    figure = model_exits_figure(many, "early-exit")
    assert len(figure.layout.xaxis.ticktext) == 14 and len(figure.data[0].x) == 27


def test_curve_marks_thresholds_where_the_table_has_them_and_the_static_model_at_its_cost() -> None:
    # Mutant: thresholds on the x axis, the nearest cost instead of threshold, or the twin at 100 %.
    figure = curve_figure(CURVE, {0.9: "now", 0.5: "loses < 5 %"}, STATIC)
    line, points, static = figure.data
    assert list(line.x) == pytest.approx([20, 50, 55, 100]) and line.y[-1] == pytest.approx(100 * 5 / 6)
    assert list(points.x) == pytest.approx([50, 55]) and len(points.error_y.array) == 2
    assert {note.text: round(note.x) for note in figure.layout.annotations} == {"loses < 5 %": 50, "now": 55}
    assert (list(static.x), static.marker.symbol, static.name) == ([80], "square", STATIC.label)
    assert "no image leaves early" in line.customdata[-1] and "125.0 % of the static" in line.customdata[-1]


def test_words_of_neighbours_on_the_curve_do_not_meet() -> None:
    # Mutant: one place for all words.
    notes = curve_figure(CURVE, {0.9: "now", 0.5: "loses < 5 %"}, None).layout.annotations
    assert abs(notes[0].ay - notes[1].ay) >= 20


def test_words_of_points_at_other_heights_do_not_meet_either() -> None:
    # Mutant: words one line lower than those of the neighbour, whose point may stand that much lower itself.
    seen = pd.concat([CURVE[:1]] * 4, ignore_index=True).assign(
        threshold=[0.59, 0.83, 0.90, 0.96], cost=[0.257, 0.317, 0.355, 0.470], accuracy=[1.0, 0.95, 0.95, 0.95],
        low=[0.84, 0.76, 0.76, 0.76], high=[1.0, 0.99, 0.99, 0.99],
    )  # fmt: skip
    marked = {0.59: "loses < 5 %: 0.59", 0.83: "loses < 1 %: 0.83", 0.90: "T: 0.90, now", 0.96: "half the cost: 0.96"}
    figure = curve_figure(seen, marked, None)
    pixels = 0.7 * figure.layout.height / 24  # the axis runs from 76 to 100 %
    places = [(7 * note.x, pixels * (100 - note.y) + note.ay, 7 * len(note.text)) for note in figure.layout.annotations]
    for number, (left, down, width) in enumerate(places):
        for other_left, other_down, other_width in places[:number]:
            is_beside = left + width <= other_left or other_left + other_width <= left
            assert is_beside or abs(down - other_down) >= 20


def test_curve_without_a_twin_draws_none() -> None:
    # Mutant: a square at nought.
    assert len(curve_figure(CURVE, {0.9: "now"}, None).data) == 2
    assert not curve_figure(CURVE, {0.9: "now"}, None).layout.shapes


def test_reliability_has_a_series_for_all_and_for_those_that_reach_with_their_n() -> None:
    # Mutant: n of the bins counted instead of the images, or one series drawn twice.
    diagonal, whole, reach = reliability_figure(RELIABILITY, "early-exit").data
    assert (list(diagonal.x), list(diagonal.y)) == ([0, 1], [0, 100])
    assert [trace.name for trace in (whole, reach)] == [f"{AMONG[0]}, n = 6", f"{AMONG[1]}, n = 3"]
    assert list(whole.y) == [50, 75] and list(reach.y) == pytest.approx([100 / 3])
    assert whole.marker.symbol != reach.marker.symbol and whole.line.color != reach.line.color


def test_calibration_shows_error_its_floor_and_auroc_of_every_exit() -> None:
    # Mutant: AUROC on the axis of the error, a floor of the other series, or an axis that cuts an AUROC off.
    figure = calibration_figure(CALIBRATION, "early-exit")
    lines = {(trace.name, trace.yaxis or "y", trace.mode): list(trace.y) for trace in figure.data}
    assert lines[AMONG[1], "y", "lines+markers"] == [0.1, 0.3] and lines[AMONG[1], "y", "markers"] == [0.02, 0.2]
    assert lines[AMONG[0], "y2", "lines+markers"] == [0.8, 0.4]
    assert np.isnan(lines[AMONG[1], "y2", "lines+markers"][1])
    assert figure.layout.yaxis2.range[0] < 0.4 and figure.layout.yaxis2.range[1] > 1


def test_few_classes_have_numbers_in_cells_that_answer_clicks() -> None:
    # Mutant: counts instead of percent, 0 % for a class without images, or true class and answer exchanged.
    heat, marks = confusion_figure(confusion(3), "abc").data
    assert [list(row) for row in heat.text] == [["50", "50", "0"], ["0", "50", "50"], ["", "", ""]]
    assert marks.hovertext[1] == "a answered as b: 1 of 2" and list(marks.customdata[1]) == [0, 1]
    assert (heat.zmin, heat.zmax) == (0, 100)


@pytest.mark.parametrize("num_classes", [MAX_NUMBERED + 1, MAX_NAMED + 1])
def test_many_classes_have_no_numbers_and_too_many_no_names(num_classes: int) -> None:
    # Mutant: ten thousand numbers in cells of a few pixels.
    figure = confusion_figure(confusion(num_classes), [f"c{index}" for index in range(num_classes)])
    (heat,) = figure.data
    assert heat.text is None and heat.texttemplate is None
    assert list(heat.customdata[0][1]) == [1, 2] and heat.z[0][1] == 50
    assert figure.layout.xaxis.showticklabels is (num_classes <= MAX_NAMED)
