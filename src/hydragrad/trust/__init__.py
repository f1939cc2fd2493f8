"""Trust: how well numbers predict what really happens.

counterfactual  the same run again, without some samples, with other weights or other labels
verify          predicted against actual changes
smoothness      whether derivatives of a run can predict removals, and which method suits
second_moments  how much of Adam's steps is a sign, and which smoothing predicts real changes
error           the error of dropping the curvature, along the run
bounds          bounds on that error
lds             the linear datamodeling score
"""

from hydragrad.trust.counterfactual import Counterfactual, counterfactual
from hydragrad.trust.error import ApproximationError, approximation_error
from hydragrad.trust.second_moments import SecondMoments, SmoothingProbe
from hydragrad.trust.smoothness import Smoothness, smoothness
from hydragrad.trust.verify import verify

__all__ = [
    "ApproximationError",
    "Counterfactual",
    "SecondMoments",
    "SmoothingProbe",
    "Smoothness",
    "approximation_error",
    "counterfactual",
    "smoothness",
    "verify",
]
