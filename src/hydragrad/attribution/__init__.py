"""Attribution: the derivative of the whole run with respect to the weight of single samples.

attribute            the public function
ensemble             the public function over independent runs
blocks               their segments in groups, each a job of its own
chunks               many queries in groups, each a job of its own
summed               what was summed, and how exactly
segments             without curvature: a sum over segments, in any order
full_precision       runs under autocast: what their derivatives are held to
routes               how directional derivatives of a replayed step are taken
sweep                the reverse sweep, with curvature or without
reverse_step         one step of it, in reverse
moments              what it needs of every step
replays              averages over replays that leave some samples out
robust_mean          the mean over replays, without those that exploded
influence            influence functions, from weights alone
losses_along         derivatives of the losses of samples along directions
self_influence       of every sample on its own loss
gradients_at         gradients of single samples at a checkpoint
tracin               sums of gradient products over checkpoints
sample_rows          projected gradients of single samples at the trained weights
at_checkpoints       what is computed at each of some checkpoints, as jobs
averaged_over        the checkpoints that an average is over
conjugate_gradients  solves with a matrix that is known by its products
nystrom              a matrix of low rank from one block of products
gauss_newton_matrix  the damped Gauss-Newton matrix of the training set
advice               which method suits the run
plan                 what run and method decide, worked out once
gradients            gradients of the queries at the run's model
part_sums            sums by part of the samples
part_probe           derivatives of single parts held to a backward pass
tally                sums of derivatives by sample
partial              unfinished attributions, saved to be resumed
"""

from hydragrad.attribution.attribute import attribute as attribute
from hydragrad.attribution.ensemble import ensemble as ensemble
from hydragrad.attribution.influence import influence as influence
from hydragrad.attribution.influence import influence_functions as influence_functions
from hydragrad.attribution.self_influence import self_influence as self_influence
from hydragrad.attribution.tracin import tracin as tracin
