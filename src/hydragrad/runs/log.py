"""The step log: what every step did, one sealed line of JSON a step, entries that did not change left out."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from hydragrad.errors import RunDamaged, Unsupported
from hydragrad.randomness import stream_seed
from hydragrad.steps.rule import number
from hydragrad.steps.rules import Options as Options
from hydragrad.steps.transforms import Transform, from_plain, to_plain

LOG = "steps.jsonl"
ENTRIES = ("step", "loss")
"""What every line of it has, whichever version wrote it."""


RARE = ("autocast", "channels_last", "rank", "buffers")
"""Entries of a micro-batch that are written where there is something to say."""

Autocast = tuple[str, str]
"""What a forward pass ran under: kind of device and floating-point type."""


@dataclass(frozen=True)
class Structure:
    """What rarely changes from step to step.

    Attributes:
        groups: Parameter names, by parameter group of the optimizer.
        frozen: Parameters that required no gradient.
        idle: Parameters of the optimizer that had no gradient when it stepped, and so were skipped.
        evaluating: Modules that were in eval mode.
        owners: The number of the optimizer of every group; empty where there is one.
    """

    groups: tuple[tuple[str, ...], ...]
    frozen: tuple[str, ...]
    idle: tuple[str, ...]
    evaluating: tuple[str, ...]
    owners: tuple[int, ...] = ()

    def owner(self, group: int) -> int:
        """The number of a group's optimizer."""
        return self.owners[group] if self.owners else 0

    @cached_property
    def group_of(self) -> dict[str, int]:
        """Parameter group of every parameter that was not skipped."""
        idle = set(self.idle)
        return {name: number for number, group in enumerate(self.groups) for name in group if name not in idle}


def require_frozen_skipped(structure: Structure) -> None:
    """Refuse frozen parameters that the optimizer moves: their gradient is 0, whatever the sample weights are.

    Raises:
        Unsupported: Names one.
    """
    moved = [name for name in structure.frozen if name in structure.group_of]
    if moved:
        raise Unsupported(
            f"A frozen parameter must have no gradient, so that the optimizer skips it; {moved[0]} requires no "
            f"gradient and has one (of zeros, or of an earlier step), which is not differentiated here. Use "
            f"optimizer.zero_grad(set_to_none=True)."
        )


@dataclass(frozen=True)
class MicroBatch:
    """One forward and backward pass of a step.

    Attributes:
        indices: The samples of the batch, in their order.
        batch_seed: What random augmentation of the batch was seeded with.
        seed: What the forward pass was seeded with.
        coefficients: Derivatives of the step's loss by the per-sample losses: one for all, or one for each.
        digest: Of the batch's tensors (of large ones of a sample); None where the loop did not show the batch.
        autocast: What its forward pass ran under; None where the model ran as it is.
        channels_last: Which of the batch's tensors the loop laid out so, by their number: kernels round by layout.
        rank: The process that made it, where several trained together.
        buffers: One number over the model's floating buffers when its forward pass began, where several processes did.
    """

    indices: list[int]
    batch_seed: int
    seed: int
    coefficients: float | tuple[float, ...]
    digest: int | None = None
    autocast: Autocast | None = None
    channels_last: tuple[int, ...] = ()
    rank: int = 0
    buffers: float | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def divisor(self) -> float:
        """Where one coefficient is that of all: the step's loss is the sum of the per-sample losses over this number.

        A quotient by the size of the batch is rounded once; a product with its reciprocal twice.
        """
        if isinstance(self.coefficients, tuple):
            return 1.0
        size = float(len(self.indices))
        return size if self.coefficients == 1 / size else 1 / self.coefficients

    def loss_weights(self, like: Tensor) -> Tensor | None:
        """What the per-sample losses are multiplied by next to the divisor, (batch,); None where that is 1."""
        return like.new_tensor(self.coefficients) if isinstance(self.coefficients, tuple) else None

    def weighted(self, values: Tensor, positions: Sequence[int] | None = None, dim: int = -1) -> Tensor:
        """What goes with per-sample losses, times the losses' coefficients.

        Args:
            values: One entry a sample along `dim`.
            positions: Which samples of the batch they are; all if None.
            dim: Where the samples are.
        """
        if not isinstance(self.coefficients, tuple):
            return values / self.divisor
        factors = values.new_tensor(self.coefficients)
        factors = factors if positions is None else factors[list(positions)]
        return values * factors.reshape(-1, *[1] * (values.dim() - 1 - dim % values.dim()))


