"""Attribution: the derivative of the whole run with respect to the weight of single samples.

attribute  the public function
ensemble   the public function over independent runs
segments   without curvature: a sum over segments, in any order
sweep      with curvature: the reverse sweep
replays    averages over replays that leave some samples out
influence  influence functions, from weights alone
advice     which estimator suits the run
plan       what run and method decide, worked out once
gradients  gradients of the queries at the run's model
tally      sums of derivatives by sample
partial    unfinished attributions, saved to be resumed
"""

from hydragrad.attribution.attribute import attribute as attribute
from hydragrad.attribution.ensemble import ensemble as ensemble
from hydragrad.attribution.influence import influence_functions as influence_functions
