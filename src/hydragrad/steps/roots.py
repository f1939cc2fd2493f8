"""Roots that optimizers divide by, with derivatives that exist everywhere."""

import torch
from torch import Tensor


def root(under: Tensor) -> Tensor:
    """The square root, with a derivative of 0 where it is 0 (torch's is infinite there)."""
    positive = under > 0
    return torch.where(positive, torch.where(positive, under, 1.0).sqrt(), 0.0)
