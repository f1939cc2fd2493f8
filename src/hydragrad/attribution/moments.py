"""Moments of a run: what a reverse sweep needs of every step, from the last to the first.

They are replayed forward. A stretch of the run is held in memory only as far as a budget allows.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from hydragrad.attribution.plan import Plan
from hydragrad.derivatives import Batch, Terms, terms_of
from hydragrad.derivatives.graph import Kind, kind_of_graph
from hydragrad.replay import Replay
from hydragrad.replay.histories import state_names
from hydragrad.replay.resumable import check_end
from hydragrad.replay.trajectory import PlaceOfStep, StateNames
from hydragrad.runs import Checkpoint, StepRecord
from hydragrad.runs.log import MicroBatch
from hydragrad.steps import StepPoint


class Evaluated(NamedTuple):
    """One micro-batch of a step: its data, the buffers before it, the losses it had, and the operations behind them;
    and the terms of the losses, where parts are summed."""

    part: MicroBatch
    batch: Batch
    buffers: dict[str, Tensor]
    losses: Tensor
    kind: Kind
    terms: Terms | None = None


class Moment(NamedTuple):
    """What the sweep needs of one step.

    Attributes:
        record: What the step did.
        parameters: Before it.
        evaluated: Its micro-batches.
        gradient: What the backward passes left, flat.
        point: Where the optimizer stepped, flat; None where its rule does not need it.
        gradients: The gradients before each transform, flat.
    """

    record: StepRecord
    parameters: dict[str, Tensor]
    evaluated: list[Evaluated]
    gradient: Tensor
    point: StepPoint | None
    gradients: list[Tensor]


def backwards(plan: Plan, replay: Replay, start: Checkpoint, stop: int, memory: int) -> Iterator[Moment]:
    """Yield the moments of steps [start.step, stop) from the last to the first.

    Where their states do not fit into `memory`, the stretch is cut into parts whose starting states fit, and the
    parts are replayed again, last part first.
    """
    room = max(2, memory // max(1, _moment_bytes(plan, start)))
    count = stop - start.step
    if count <= room:
        yield from reversed(_forward(plan, replay, start, stop))
        return
    length = -(-count // room)
    starts = [start]
    replay.trajectory.restore(start)
    for cut in range(start.step + length, stop, length):
        for record in plan.run.steps[cut - length : cut]:
            replay.advance(record, plan.run.batches(record))
        starts.append(replay.trajectory.checkpoint(cut))
    ends = [*(checkpoint.step for checkpoint in starts[1:]), stop]
    for checkpoint, end in zip(reversed(starts), reversed(ends), strict=True):
        yield from backwards(plan, replay, checkpoint, end, memory)


def _moment_bytes(plan: Plan, start: Checkpoint) -> int:
    """What the sweep keeps of a step, at most: a checkpoint's tensors, the gradient, and the place of the step."""
    flat = plan.weights.size * plan.like.element_size()
    if not _needs_point(plan):
        return start.bytes + flat
    return start.bytes + 2 * flat


def _needs_point(plan: Plan) -> bool:
    return any(history.rule.closed_form is None for history in plan.histories)


class _Collecting(PlaceOfStep):
    """Notes what the sweep needs of a step while it is replayed: buffers before every micro-batch, too."""

    def __init__(self, plan: Plan, replay: Replay, states: Sequence[StateNames] | None) -> None:
        super().__init__(replay.trajectory, plan.weights, states)
        self.buffers: list[dict[str, Tensor]] = []
        self.kinds: list[Kind] = []
        self.terms: list[Terms | None] = []
        self._parts = plan.parts

    @property
    def gradient(self) -> Tensor:
        """What the backward passes left."""
        return self.gradients[0] if self.gradients else self.last_gradient

    def before_forward(self, number: int) -> None:
        self.buffers.append({name: value.clone() for name, value in self._trajectory.buffers.items()})

    def after_forward(self, number: int, losses: Tensor) -> None:
        self.kinds.append(kind_of_graph(losses))
        self.terms.append(terms_of(losses) if self._parts else None)


def _forward(plan: Plan, replay: Replay, start: Checkpoint, stop: int) -> list[Moment]:
    trajectory = replay.trajectory
    trajectory.restore(start)
    states = state_names(plan.histories) if _needs_point(plan) else None
    moments = []
    for record in plan.run.steps[start.step : stop]:
        parameters = {name: value.clone() for name, value in trajectory.parameters.items()}
        batches, noted = plan.run.batches(record), _Collecting(plan, replay, states)
        losses = replay.advance(record, batches, hooks=noted)
        evaluated = [
            Evaluated(*parts)
            for parts in zip(
                record.micro_batches, batches, noted.buffers, losses, noted.kinds, noted.terms, strict=True
            )
        ]
        moments.append(Moment(record, parameters, evaluated, noted.gradient, noted.point, noted.gradients))
    check_end(plan.run, replay, stop)
    return moments
