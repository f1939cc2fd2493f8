"""Checkpoints: everything that the next step depends on, as safetensors, with digests in an index."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from hydragrad.errors import RecordingMismatch, RunDamaged
from hydragrad.runs.buffers import put_buffers
from hydragrad.runs.encoding import decode, encode
from hydragrad.runs.lines import AppendOnlyLines, make_folder, read_lines, reading, replace_file, save_file
from hydragrad.runs.sparse import SPARSE, put_together, take_apart
from hydragrad.steps import RULES, STATES_OF_SCHEMA_1, Together, read_group, states_in_force

OptimizerState = dict[str, dict[str, Any]]
"""Entries of the optimizer's state by name, of every parameter that has any."""


@dataclass(frozen=True)
class Checkpoint:
    """The state before a step.

    Attributes:
        step: The step that comes next.
        parameters: By name.
        buffers: By name.
        optimizer: What the optimizer keeps of each parameter, by the names that torch gives it.
        generators: States of the global random generators outside the steps.
        sampler: Where the loader stood (see `indexed`), plain values and tensors.
        scheduler: The scheduler's state, or None.
        groups: The optimizer's options, by parameter group.
        frozen: Parameters that require no gradient.
        evaluating: Modules in eval mode.
        owners: The number of the optimizer of each parameter group; empty where there is one.
        owned: The same by parameter, where it is not 0.
        averages: Tensors of the averages of the weights next to the model, by name of the average, part and name.
    """

    step: int
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    optimizer: OptimizerState
    generators: dict[str, Tensor] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)
    scheduler: Any = None
    groups: list[dict[str, Any]] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)
    evaluating: list[str] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    owned: dict[str, int] = field(default_factory=dict)
    averages: dict[str, Tensor] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Size of parameters, buffers and optimizer state."""
        states = (value for entries in self.optimizer.values() for value in entries.values())
        every = (*self.parameters.values(), *self.buffers.values(), *states)
        return sum(value.numel() * value.element_size() for value in every if isinstance(value, Tensor))


PLAIN = ("scheduler", "groups", "frozen", "evaluating", "owners", "owned")
PARTS = ("parameters", "buffers", "optimizer", "generators", "sampler", "averages")
UNCHANGED = "unchanged"
"""Frozen parameters that an earlier checkpoint holds: name, its step, and the tensor's digest."""


def optimizer_state(model: nn.Module, optimizer: Optimizer | Together) -> OptimizerState:
    """Copy what the optimizer keeps of each parameter."""
    state: OptimizerState = {}
    for name, parameter in model.named_parameters():
        entries = {key: value for key, value in optimizer.state.get(parameter, {}).items() if value is not None}
        if entries:
            state[name] = {
                key: value.detach().clone() if isinstance(value, Tensor) else value for key, value in entries.items()
            }
    return state


