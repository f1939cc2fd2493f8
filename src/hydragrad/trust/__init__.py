"""Trust: how far numbers foretell what really happens."""

from hydragrad.trust.counterfactual import Counterfactual, counterfactual
from hydragrad.trust.verify import verify

__all__ = ["Counterfactual", "counterfactual", "verify"]
