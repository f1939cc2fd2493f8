"""Scheduler states as JSON and back, without pickling anything."""

import collections
from typing import Any

from hydragrad.errors import Unsupported

PLAIN = (str, int, float, bool, type(None))


def encode(value: Any) -> Any:
    """Turn a state into JSON values; tuples, sets, counters and odd keys are marked.

    Raises:
        Unsupported: Something that can't be written without pickling it.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, list):
        return [encode(part) for part in value]
    if isinstance(value, tuple):
        return {"tuple": [encode(part) for part in value]}
    if isinstance(value, set | frozenset):
        return {"set": sorted(value)}
    if isinstance(value, dict):
        kind = "counter" if isinstance(value, collections.Counter) else "dict"
        return {kind: [[encode(key), encode(part)] for key, part in value.items()]}
    if hasattr(value, "item"):  # a 0-dimensional tensor or NumPy scalar
        return encode(value.item())
    raise Unsupported(
        f"The scheduler's state holds a {type(value).__name__}, which can't be written without pickling. Use a "
        f"scheduler whose state_dict() holds numbers, text, lists and dicts."
    )


def decode(value: Any) -> Any:
    """Undo `encode`."""
    if isinstance(value, list):
        return [decode(part) for part in value]
    if not isinstance(value, dict):
        return value
    ((kind, parts),) = value.items()
    if kind == "tuple":
        return tuple(decode(part) for part in parts)
    if kind == "set":
        return set(parts)
    pairs = {decode(key): decode(part) for key, part in parts}
    return collections.Counter(pairs) if kind == "counter" else pairs
