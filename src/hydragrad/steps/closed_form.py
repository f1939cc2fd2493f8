"""The closed form of training without curvature: one scalar coefficient kappa_t a step and history.

Where a rule has a closed form, the tangent of a step without curvature is a small matrix times the identity, so the
whole run is dw_T/dalpha_i = sum over the steps that sampled i of kappa_t g_{t,i} / B_t, with kappa_t the `g_bar` of the
backward recursion started at w_bar = 1 and all states 0.

Source: Chen et al. 2021, eqs. 35-36, solved for the sequence of rates.
"""

import numpy as np
from numpy.typing import NDArray

from hydragrad.steps.histories import History
from hydragrad.steps.rule import Cotangent, Move, StepRule


def coefficients(history: History, ends: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Return kappa_t for every step of the run, float64, shape (steps,); 0 where the history was skipped.

    Args:
        history: Of the parameters.
        ends: Share of the weights after each step in what is differentiated, (steps,): all of the last if None.
    """
    kappa = np.zeros(len(history.moves))
    state = Cotangent(1.0 if ends is None else 0.0, (0.0,) * len(history.states))
    for step in range(len(history.moves) - 1, -1, -1):
        if ends is not None:
            state = state._replace(w_bar=state.w_bar + float(ends[step]))
        move = history.moves[step]
        if move is not None:
            kappa[step], state = history.rule.transpose(state, move)
    return kappa


def step_map(rule: StepRule, move: Move | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One step as (w_dot, states) -> matrix @ (w_dot, states) + injection * gradient.

    Args:
        rule: Has a closed form.
        move: What the step did; None where the parameters were skipped.

    Returns:
        Matrix (1 + states, 1 + states) and injection (1 + states,), float64.
    """
    assert rule.closed_form is not None
    if move is None:
        size = 1 + rule.closed_form.states
        return np.eye(size), np.zeros(size)
    return rule.closed_form.step_map(move)
