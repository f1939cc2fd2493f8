"""A strided sample of tensors: coordinates evenly spaced, side by side in one vector.

What is done to all coordinates alike shows in it, at a small part of the cost of looking at all.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

COORDINATES = 128
"""Of one tensor, about."""


def strided(tensor: Tensor) -> Tensor:
    """Coordinates of a tensor, evenly spaced; a view where the tensor is contiguous."""
    distance = -(-tensor.numel() // COORDINATES) | 1  # odd, so that it does not stay in one column
    if tensor.is_contiguous():
        count = -(-tensor.numel() // distance)
        return tensor.as_strided((count,), (distance,), tensor.storage_offset())
    return tensor.reshape(-1)[::distance]


class StridedViews:
    """Samples of tensors that are written in place from step to step: their views are made once.

    A tensor that got another memory or shape gets another view.
    """

    def __init__(self) -> None:
        self._views: dict[int, tuple[int, Tensor, Tensor]] = {}

    def __call__(self, tensors: Sequence[Tensor]) -> Tensor:
        """The samples of some tensors of one type, side by side; a new tensor."""
        return torch.cat([self._view(tensor) for tensor in tensors])

    def _view(self, tensor: Tensor) -> Tensor:
        known = self._views.get(id(tensor))
        if known is not None and known[0] == tensor.data_ptr() and known[1] is tensor:
            return known[2]
        plain = tensor.detach()
        view = strided(plain)
        if plain.is_contiguous():
            self._views[id(tensor)] = (tensor.data_ptr(), tensor, view)
        return view
