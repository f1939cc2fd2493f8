"""The tensors of nested data."""

from typing import Any

from torch import Tensor


def tensor_leaves(data: Any) -> list[Tensor]:
    """List all tensors in nested lists, tuples and dicts, in order."""
    if isinstance(data, Tensor):
        return [data]
    if isinstance(data, dict):
        data = list(data.values())
    return [leaf for part in data for leaf in tensor_leaves(part)] if isinstance(data, list | tuple) else []
