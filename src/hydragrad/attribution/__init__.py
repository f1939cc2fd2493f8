"""Attribution: the derivative of the whole run with respect to the weight of single samples.

attribute            the public function
ensemble             the public function over independent runs
segments             without curvature: a sum over segments, in any order
sweep                with curvature: the reverse sweep
replays              averages over replays that leave some samples out
influence            influence functions, from weights alone
gauss_newton_matrix  the damped Gauss-Newton matrix of the training set
advice               which estimator suits the run
plan                 what is asked of which run, and the tally of the answers
resumable            unfinished attributions, saved in order to be resumed
"""

from hydragrad.attribution.attribute import attribute as attribute
from hydragrad.attribution.ensemble import ensemble as ensemble
from hydragrad.attribution.influence import influence as influence
