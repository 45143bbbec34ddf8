"""Plotly figures from tidy tables, and the one theme they share."""

from core.figures.attribution import saliency_figure
from core.figures.calibration import calibration_figure, reliability_figure
from core.figures.classes import top_classes_figure
from core.figures.confidence import confidence_figure
from core.figures.confusion import confusion_figure
from core.figures.curve import StaticPoint, curve_figure
from core.figures.directions import directions_figure
from core.figures.efficiency import cost_change_figure, share_out_figure
from core.figures.exit_transfer import exit_transfer_figure
from core.figures.exits import model_exits_figure
from core.figures.flow import exit_flow_figure, flow_figure
from core.figures.ladder import ladder_figure
from core.figures.matrix import matrix_figure
from core.figures.shift import shift_figure
from core.figures.spread import confidence_spread_figure
from core.figures.steps import exits_made_at_figure, steps_figure
from core.figures.transfer import transfer_figure

__all__ = [
    "StaticPoint",
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
    "matrix_figure",
    "model_exits_figure",
    "reliability_figure",
    "saliency_figure",
    "share_out_figure",
    "shift_figure",
    "steps_figure",
    "top_classes_figure",
    "transfer_figure",
]
