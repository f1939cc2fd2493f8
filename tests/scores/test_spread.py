"""The spread of repeats: against scipy, and against means that were really taken."""

import math

import pytest
import torch
from scipy.stats import spearmanr

from hydragrad.scores.spread import agreement_of_means, mean_and_standard_error, rank_agreement, runs_needed


def repeats(runs, noise, generator):
    """What the runs share, and what each has of its own."""
    shared = torch.randn(2, 400, generator=generator, dtype=torch.float64)
    return shared + noise * torch.randn(runs, 2, 400, generator=generator, dtype=torch.float64)


def test_errors_are_those_of_the_mean(generator):
    x = repeats(5, 1.0, generator)
    mean, error = mean_and_standard_error(x)
    assert torch.allclose(mean, x.sum(0) / 5)
    assert torch.allclose(error, ((x - mean).square().sum(0) / 4 / 5).sqrt())


def test_agreement_is_the_mean_over_pairs(generator):
    x = repeats(4, 2.0, generator)
    for query in range(2):
        pairs = [spearmanr(x[i, query], x[j, query]).statistic for i in range(4) for j in range(i)]
        assert rank_agreement(x)[query].item() == pytest.approx(sum(pairs) / 6)
    assert math.isnan(rank_agreement(torch.ones(2, 1, 4))[0])


def test_means_agree_as_predicted(generator):
    x = repeats(60, 2.0, generator)
    single = rank_agreement(x).mean().item()
    means = x.reshape(6, 10, 2, 400).mean(1)
    assert single < 0.3
    assert agreement_of_means(single, 10) == pytest.approx(rank_agreement(means).mean().item(), abs=0.03)


def test_the_number_of_runs_is_the_smallest_that_does():
    assert runs_needed(0.5, 0.9) == 9
    assert runs_needed(0.95, 0.9) == 1
    assert runs_needed(0.0, 0.9) is None
    for r in (0.1, 0.33, 0.7):
        n = runs_needed(r, 0.9)
        assert agreement_of_means(r, n) >= 0.9 - 1e-6 > agreement_of_means(r, n - 1)
