"""The manifest: what was recorded, by what, and on which machine."""

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hydragrad.disk import reading
from hydragrad.errors import RecordingMismatch, RunDamaged, RunNotFound
from hydragrad.runs.lines import replace_file
from hydragrad.runs.module_settings import module_settings, require_same_settings
from hydragrad.steps import RULE_OF_SCHEMA_1

SCHEMA = 2
OF_PROCESSES = 3
"""Schema of the parts of a run that several processes made: earlier versions would read that of rank 0 alone."""
READABLE = (1, SCHEMA, OF_PROCESSES)
FILE = "manifest.json"
Status = Literal["running", "completed", "interrupted"]
Reduction = Literal["mean", "sum"]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The facts about a run that hold from its first step on.

    Attributes:
        machine: Library versions, processor, device and threads: what a bit-equal replay needs.
        model: Class, and parameter and buffer names with shapes and dtypes.
        data: Length and digest of the training set.
        reduction: How a step's loss came from the per-sample losses.
        seed: What the seeds of all steps are derived from.
        store_batches: Whether the batches themselves are stored.
        optimizers: Classes of the optimizers; schema 1 knew one only.
        status: running until the recorder was left.
        steps: Complete steps, once the recorder was left.
        resumed_on: Other machines on which a part of the run was made.
        about: Free entries of whoever recorded (epochs, batch size, data set names).
        processes: How many processes trained together.
        rank: Which of them wrote this.
    """

    machine: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    reduction: Reduction
    seed: int
    store_batches: bool
    optimizers: list[str] = field(default_factory=lambda: [RULE_OF_SCHEMA_1.name])
    status: Status = "running"
    steps: int | None = None
    resumed_on: list[dict[str, Any]] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    processes: int = 1
    rank: int = 0
    schema: int = SCHEMA


def model_facts(model: nn.Module) -> dict[str, Any]:
    """Names, shapes and dtypes of a model's parameters and buffers, and the settings of its modules."""
    return {
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "parameters": _facts(dict(model.named_parameters())),
        "buffers": _facts(dict(model.named_buffers())),
        "settings": module_settings(model),
    }


def _facts(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: [list(tensor.shape), str(tensor.dtype)] for name, tensor in tensors.items()}


def require_same_model(
    recorded: dict[str, Any],
    model: nn.Module,
    path: Path,
    last_buffers: Callable[[], Mapping[str, Tensor]] | None = None,
) -> None:
    """Refuse a model other than the recorded one.

    Args:
        recorded: What `model_facts` said of it when the recording began.
        model: The model.
        path: What was recorded.
        last_buffers: Gives the buffers that it had later on, by name: a forward pass may register or resize some.

    Raises:
        RecordingMismatch: Counts, and what is missing, added or of another shape; or a setting that differs.
    """
    given = model_facts(model)
    for part in ("parameters", "buffers"):
        theirs, ours = recorded[part], given[part]
        if theirs == ours or (part == "buffers" and last_buffers is not None and ours == _facts(last_buffers())):
            continue
        differences = [f"missing: {name}" for name in theirs if name not in ours]
        differences += [f"added: {name}" for name in ours if name not in theirs]
        differences += [
            f"{name}: recorded {theirs[name]}, given {ours[name]}"
            for name in theirs
            if name in ours and theirs[name] != ours[name]
        ]
        shown = "; ".join(differences[:4]) + ("; ..." if len(differences) > 4 else "")
        raise RecordingMismatch(
            f"{path} was recorded with {_count(theirs):,} numbers in {part}; this model has {_count(ours):,} "
            f"({shown}). Build the model it was recorded with."
        )
    require_same_settings(recorded, model, path)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write or replace the manifest of the run directory `path`."""
    body = asdict(manifest)
    if manifest.processes == 1:
        del body["processes"], body["rank"]
    else:
        body["schema"] = OF_PROCESSES
    body["crc32"] = _checksum(body)
    replace_file(path / FILE, lambda to: to.write_text(json.dumps(body, indent=1) + "\n"))


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of the run directory `path`.

    Raises:
        RunNotFound: There is none.
        RunDamaged: It is altered or not JSON.
        RecordingMismatch: It was written in another schema.
    """
    file = path / FILE
    with reading(file):
        there, text = file.exists(), file.read_text(errors="replace") if file.exists() else ""
    if not there:
        raise RunNotFound(f"{path} is no run directory: it has no {FILE}. Record a run there first (hg.train).")
    try:
        body = json.loads(text)
        schema, checksum = body["schema"], body.pop("crc32")
    except (ValueError, KeyError, TypeError) as error:
        raise RunDamaged(f"{file} can't be read ({error}). Restore it from a copy, or train again.") from error
    if schema not in READABLE:
        version = body.get("machine", {}).get("hydragrad", "unknown")
        raise RecordingMismatch(
            f"{path} was written in schema {schema}; this version of hydragrad reads schemas up to {READABLE[-1]}. Use "
            f"the version that recorded it ({version}), or train again."
        )
    if checksum != _checksum(body):
        raise RunDamaged(f"{file} does not have the checksum it was written with. Restore it, or train again.")
    return Manifest(**body | {"schema": max(schema, SCHEMA)})


def closed(manifest: Manifest, status: Status, steps: int) -> Manifest:
    """The manifest of a run whose recorder was left."""
    return replace(manifest, status=status, steps=steps)


def _checksum(body: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(body, sort_keys=True).encode()):08x}"


def _count(entries: dict[str, Any]) -> int:
    return sum(torch.Size(shape).numel() for shape, _ in entries.values())
