"""Central differences of really retrained losses: what contributions must equal."""

from collections.abc import Callable

import torch
from torch import Tensor

STEP = 2e-6


def along_two_directions(retrained: Callable[[Tensor], float], samples: int) -> tuple[Tensor, Tensor]:
    """Contributions along one sample's weight and along a random direction.

    Args:
        retrained: The held-out loss of a training with these weights of the samples.
        samples: How many there are.

    Returns:
        The directions (2, samples), and what contributions add up to along them, (2,).
    """
    generator = torch.Generator().manual_seed(1)
    directions = torch.stack([torch.eye(samples)[5], torch.randn(samples, generator=generator)]).double()
    expected = []
    for direction in directions:
        ends = [retrained(torch.ones(samples).double() + sign * STEP * direction) for sign in (1, -1)]
        expected.append(-(ends[0] - ends[1]) / (2 * STEP))
    return directions, torch.tensor(expected, dtype=torch.float64)
