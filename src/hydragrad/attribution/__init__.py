"""Attribution: the derivative of the whole run with respect to the weight of single samples.

attribute  the public function
ensemble   the public function over independent runs
segments   without curvature: a sum over segments, in any order
sweep      with curvature: the reverse sweep
history    the run's optimizer history, by lanes
influence  influence functions, from weights alone
advice     which estimator suits the run
job        what is asked of which run, and the tally of the answers
partial    unfinished attributions, kept to go on
"""

from hydragrad.attribution.attribute import attribute as attribute
from hydragrad.attribution.ensemble import ensemble as ensemble
from hydragrad.attribution.influence import influence_functions as influence_functions
