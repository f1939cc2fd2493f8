"""Optimizer steps: tangent and transpose of each, side by side; pure functions.

sgd           torch.optim.SGD
histories     parameters that share one optimizer history
closed_form   the closed form without curvature: kappa_t
intervals     the same, lazily: the steps a sample sat out as one 2x2 product
from_torch    reads torch optimizers, refuses the unknown
"""

from hydragrad.steps.closed_form import coefficients as coefficients
from hydragrad.steps.from_torch import read_group as read_group
from hydragrad.steps.from_torch import require_supported as require_supported
from hydragrad.steps.from_torch import sgd_options as sgd_options
from hydragrad.steps.histories import Lane as Lane
from hydragrad.steps.histories import lanes as lanes
from hydragrad.steps.intervals import IntervalProducts as IntervalProducts
from hydragrad.steps.intervals import step_map as step_map
from hydragrad.steps.sgd import SGDCotangent as SGDCotangent
from hydragrad.steps.sgd import SGDOptions as SGDOptions
from hydragrad.steps.sgd import SGDTangent as SGDTangent
from hydragrad.steps.sgd import tangent_step as tangent_step
from hydragrad.steps.sgd import transpose_step as transpose_step
