"""How contributions vary between independent runs, and how far means over several runs can be relied on.

Legend: x = contributions, (runs, queries, samples); r = Spearman's correlation between the rankings of two runs; r_n =
the same between the means over n runs each and n others.

    r_n = n r / (1 + (n - 1) r)

Source: Spearman 1910 and Brown 1910, British Journal of Psychology 3 (the reliability of a mean of repeats).
"""

import math
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from hydragrad.ranks import centred_ranks, correlation_of_ranks


def mean_and_standard_error(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the runs and the standard error of that mean, both (queries, samples); at least two runs."""
    return x.mean(0), x.std(0) / math.sqrt(len(x))


def rank_agreement(x: Tensor) -> Tensor:
    """Spearman's correlation over samples, mean over all pairs of runs, (queries,). NaN where a run is constant."""
    ranks = centred_ranks(x.numpy())
    pairs = [correlation_of_ranks(one, other) for one, other in combinations(ranks, 2)]
    return torch.from_numpy(np.mean(pairs, axis=0))


def agreement_of_means(r: float, n: int) -> float:
    """r_n: how alike the means over n runs rank the samples, where single runs do so with r."""
    return n * r / (1 + (n - 1) * r)


def runs_needed(r: float, wanted: float) -> int | None:
    """The smallest n with r_n at least `wanted`; None where single runs don't agree at all."""
    if not r > 0:
        return None
    # Rounded, so that 9.000000000000002 runs are nine.
    return max(1, math.ceil(round(wanted * (1 - r) / (r * (1 - wanted)), 6)))
