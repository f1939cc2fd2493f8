"""What rounding does to a run: how far a replay on another machine may be from the record.

Kernels of another machine round otherwise, and a run carries on every rounding, amplified. How much is a property of the
run: little where it is smooth, much where Adam divides small gradients by their own size. So it is measured: a twin of
the replay starts from weights that are moved by a rounding, and makes the same steps. What tells the twin from the
replay is rounding; a replay that is further than that from the record differs for another reason.

The twin is made only where the difference is more than a few roundings, and then up to the step in question.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from hydragrad.derivatives import Batch
from hydragrad.randomness import preserved
from hydragrad.replay.fingerprints import first_trained_norm
from hydragrad.replay.trajectory import Trajectory
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.runs.log import StepRecord

PLAIN_ROUNDINGS = 8
"""Relative difference in units of rounding up to which nothing is measured."""

TWIN_MOVES = 4
"""How far the twin's weights are moved at the start, in units of rounding of each."""

SAFETY = 16
"""How much larger than the twin's difference from the replay that from the record may be."""

TF32 = 2.0**-11
"""Unit of rounding of a GPU that multiplies float32 numbers with ten bits."""

Parts = dict[str, dict[str, Tensor]]
"""What is compared of a checkpoint: weights, buffers, and each kind of optimizer state, by name."""


class RecordedRun(Protocol):
    """What a twin needs of a run."""

    @property
    def steps(self) -> Sequence[StepRecord]:
        """What every step did."""
        ...

    def checkpoint(self, step: int) -> Checkpoint:
        """The recorded state before a step."""
        ...

    def batches(self, record: StepRecord) -> list[Batch]:
        """A step's data."""
        ...


class Seen(NamedTuple):
    """What is compared of a step: the number over the state after it, and its loss. Also their differences."""

    state: float
    loss: float

    def apart(self, other: "Seen") -> "Seen":
        """Relative differences from another."""
        return Seen(relative(self.state, other.state), relative(self.loss, other.loss))

    def largest(self, other: "Seen") -> "Seen":
        """The larger of each."""
        return Seen(max(self.state, other.state), max(self.loss, other.loss))


NOTHING = Seen(0.0, 0.0)


class ExpectedDrift:
    """Measures how far rounding takes a replay from the record.

    Args:
        run: What is replayed.
        build: Makes a trajectory for the twin.
        unit: Relative size of a rounding.
    """

    def __init__(self, run: RecordedRun, build: Callable[[], Trajectory], unit: float) -> None:
        self._run, self._build, self.unit = run, build, unit
        self._replayed: dict[int, Seen] = {}
        self._expected: dict[int, Seen] = {}
        self._twin: Trajectory | None = None
        self._origin, self._next = -1, -1

    def note(self, step: int, seen: Seen) -> None:
        """Remember what the replay gave at a step."""
        self._replayed[step] = seen

    def of_step(self, origin: int, step: int) -> Seen:
        """Relative differences that rounding explains at a step.

        Args:
            origin: The step whose recorded state the replay was started from.
            step: What was noted last.

        Cost: the steps from the origin once more, or from where this was last called.
        """
        self._go_to(origin, step + 1)
        return Seen(*(max(PLAIN_ROUNDINGS * self.unit, SAFETY * apart) for apart in self._expected[step]))

    def of_parts(self, origin: int, step: int, present: Parts) -> dict[str, float]:
        """Relative L2 differences before a step that rounding explains, by part of the state."""
        twin = self._go_to(origin, step)
        apart = relative_differences(parts_of(twin.checkpoint(step)), present)
        return {part: max(PLAIN_ROUNDINGS * self.unit, SAFETY * value) for part, value in apart.items()}

    def _go_to(self, origin: int, stop: int) -> Trajectory:
        """Take the twin to the state before a step; those that it has left are remembered."""
        if self._twin is None or origin != self._origin or (stop < self._next and stop - 1 not in self._expected):
            self._start(origin)
        assert self._twin is not None
        with preserved():
            for record in self._run.steps[self._next : stop]:
                losses = self._twin.advance(record, self._run.batches(record))
                seen = Seen(state_after(self._twin, record), step_loss(record, losses))
                # Steps that the replay did not make are passed over: nothing is asked of them.
                apart = seen.apart(self._replayed[record.step]) if record.step in self._replayed else NOTHING
                self._expected[record.step] = apart.largest(self._expected.get(record.step - 1, NOTHING))
                self._next = record.step + 1
        return self._twin

    def _start(self, origin: int) -> None:
        with preserved():
            self._twin = self._twin or self._build()
            self._twin.restore(self._run.checkpoint(origin))
        generator = torch.Generator().manual_seed(origin)
        for value in self._twin.parameters.values():
            if value.is_floating_point():
                signs = torch.randint(2, value.shape, generator=generator).to(value).mul_(2).sub_(1)
                value.addcmul_(value, signs, value=TWIN_MOVES * max(self.unit, float(torch.finfo(value.dtype).eps)))
        self._origin, self._next, self._expected = origin, origin, {}


