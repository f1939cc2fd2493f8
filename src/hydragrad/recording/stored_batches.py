"""Batches kept with the run, for data that cannot be drawn again."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hydragrad.errors import RunDamaged, Unsupported
from hydragrad.recording.files import naming_full_disk


def batch_path(run: Path, step: int) -> Path:
    """The file of one step's batch."""
    return run / "batches" / f"step-{step:08d}.safetensors"


def store_batch(run: Path, step: int, data: Any) -> None:
    """Write a batch of nested lists, tuples and dicts of tensors, numbers and text.

    Raises:
        Unsupported: It holds something else.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_take_apart(data, tensors))
    path = batch_path(run, step)
    path.parent.mkdir(exist_ok=True)
    with naming_full_disk(path):
        save_file(tensors, path, {"skeleton": skeleton})


def load_batch(run: Path, step: int) -> Any:
    """Read a batch back.

    Raises:
        RunDamaged: It is missing or can't be read.
    """
    path = batch_path(run, step)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            return _put_together(json.loads(file.metadata()["skeleton"]), tensors)
    except Exception as error:
        raise RunDamaged(f"{path} can't be read ({error}). Restore it from a copy, or train again.") from error


def _take_apart(data: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(data, Tensor):
        tensors[str(len(tensors))] = data.detach().cpu().contiguous().clone()
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(data, list | tuple):
        return {type(data).__name__: [_take_apart(part, tensors) for part in data]}
    if isinstance(data, dict):
        return {"dict": [[key, _take_apart(value, tensors)] for key, value in data.items()]}
    if isinstance(data, str | int | float | bool | None):
        return {"plain": data}
    raise Unsupported(
        f"store_batches=True keeps tensors, numbers and text in lists, tuples and dicts; this batch holds a "
        f"{type(data).__name__}."
    )


def _put_together(skeleton: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, value),) = skeleton.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _put_together(part, tensors) for key, part in value}
    if kind == "plain":
        return value
    parts = [_put_together(part, tensors) for part in value]
    return tuple(parts) if kind == "tuple" else parts