@dataclass(frozen=True)
class StepRecord:
    """One step of the run.

    Attributes:
        step: Counted from 0.
        micro_batches: What the gradient was summed over, in order; usually one.
        options: Every option in force when the optimizer stepped, by parameter group.
        structure: What rarely changes.
        state: One number over all parameters, floating buffers and optimizer states after the step: it shows at which
            step a replay departs.
        loss: Loss of the step, where the loop reported it.
        transforms: What happened to the gradients before the optimizer stepped, in order.
        clipped: Whether it changed any: clipping may not have acted.
        whole_state: False where `state` is that of schema 1: the norm of the first trained parameter.
        shared: The same as `state` without the buffers, where several processes trained together: equal in all.
        buffers_from: The micro-batch that left the buffers which each one began with, by its number, -1 for those
            before the step; None where each began with what the one before it left.
    """

    step: int
    micro_batches: tuple[MicroBatch, ...]
    options: tuple[Options, ...]
    structure: Structure
    state: float
    loss: float | None
    transforms: tuple[Transform, ...] = ()
    whole_state: bool = True
    clipped: bool = True
    shared: float | None = None
    buffers_from: tuple[int, ...] | None = None

    @property
    def sources(self) -> tuple[int, ...]:
        """`buffers_from`, of any step."""
        return tuple(range(-1, len(self.micro_batches) - 1)) if self.buffers_from is None else self.buffers_from

    @property
    def last_source(self) -> int:
        """The micro-batch that left the buffers after the step: the last of rank 0."""
        return max(number for number, part in enumerate(self.micro_batches) if part.rank == 0)

    @property
    def transformed(self) -> bool:
        """Whether the optimizer got other gradients than the backward passes gave."""
        return bool(self.transforms) and self.clipped

    @property
    def indices(self) -> list[int]:
        """The samples of all micro-batches, in their order."""
        if len(self.micro_batches) == 1:
            return self.micro_batches[0].indices
        return [index for part in self.micro_batches for index in part.indices]

    @property
    def shown(self) -> bool:
        """Whether the loop showed the step's batches, so that their digests are known."""
        return all(part.digest is not None for part in self.micro_batches)

    @property
    def autocast(self) -> str | None:
        """The type that the step ran in under autocast; None where it ran without."""
        return next((part.autocast[1] for part in self.micro_batches if part.autocast is not None), None)

    @property
    def rate(self) -> float:
        """The learning rate of the first parameter group."""
        return number(self.options[0]["lr"])


def to_line(record: StepRecord, before: StepRecord | None) -> dict[str, Any]:
    """What is written of a record, given the one before it."""
    line: dict[str, Any] = {"step": record.step, "micro_batches": [_written(part) for part in record.micro_batches]}
    line |= {"state" if record.whole_state else "norm": record.state, "loss": record.loss}
    if record.shared is not None:
        line["shared"] = record.shared
    if record.transforms and not record.clipped:
        line["clipped"] = False
    if record.transforms != (() if before is None else before.transforms):
        line["transforms"] = [_named_by_place(to_plain(each), record.structure) for each in record.transforms]
    if before is None or before.options != record.options:
        line["options"] = list(record.options)
    if before is None or (before.structure is not record.structure and before.structure != record.structure):
        line["structure"] = {name: value for name, value in asdict(record.structure).items() if name != "owners"}
        if record.structure.owners:
            line["structure"]["owners"] = record.structure.owners
    return line


def from_lines(lines: Sequence[dict[str, Any]], *, seed: int = 0, reduction: str = "mean") -> Iterator[StepRecord]:
    """Read records back.

    Args:
        lines: As `to_line` made them, or as schema 1 had them: one batch a step, whose seed and coefficients follow
            from the run's.
        seed: Of the run.
        reduction: Of the run.

    Raises:
        RunDamaged: Steps out of sequence.
    """
    options: tuple[Options, ...] = ()
    structure = Structure((), (), (), ())
    transforms: tuple[Transform, ...] = ()
    for step, line in enumerate(lines):
        if line["step"] != step:
            raise RunDamaged(f"The step log has step {line['step']} where step {step} belongs: lines are missing.")
        if "options" in line:
            options = tuple({name: _frozen(value) for name, value in group.items()} for group in line["options"])
        if "structure" in line:
            written = line["structure"]
            structure = Structure(
                groups=tuple(tuple(names) for names in written["groups"]),
                **{name: tuple(written.get(name, ())) for name in ("frozen", "idle", "evaluating", "owners")},
            )
        written_parts = line["micro_batches"] if "micro_batches" in line else [_of_schema_1(line, seed, reduction)]
        parts = tuple(MicroBatch(**{name: _frozen_entry(name, part[name]) for name in part}) for part in written_parts)
        if "transforms" in line:
            transforms = tuple(from_plain(_named_again(values, structure)) for values in line["transforms"])
        whole = "state" in line
        state = line["state" if whole else "norm"]
        yield StepRecord(
            step,
            parts,
            options,
            structure,
            state,
            line["loss"],
            transforms,
            whole,
            line.get("clipped", True),
            line.get("shared"),
        )


def _written(part: MicroBatch) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if name not in RARE or value}


def _frozen_entry(name: str, value: Any) -> Any:
    return value if name == "indices" else _frozen(value)


def _named_by_place(transform: dict[str, Any], structure: Structure) -> dict[str, Any]:
    """The names of a transform as ranges of places in the parameter groups: a step's line stays short."""
    place = {name: number for number, name in enumerate(_every_name(structure))}
    runs: list[Any] = []
    for name in transform["names"]:
        at = place.get(name)
        if at is None:
            runs.append(name)
        elif runs and isinstance(runs[-1], list) and runs[-1][1] == at:
            runs[-1][1] = at + 1
        else:
            runs.append([at, at + 1])
    return transform | {"names": runs}


def _named_again(transform: dict[str, Any], structure: Structure) -> dict[str, Any]:
    """Undo `_named_by_place`."""
    every = _every_name(structure)
    names = (run if isinstance(run, str) else every[slice(*run)] for run in transform["names"])
    return transform | {"names": [name for run in names for name in ([run] if isinstance(run, str) else run)]}


def _every_name(structure: Structure) -> list[str]:
    return [name for group in structure.groups for name in group]


def _of_schema_1(line: dict[str, Any], seed: int, reduction: str) -> dict[str, Any]:
    return {
        "indices": line["indices"],
        "batch_seed": line["batch_seed"],
        "seed": stream_seed(seed, line["step"]),
        "coefficients": 1 / len(line["indices"]) if reduction == "mean" else 1.0,
    }


def _frozen(value: Any) -> Any:
    """JSON has lists where there were tuples."""
    return tuple(_frozen(part) for part in value) if isinstance(value, list) else value
