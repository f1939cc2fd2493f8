"""The closed form: coefficients are entries of products of 2x2 matrices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydragrad.steps import Lane, SGDOptions, coefficients, lanes
from steps.test_sgd import options


def matrices(step: SGDOptions, *, first: bool) -> tuple[np.ndarray, np.ndarray]:
    """(w, b) goes to A (w, b) + c g; written out from the definition of the step."""
    sign = -1.0 if step.maximize else 1.0
    gradient = np.array([step.weight_decay, 0.0, sign])  # in terms of (w, b, g)
    w, b = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    if step.momentum == 0:
        update = gradient
    else:
        b = gradient if first else step.momentum * b + (1 - step.dampening) * gradient
        update = gradient + step.momentum * b if step.nesterov else b
    w = w - step.lr * update
    return np.stack([w[:2], b[:2]]), np.array([w[2], b[2]])


@given(st.lists(st.none() | options(), min_size=1, max_size=7), st.booleans())
def test_coefficients_are_products_of_matrices(history, is_warm):
    (lane,) = lanes({"w": history}, frozenset({"w"} if is_warm else ()))
    expected = []
    for step in range(len(history)):
        effect = np.zeros(2)
        for later, each in enumerate(history):
            if each is not None:
                a, c = matrices(each, first=lane.first[later])
                effect = a @ effect + (c if later == step else 0)
        expected.append(effect[0])
    np.testing.assert_allclose(coefficients(lane), expected, rtol=1e-12, atol=1e-14)


def test_plain_descent_with_decay_is_the_papers_product():
    """kappa_t = -eta_t prod over k > t of (1 - eta_k lambda): the appendix holds for any sequence of rates."""
    rates, decay = [0.5, 0.2, 0.1, 0.4], 0.3
    lane = Lane(("w",), tuple(SGDOptions(lr=r, weight_decay=decay) for r in rates), (False,) * 4)
    expected = [-r * np.prod([1 - k * decay for k in rates[t + 1 :]]) for t, r in enumerate(rates)]
    assert coefficients(lane).tolist() == pytest.approx(expected, rel=1e-14)


def test_momentum_is_a_geometric_sum():
    lane = Lane(("w",), (SGDOptions(lr=0.1, momentum=0.9),) * 5, (True, *[False] * 4))
    expected = [-0.1 * sum(0.9**k for k in range(5 - t)) for t in range(5)]
    assert coefficients(lane).tolist() == pytest.approx(expected, rel=1e-14)


def test_a_long_run_does_not_underflow():
    lane = Lane(("w",), (SGDOptions(lr=0.1, momentum=0.9),) * 20_000, (True, *[False] * 19_999))
    kappa = coefficients(lane)
    assert kappa.shape == (20_000,) and kappa[0] == pytest.approx(-1.0)


def test_skipped_steps_have_none():
    step = SGDOptions(lr=0.1, momentum=0.5)
    lane = Lane(("w",), (None, step, None, step), (False, True, False, False))
    assert coefficients(lane)[[0, 2]].tolist() == [0, 0]
    # What was skipped does not let the buffer decay either.
    together = Lane(("w",), (step, step), (True, False))
    assert coefficients(lane)[[1, 3]].tolist() == coefficients(together).tolist()
