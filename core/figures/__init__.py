"""Plotly figures from tidy tables, and the one theme they share."""

from core.figures.agreement import attribution_population_figure, between_exits_figure
from core.figures.attribution import MapRow, maps_figure
from core.figures.belief import belief_figure
from core.figures.calibration import calibration_figure, reliability_figure
from core.figures.classes import top_classes_figure
from core.figures.confidence import BesideIt, confidence_figure
from core.figures.confusion import confusion_figure
from core.figures.curve import StaticPoint, curve_figure
from core.figures.directions import directions_figure
from core.figures.efficiency import cost_change_figure, share_out_figure
from core.figures.exit_transfer import exit_transfer_figure
from core.figures.exits import model_exits_figure
from core.figures.flow import exit_flow_figure, flow_figure
from core.figures.ladder import ladder_figure
from core.figures.making import made_exits_figure, making_figure, stopping_figure
from core.figures.matrix import matrix_figure
from core.figures.price import price_figure, remedies_figure
from core.figures.road import Lane, road_figure
from core.figures.shift import shift_figure
from core.figures.spread import confidence_spread_figure
from core.figures.steps import exits_made_at_figure, steps_figure
from core.figures.transfer import transfer_figure

__all__ = [
    "BesideIt",
    "Lane",
    "MapRow",
    "StaticPoint",
    "attribution_population_figure",
    "belief_figure",
    "between_exits_figure",
    "calibration_figure",
    "confidence_figure",
    "confidence_spread_figure",
    "confusion_figure",
    "cost_change_figure",
    "curve_figure",
    "directions_figure",
    "exit_flow_figure",
    "exit_transfer_figure",
    "exits_made_at_figure",
    "flow_figure",
    "ladder_figure",
    "made_exits_figure",
    "making_figure",
    "maps_figure",
    "matrix_figure",
    "model_exits_figure",
    "price_figure",
    "reliability_figure",
    "remedies_figure",
    "road_figure",
    "share_out_figure",
    "shift_figure",
    "steps_figure",
    "stopping_figure",
    "top_classes_figure",
    "transfer_figure",
]
