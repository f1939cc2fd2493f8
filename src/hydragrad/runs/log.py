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


@dataclass(frozen=True)
class Structure:
    """What rarely changes from step to step.

    Attributes:
        groups: Parameter names, by parameter group of the optimizer.
        frozen: Parameters that required no gradient.
        idle: Parameters of the optimizer that had no gradient when it stepped, and so were skipped.
        evaluating: Modules that were in eval mode.
    """

    groups: tuple[tuple[str, ...], ...]
    frozen: tuple[str, ...]
    idle: tuple[str, ...]
    evaluating: tuple[str, ...]

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
    """

    indices: list[int]
    batch_seed: int
    seed: int
    coefficients: float | tuple[float, ...]
    digest: int | None = None

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
        whole_state: False where `state` is that of schema 1: the norm of the first trained parameter.
    """

    step: int
    micro_batches: tuple[MicroBatch, ...]
    options: tuple[Options, ...]
    structure: Structure
    state: float
    loss: float | None
    transforms: tuple[Transform, ...] = ()
    whole_state: bool = True

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
    def rate(self) -> float:
        """The learning rate of the first parameter group."""
        return number(self.options[0]["lr"])


def to_line(record: StepRecord, before: StepRecord | None) -> dict[str, Any]:
    """What is written of a record, given the one before it."""
    line: dict[str, Any] = {"step": record.step, "micro_batches": [vars(part) for part in record.micro_batches]}
    line |= {"state" if record.whole_state else "norm": record.state, "loss": record.loss}
    if record.transforms:
        line["transforms"] = [to_plain(transform) for transform in record.transforms]
    if before is None or before.options != record.options:
        line["options"] = list(record.options)
    if before is None or (before.structure is not record.structure and before.structure != record.structure):
        line["structure"] = asdict(record.structure)
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
    for step, line in enumerate(lines):
        if line["step"] != step:
            raise RunDamaged(f"The step log has step {line['step']} where step {step} belongs: lines are missing.")
        if "options" in line:
            options = tuple({name: _frozen(value) for name, value in group.items()} for group in line["options"])
        if "structure" in line:
            written = line["structure"]
            structure = Structure(
                groups=tuple(tuple(names) for names in written["groups"]),
                **{name: tuple(written[name]) for name in ("frozen", "idle", "evaluating")},
            )
        written_parts = line["micro_batches"] if "micro_batches" in line else [_of_schema_1(line, seed, reduction)]
        parts = tuple(MicroBatch(**part | {"coefficients": _frozen(part["coefficients"])}) for part in written_parts)
        transforms = tuple(from_plain(values) for values in line.get("transforms", ()))
        whole = "state" in line
        state = line["state" if whole else "norm"]
        yield StepRecord(step, parts, options, structure, state, line["loss"], transforms, whole)


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