def snapshot(step: int, model: nn.Module, optimizer: Optimizer | Together, **rest: Any) -> Checkpoint:
    """Copy the present state of model and optimizer."""
    owners = optimizer.owners if isinstance(optimizer, Together) else ()
    owned = zip(owners, optimizer.param_groups if owners else (), strict=True)
    numbers = {id(parameter): number for number, group in owned for parameter in group["params"]}
    return Checkpoint(
        step,
        {name: parameter.detach().clone() for name, parameter in model.named_parameters()},
        {name: buffer.detach().clone() for name, buffer in model.named_buffers()},
        optimizer_state(model, optimizer),
        groups=[{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups],
        frozen=[name for name, parameter in model.named_parameters() if not parameter.requires_grad],
        evaluating=[name for name, module in model.named_modules() if not module.training],
        owners=list(owners),
        owned={name: numbers[id(p)] for name, p in model.named_parameters() if numbers.get(id(p))},
        **rest,
    )


def put_into(checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer | Together) -> None:
    """Put a checkpoint's state into a model and its optimizer, in place."""
    members = optimizer.members if isinstance(optimizer, Together) else (optimizer,)
    on_device = [_on_device(checkpoint, model, number, member) for number, member in enumerate(members)]
    for name, parameter in model.named_parameters():
        parameter.data.copy_(checkpoint.parameters[name])
        parameter.grad = None
        for member in members:
            member.state.pop(parameter, None)
        owner = checkpoint.owned.get(name, 0)
        for key, value in checkpoint.optimizer.get(name, {}).items():
            placed = _placed(value, parameter, on_device=on_device[owner](key))
            members[owner].state[parameter][key] = placed
    put_buffers(model, checkpoint.buffers)


def _on_device(checkpoint: Checkpoint, model: nn.Module, number: int, member: Optimizer) -> Callable[[str], bool]:
    """Whether an entry of an optimizer's state that is a single number lies with its parameter.

    So it does under some kernels, and where a parameter is a single number itself.
    """
    rule = RULES[type(member)]
    owners = checkpoint.owners or [0] * len(checkpoint.groups)
    groups = [group for owner, group in zip(owners, checkpoint.groups, strict=True) if owner == number]
    if any(rule.numbers_on_device(group) for group in groups):
        return lambda _key: True
    if all(parameter.dim() for parameter in model.parameters()):
        return lambda _key: False
    return set(states_in_force(rule, [read_group(rule, group) for group in groups])).__contains__


def _placed(value: Any, parameter: nn.Parameter, *, on_device: bool) -> Any:
    """An entry of the optimizer's state where torch has it: numbers such as a step stay on the CPU as a rule."""
    if not isinstance(value, Tensor):
        return value
    if value.dim() > 0 and value.shape == parameter.shape and value.layout is torch.strided:
        # Laid out like the parameter, as the optimizer makes it: norms are rounded in the order of the memory.
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    number = value.dim() == 0 and not on_device
    return value.to(torch.device("cpu") if number else parameter.device, copy=True)


def resume_from(checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer | Together) -> None:
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
        self._written: dict[str, tuple[int, str]] = {}
        self._frozen: dict[tuple[str, int], Tensor] = {}

    def path(self, step: int) -> Path:
        """The file of the checkpoint before `step`."""
        return self.folder / f"step-{step:08d}.safetensors"

    def write(self, checkpoint: Checkpoint, index: AppendOnlyLines) -> None:
        """Write a checkpoint and enter its digest in the index; frozen parameters that did not change once only."""
        tensors: dict[str, Tensor] = {}
        plain: dict[str, Any] = {name: encode(getattr(checkpoint, name)) for name in PLAIN}
        plain[UNCHANGED] = unchanged = self._unchanged(checkpoint)
        for part in PARTS:
            for name, value in _entries(checkpoint, part):
                if isinstance(value, Tensor) and value.layout is not torch.strided:
                    tensors |= take_apart(f"{part}/{name}", value, plain)
                elif isinstance(value, Tensor):
                    if part != "parameters" or name not in unchanged:
                        tensors[f"{part}/{name}"] = value.detach().cpu().contiguous()
                else:
                    plain[f"{part}/{name}"] = encode(value)
        make_folder(self.folder)
        path = self.path(checkpoint.step)
        replace_file(path, lambda to: save_file(tensors, to, {"state": json.dumps(plain)}))
        index.append({"step": checkpoint.step, "sha256": _digest(path)})
        index.sync()

    def entries(self) -> dict[int, str]:
        """Steps that have a checkpoint, and the digests of the files."""
        lines = read_lines(self.index, "checkpoint digests", ("step", "sha256"))
        return {line["step"]: line["sha256"] for line in lines}

    def read(self, step: int, digest: str) -> Checkpoint:
        """Read a checkpoint, checking its digest.

        Raises:
            RunDamaged: The file is missing or altered.
        """
        path = self.path(step)
        with reading(path):
            whole = path.exists() and _digest(path) == digest
        if not whole:
            state = "missing" if not path.exists() else "not the file that was written (its digest differs)"
            raise RunDamaged(f"{path} is {state}. Restore it from a copy, or train again.")
        parts: dict[str, Any] = {part: {} for part in PARTS}
        with safe_open(path, framework="pt") as file:
            plain = json.loads(file.metadata()["state"])
            for key in file.keys():  # noqa: SIM118 - not a dict
                # Cloned into aligned memory: kernels round differently on what lies elsewhere in the mapped file.
                if not key.startswith(SPARSE):
                    _enter(parts, key, file.get_tensor(key).clone())
            for key, value in put_together(plain, lambda key: file.get_tensor(key).clone()):
                _enter(parts, key, value)
        for key, value in plain.items():
            if "/" in key and not key.startswith(SPARSE):
                # Schema 1 wrote the sampler's plain values as they were.
                _enter(parts, key, decode(value))
        for name, (at, tensor_digest) in plain.get(UNCHANGED, {}).items():
            parts["parameters"][name] = self._frozen_parameter(name, at, tensor_digest)
        return Checkpoint(step, **parts, **{name: decode(plain[name]) for name in PLAIN if name in plain})

    def last_buffers(self) -> dict[str, Tensor]:
        """The buffers of the last checkpoint, by name; none where there is no checkpoint."""
        entries = self.entries() if self.index.exists() else {}
        return self.read(max(entries), entries[max(entries)]).buffers if entries else {}

    def _unchanged(self, checkpoint: Checkpoint) -> dict[str, tuple[int, str]]:
        """Frozen parameters that are in an earlier file, the same to the bit; the others are noted."""
        unchanged = {}
        for name in checkpoint.frozen:
            digest = _tensor_digest(checkpoint.parameters[name])
            before = self._written.get(name)
            if before is not None and before[1] == digest:
                unchanged[name] = before
            else:
                self._written[name] = (checkpoint.step, digest)
        return unchanged

    def _frozen_parameter(self, name: str, step: int, digest: str) -> Tensor:
        if (name, step) not in self._frozen:
            path = self.path(step)
            try:
                with safe_open(path, framework="pt") as file:
                    tensor = file.get_tensor(f"parameters/{name}").clone()
            except Exception as error:
                raise RunDamaged(f"{path} can't be read ({error}). Restore it from a copy, or train again.") from error
            if _tensor_digest(tensor) != digest:
                raise RunDamaged(f"{path} holds another {name} than was written. Restore it, or train again.")
            self._frozen[name, step] = tensor
        return self._frozen[name, step]


def _entries(checkpoint: Checkpoint, part: str) -> Iterator[tuple[str, Any]]:
    entries: Mapping[str, Any] = getattr(checkpoint, part)
    if part != "optimizer":
        yield from entries.items()
        return
    for name, states in entries.items():
        for key, value in states.items():
            yield f"{key}/{name}", value


def _enter(parts: dict[str, Any], key: str, value: Any) -> None:
    part, _, name = key.partition("/")
    if part in STATES_OF_SCHEMA_1:
        part, name = "optimizer", f"{STATES_OF_SCHEMA_1[part]}/{name}"
    if part == "optimizer":
        state, _, name = name.partition("/")
        parts[part].setdefault(name, {})[state] = value
    else:
        parts[part][name] = value


def _tensor_digest(tensor: Tensor) -> str:
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(raw.data).hexdigest()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
