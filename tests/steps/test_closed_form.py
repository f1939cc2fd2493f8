"""The closed form: coefficients are entries of products of 2x2 matrices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydragrad.steps import History, Move, coefficients, histories
from hydragrad.steps.sgd import RULE, SGDOptions
from steps.test_sgd import options


def matrices(move: Move) -> tuple[np.ndarray, np.ndarray]:
    """(w, b) goes to A (w, b) + c g; written out from the definition of the step."""
    step: SGDOptions = move.options
    sign = -1.0 if step.maximize else 1.0
    gradient = np.array([step.weight_decay, 0.0, sign])  # in terms of (w, b, g)
    w, b = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    if step.momentum == 0:
        update = gradient
    else:
        b = gradient if move.age else step.momentum * b + (1 - step.dampening) * gradient
        update = gradient + step.momentum * b if step.nesterov else b
    w = w - step.lr * update
    return np.stack([w[:2], b[:2]]), np.array([w[2], b[2]])


def history_of(*steps: SGDOptions | None, creates_at: int | None = None) -> History:
    moves = [None if each is None else Move(each, number == creates_at) for number, each in enumerate(steps)]
    return History(("w",), RULE, tuple(moves))


@given(st.lists(st.none() | options(), min_size=1, max_size=7), st.booleans())
def test_coefficients_are_products_of_matrices(steps, is_warm):
    (history,) = histories(RULE, {"w": steps}, {"w": is_warm})
    expected = []
    for step in range(len(steps)):
        effect = np.zeros(2)
        for later, move in enumerate(history.moves):
            if move is not None:
                a, c = matrices(move)
                effect = a @ effect + (c if later == step else 0)
        expected.append(effect[0])
    np.testing.assert_allclose(coefficients(history), expected, rtol=1e-12, atol=1e-14)


def test_plain_descent_with_decay_is_the_papers_product():
    """kappa_t = -eta_t prod over k > t of (1 - eta_k lambda): the appendix holds for any sequence of rates."""
    rates, decay = [0.5, 0.2, 0.1, 0.4], 0.3
    history = history_of(*(SGDOptions(lr=r, weight_decay=decay) for r in rates))
    expected = [-r * np.prod([1 - k * decay for k in rates[t + 1 :]]) for t, r in enumerate(rates)]
    assert coefficients(history).tolist() == pytest.approx(expected, rel=1e-14)


def test_momentum_is_a_geometric_sum():
    history = history_of(*[SGDOptions(lr=0.1, momentum=0.9)] * 5, creates_at=0)
    expected = [-0.1 * sum(0.9**k for k in range(5 - t)) for t in range(5)]
    assert coefficients(history).tolist() == pytest.approx(expected, rel=1e-14)


def test_a_long_run_does_not_underflow():
    history = history_of(*[SGDOptions(lr=0.1, momentum=0.9)] * 20_000, creates_at=0)
    kappa = coefficients(history)
    assert kappa.shape == (20_000,) and kappa[0] == pytest.approx(-1.0)


def test_skipped_steps_have_none():
    step = SGDOptions(lr=0.1, momentum=0.5)
    history = history_of(None, step, None, step, creates_at=1)
    assert coefficients(history)[[0, 2]].tolist() == [0, 0]
    # What was skipped does not let the buffer decay either.
    together = history_of(step, step, creates_at=0)
    assert coefficients(history)[[1, 3]].tolist() == coefficients(together).tolist()
