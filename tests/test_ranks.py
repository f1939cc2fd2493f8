"""Rank correlation against scipy's, ties included, and where it is not defined."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from hydragrad.ranks import centred_ranks, correlation_of_ranks, rank_correlation


def test_every_row_is_what_scipy_says():
    generator = np.random.default_rng(0)
    x, y = generator.integers(5, size=(2, 3, 4, 30)).astype(float)
    found = rank_correlation(x, y)
    assert found.shape == (3, 4)
    for row in np.ndindex(3, 4):
        assert found[row] == pytest.approx(spearmanr(x[row], y[row]).statistic, rel=1e-12)


def test_ranks_that_are_at_hand_give_the_same():
    x, y = np.random.default_rng(1).standard_normal((2, 3, 20))
    assert (correlation_of_ranks(centred_ranks(x), centred_ranks(y)) == rank_correlation(x, y)).all()


def test_only_the_order_counts():
    x = np.arange(6.0)
    assert rank_correlation(x, np.exp(x)) == pytest.approx(1.0)
    assert rank_correlation(x, -(x**3)) == pytest.approx(-1.0)


def test_a_constant_has_no_order():
    assert np.isnan(rank_correlation(np.ones(4), np.arange(4.0)))
    assert np.isnan(rank_correlation([1.0], [2.0]))
