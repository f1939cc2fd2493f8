"""Batches kept with the run, for data that cannot be drawn again."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from hydragrad.errors import RunDamaged, Unsupported
from hydragrad.runs.lines import make_folder, save_file, writing

STEP = "step"
PLAIN = (str, int, float, bool, type(None))


def batch_path(run: Path, step: int, number: int = 0) -> Path:
    """The file of one micro-batch of a step."""
    return run / "batches" / f"step-{step:08d}{f'-{number}' if number else ''}.safetensors"


def store_batch(run: Path, step: int, data: Any, number: int = 0) -> None:
    """Write a micro-batch of nested lists, tuples and dicts of tensors, numbers and text.

    Raises:
        Unsupported: It holds something else.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_take_apart(data, tensors))
    path, place = batch_path(run, step, number), _place(step, number)
    make_folder(path.parent)
    with writing(path):
        # The step is part of what is digested: another step's batch is no batch of this one.
        save_file(tensors, path, {"skeleton": skeleton, STEP: place, "sha256": _digest(f"{place} {skeleton}", tensors)})


def sync_batches(run: Path, start: int, stop: int) -> None:
    """Make sure that the batches of the steps [start, stop) survive a power loss."""
    for step in range(start, stop):
        number = 0
        while number == 0 or batch_path(run, step, number).exists():
            with open(batch_path(run, step, number), "rb+") as file:
                os.fsync(file.fileno())
            number += 1


def load_batch(run: Path, step: int, number: int = 0) -> Any:
    """Read a batch back.

    Raises:
        RunDamaged: It is missing, altered or can't be read.
    """
    path = batch_path(run, step, number)
    try:
        with safe_open(path, framework="pt") as file:
            # Cloned into aligned memory: kernels round differently on what lies elsewhere in the mapped file.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 - not a dict
            metadata = file.metadata()
        skeleton = metadata["skeleton"]
        # Earlier versions did not write the step.
        described = f"{_place(step, number)} {skeleton}" if STEP in metadata else skeleton
        if metadata["sha256"] != _digest(described, tensors):
            raise ValueError("its content is not what was written at this step")
        return _put_together(json.loads(skeleton), tensors)
    except Exception as error:
        raise RunDamaged(f"{path} can't be read ({error}). Restore it from a copy, or train again.") from error


def _place(step: int, number: int) -> str:
    return f"{step}-{number}" if number else str(step)


def _digest(skeleton: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(skeleton.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _take_apart(data: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(data, Tensor):
        tensors[str(len(tensors))] = data.detach().cpu().contiguous().clone()
        return {"tensor": str(len(tensors) - 1)}
    # Exact types: a named tuple, say, would come back as another type than the loss was given.
    if type(data) in (list, tuple):
        return {type(data).__name__: [_take_apart(part, tensors) for part in data]}
    if type(data) is dict and all(type(key) in PLAIN for key in data):
        return {"dict": [[key, _take_apart(value, tensors)] for key, value in data.items()]}
    if type(data) in PLAIN:
        return {"plain": data}
    raise Unsupported(
        f"store_batches=True keeps tensors, numbers and text in lists, tuples and dicts; this batch holds a "
        f"{type(data).__name__}. Make it one of those in the loader's collate_fn."
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
