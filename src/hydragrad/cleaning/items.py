"""One value of an item of a data set replaced: a number stays a number, an array an array, a tensor a tensor."""

import copy
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor


def with_leaf(item: Any, number: int, value: Tensor) -> Any:
    """A copy of an item with another value in one leaf; the item as it is where it has no such leaf.

    Args:
        item: Nested sequences and mappings.
        number: Which of its leaves: numbers, arrays and tensors, in the order in which torch's default collate makes
            tensors of them.
        value: A tensor of the leaf's shape.
    """
    return _replaced(item, number, value)[0]


def _replaced(part: Any, number: int, value: Tensor) -> tuple[Any, int]:
    """The part with the leaf replaced, and how many leaves come before the leaf once the part is passed; -1 if done."""
    if isinstance(part, str | bytes) or number < 0:
        return part, number
    if isinstance(part, Tensor | np.ndarray | np.generic | bool | int | float):
        return (_like(part, value), -1) if number == 0 else (part, number - 1)
    if isinstance(part, Mapping):
        changed = {}
        for key, inner in part.items():
            changed[key], number = _replaced(inner, number, value)
        return _mapping(part, changed), number
    if isinstance(part, Sequence):
        inners = []
        for inner in part:
            new, number = _replaced(inner, number, value)
            inners.append(new)
        return _sequence(part, inners), number
    return part, number


def _like(old: Any, value: Tensor) -> Any:
    """The value as the kind of number, array or tensor that stood there."""
    if isinstance(old, Tensor):
        return value.to(old).reshape(old.shape)
    if isinstance(old, np.ndarray):
        return value.cpu().numpy().astype(old.dtype).reshape(old.shape)
    return type(old)(value.item())


def _mapping(old: Mapping[Any, Any], changed: dict[Any, Any]) -> Any:
    if not isinstance(old, MutableMapping):
        return changed
    new = copy.copy(old)
    new.update(changed)
    return new


def _sequence(old: Sequence[Any], inners: list[Any]) -> Any:
    if isinstance(old, tuple) and hasattr(old, "_fields"):
        return type(old)(*inners)
    return inners if isinstance(old, list) else tuple(inners)
