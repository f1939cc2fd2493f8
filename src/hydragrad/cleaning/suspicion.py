"""One number from all evidence against a label: training, contributions, influence, models that never saw the sample.

    suspicion = z(margin) + 0.5 max(0, z(-contribution) - 0.5) + 0.1 z(-influence) + 0.1 z(out-of-fold margin)

z are normal scores (the normal quantile of a sample's rank), so that signals of any scale can be added; margins are
of probabilities: the largest other label's minus the own one's. Right labels are learned before wrong ones, so the
mean over the run shows more than its end. Wrong labels that agree with one another are learned like right ones: there
only their effect on held-out data counts. That a sample helps does not make its label right, so contributions count
where they harm. Influence at the trained weights separates rare but right labels from wrong ones. A network that
disagrees with most labels was misled by them, or has hardly learned; then its predictions are worth little and held-out
data more: from a share of 0.6 on, the weight of influence grows tenfold with every further tenth.

The weights were tuned on seed 0 of twelve settings and not changed since (`python -m studies weights` has the
settings and the search): flips, swaps, clusters, copies and patches in MNIST and digits, and the errors in MNIST's own
test set. The last held the weight of contributions down: among labels that are nearly all right, those that harm most
are rare rather than wrong; and that of influence functions. The growth was set on digits with 50 to 80 % flips (seeds 0
and 1). docs/results.md has other seeds and data.

Source: mean over training in the spirit of Pleiss et al., NeurIPS 2020; normal scores: van der Waerden.
"""

from dataclasses import dataclass

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
        influence: Of influence functions, where the network agrees with most labels.
        out_of_fold: Of models that never saw the sample.
    """

    contribution: float = 0.5
    above: float = 0.5
    influence: float = 0.1
    out_of_fold: float = 0.1


WEIGHTS = Weights()
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
    evidence = against(signals.over_training, signals.given)
    total = combined(evidence, contributions, influence, weights=weights, growth=growth(signals))
    if signals.out_of_fold is not None:
        total += weights.out_of_fold * normal_scores(against(signals.out_of_fold, signals.given))
    return total


def combined(
    evidence: Tensor,
    contributions: Tensor,
    influence: Tensor | None = None,
    *,
    weights: Weights = WEIGHTS,
    growth: float = 1.0,
) -> Tensor:
    """Evidence of training with that of held-out data, float64 (samples,); only the order has a meaning.

    Args:
        evidence: What training shows against each sample, of any scale, (samples,).
        contributions, influence, weights: As for `suspicion`.
        growth: Factor of the weight of influence.
    """
    total = normal_scores(evidence)
    total += weights.contribution * (normal_scores(-contributions) - weights.above).clamp(min=0)
    if influence is not None:
        total += weights.influence * growth * normal_scores(-influence)
    return total


def growth(signals: Signals) -> float:
    """Factor of the weight of influence: 1 where training disagrees with at most `DISAGREES` of the labels."""
    share = float((signals.over_training.argmax(1) != signals.given).double().mean())
    return float(10 ** (GROWTH * max(0.0, share - DISAGREES)))


def against(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Largest probability of another label minus that of the own one, (samples,); positive contradicts the label."""
    own = labels[:, None]
    return probabilities.scatter(1, own, -torch.inf).max(1).values - probabilities.gather(1, own)[:, 0]


def normal_scores(values: Tensor) -> Tensor:
    """Normal quantiles of the ranks, float64; ties share theirs."""
    from scipy.stats import norm, rankdata  # slow to import

    ranks = rankdata(values.double().numpy())
    return torch.from_numpy(np.asarray(norm.ppf((ranks - 0.5) / len(ranks))))
