"""A layout: named tensors as one flat vector, and back as views."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Layout:
    """Where each named tensor lies in a flat vector.

    Args:
        shapes: Name to shape, in the order in which they lie.
    """

    def __init__(self, shapes: Mapping[str, torch.Size | Sequence[int]]) -> None:
        self.shapes = {name: torch.Size(shape) for name, shape in shapes.items()}
        self.spans: dict[str, slice] = {}
        start = 0
        for name, shape in self.shapes.items():
            self.spans[name] = slice(start, start + math.prod(shape))
            start += math.prod(shape)
        self.size = start

    @property
    def names(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(self.shapes)

    def flatten(self, named: Mapping[str, Tensor | None], like: Tensor) -> Tensor:
        """Lay named tensors into one vector, shape (size,); missing and None entries are zero.

        Args:
            named: Tensors of the layout's shapes.
            like: Gives dtype and device.
        """
        flat = torch.zeros(self.size, dtype=like.dtype, device=like.device)
        for name, tensor in named.items():
            if tensor is not None and name in self.spans:
                flat[self.spans[name]] = tensor.reshape(-1)
        return flat

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Cut a vector (..., size) into named views of shape (..., *shape)."""
        lead = flat.shape[:-1]
        return {name: flat[..., self.spans[name]].view((*lead, *shape)) for name, shape in self.shapes.items()}

    def span(self, names: Sequence[str]) -> slice:
        """The slice that covers `names`, which must be adjacent."""
        first, last = self.spans[names[0]], self.spans[names[-1]]
        return slice(first.start, last.stop)