def unit_of_rounding(values: Iterable[Tensor], machines: Iterable[Mapping[str, object]]) -> float:
    """Relative size of a rounding of the coarsest type among values, on the coarsest of machines."""
    types = {value.dtype for value in values if value.is_floating_point()}
    unit = max((float(torch.finfo(dtype).eps) for dtype in types), default=float(torch.finfo(torch.float64).eps))
    return max(unit, TF32) if torch.float32 in types and any(map(_multiplies_with_ten_bits, machines)) else unit


def _multiplies_with_ten_bits(machine: Mapping[str, object]) -> bool:
    flags = machine.get("backend")
    switches = ("cudnn tf32", "matmul tf32")
    return machine.get("device") != "cpu" and isinstance(flags, dict) and any(map(flags.get, switches))


def state_after(trajectory: Trajectory, record: StepRecord) -> float:
    """The present state of a trajectory as a step's record has it."""
    if record.whole_state:
        return trajectory.state_number()
    return first_trained_norm(trajectory.parameters, record.structure)


def step_loss(record: StepRecord, losses: Sequence[Tensor]) -> float:
    """A step's loss from its per-sample losses."""
    parts = zip(record.micro_batches, losses, strict=True)
    return sum(float(part.weighted(own.detach().double()).sum()) for part, own in parts)


def relative(given: float, expected: float) -> float:
    """Relative difference of two numbers; 0 only where they are equal."""
    if given == expected:
        return 0.0
    return abs(given - expected) / max(abs(expected), 1e-300)


def parts_of(checkpoint: Checkpoint) -> Parts:
    """A checkpoint's floating tensors, by part and name; the optimizer's counters are left out."""
    parts: Parts = {"weights": dict(checkpoint.parameters), "buffers": dict(checkpoint.buffers)}
    for name, entries in checkpoint.optimizer.items():
        for key, value in entries.items():
            if isinstance(value, Tensor) and value.dim():
                parts.setdefault(f"the optimizer's {key}", {})[name] = value
    return {
        part: {name: value for name, value in values.items() if value.is_floating_point()}
        for part, values in parts.items()
    }


def relative_differences(given: Parts, expected: Parts) -> dict[str, float]:
    """Relative L2 distance of each part; infinite where only one has it."""
    return {
        part: relative_difference(given[part], values) if given.get(part, {}).keys() == values.keys() else math.inf
        for part, values in expected.items()
    }


def relative_difference(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Relative L2 distance of two sets of named tensors; 0 only where they are equal to the bit."""
    distance = scale = 0.0
    for name, value in expected.items():
        value = value.double().cpu()
        distance += float((given[name].double().cpu() - value).square().sum())
        scale += float(value.square().sum())
    return math.sqrt(distance / scale) if scale > 0 else math.sqrt(distance)
