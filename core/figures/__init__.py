"""Plotly figures from tidy tables, and the one theme they share."""

from core.figures.attribution import saliency_figure
from core.figures.calibration import calibration_figure, reliability_figure
from core.figures.confidence import confidence_figure
from core.figures.confusion import confusion_figure
from core.figures.curve import StaticPoint, curve_figure
from core.figures.exits import model_exits_figure
from core.figures.ladder import ladder_figure
from core.figures.matrix import matrix_figure
from core.figures.shift import shift_figure
from core.figures.steps import steps_figure
from core.figures.transfer import transfer_figure

__all__ = [
    "StaticPoint",
    "calibration_figure",
    "confidence_figure",
    "confusion_figure",
    "curve_figure",
    "ladder_figure",
    "matrix_figure",
    "model_exits_figure",
    "reliability_figure",
    "saliency_figure",
    "shift_figure",
    "steps_figure",
    "transfer_figure",
]
