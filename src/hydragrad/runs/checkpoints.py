"""Checkpoints: everything that the next step depends on, as safetensors, with digests in an index."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from hydragrad.errors import RecordingMismatch, RunDamaged
from hydragrad.runs.encoding import decode, encode
from hydragrad.runs.lines import AppendOnlyLines, read_lines, replace_file, save_file


@dataclass(frozen=True)
class Checkpoint:
    """The state before a step.

    Attributes:
        step: The step that comes next.
        parameters: By name.
        buffers: By name.
        momentum: Momentum buffers of those parameters that have one.
        generators: States of the global random generators outside the steps.
        sampler: Where the loader stood (see `indexed`), plain values and tensors.
        scheduler: The scheduler's state, or None.
        groups: The optimizer's options, by parameter group.
        frozen: Parameters that require no gradient.
        evaluating: Modules in eval mode.
    """

    step: int
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    momentum: dict[str, Tensor]
    generators: dict[str, Tensor] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)
    scheduler: Any = None
    groups: list[dict[str, Any]] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)
    evaluating: list[str] = field(default_factory=list)


PLAIN = ("scheduler", "groups", "frozen", "evaluating")
PARTS = ("parameters", "buffers", "momentum", "generators", "sampler")


def snapshot(step: int, model: nn.Module, optimizer: Optimizer, **rest: Any) -> Checkpoint:
    """Copy the present state of model and optimizer."""
    momentum = {}
    for name, parameter in model.named_parameters():
        buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
        if buffer is not None:
            momentum[name] = buffer.detach().clone()
    return Checkpoint(
        step,
        {name: parameter.detach().clone() for name, parameter in model.named_parameters()},
        {name: buffer.detach().clone() for name, buffer in model.named_buffers()},
        momentum,
        groups=[{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups],
        frozen=[name for name, parameter in model.named_parameters() if not parameter.requires_grad],
        evaluating=[name for name, module in model.named_modules() if not module.training],
        **rest,
    )


def put_into(checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer) -> None:
    """Put a checkpoint's state into a model and its optimizer, in place."""
    for name, parameter in model.named_parameters():
        parameter.data.copy_(checkpoint.parameters[name])
        parameter.grad = None
        optimizer.state.pop(parameter, None)
        if name in checkpoint.momentum:
            optimizer.state[parameter]["momentum_buffer"] = checkpoint.momentum[name].to(parameter, copy=True)
    for name, buffer in model.named_buffers():
        buffer.data.copy_(checkpoint.buffers[name])


def resume_from(checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer) -> None:
    """Put a checkpoint into the user's own objects: state, options, frozen parameters and modes.

    Raises:
        RecordingMismatch: The optimizer has another number of parameter groups.
    """
    if len(optimizer.param_groups) != len(checkpoint.groups):
        raise RecordingMismatch(
            f"The run had {len(checkpoint.groups)} parameter groups before step {checkpoint.step}; this optimizer "
            f"has {len(optimizer.param_groups)}. Add the groups that were added later before resuming."
        )
    put_into(checkpoint, model, optimizer)
    for group, options in zip(optimizer.param_groups, checkpoint.groups, strict=True):
        for name, value in options.items():
            if isinstance(group.get(name), Tensor):
                group[name].fill_(value)
            else:
                group[name] = value
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in checkpoint.frozen)
    for name, module in model.named_modules():
        module.training = name not in checkpoint.evaluating


class CheckpointFolder:
    """The checkpoints of a run directory, and the index of their digests."""

    def __init__(self, run: Path) -> None:
        self.folder = run / "checkpoints"
        self.index = run / "checkpoints.jsonl"

    def path(self, step: int) -> Path:
        """The file of the checkpoint before `step`."""
        return self.folder / f"step-{step:08d}.safetensors"

    def write(self, checkpoint: Checkpoint, index: AppendOnlyLines) -> None:
        """Write a checkpoint and enter its digest in the index."""
        tensors: dict[str, Tensor] = {}
        plain: dict[str, Any] = {name: encode(getattr(checkpoint, name)) for name in PLAIN}
        for part in PARTS:
            entries: Mapping[str, Any] = getattr(checkpoint, part)
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"{part}/{name}"] = value.detach().cpu().contiguous()
                else:
                    plain[f"{part}/{name}"] = value
        self.folder.mkdir(exist_ok=True)
        path = self.path(checkpoint.step)
        replace_file(path, lambda to: save_file(tensors, to, {"state": json.dumps(plain)}))
        index.append({"step": checkpoint.step, "sha256": _digest(path)})
        index.sync()

    def entries(self) -> dict[int, str]:
        """Steps that have a checkpoint, and the digests of the files."""
        return {line["step"]: line["sha256"] for line in read_lines(self.index, "checkpoint digests")}

    def read(self, step: int, digest: str) -> Checkpoint:
        """Read a checkpoint, checking its digest.

        Raises:
            RunDamaged: The file is missing or altered.
        """
        path = self.path(step)
        if not path.exists() or _digest(path) != digest:
            state = "missing" if not path.exists() else "not the file that was written (its digest differs)"
            raise RunDamaged(f"{path} is {state}. Restore it from a copy, or train again.")
        parts: dict[str, Any] = {part: {} for part in PARTS}
        with safe_open(path, framework="pt") as file:
            plain = json.loads(file.metadata()["state"])
            for key in file.keys():  # noqa: SIM118 - not a dict
                part, _, name = key.partition("/")
                parts[part][name] = file.get_tensor(key)
        for key, value in plain.items():
            part, found, name = key.partition("/")
            if found:
                parts[part][name] = value
        return Checkpoint(step, **parts, **{name: decode(plain[name]) for name in PLAIN})


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
