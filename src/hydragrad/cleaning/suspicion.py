"""One number from all evidence against a label: training, contributions, influence, models that never saw the sample.

    suspicion = z(margin) + 0.35 max(0, z(-contribution) - 0.5) + a z(-influence) + 0.1 z(out-of-fold margin)
    a = 8 s, at least 0.1 and at most 0.5; s: the share of labels that training disagrees with

z are normal scores (the normal quantile of a sample's rank), so that signals of any scale can be added; margins are
of probabilities: the largest other label's minus the own one's. Right labels are learned before wrong ones, so the
mean over the run shows more than its end, and its beginning most where wrong labels agree with one another: these are
learned like right ones, but later, and then only their effect on held-out data shows them. The mean is therefore over
checkpoints that are dense at the start of the run. That a sample helps does not make its label right, so contributions
count where they harm. Influence, averaged over the run, separates rare but right labels from wrong ones; where nearly
all labels are right, those that harm most are rare rather than wrong, so that it counts less. A network that disagrees
with most labels was misled by them, or has hardly learned; then its predictions are worth little and held-out data
more: from a share of 0.6 on, the weight of influence grows tenfold with every further tenth.

The weights were chosen by `python -m studies ranking`: flips, swaps, clusters, copies and patches in digits and MNIST,
and the errors in MNIST's own test set; docs/results.md has the settings, and other seeds and data. The growth was set
on digits with 50 to 80 % flips.

Source: mean over training in the spirit of Pleiss et al., NeurIPS 2020; normal scores: van der Waerden.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hydragrad.cleaning.signals import Signals


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of the signals, next to 1 for the margin over training.

    Attributes:
        contribution: Of contributions that harm.
        above: The normal score from which they count.
        influence: Of influence functions, where the network agrees with most labels; None: by the share of the labels
            that it disagrees with.
        out_of_fold: Of models that never saw the sample.
    """

    contribution: float = 0.35
    above: float = 0.5
    influence: float | None = None
    out_of_fold: float = 0.1


WEIGHTS = Weights()
SLOPE, LEAST, MOST = 8.0, 0.1, 0.5
"""Of the weight of influence: what the share of labels that training disagrees with is multiplied by; its ends."""
DISAGREES, GROWTH = 0.6, 10.0
"""Share of labels that training disagrees with from which influence weighs more; powers of ten for the rest."""


def suspicion(
    signals: Signals, contributions: Tensor, influence: Tensor | None = None, weights: Weights = WEIGHTS
) -> Tensor:
    """How suspect each label is, float64 (samples,); higher is more suspect, only the order has a meaning.

    Args:
        signals: What training shows about the samples.
        contributions: Of the same samples to a loss on held-out data whose labels are right, (samples,).
        influence: The same by influence functions, (samples,).
        weights: In place of the default ones.
    """
    evidence = against(signals.over_training if signals.early is None else signals.early, signals.given)
    disagrees = float((signals.over_training.argmax(1) != signals.given).double().mean())
    weight = weight_of_influence(disagrees) if weights.influence is None else weights.influence
    own = replace(weights, influence=weight * growth(disagrees))
    total = combined(evidence, contributions, influence, weights=own)
    if signals.out_of_fold is not None:
        total += weights.out_of_fold * normal_scores(against(signals.out_of_fold, signals.given))
    return total


def combined(evidence: Tensor, contributions: Tensor, influence: Tensor | None, *, weights: Weights) -> Tensor:
    """Evidence of training with that of held-out data, float64 (samples,); only the order has a meaning.

    Args:
        evidence: What training shows against each sample, of any scale, (samples,).
        contributions, influence: As for `suspicion`.
        weights: With one of influence.
    """
    total = normal_scores(evidence)
    total += weights.contribution * (normal_scores(-contributions) - weights.above).clamp(min=0)
    if influence is not None:
        assert weights.influence is not None
        total += weights.influence * normal_scores(-influence)
    return total


def weight_of_influence(disagrees: float) -> float:
    """The weight of influence where training disagrees with this share of the labels, before its growth."""
    return min(MOST, max(LEAST, SLOPE * disagrees))


def growth(disagrees: float) -> float:
    """Factor of the weight of influence: 1 where training disagrees with at most `DISAGREES` of the labels."""
    return float(10 ** (GROWTH * max(0.0, disagrees - DISAGREES)))


def against(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Largest probability of another label minus that of the own one, (samples,); positive contradicts the label."""
    own = labels[:, None]
    return probabilities.scatter(1, own, -torch.inf).max(1).values - probabilities.gather(1, own)[:, 0]


def normal_scores(values: Tensor) -> Tensor:
    """Normal quantiles of the ranks, float64; ties share theirs."""
    from scipy.stats import norm, rankdata  # slow to import

    ranks = rankdata(values.double().numpy())
    return torch.from_numpy(np.asarray(norm.ppf((ranks - 0.5) / len(ranks))))
