"""The palette's contrast recomputed, and what each figure says: read from its traces, not from its pixels."""

import itertools
import re
from collections.abc import Iterator

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from core.figures import theme
from core.figures.attribution import MapRow, maps_figure
from core.figures.confidence import BesideIt, confidence_figure
from core.figures.ladder import ladder_figure
from core.figures.shift import shift_figure
from core.figures.steps import steps_figure
from core.figures.transfer import transfer_figure
from core.metrics import rate

CLASSES = ("cat", "dog", "frog")
# EXITS and FINAL are no part of it: some of the seven fail on one background (visual identity, rule 6: position and a
# printed label come first). So no figure may mark or write anything with them; see the test over all figures.
MARKS = {
    name: getattr(theme, name)
    for name in ("CLEAN", "ADVERSARIAL", "STATIC", "EARLY_EXIT", "EARLIER", "SAME", "LATER", "QUIET", "THRESHOLD")
}


# Theme


def linear_rgb(colour: str) -> list[float]:
    shares = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    return [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2.2, 1 to 21."""
    first, second = (np.dot([0.2126, 0.7152, 0.0722], linear_rgb(colour)) for colour in (one, other))
    return (max(first, second) + 0.05) / (min(first, second) + 0.05)


def lab(colour: str) -> np.ndarray:
    """CIELAB under D65."""
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.array(matrix) @ linear_rgb(colour) / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_contrast_of_black_on_white_is_21() -> None:
    # Mutant: a formula that flatters everything.
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("background", [theme.LIGHT_BACKGROUND, theme.DARK_BACKGROUND])
@pytest.mark.parametrize("name", MARKS)
def test_colour_of_marks_stands_out_from_both_backgrounds(name: str, background: str) -> None:
    # Mutant: one hexadecimal digit up or down in a colour that is near the limit, such as LATER.
    assert contrast(MARKS[name], background) >= 3


@pytest.mark.parametrize(
    ("one", "other", "least"),
    [
        ("CLEAN", "ADVERSARIAL", 60),
        ("STATIC", "EARLY_EXIT", 40),
        ("EARLIER", "LATER", 40),
        ("EARLIER", "SAME", 20),
        ("SAME", "LATER", 20),
    ],
)
def test_colours_that_meet_are_far_apart(one: str, other: str, least: float) -> None:
    # Mutant: adversarial in another blue. CIE76: 2 is just seen, 20 is plainly another colour.
    assert np.linalg.norm(lab(MARKS[one]) - lab(MARKS[other])) >= least


def test_glyphs_say_kinds_and_shifts_apart_without_colour() -> None:
    # Mutant: one glyph for both kinds.
    assert len(set(theme.KIND_GLYPHS.values())) == len(set(theme.KIND_SYMBOLS.values())) == 2
    assert len(set(theme.SHIFT_GLYPHS.values())) == 3


def test_exits_are_numbered_from_one_and_the_last_is_final() -> None:
    # Mutant: 0-based names, or ``Exit K`` for the final one.
    assert theme.exit_names(3) == ["Exit 1", "Exit 2", "Final"]
    assert theme.exit_names(1) == ["Final"]


# Frames


def exit_rows(state: str, predicted: list[int], confidence: list[float], label: int = 0) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": "toy/test/0",
            "source": "S",
            "target": "S",
            "state": state,
            "exit_index": range(len(predicted)),
            "predicted": predicted,
            "confidence": confidence,
            "true_probability": confidence,
            "right": [index == label for index in predicted],
        }
    )


CLEAN_ROWS = exit_rows("clean", [1, 0, 0, 0], [0.5, 0.7, 0.95, 0.99])
ADVERSARIAL_ROWS = exit_rows("adversarial", [0, 2, 2, 1], [0.4, 0.93, 0.8, 0.6])
EXITS_TAKEN = {"clean": 2, "adversarial": 1}


def confidence_of_four_exits() -> go.Figure:
    # Rows in disorder, as a table may hold them.
    rows = pd.concat([ADVERSARIAL_ROWS, CLEAN_ROWS]).iloc[::-1]
    return confidence_figure(rows, 0.9, EXITS_TAKEN, CLASSES)


STEP_ROWS = pd.DataFrame(
    [
        {
            "step": step,
            "exit_index": index,
            "predicted": (step + index) % 3,
            "true_probability": (3 * step + index) / 10,
        }
        for step in range(3)
        for index in range(2)
    ]
).iloc[::-1]
EXITS_AT_STEPS = (1, 0, 0)


def transfer_rows(counts: dict[tuple[str, str], tuple[int, int]]) -> pd.DataFrame:
    shares = {pair: rate(*numbers) for pair, numbers in counts.items()}
    return pd.DataFrame(
        {
            "source": source,
            "target": target,
            "success_rule": "misclassified_taken",
            "denominator": "attackable",
            "num_fooled": share.num_hits,
            "num_images": share.num_images,
            "rate": share.value,
            "low": share.low,
            "high": share.high,
        }
        for (source, target), share in shares.items()
    )


TRANSFER_ROWS = transfer_rows({("b", "b"): (3, 4), ("b", "a"): (1, 4), ("a", "b"): (0, 0), ("a", "a"): (2, 2)})
LABELS = {"b": "● ResNet-56 early-exit", "a": "■ ResNet-56 static"}
SHIFTS = {"early": {"earlier": 5, "same": 2, "later": 1}, "static": {"earlier": 0, "same": 8, "later": 0}}


LADDER_ROWS = pd.DataFrame(
    [
        {"epsilon": epsilon, "num_fooled": share.num_hits, "num_images": 4, "rate": share.value}
        | {"low": share.low, "high": share.high}
        for epsilon, share in ((1 / 255, rate(1, 4)), (8 / 255, rate(4, 4)))
    ]
)


def map_rows(clean: np.ndarray, adversarial: np.ndarray, **fields: object) -> list[MapRow]:
    """Two rows of maps, each named ``cat``."""
    words = ["cat"] * len(clean)
    return [MapRow("clean", clean, words, **fields), MapRow("adversarial", adversarial, words, **fields)]


def all_figures() -> list[go.Figure]:
    return [
        confidence_of_four_exits(),
        shift_figure(SHIFTS),
        transfer_figure(TRANSFER_ROWS, LABELS),
        steps_figure(STEP_ROWS, EXITS_AT_STEPS, CLASSES),
        maps_figure(map_rows(np.ones((2, 3, 3)), -np.ones((2, 3, 3)), framed=1), ["Exit 1", "Final"]),
        ladder_figure(LADDER_ROWS),
    ]


def colours_in(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key not in ("template", "colorscale"):
                yield from colours_in(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from colours_in(value)
    elif isinstance(node, str) and re.fullmatch(r"#[0-9A-Fa-f]{6}", node):
        yield node


def test_figures_use_no_colour_but_those_that_stand_out_on_both_backgrounds() -> None:
    # Mutant: a line in one of EXITS, or a colour typed in. White and ink stand on filled marks only.
    used = {colour for figure in all_figures() for colour in colours_in(figure.to_plotly_json())}
    assert used <= {*MARKS.values(), "#FFFFFF", "#11161D"}
    assert {theme.CLEAN, theme.ADVERSARIAL, theme.EARLIER, theme.SAME, theme.LATER} <= used


# Confidence


def curves(figure: go.Figure, state: str) -> tuple[go.Scatter, go.Scatter]:
    """The whole curve (faded) and the part that is computed when deployed."""
    colour = {"clean": theme.CLEAN, "adversarial": theme.ADVERSARIAL}[state]
    faded, full = (
        trace for trace in figure.data if trace.line.color == colour and not trace.showlegend and trace.name is None
    )
    return faded, full


@pytest.mark.parametrize(("state", "rows"), [("clean", CLEAN_ROWS), ("adversarial", ADVERSARIAL_ROWS)])
def test_curve_gives_every_exit_its_confidence_filled_where_right_and_hollow_where_wrong(state: str, rows) -> None:
    # Mutant: filled and hollow swapped, states swapped, or exits in the order of the table.
    for trace in curves(confidence_of_four_exits(), state):
        count = len(trace.x)
        assert list(trace.x) == ["Exit 1", "Exit 2", "Exit 3", "Final"][:count]
        assert list(trace.y) == rows.confidence.tolist()[:count]
        hollow = [symbol.endswith("-open") for symbol in trace.marker.symbol]
        assert hollow == [not right for right in rows.right][:count]


@pytest.mark.parametrize("state", ["clean", "adversarial"])
def test_exits_after_the_one_taken_are_faded_only(state: str) -> None:
    # Mutant: the full curve to the end, or one exit too short.
    faded, full = curves(confidence_of_four_exits(), state)
    assert (len(faded.x), len(full.x)) == (4, EXITS_TAKEN[state] + 1)
    assert faded.opacity < 0.5 and full.opacity == 1


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("clean", {"Exit 1": "dog", "Exit 2": "cat", "Exit 3": "leaves here: cat"}),
        ("adversarial", {"Exit 1": "cat", "Exit 2": "leaves here: frog", "Final": "dog"}),
    ],
)
def test_classes_are_named_at_the_first_exit_at_changes_and_at_the_exit_taken(state: str, words) -> None:
    # Mutant: the word at every exit, at none, or the exit taken of the other state.
    figure = confidence_of_four_exits()
    faded, _ = curves(figure, state)
    places = set(zip(faded.x, faded.y, strict=True))
    assert {note.x: note.text for note in figure.layout.annotations if (note.x, note.y) in places} == words


def test_threshold_is_drawn_where_there_is_one_to_reach() -> None:
    # Mutant: a line at another height, or one over a static model, which has no threshold.
    (line,) = confidence_of_four_exits().layout.shapes
    assert (line.y0, line.y1, line.line.dash) == (0.9, 0.9, "dot")
    assert any(note.text == "threshold 0.90" for note in confidence_of_four_exits().layout.annotations)
    rows = pd.concat([exit_rows("clean", [0], [0.9]), exit_rows("adversarial", [1], [0.8])])
    static = confidence_figure(rows, 0.9, {"clean": 0, "adversarial": 0}, CLASSES)
    assert not static.layout.shapes
    assert not any("threshold" in note.text for note in static.layout.annotations)


def test_a_twin_stands_beside_on_the_same_scale_with_its_own_exits() -> None:
    # Mutants: the twin's exits under the other model's names; a threshold over a static twin, or none over a twin with
    # early exits; a curve from one model to the other; the legend twice.
    static = pd.concat([exit_rows("clean", [0], [0.9]), exit_rows("adversarial", [1], [0.8])])
    early = pd.concat([ADVERSARIAL_ROWS, CLEAN_ROWS])
    at_static = {"clean": 0, "adversarial": 0}
    figure = confidence_figure(early, 0.9, EXITS_TAKEN, CLASSES, BesideIt(static, at_static, "■"))
    places = ["Exit 1", "Exit 2", "Exit 3", "Final", "■ Final"]
    assert list(figure.layout.xaxis.categoryarray) == places and list(figure.layout.xaxis.range) == [-0.6, 4.6]
    assert [trace.name for trace in figure.data if trace.name] == ["clean", "adversarial"]
    twin = [trace for trace in figure.data if set(trace.x) == {"■ Final"}]
    assert [(trace.y, trace.marker.symbol) for trace in twin] == [((0.9,), ("circle",))] * 2 + [
        ((0.8,), ("diamond-open",))
    ] * 2
    assert not any({"Final", "■ Final"} <= set(trace.x) for trace in figure.data)
    threshold, boundary = figure.layout.shapes
    assert (threshold.x0, threshold.x1, boundary.x0, boundary.x1) == (-0.6, 3.5, 3.5, 3.5)
    assert [note.text for note in figure.layout.annotations if note.x == "■ Final"] == ["cat", "dog"]
    swapped = confidence_figure(static, 0.9, at_static, CLASSES, BesideIt(early, EXITS_TAKEN, "●"))
    assert list(swapped.layout.xaxis.categoryarray) == ["Final", "● Exit 1", "● Exit 2", "● Exit 3", "● Final"]
    assert [(line.x0, line.x1) for line in swapped.layout.shapes if line.y0 == 0.9] == [(0.5, 4.6)]


def test_states_differ_in_dash_and_shape_as_well_as_colour_and_stand_in_the_legend() -> None:
    # Mutant: one marker for both: indistinct in grey.
    legend = {trace.name: trace for trace in confidence_of_four_exits().data if trace.name}
    assert set(legend) == {"clean", "adversarial"}
    clean, adversarial = legend["clean"], legend["adversarial"]
    assert clean.line.dash != adversarial.line.dash and clean.marker.symbol != adversarial.marker.symbol


# Shift, transfer, steps, attribution


def test_shift_bars_add_up_to_the_images_and_say_their_numbers() -> None:
    # Mutant: bars of one model under the other's label, or the count of nought written.
    figure = shift_figure(SHIFTS)
    assert figure.layout.barmode == "stack"
    assert [trace.name for trace in figure.data] == ["◀ earlier", "= same", "▶ later"]
    drawn = {label: [trace.x[list(trace.y).index(label)] for trace in figure.data] for label in SHIFTS}
    assert drawn == {"early": [5, 2, 1], "static": [0, 8, 0]}
    assert {label: sum(values) for label, values in drawn.items()} == {"early": 8, "static": 8}
    assert [list(trace.text) for trace in figure.data] == [["◀ 5", ""], ["= 2", "= 8"], ["▶ 1", ""]]


def test_numbers_inside_shift_bars_can_be_read() -> None:
    # Mutant: white on ``same`` or ``later``.
    for trace in shift_figure(SHIFTS).data:
        assert contrast(trace.textfont.color, trace.marker.color) >= 4.5


def test_transfer_cells_stand_at_source_and_target_and_say_their_counts() -> None:
    # Mutant: transposed, models in alphabetical order, shares instead of percent, or 0 % for no image.
    figure = transfer_figure(TRANSFER_ROWS, LABELS)
    cells, marks = figure.data
    assert [list(row) for row in cells.text] == [["3 of 4", "1 of 4"], ["", "2 of 2"]]
    (empty,) = figure.layout.annotations  # in a colour of its own: a cell without one is as dark as the page
    assert (empty.x, empty.y, empty.text, empty.font.color) == (cells.x[0], cells.y[1], "no image", theme.QUIET)
    np.testing.assert_allclose(np.array(cells.z, dtype=float), [[75, 25], [np.nan, 100]])
    for axis in (cells.x, cells.y):
        assert [name.replace("<br>", " ") for name in axis] == ["● ResNet-56 early-exit", "■ ResNet-56 static"]
    assert (cells.zmin, cells.zmax) == (0, 100)
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("shown to", "made on")
    outlined = [(shape.x0 + shape.x1, shape.y0 + shape.y1) for shape in figure.layout.shapes]
    assert outlined == [(0, 0), (2, 2)]
    assert [list(cell) for cell in marks.customdata] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert marks.hovertext[1] == "made on ● ResNet-56 early-exit, shown to ■ ResNet-56 static: 1 of 4 (5–70 %)"


def test_steps_show_the_true_class_at_every_exit_and_the_exit_taken_at_every_step() -> None:
    # Mutant: exits by steps transposed, or the exit taken one step late.
    heat, line = steps_figure(STEP_ROWS, EXITS_AT_STEPS, CLASSES).data
    np.testing.assert_allclose(np.array(heat.z), [[0.0, 0.3, 0.6], [0.1, 0.4, 0.7]])
    assert (list(heat.x), list(heat.y), heat.zmin, heat.zmax) == ([0, 1, 2], ["Exit 1", "Final"], 0, 1)
    assert [list(row) for row in heat.customdata] == [["cat", "dog", "frog"], ["dog", "frog", "cat"]]
    assert (list(line.x), list(line.y)) == ([0, 1, 2], ["Final", "Exit 1", "Exit 1"])


def test_maps_share_one_scale_that_is_symmetric_about_nought() -> None:
    # Mutant: a scale per map or per row, one from the lowest to the highest value, or one that a difference stretches.
    clean = np.linspace(-1, 3, 18).reshape(2, 3, 3)
    rows = map_rows(clean, -4 * clean)
    figure = maps_figure([*rows, MapRow("difference", -50 * clean, ["", ""])], ["Exit 1", "Final"])
    axis = figure.layout.coloraxis
    assert axis.cmin == -axis.cmax
    assert 4 * 2.5 < axis.cmax <= 4 * 3
    assert {trace.coloraxis for trace in figure.data} == {"coloraxis"}
    for trace, values in itertools.zip_longest(figure.data, [*clean, *(-4 * clean), *(-50 * clean)]):
        np.testing.assert_allclose(np.array(trace.z), values, rtol=1e-6)
        assert figure.layout[f"yaxis{trace.yaxis[1:]}"].range == (2.5, -0.5)  # the top row on top
    titles = [note.text for note in figure.layout.annotations]
    assert [title for title in titles if title != "cat"] == [
        "clean", "Exit 1", "Final", "adversarial", "difference", "", "",
    ]  # fmt: skip
    assert titles.count("cat") == 4


def test_each_exit_may_have_a_scale_of_its_own_that_both_states_share() -> None:
    # Mutant: the scale of the row, or of another exit.
    clean = np.stack([np.full((3, 3), 0.1), np.full((3, 3), 5.0)])
    figure = maps_figure(map_rows(clean, -2 * clean), ["Exit 1", "Final"], own_scales=True)
    assert (figure.layout.coloraxis.cmax, figure.layout.coloraxis2.cmax) == (pytest.approx(0.2), pytest.approx(10))
    assert [trace.coloraxis for trace in figure.data] == ["coloraxis", "coloraxis2"] * 2
    assert not figure.layout.coloraxis2.showscale


def test_maps_of_nought_have_a_scale_all_the_same() -> None:
    # Mutant: ``or 1.0`` dropped: a scale from 0 to 0.
    axis = maps_figure(map_rows(np.zeros((1, 2, 2)), np.zeros((1, 2, 2))), ["Final"]).layout.coloraxis
    assert (axis.cmin, axis.cmax) == (-1, 1)


def test_exit_that_answers_is_framed_in_the_colour_of_its_state() -> None:
    # Mutant: both frames in one colour, or around the map beside.
    maps = np.ones((3, 4, 5))
    rows = [MapRow("clean", maps, [""] * 3, framed=2), MapRow("adversarial", maps, [""] * 3, framed=0)]
    clean, adversarial = maps_figure(rows, ["Exit 1", "Exit 2", "Final"]).layout.shapes
    assert (clean.xref, clean.line.color) == ("x3", theme.CLEAN)
    assert (adversarial.xref, adversarial.line.color) == ("x4", theme.ADVERSARIAL)
    assert (clean.x0, clean.x1, clean.y0, clean.y1) == (-0.5, 4.5, -0.5, 3.5)


def test_a_map_that_failed_is_a_word_and_no_picture() -> None:
    # Mutant: an even map where there is none.
    rows = map_rows(np.ones((2, 3, 3)), np.ones((2, 3, 3)), problems=["", "Final has no map: why."])
    figure = maps_figure(rows, ["Exit 1", "Final"])
    assert [trace.xaxis for trace in figure.data] == ["x", "x3"]
    assert [note.text for note in figure.layout.annotations].count("no map") == 2


def test_maps_lie_over_the_grey_picture_and_let_it_through_at_nought() -> None:
    # Mutant: pictures above the maps, or a scale that hides them.
    picture = np.zeros((3, 3, 3), dtype=np.uint8)
    figure = maps_figure(map_rows(np.ones((1, 3, 3)), np.ones((1, 3, 3)), picture=picture), ["Final"])
    assert [trace.type for trace in figure.data] == ["image", "heatmap"] * 2
    middle = [colour for place, colour in figure.layout.coloraxis.colorscale if place == 0.5]
    assert middle and all(colour.endswith(",0)") for colour in middle)


def test_ladder_draws_percent_within_each_radius_with_its_interval() -> None:
    # Mutant: shares instead of percent, or bounds drawn as distances.
    (line,) = ladder_figure(LADDER_ROWS).data
    assert list(line.x) == ["1/255", "8/255"] and list(line.y) == [25, 100]
    assert line.error_y.arrayminus[0] == pytest.approx(25 - 100 * rate(1, 4).low)
    assert line.error_y.array[1] == pytest.approx(0)
    assert [list(told) for told in line.customdata] == [[0, "1 of 4"], [1, "4 of 4"]]
