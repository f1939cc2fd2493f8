"""What rounding does to a run: how far a replay on another machine may be from the record.

Kernels of another machine round otherwise, and a run carries on every rounding, amplified. How much is a property of
the run: little where it is smooth, much where Adam divides small gradients by their own size. Where a network has
kinks, a rounding decides now and then on which side of one a unit is, and the gradient jumps.

So it is measured. Two followers make the steps of the replay once more, one from weights that are moved by a rounding.
Their difference is rounding. Where the record leaves both, the step is tried again from weights moved in other ways, to
see whether one of them takes the record's side of a kink; a follower goes on from there. Where that can't be found and
the jump is no larger than others at kinks, the record counts as lost: differences may grow from there. A record that is
further away differs for another reason.

Followers are made only where a replay differs by more than a few roundings, and go up to the step in question.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from hydragrad.derivatives import Batch
from hydragrad.randomness import preserved
from hydragrad.replay.differences import parts_of, relative, relative_differences
from hydragrad.replay.fingerprints import first_trained_norm
from hydragrad.replay.trajectory import Trajectory
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.runs.log import StepRecord

PLAIN_ROUNDINGS = 8
"""Relative difference in units of rounding up to which nothing is measured; at most PLAIN_AT_MOST."""

PLAIN_AT_MOST = 1e-3

PLAIN_AT_CHECKPOINT = 1024
"""The same of a checkpoint's parts, whose L2 differences do not cancel as those of norms do."""

MOVES = 4, 16, 64
"""How far weights are moved, in units of rounding of each: a follower's at the start by the first."""

SAFETY = 16
"""How much further than from each other the followers may be from the record."""

NEAR = 4
"""How many times the usual difference two states may be apart that lie on the same side of all kinks."""

KINKS = 4
"""How many times the largest jump at a kink so far another one may be."""

LOSSES = 256
"""How much further losses may be apart than states, of which norms cancel much."""

PARTS = 1024
"""The same of the parts of a checkpoint."""

LEAST = 2.0**-46
"""Smallest difference that is looked into: the number over a state is rounded itself."""

FIRST_TRIALS, TRIALS = 6, 32
"""How often a step is tried again, at least and at most."""

TF32 = 2.0**-17
"""Unit of rounding of a GPU that multiplies float32 numbers with ten bits: sums average the errors of products."""


class RecordedRun(Protocol):
    """What followers need of a run."""

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
        """Relative differences from another; 0 where there is no loss to compare."""
        return Seen(relative(self.state, other.state), relative(self.loss, other.loss))

    def largest(self, other: "Seen") -> "Seen":
        """The larger of each."""
        return Seen(max(self.state, other.state), max(self.loss, other.loss))


NOTHING = Seen(0.0, 0.0)


class Measured(NamedTuple):
    """How far a record is from the nearest follower, and how far it may be. Relative differences."""

    apart: Seen
    explained: Seen


@dataclass
class _Follower:
    """A trajectory, the state before its last step, and what that step gave."""

    trajectory: Trajectory
    before: Checkpoint | None = None
    seen: Seen = NOTHING


