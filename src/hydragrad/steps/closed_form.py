"""The closed form of training without curvature: one scalar coefficient kappa_t a step and lane.

With the curvature dropped, the tangent of a step is a 2x2 matrix times the identity, so the whole run is
dw_T/dalpha_i = sum over the steps that drew i of kappa_t g_{t,i} / B_t, with kappa_t the `g_bar` of the
backward recursion started at w_bar = 1, b_bar = 0.

Source: Chen et al. 2021, eqs. 35-36, solved for the sequence of rates.
"""

import numpy as np
from numpy.typing import NDArray

from hydragrad.steps.histories import Lane
from hydragrad.steps.sgd import SGDCotangent, transpose_step


def coefficients(lane: Lane) -> NDArray[np.float64]:
    """Return kappa_t for every step of the run, float64, shape (steps,); 0 where the lane was skipped."""
    kappa = np.zeros(len(lane.options))
    state = SGDCotangent(1.0, 0.0)
    for step in range(len(lane.options) - 1, -1, -1):
        options = lane.options[step]
        if options is not None:
            kappa[step], state = transpose_step(state, options, first=lane.first[step])
    return kappa
