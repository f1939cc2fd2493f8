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
from hydragrad.replay.means import parts_in
from hydragrad.replay.resumable import check_end
from hydragrad.replay.trajectory import PlaceOfStep, StateNames
from hydragrad.runs import Checkpoint, StepRecord
from hydragrad.runs.log import MicroBatch
from hydragrad.steps import StepPoint


class Evaluated(NamedTuple):
    """One micro-batch of a step.

    Attributes:
        part: What the step did with it.
        batch: Its data.
        buffers: Before it.
        losses: That it had.
        kind: Of the operations behind them.
        terms: Of the losses, where parts are summed.
        part_count: Number of parts of every sample, where means are over parts.
        alpha: The run's own sample weights, (batch,); None where they are 1.
        factor: What its coefficients are multiplied by where its mean is over what these weights leave.
    """

    part: MicroBatch
    batch: Batch
    buffers: dict[str, Tensor]
    losses: Tensor
    kind: Kind
    terms: Terms | None = None
    part_count: Tensor | None = None
    alpha: Tensor | None = None
    factor: float = 1.0

    @property
    def weights(self) -> Tensor | None:
        """What the losses are multiplied by next to their coefficients, (batch,); None where that is 1."""
        return self.alpha if self.alpha is None or self.factor == 1 else self.alpha * self.factor


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
        self.counts: list[Tensor | None] = []
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
        self.counts.append(parts_in(losses))


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
                *(record.micro_batches, batches, noted.buffers, losses, noted.kinds, noted.terms, noted.counts),
                *_weighing(plan, record, noted.counts),
                strict=True,
            )
        ]
        moments.append(Moment(record, parameters, evaluated, noted.gradient, noted.point, noted.gradients))
    check_end(plan.run, replay, stop)
    return moments


def _weighing(
    plan: Plan, record: StepRecord, counts: Sequence[Tensor | None]
) -> tuple[Sequence[Tensor | None], Sequence[float]]:
    """The run's own sample weights by micro-batch, and the factors of their means."""
    if plan.run.loss_weights is None:
        return [None] * len(counts), [1.0] * len(counts)
    alpha = [plan.run.loss_weights[part.indices] for part in record.micro_batches]
    return alpha, [1.0] * len(alpha) if plan.means is None else plan.means.factors(record, alpha, counts)