class Followers:
    """Follow a record as closely as rounding lets them.

    Args:
        run: What is replayed.
        build: Makes a trajectory.
        unit: Relative size of a rounding.
    """

    def __init__(self, run: RecordedRun, build: Callable[[], Trajectory], unit: float) -> None:
        self._run, self._build, self.unit = run, build, unit
        self._both: tuple[_Follower, _Follower] | None = None
        self._measured: dict[int, Measured] = {}
        self._unmoved: dict[int, float] = {}
        self._moved = False
        self._usual, self._kink, self._lost, self._lost_loss = NOTHING, 0.0, 0.0, 0.0
        self._origin, self._next = -1, -1

    @property
    def plain(self) -> float:
        """Relative difference up to which nothing is measured."""
        return min(max(PLAIN_ROUNDINGS * self.unit, LEAST), PLAIN_AT_MOST)

    @property
    def plain_at_checkpoint(self) -> float:
        """Relative L2 difference up to which nothing is measured."""
        return min(PLAIN_AT_CHECKPOINT * self.unit, 10 * PLAIN_AT_MOST)

    def at_step(self, origin: int, step: int, replayed: float) -> Measured:
        """Compare the record of a step with the followers.

        Args:
            origin: The step whose recorded state they start from.
            step: At or after the origin.
            replayed: The replay's own number over the state, which must be that of a follower that was never moved.

        Cost: twice the steps from the origin, or from where this was last called.
        """
        self._go_to(origin, step + 1)
        apart, explained = self._measured[step]
        own = relative(replayed, self._unmoved.get(step, replayed))
        return Measured(apart if own <= self.plain else apart._replace(state=own), explained)

    def at_checkpoint(self, origin: int, recorded: Checkpoint) -> tuple[dict[str, float], dict[str, float]]:
        """Compare a checkpoint with the followers; relative L2 differences by part, and what rounding explains."""
        first, second = (parts_of(one.trajectory.checkpoint(0)) for one in self._go_to(origin, recorded.step))
        apart, spread = relative_differences(first, parts_of(recorded)), relative_differences(second, first)
        lost = PARTS * self._lost
        return apart, {part: max(self.plain_at_checkpoint, SAFETY * spread.get(part, 0.0), lost) for part in apart}

    def _go_to(self, origin: int, stop: int) -> tuple[_Follower, _Follower]:
        with preserved():
            if self._both is None or origin != self._origin or (stop < self._next and stop - 1 not in self._measured):
                self._start(origin)
            assert self._both is not None
            for record in self._run.steps[self._next : stop]:
                self._measured[record.step] = self._follow(record, *self._both)
                self._next = record.step + 1
            return self._both

    def _start(self, origin: int) -> None:
        self._both = self._both or (_Follower(self._build()), _Follower(self._build()))
        start = self._run.checkpoint(origin)
        for one in self._both:
            one.trajectory.restore(start)
        self._move(self._both[1].trajectory, MOVES[0], origin)
        self._origin, self._next, self._measured = origin, origin, {}
        self._unmoved, self._moved = {}, False
        self._usual, self._kink, self._lost, self._lost_loss = NOTHING, 0.0, 0.0, 0.0

    def _follow(self, record: StepRecord, first: _Follower, second: _Follower) -> Measured:
        """Make a step with both; afterwards the first is the nearer to the record."""
        recorded, batches = _recorded(record), self._run.batches(record)
        for one in (first, second):
            one.before = one.trajectory.checkpoint(record.step)
            one.seen = self._advance(one.trajectory, record, batches)
        if not self._moved:
            self._unmoved[record.step] = first.seen.state
        spread = second.seen.apart(first.seen)
        if second.seen.apart(recorded).state < first.seen.apart(recorded).state > self._near:
            _exchange(first, second)
            self._moved = True
        self._usual = self._usual._replace(loss=max(self._usual.loss, spread.loss))
        if max(spread.state, first.seen.apart(recorded).state) > self._near:
            self._try_again(record, batches, first)
        nearest = first.seen.apart(recorded)
        if spread.state > self._near:  # the second is on another side of a kink
            self._kink = max(self._kink, spread.state)
            second.trajectory.restore(first.trajectory.checkpoint(record.step))
            self._move(second.trajectory, MOVES[0], record.step)
        else:
            self._learn(spread.state)
        explained = self._explained()
        if self._near < nearest.state <= explained.state:  # a kink that could not be made again: it grows from here
            self._lost = max(self._lost, nearest.state)
        if self._lost and nearest.loss <= explained.loss:
            self._lost_loss = max(self._lost_loss, nearest.loss)
        return Measured(nearest, explained)

    def _explained(self) -> Seen:
        state = max(self.plain, SAFETY * max(self._usual.state, self._lost), KINKS * self._kink)
        loss = max(
            self.plain, SAFETY * max(self._usual.loss, self._lost_loss), LOSSES * max(self._lost, self._usual.state)
        )
        return Seen(state, loss)

    @property
    def _near(self) -> float:
        """Up to which difference two states lie on the same side of all kinks."""
        return max(self.unit / 2, LEAST, NEAR * max(self._usual.state, self._lost))

    def _learn(self, state: float) -> None:
        self._usual = self._usual._replace(state=max(self._usual.state, state))

    def _try_again(self, record: StepRecord, batches: list[Batch], one: _Follower) -> None:
        """Make a step from weights moved in other ways, until the state is near the record; go on from the nearest.

        How far the first of these states are from each other is how far apart states on one side of all kinks are: the
        lower quartile, since some may be on another side.
        """
        recorded, start, near = _recorded(record), one.before, self._near / 2
        assert start is not None
        best, after = one.seen, one.trajectory.checkpoint(record.step)
        states = [one.seen.state]
        for trial in range(TRIALS):
            if trial >= FIRST_TRIALS and best.apart(recorded).state <= near:
                break
            one.trajectory.restore(start)
            move = MOVES[0 if trial < FIRST_TRIALS else trial % len(MOVES)]
            self._move(one.trajectory, move, 1 + trial + TRIALS * record.step)
            moved = one.trajectory.checkpoint(record.step)
            seen = self._advance(one.trajectory, record, batches)
            states.append(seen.state)
            if seen.apart(recorded).state < best.apart(recorded).state > near:
                best, after, self._moved = seen, one.trajectory.checkpoint(record.step), True
                start = moved if trial >= FIRST_TRIALS else start  # several kinks, one after the other
        apart = sorted(relative(x, y) for x, y in itertools.combinations(states[: 1 + FIRST_TRIALS], 2))
        self._learn(apart[len(apart) // 4])
        self._kink = max(self._kink, apart[-1] if apart[-1] > self._near else 0.0)
        one.trajectory.restore(after)
        one.seen = best

    @staticmethod
    def _advance(trajectory: Trajectory, record: StepRecord, batches: list[Batch]) -> Seen:
        losses = trajectory.advance(record, batches)
        return Seen(state_after(trajectory, record), float("nan") if record.loss is None else step_loss(record, losses))

    def _move(self, trajectory: Trajectory, roundings: int, seed: int) -> None:
        """Move every weight by some roundings, up or down."""
        generator = torch.Generator().manual_seed(seed)
        for value in trajectory.parameters.values():
            if value.is_floating_point():
                signs = torch.randint(2, value.shape, generator=generator).to(value).mul_(2).sub_(1)
                unit = max(self.unit, float(torch.finfo(value.dtype).eps))
                value.addcmul_(value, signs, value=roundings * unit)


def _recorded(record: StepRecord) -> Seen:
    return Seen(record.state, float("nan") if record.loss is None else record.loss)


def _exchange(first: _Follower, second: _Follower) -> None:
    before = dict(vars(first))
    vars(first).update(vars(second))
    vars(second).update(before)


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
