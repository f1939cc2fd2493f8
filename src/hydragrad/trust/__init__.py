"""Trust: how well numbers predict what really happens.

counterfactual  the same run again, without some samples, with other weights or other labels
verify          predicted against actual changes
smoothness      whether derivatives of a run can predict removals, and which method suits
second_moments  how much of Adam's steps is a sign, and which smoothing predicts real changes
error           the error of dropping the curvature, along the run
bounds          bounds on that error
lds             the linear datamodeling score
bank            many retrainings of a run, in one small file
retrainings     that file: what was left out, and what the queries were then
evaluate        the contributions of any library, held against a bank
evaluation      what that found
matrices        score matrices of any library, in the order of a bank
brittleness     what queries lose without the samples that help them most
overlap         how far two rankings agree at their ends
fit             how predicted changes have to be scaled
"""

from hydragrad.trust.bank import bank as bank
from hydragrad.trust.brittleness import Brittleness, brittleness
from hydragrad.trust.counterfactual import Counterfactual, counterfactual
from hydragrad.trust.error import ApproximationError, approximation_error
from hydragrad.trust.evaluate import evaluate
from hydragrad.trust.evaluation import Evaluation
from hydragrad.trust.overlap import Overlap, top_overlap
from hydragrad.trust.retrainings import Bank
from hydragrad.trust.second_moments import SecondMoments, SmoothingProbe
from hydragrad.trust.smoothness import Smoothness, smoothness
from hydragrad.trust.verify import verify

__all__ = [
    "ApproximationError",
    "Bank",
    "Brittleness",
    "Counterfactual",
    "Evaluation",
    "Overlap",
    "SecondMoments",
    "SmoothingProbe",
    "Smoothness",
    "approximation_error",
    "bank",
    "brittleness",
    "counterfactual",
    "evaluate",
    "smoothness",
    "top_overlap",
    "verify",
]
