"""Trust: does the number predict what happens?

counterfactual  the same run once more, without some samples
"""

from hydragrad.trust.counterfactual import Counterfactual as Counterfactual
from hydragrad.trust.counterfactual import counterfactual as counterfactual
