"""Trust: how far numbers foretell what really happens."""

from hydragrad.trust.counterfactual import Counterfactual, counterfactual
from hydragrad.trust.error import ApproximationError, approximation_error
from hydragrad.trust.smoothness import Smoothness, smoothness
from hydragrad.trust.verify import verify

__all__ = [
    "ApproximationError",
    "Counterfactual",
    "Smoothness",
    "approximation_error",
    "counterfactual",
    "smoothness",
    "verify",
]
