"""Derivatives of samples as sums of those of their parts."""

from hydragrad.derivatives.directional.forward_mode import Directional, OfParts
from hydragrad.derivatives.part_losses import Terms


def by_sample(along: Directional, trained: Terms) -> Directional:
    """Sum derivatives of parts by sample, and keep them.

    Args:
        along: Of the terms as losses of their own: (batch * parts,), and (Q, batch * parts).
        trained: The terms that training had, which say how many there are.
    """
    shape = trained.is_part.shape
    losses, losses_dot = along.losses.unflatten(0, shape), along.losses_dot.unflatten(1, shape)
    return Directional(losses.sum(1), losses_dot.sum(2), None, None, OfParts(losses, losses_dot, trained))
