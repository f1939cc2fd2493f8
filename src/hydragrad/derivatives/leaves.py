"""The tensors of nested data: lists, tuples, mappings, data classes, and objects that hold tensors as attributes.

Batches are what the user's `collate_fn` makes: dicts, named tuples, packed sequences, the batches of graph libraries
and tokenizers. They are walked by their parts, whatever class they are of, and copied part by part.
"""

import copy
import types
import weakref
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from hydragrad.errors import DataError

OPAQUE = (
    *(nn.Module, torch.Generator, torch.device, torch.dtype, np.ndarray, np.generic, Enum, type),
    *(types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType),
    *(str, bytes, bytearray, int, float, complex, type(None), range, set, frozenset),
)
"""What has no parts, or parts that are not a batch's data."""


def is_opaque(data: Any) -> bool:
    """Whether data are one piece: of a class without parts, or one that stands for an array (an image, a table)."""
    return isinstance(data, OPAQUE) or any(hasattr(type(data), name) for name in ("__array__", "__array_interface__"))


def tensor_leaves(data: Any) -> list[Tensor]:
    """List all tensors of nested data, in order."""
    return [leaf for leaf in leaves(data) if isinstance(leaf, Tensor)]


def leaves(data: Any) -> Iterator[Any]:
    """Yield everything in nested data that has no parts: tensors, arrays, numbers, text, objects without tensors."""
    return _leaves(data, set())


def map_tensors(data: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Nested data with `change` applied to all tensors, in containers of their own; what holds no tensor is kept.

    Raises:
        DataError: An object that holds tensors and can't be copied.
    """
    return _mapped(data, lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, {})


def map_leaves(data: Any, change: Callable[[Any], Any]) -> Any:
    """As `map_tensors`, with `change` applied to every leaf."""
    return _mapped(data, change, {})


def _leaves(data: Any, above: set[int]) -> Iterator[Any]:
    if isinstance(data, Tensor) or is_opaque(data):
        yield data
        return
    if id(data) in above:
        return
    inside = above | {id(data)}
    if isinstance(data, dict | list | tuple):
        for part in data.values() if isinstance(data, dict) else data:
            yield from _leaves(part, inside)
        return
    parts = [leaf for part in attributes(data).values() for leaf in _leaves(part, inside)]
    yield from parts if any(isinstance(leaf, Tensor | np.ndarray) for leaf in parts) else [data]


def _mapped(data: Any, change: Callable[[Any], Any], made: dict[int, Any]) -> Any:
    """`made` holds what stands for objects met before: data that share a part share its copy."""
    if isinstance(data, Tensor):
        if id(data) not in made:
            made[id(data)] = change(data)
        return made[id(data)]
    if is_opaque(data):
        return change(data)
    if isinstance(data, weakref.ref):
        owner = made.get(id(data()))
        return data if owner is None else weakref.ref(owner)
    if id(data) in made:
        return made[id(data)]
    if type(data) is dict:
        result = made[id(data)] = {}
        result.update((key, _mapped(value, change, made)) for key, value in data.items())
        return result
    if type(data) is list:
        return [_mapped(part, change, made) for part in data]
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(_mapped(part, change, made) for part in data))
    if isinstance(data, tuple):
        return type(data)(_mapped(part, change, made) for part in data)
    if isinstance(data, dict | list) or _holds_parts(data):
        return _mapped_object(data, change, made)
    if isinstance(data, Iterator):
        raise DataError(
            f"A batch is evaluated more than once, and a {type(data).__name__} can be read only once. Make a list of "
            f"it in the collate_fn."
        )
    return data


def _mapped_object(data: Any, change: Callable[[Any], Any], made: dict[int, Any]) -> Any:
    """A copy of an object, part by part; whatever its class does when it is made or written to is left out."""
    try:
        result = made[id(data)] = copy.copy(data)
        if isinstance(data, dict):
            for key, value in data.items():
                dict.__setitem__(result, key, _mapped(value, change, made))
        elif isinstance(data, list):
            list.__setitem__(result, slice(None), [_mapped(part, change, made) for part in data])
        for name, value in attributes(data).items():
            _set(result, name, _mapped(value, change, made))
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"A batch is evaluated more than once, each time on a copy, and a {type(data).__name__} can't be copied "
            f"({error}). Give it a __copy__ method, or make lists, tuples and dicts of tensors in the collate_fn."
        ) from error
    return result


def _holds_parts(data: Any) -> bool:
    return any(isinstance(leaf, Tensor | np.ndarray) for leaf in leaves(data))


def attributes(data: Any) -> dict[str, Any]:
    """What an object holds, by name: its slots, then its dictionary."""
    slots = [name for kind in type(data).__mro__ for name in _slots(kind)]
    held = {name: getattr(data, name) for name in slots if hasattr(data, name)}
    return held | getattr(data, "__dict__", {})


def _slots(kind: type) -> list[str]:
    names = kind.__dict__.get("__slots__", ())
    names = [names] if isinstance(names, str) else list(names)
    mangled = [f"_{kind.__name__.lstrip('_')}{n}" if n.startswith("__") and not n.endswith("__") else n for n in names]
    return [name for name in mangled if name not in ("__dict__", "__weakref__")]


def _set(target: Any, name: str, value: Any) -> None:
    held = getattr(target, "__dict__", {})
    if name in held:
        held[name] = value
    else:
        object.__setattr__(target, name, value)


def to_device(data: Any, device: torch.device) -> Any:
    """Nested data with all tensors on a device; objects that know how to move themselves do it, on a copy.

    What is there already is not touched.
    """
    if isinstance(data, PackedSequence):
        return data.to(device)  # type: ignore[arg-type]  # whose sizes stay on the CPU
    if isinstance(data, Tensor):
        return data.to(device)
    if type(data) is dict:
        return {key: to_device(value, device) for key, value in data.items()}
    if type(data) is list:
        return [to_device(part, device) for part in data]
    if isinstance(data, tuple):
        moved = (to_device(part, device) for part in data)
        return type(data)(*moved) if hasattr(data, "_fields") else type(data)(moved)
    if is_opaque(data):
        return data
    if all(leaf.device == device for leaf in tensor_leaves(data)):
        return data
    copied = map_tensors(data, lambda tensor: tensor)
    if not callable(getattr(copied, "to", None)):
        return map_tensors(copied, lambda tensor: tensor.to(device))
    moved = copied.to(device)
    return copied if moved is None else moved
