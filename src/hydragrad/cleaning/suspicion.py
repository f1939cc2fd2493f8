"""One number from all that speaks against a label: how training went, contributions, influence, unseeing models.

    suspicion = z(margin) + 0.5 max(0, z(-contribution) - 0.5) + 0.1 z(-influence) + 0.1 z(out-of-fold margin)

z are normal scores (the normal quantile of a sample's rank), so that signals of any scale can be added; margins are
of probabilities: the largest other label's less the given one's. Right labels are learned before wrong ones, so the
mean over the run says more than its end. Wrong labels that agree with one another are learned like right ones: there
only what they do to held-out data speaks. That a sample helps does not make its label right, so contributions count
where they harm. Influence at the trained weights tells rare but right labels from wrong ones.

The weights were chosen on seed 0 of twelve settings, by mean AUC over a grid, and left alone since: flips (20 and
50 %), swaps (30 %), clusters, copies and patches in MNIST (10,000 samples), flips (20 and 40 %), swaps, clusters and
patches in digits (1,000), and the errors in MNIST's own test set. The last held the weight of contributions down: among
labels that are nearly all right, those that harm most are rare rather than wrong. docs/results.md has other seeds and
data.

Source: mean over training in the spirit of Pleiss et al., NeurIPS 2020; normal scores: van der Waerden.
"""

import numpy as np
import torch
from torch import Tensor

from hydragrad.cleaning.signals import Signals

CONTRIBUTION, FROM, INFLUENCE, OUT_OF_FOLD = 0.5, 0.5, 0.1, 0.1
"""Weights, and from where a contribution counts, in normal scores."""


def suspicion(signals: Signals, contributions: Tensor, influence: Tensor | None = None) -> Tensor:
    """How suspect each label is, float64 (samples,); higher is more suspect, only the order has a meaning.

    Args:
        signals: What training says of the samples.
        contributions: Of the same samples to a loss on held-out data whose labels are right, (samples,).
        influence: The same by influence functions, (samples,).
    """
    found = normal_scores(against(signals.over_training, signals.given))
    found += CONTRIBUTION * (normal_scores(-contributions) - FROM).clamp(min=0)
    if influence is not None:
        found += INFLUENCE * normal_scores(-influence)
    if signals.out_of_fold is not None:
        found += OUT_OF_FOLD * normal_scores(against(signals.out_of_fold, signals.given))
    return found


def against(probabilities: Tensor, given: Tensor) -> Tensor:
    """Largest probability of another label less that of the given one, (samples,); positive speaks against it."""
    given = given[:, None]
    return probabilities.scatter(1, given, -torch.inf).max(1).values - probabilities.gather(1, given)[:, 0]


def normal_scores(values: Tensor) -> Tensor:
    """Normal quantiles of the ranks, float64; ties share theirs."""
    from scipy.stats import norm, rankdata  # slow to import

    ranks = rankdata(values.double().numpy())
    return torch.from_numpy(np.asarray(norm.ppf((ranks - 0.5) / len(ranks))))
