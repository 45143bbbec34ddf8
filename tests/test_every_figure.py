"""What holds of every figure: one look, axes that can be read, and points that say what they stand for."""

import plotly.graph_objects as go
import pytest
import test_figures
import test_model_figures
import test_shift_figures
from test_transfer import COUNTS, four_cards, transfer_of

from core.figures import directions_figure, ladder_figure, model_exits_figure, reliability_figure, share_out_figure
from core.figures.theme import HEIGHT, QUIET
from core.shift_tables import share_out_table
from core.transfer import directions_table

LABELS = dict.fromkeys(four_cards(), "")
DIRECTIONS = directions_table(transfer_of(COUNTS), four_cards())


def all_figures() -> list[go.Figure]:
    families = (test_figures, test_model_figures, test_shift_figures)
    directions = directions_figure(DIRECTIONS, LABELS, {True: "", False: ""})
    return [*(figure for family in families for figure in family.all_figures()), directions]


def axes_of(figure: go.Figure) -> dict[str, dict]:
    layout = figure.to_plotly_json()["layout"]
    return {name: axis for name, axis in layout.items() if name[1:5] == "axis" and axis.get("visible", True)}


def test_axes_have_one_colour_in_both_themes() -> None:
    # Mutant: a title set later by its text alone, which takes the theme's colour and leaves the others behind.
    for figure in all_figures():
        for name, axis in axes_of(figure).items():
            assert axis["tickfont"]["color"] == QUIET, (figure.data[0], name)
            title = axis.get("title", {})
            assert not title.get("text") or title["font"]["color"] == QUIET, (title, name)


def test_shares_on_axes_are_said_in_percent() -> None:
    # Mutant: a suffix where the ticks are given, which Plotly leaves away.
    for figure in all_figures():
        for axis in axes_of(figure).values():
            assert not (axis.get("ticksuffix") and axis.get("tickvals")), axis
            if tuple(axis.get("tickvals", ())) == (0, 25, 50, 75, 100):
                assert list(axis["ticktext"]) == ["0 %", "25 %", "50 %", "75 %", "100 %"]


def test_rates_in_matrices_have_one_scale_and_numbers_that_can_be_read() -> None:
    # Mutant: another colour scale, one that follows the data, or small numbers.
    for figure in all_figures():
        for trace in figure.data:
            if isinstance(trace, go.Heatmap) and not trace.coloraxis:  # signed maps have an axis of their own
                named = go.Heatmap(colorscale="Cividis").colorscale
                assert trace.colorscale == named and trace.zmin == 0 and trace.zmax in (1, 100)
                assert trace.texttemplate is None or trace.textfont.size >= 13


def test_charts_are_of_one_height_where_nothing_asks_for_another() -> None:
    # Mutant: Plotly's own 450 pixels.
    assert all(figure.layout.height for figure in all_figures())
    assert HEIGHT in {figure.layout.height for figure in all_figures()}


def carried(figure: go.Figure) -> list[list]:
    return [list(point) for trace in figure.data if trace.customdata is not None for point in trace.customdata]


@pytest.mark.parametrize(
    ("figure", "points"),
    [
        (ladder_figure(test_figures.LADDER_ROWS), [[0, "1 of 4"], [1, "4 of 4"]]),
        (
            directions_figure(DIRECTIONS, LABELS, {True: "", False: ""}),
            DIRECTIONS[DIRECTIONS.num_images > 0][["source", "target"]].to_numpy().tolist(),
        ),
    ],
    ids=["ladder", "directions"],
)
def test_points_carry_what_they_stand_for(figure: go.Figure, points: list[list]) -> None:
    # Mutant: points of another row, or that answer no click.
    assert figure.layout.clickmode == "event+select"
    assert sorted(map(str, carried(figure))) == sorted(map(str, points))


def test_points_of_exits_and_bins_say_which_they_are() -> None:
    # Mutants: exits counted from one, bins of the other series, the origin of the curves taken for an exit.
    exits = carried(model_exits_figure(test_model_figures.EXITS, "early-exit"))
    assert [point[:2] for point in exits] == [[0, False], [1, False], [2, False], [0, True], [2, True]]
    bins = carried(reliability_figure(test_model_figures.RELIABILITY, "early-exit"))
    first, second = test_model_figures.AMONG
    assert [(point[0], round(15 * point[1])) for point in bins] == [(first, 7), (first, 13), (second, 13)]
    rows = test_shift_figures
    out = carried(share_out_figure(share_out_table(rows.DECISIONS, rows.COSTS), rows.EFFICIENCY))
    assert [point[:2] for point in out[:4]] == [["clean", -1], ["clean", 0], ["clean", 1], ["clean", 2]]
