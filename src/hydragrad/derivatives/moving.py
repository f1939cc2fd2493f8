"""Moving a state along a random direction, to see how what is computed from it really changes."""

import torch
from torch import Tensor

from hydragrad.derivatives.layout import Layout

Named = dict[str, Tensor]

SMALLEST = 1e-2
"""Least size of a tensor's entries, for the size of a direction."""


def random_direction(layout: Layout, values: Named, like: Tensor, generator: torch.Generator) -> Tensor:
    """A random direction, each tensor's part as large as the tensor's own entries, (layout.size,).

    Args:
        layout: Lays out some tensors.
        values: These tensors.
        like: Gives dtype and device.
        generator: Draws the direction.
    """
    noise = torch.randn(layout.size, generator=generator, dtype=torch.float64).to(like)
    sizes = {name: values[name].square().mean().sqrt().clamp_min(SMALLEST) for name in layout.names}
    return noise * layout.flatten({name: sizes[name].expand(layout.shapes[name]) for name in sizes}, like)


def moved_by(layout: Layout, values: Named, flat: Tensor) -> Named:
    """All values, those of the layout moved by a flat vector."""
    return values | {name: values[name] + part for name, part in layout.views(flat).items()}
