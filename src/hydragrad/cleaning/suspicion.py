"""One number from all that speaks against a label: the way the run went, contributions, models that never saw it.

    suspicion = z(margin) + 0.1 z(contribution) + 0.1 z(out-of-fold margin)

z are normal scores (the normal quantile of a sample's rank), so that signals of any scale can be added; margins are
of probabilities: the largest other label's less the given one's. Right labels are learned before wrong ones, so the
mean over the run says more than its end; contributions tell apart what stays: rare but right, or harmful.

The weights were chosen on seed 0 of MNIST (10,000 samples: 20 and 50 % flips, 30 % swaps) and of digits (1,000: 40 %
flips, 30 % swaps), by mean AUC over a grid, and left alone since; docs/results.md has other seeds and data.

Source: mean over training in the spirit of Pleiss et al., NeurIPS 2020; normal scores: van der Waerden.
"""

import numpy as np
import torch
from torch import Tensor

from hydragrad.cleaning.signals import Signals

CONTRIBUTION, OUT_OF_FOLD = 0.1, 0.1


def suspicion(signals: Signals, contributions: Tensor) -> Tensor:
    """How suspect each label is, float64 (samples,); higher is more suspect, only the order has a meaning.

    Args:
        signals: What training says of the samples.
        contributions: Of the same samples to a loss on held-out data whose labels are right, (samples,).
    """
    found = normal_scores(against(signals.over_training, signals.given))
    found += CONTRIBUTION * normal_scores(-contributions)
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
