"""The mean over replays, without those that exploded.

Where the derivative of one replay grows without bound, its contributions are larger than those of all others together,
and a mean over all would be that replay alone. Derivatives explode upward only, so the smaller half is trusted.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hydragrad.attribution.tally import BY_QUERY
from hydragrad.errors import NonFinite

EXPLODED = 10.0
"""A replay whose contributions to a query have more than this many times the norm of the median replay's exploded."""


def not_exploded(norms: Tensor) -> Tensor:
    """Which replays enter the mean of each query, bool (replays, queries).

    Args:
        norms: Of every replay's contributions to each query, (replays, queries); not finite where these are not.

    Raises:
        NonFinite: Fewer than half of the replays have finite contributions to a query.
    """
    finite = norms.isfinite()
    # Of two middle values torch takes the lower one.
    middle = norms.where(finite, torch.inf).median(0).values
    worst = int(finite.sum(0).min())
    if 2 * worst < len(norms):
        raise NonFinite(
            f"Only {worst} of {len(norms)} replays have finite contributions: the derivatives of the others grow "
            f"without bound. Use curvature='ggn', add damping=, or measure with hg.smoothness(run) what suits this run."
        )
    return finite & ((norms <= EXPLODED * middle) | (middle == 0))


def mean_over(sums: Sequence[Mapping[str, Tensor]], kept: Tensor) -> dict[str, Tensor]:
    """Mean of the replays' sums, for every query over those that are kept.

    Args:
        sums: Of every replay, as `Tally.sums` names them, and others that do not depend on a query.
        kept: Bool (replays, queries).
    """

    def mean(name: str) -> Tensor:
        every = torch.stack([of_replay[name] for of_replay in sums])
        if name not in BY_QUERY:
            return every.mean(0)
        return torch.stack([every[kept[:, query], query].mean(0) for query in range(every.shape[1])])

    return {name: mean(name) for name in sums[0]}
