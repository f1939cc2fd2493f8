"""Interval products against plain multiplication, and step maps against the tangent step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydragrad.steps import IntervalProducts, Move, Tangent, step_map
from hydragrad.steps.sgd import RULE, SGDOptions

OPTIONS = [
    SGDOptions(lr=0.1),
    SGDOptions(lr=0.1, weight_decay=0.02),
    SGDOptions(lr=0.1, momentum=0.9, weight_decay=0.02),
    SGDOptions(lr=0.1, momentum=0.9, dampening=0.3),
    SGDOptions(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.02),
    SGDOptions(lr=0.1, momentum=0.9, maximize=True, weight_decay=0.02),
]


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_step_map_is_the_tangent_step(options: SGDOptions, first: bool) -> None:
    move = Move(options, first and options.momentum != 0)
    matrix, injection = step_map(RULE, move)
    w_dot, b_dot, g_dot = 0.7, 0.0 if first else -0.4, 1.3
    expected = RULE.tangent(Tangent(w_dot, (b_dot,)), g_dot, move)
    mapped = matrix @ [w_dot, b_dot] + injection * g_dot
    assert mapped[0] == pytest.approx(expected.w_dot, rel=1e-14)
    assert mapped[1] == pytest.approx(expected.states[0], rel=1e-14)


def test_a_skipped_history_stays_as_it_is() -> None:
    matrix, injection = step_map(RULE, None)
    assert (matrix == np.eye(2)).all() and (injection == 0).all()


@given(steps=st.integers(0, 150), count=st.integers(1, 3), seed=st.integers(0, 10))
def test_products_of_every_interval(steps: int, count: int, seed: int) -> None:
    random = np.random.default_rng(seed).normal(size=(steps, count, 2, 2)) * 0.7
    products = IntervalProducts(count)
    for matrices in random:
        products.append(matrices)
    expected = np.empty((steps + 1, count, 2, 2))
    expected[steps] = np.eye(2)
    for start in range(steps - 1, -1, -1):
        expected[start] = expected[start + 1] @ random[start]
    np.testing.assert_allclose(products.since(range(steps + 1)), expected, rtol=1e-9, atol=1e-12)


def test_products_underflow_to_zero_and_nothing_else() -> None:
    products = IntervalProducts(1)
    matrix, _ = step_map(RULE, Move(SGDOptions(lr=0.1, momentum=0.9, weight_decay=0.5), False))
    for _ in range(20_000):
        products.append(matrix[None])
    found = products.since([0, 19_999])
    assert np.isfinite(found).all() and abs(found[0]).max() < 1e-200
    np.testing.assert_array_equal(found[1, 0], matrix)


def test_split_histories_continue_that_of_their_parent() -> None:
    random = np.random.default_rng(0).normal(size=(70, 2, 2, 2))
    whole = IntervalProducts(2)
    for matrices in random[:40]:
        whole.append(matrices)
    split = whole.split([0, 1, 1])
    for matrices in random[40:]:
        whole.append(matrices)
        split.append(matrices[[0, 1, 1]])
    starts = [0, 13, 39, 40, 69]
    np.testing.assert_array_equal(split.since(starts), whole.since(starts)[:, [0, 1, 1]])
