"""Tables of maps against their tensors, and what the figures drawn from them say."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from test_figures import MARKS, colours_in
from toys import linear_layers, linear_model, toy_images, toy_model

from core.agreement import Agreement, agreement
from core.attacks.spec import pgd
from core.attribution import attribute
from core.attribution_population import Population, PopulationSpec
from core.attribution_spec import AttributionSpec
from core.attribution_tables import (
    BELIEF,
    BETWEEN_EXITS,
    MAPS,
    POPULATION,
    belief_table,
    between_exits_table,
    maps_table,
    population_table,
)
from core.belief import measure_belief
from core.exits import ExitPolicy
from core.experiment import ExperimentSpec
from core.figures import (
    MapRow,
    attribution_population_figure,
    belief_figure,
    between_exits_figure,
    maps_figure,
    theme,
)

MODEL, IMAGES = toy_model(), toy_images(2)
MADE = attribute(MODEL, IMAGES, AttributionSpec(method="integrated_gradients", num_steps=8))
ALIKE = agreement(*MADE.maps.split(1))


def population_of(*images: tuple[int, int, int, bool, bool], exit_index: int | None = None) -> pd.DataFrame:
    """Rows of images: answered exit clean and adversarial, shift of the computed exit, right when clean and attacked.

    Image i has rank correlation i + clean exit / 10 + adversarial exit / 100, all over 10.
    """
    count = len(images)
    clean, adversarial, shift, clean_right, adversarial_right = map(list, zip(*images, strict=True))
    place = torch.arange(count)[:, None, None] + torch.arange(3)[:, None] / 10 + torch.arange(3) / 100
    experiment = ExperimentSpec("toy:test", ("toy",), ("toy",), pgd(), ExitPolicy())
    outcome = Population(
        PopulationSpec(experiment, "0", AttributionSpec()), Agreement(place.double() / 10, place.double() / 20), 1.0
    )
    decisions = pd.DataFrame(
        {
            "image_id": [f"toy/test/{index}" for index in range(count)],
            "label": 0,
            "clean_answered_exit": clean,
            "adversarial_answered_exit": adversarial,
            "exit_shift": shift,
            "attackable": clean_right,
            "succeeded": [not right for right in adversarial_right],
            "clean_prediction": [0 if right else 1 for right in clean_right],
            "adversarial_prediction": [0 if right else 1 for right in adversarial_right],
        }
    )
    return population_table(outcome, decisions, exit_index)


def test_maps_table_has_a_row_for_every_state_and_exit() -> None:
    # Mutant: states swapped, classes of the other state, or agreement with another exit.
    table = maps_table(MADE, "toy/test/0")
    assert list(table.columns) == list(MAPS.columns) and len(table) == 6
    for number, state in enumerate(("clean", "adversarial")):
        rows = table[table.state == state]
        assert rows.exit_index.tolist() == [0, 1, 2]
        assert rows.class_index.tolist() == MADE.classes[number].tolist()
        assert rows.logit.tolist() == pytest.approx(MADE.logits[number].tolist())
        assert rows["sum"].tolist() == pytest.approx(MADE.maps[number].sum(dim=(1, 2)).tolist())
        assert rows.rank_correlation.tolist() == pytest.approx(ALIKE.rank_correlation[0].diagonal().tolist())
        assert rows.overlap.tolist() == pytest.approx(ALIKE.overlap[0].diagonal().tolist())
    assert set(table.image_id) == {"toy/test/0"} and set(table.method) == {MADE.spec.label}


def test_maps_table_says_why_there_is_no_map() -> None:
    # Mutant: a problem beside the wrong exit, or numbers of agreement with nothing.
    model = linear_model(num_exits=2, image_size=4)
    linear_layers(model)[0].weight.zero_()
    made = attribute(model, toy_images(2, image_size=4), AttributionSpec())
    table = maps_table(made, "x")
    assert [bool(problem) for problem in table.problem] == [True, False] * 2
    assert table.rank_correlation.isna().tolist() == table.overlap.isna().tolist() == [True, False] * 2


def test_between_exits_table_has_every_pair_in_each_state() -> None:
    # Mutant: clean compared with adversarial, or the other exit's index in its place.
    table = between_exits_table(MADE, "x")
    assert list(table.columns) == list(BETWEEN_EXITS.columns) and len(table) == 18
    for number, state in enumerate(("clean", "adversarial")):
        maps = MADE.maps[number : number + 1]
        alike = agreement(maps, maps)
        for row in table[table.state == state].itertuples():
            assert row.rank_correlation == pytest.approx(alike.rank_correlation[0, row.exit_index, row.other_exit])
            assert row.overlap == pytest.approx(alike.overlap[0, row.exit_index, row.other_exit])


def test_belief_table_holds_every_measure() -> None:
    # Mutant: one column under another's name.
    belief = measure_belief(MODEL, IMAGES, MADE)
    table = belief_table(MADE, belief, "x")
    assert list(table.columns) == list(BELIEF.columns) and len(table) == 6
    names = {name: name for name in ("infidelity", "sensitivity", "classifier_redrawn", "all_redrawn", "change")}
    for column, field in (names | {"sum": "total"}).items():
        assert table[column].tolist() == pytest.approx(getattr(belief, field).flatten().tolist()), column


def test_population_compares_the_exits_that_answer_or_one() -> None:
    # Mutant: clean and adversarial exit swapped, computed exits for answering ones, or right for wrong.
    images = [(2, 0, -2, True, False), (1, 1, 0, True, True), (0, 2, 1, False, False)]
    table = population_of(*images)
    assert list(table.columns) == list(POPULATION.columns)
    assert table.rank_correlation.tolist() == pytest.approx([0.02, 0.111, 0.202])
    assert (table.clean_exit.tolist(), table.adversarial_exit.tolist()) == ([2, 1, 0], [0, 1, 2])
    assert table.exit_shift.tolist() == [-2, 0, 1]
    assert table.clean_right.tolist() == [True, True, False]
    assert table.adversarial_right.tolist() == [False, True, False]
    assert population_of(*images, exit_index=1).rank_correlation.tolist() == pytest.approx([0.011, 0.111, 0.211])


# Figures


def test_population_is_drawn_by_shift_and_points_carry_their_image() -> None:
    # Mutant: filled and hollow swapped, a point that carries its place in the trace, or a median of one image.
    shown = [(2, 0, -2, True, False), (2, 0, -2, True, False), (1, 1, 0, True, True), (0, 2, 1, False, False)]
    table = population_of(*shown)
    figure = attribution_population_figure(table, 3)
    traces = {trace.name: trace for trace in figure.data}
    assert set(traces) == {"◀ earlier, wrong", "= same, right", "▶ later, wrong"}
    assert (
        traces["◀ earlier, wrong"].marker.symbol == "circle-open" and traces["= same, right"].marker.symbol == "circle"
    )
    assert traces["◀ earlier, wrong"].marker.color == theme.EARLIER
    carried = {
        point[1]: (point[0], x, y)
        for trace in figure.data
        for point, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)
    }
    for row, image in enumerate(table.to_dict("records")):
        number, x, y = carried[image["image_id"]]
        assert number == row and abs(x - image["exit_shift"]) < 0.5 and y == image["rank_correlation"]
    (median,) = figure.layout.shapes
    assert (median.x0, median.x1) == (-2.4, -1.6)
    assert median.y0 == median.y1 == pytest.approx(table.rank_correlation[:2].median())
    assert len({x for _, x, _ in carried.values()}) == 4, "no image hides another"


def test_images_without_two_maps_are_not_drawn() -> None:
    # Mutant: NaN drawn at nought.
    table = population_of((0, 0, 0, True, True), (1, 1, 0, True, False))
    table.loc[0, ["rank_correlation", "overlap"]] = math.nan
    assert sum(len(trace.x) for trace in attribution_population_figure(table, 3).data) == 1


def test_between_exits_figure_shows_percent_of_shared_pixels() -> None:
    # Mutant: rank correlation on a scale of shares, or exits in another order.
    table = between_exits_table(MADE, "x")
    rows = table[table.state == "clean"]
    heat = between_exits_figure(rows, 3).data[0]
    expected = 100 * rows.pivot(index="exit_index", columns="other_exit", values="overlap").to_numpy()
    np.testing.assert_allclose(np.array(heat.z, dtype=float), expected)
    assert list(heat.x) == list(heat.y) == ["1", "2", "Final"] and (heat.zmin, heat.zmax) == (0, 100)
    some = rows[rows.exit_index.isin([0, 2]) & rows.other_exit.isin([0, 2])]
    assert list(between_exits_figure(some, 3).data[0].x) == ["1", "Final"]


def test_belief_figure_draws_each_measure_of_each_state() -> None:
    # Mutant: a panel with another's numbers, or states swapped.
    table = belief_table(MADE, measure_belief(MODEL, IMAGES, MADE), "x")
    figure = belief_figure(table, 3)
    columns = ["infidelity", "sensitivity", "classifier_redrawn", "all_redrawn"]
    assert len(figure.data) == 8
    for number, trace in enumerate(figure.data):
        rows = table[table.state == trace.name]
        assert list(trace.y) == rows[columns[number // 2]].tolist()
    assert list(figure.layout.xaxis.ticktext) == ["1", "2", "Final"]


@pytest.mark.parametrize("own_scales", [False, True])
def test_what_is_no_map_or_no_number_has_no_say_in_the_scale(own_scales: bool) -> None:
    # Mutants: a scale that ends at NaN; one stretched by an even map that is not drawn; a map beside it dropped too.
    clean, adversarial = np.full((2, 3, 3, 3), 2.0)
    clean[0, 1, 1], clean[2] = math.nan, 90
    adversarial[1] = math.inf
    rows = [
        MapRow("clean", clean, [""] * 3, problems=["", "", "Exit 3 has no map: why."]),
        MapRow("adversarial", adversarial, [""] * 3),
    ]
    layout = maps_figure(rows, ["Exit 1", "Exit 2", "Final"], own_scales=own_scales).layout
    axes = [layout[axis] for axis in ("coloraxis", "coloraxis2", "coloraxis3")[: 3 if own_scales else 1]]
    assert [(axis.cmin, axis.cmax) for axis in axes] == [(-2, 2)] * len(axes)
    nothing = [MapRow("clean", clean * math.nan, [""] * 3)]
    assert maps_figure(nothing, ["Exit 1", "Exit 2", "Final"], own_scales=own_scales).layout.coloraxis.cmax == 1


def test_belief_figure_has_room_for_every_rank_correlation() -> None:
    # Mutant: an axis that ends before −1, below which points are cut off without a word.
    table = belief_table(MADE, measure_belief(MODEL, IMAGES, MADE), "x")
    layout = belief_figure(table.assign(classifier_redrawn=-1.0, all_redrawn=1.0), 3).layout
    for axis in (layout.yaxis3, layout.yaxis4):
        assert axis.range[0] < -1 and axis.range[1] > 1


def test_figures_use_no_colour_but_those_that_stand_out_on_both_backgrounds() -> None:
    # Mutant: a colour typed in.
    belief = belief_table(MADE, measure_belief(MODEL, IMAGES, MADE), "x")
    figures = [
        attribution_population_figure(population_of((0, 0, 1, True, True), (1, 1, 0, True, False)), 3),
        belief_figure(belief, 3),
        between_exits_figure(between_exits_table(MADE, "x").query("state == 'clean'"), 3),
    ]
    assert {colour for figure in figures for colour in colours_in(figure.to_plotly_json())} <= set(MARKS.values())
