"""Attribution by the transpose of the run, swept from its last step to its first.

The cotangents of weights, optimizer states and running statistics start at the query's gradients and go back step by
step: through the optimizer's step, the transforms of the gradient, and the curvature product of every micro-batch at
g_bar. The states that the sweep needs are replayed forward, segment by segment, and kept in memory only as far as a
budget allows. Without curvature the same sweep has no product; rules without a closed form take it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hydragrad.attribution.plan import Job, Tally, require_same_losses
from hydragrad.attribution.resumable import Partial
from hydragrad.attribution.segments import same_modes
from hydragrad.derivatives import (
    Batch,
    CurvatureProducts,
    LossModule,
    Point,
    Products,
    ZeroCurvature,
    fastest_products,
    require_one_call,
    require_symmetric,
    use_explicit_batch_norm,
)
from hydragrad.progress import bar
from hydragrad.replay import Replay
from hydragrad.replay.histories import parts_of, state_names
from hydragrad.replay.trajectory import StepHooks
from hydragrad.runs import Checkpoint, StepRecord
from hydragrad.runs.log import MicroBatch
from hydragrad.steps import Cotangent, StepPoint, smoothing_of, transpose_all, transpose_transforms


class Evaluated(NamedTuple):
    """One micro-batch of a step: its data, the buffers before it, and the losses it had."""

    part: MicroBatch
    batch: Batch
    buffers: dict[str, Tensor]
    losses: Tensor


class Moment(NamedTuple):
    """What the sweep needs of one step.

    Attributes:
        record: What the step did.
        parameters: Before it.
        evaluated: Its micro-batches.
        point: Where the optimizer stepped, flat; None where its rule does not need it.
        gradients: The gradients before each transform, flat.
    """

    record: StepRecord
    parameters: dict[str, Tensor]
    evaluated: list[Evaluated]
    point: StepPoint | None
    gradients: list[Tensor]


class Cotangents(NamedTuple):
    """Cotangents of weights and optimizer states (queries, parameters), running statistics (queries, statistics)."""

    w_bar: Tensor
    states: tuple[Tensor, ...]
    r_bar: Tensor

    def named(self) -> dict[str, Tensor]:
        """By name, to be written."""
        states = {f"state_{number}": state for number, state in enumerate(self.states)}
        return {"w_bar": self.w_bar, "r_bar": self.r_bar} | states


def sweep(job: Job, *, memory: int) -> tuple[Tally, float]:
    """Sweep the whole run; return the summed derivatives and the replay's drift.

    Args:
        job: Which run, queries and method.
        memory: Bytes that replayed states may take.
    """
    tally, drift, stop = Tally(job), 0.0, len(job.run.steps)
    zeros = tuple(torch.zeros_like(job.w_bar()) for _ in state_names(job.histories))
    cotangents = Cotangents(job.w_bar(), zeros, job.r_bar())
    partial = Partial(job, job.method.curvature)
    kept = partial.load()
    if kept:
        read = {name: kept[name].to(job.run.device) for name in cotangents.named()}
        states = tuple(read[f"state_{number}"] for number in range(len(zeros)))
        cotangents = Cotangents(read["w_bar"], states, read["r_bar"])
        tally.restore(kept)
        stop, drift = int(kept["stop"]), kept["drift"].item()

    def state() -> dict[str, Tensor]:
        numbers = {"stop": torch.tensor(stop), "drift": torch.tensor(drift, dtype=torch.float64)}
        return cotangents.named() | tally.state() | numbers

    with (
        job.run.replay() as replay,
        bar("attributing", len(job.run.steps), len(job.run.steps) - stop) as progress,
    ):
        reverse = ReverseStep(job, replay, tally)
        for start, end in reversed(job.run.segments):
            if end > stop:
                continue
            before = tally.state()
            swept = cotangents
            try:
                moments = backwards(job, replay, job.run.checkpoint(start), end, memory)
                for moment in moments:
                    swept = reverse(moment, swept)
                    progress.advance()
            except KeyboardInterrupt:
                tally.restore(before)
                partial.save(state(), now=True)
                raise
            cotangents, stop, drift = swept, start, max(drift, replay.drift)
            partial.save(state())
    partial.remove()
    return tally, drift


def require_curvature(job: Job) -> None:
    """Refuse runs whose trained gradient has no symmetric derivative, as told by the first and by a late step.

    Raises:
        Unsupported: The gradient is stopped on its way, where that changes it.
    """
    problem = LossModule(job.run.model, job.run.loss, use_explicit_batch_norm)
    with job.run.replay() as replay:
        trajectory = replay.trajectory
        for start in sorted({job.run.segments[0][0], job.run.segments[-1][0]}):
            record = job.run.steps[start]
            trajectory.restore(job.run.checkpoint(start))
            trajectory.arrange(record)
            same_modes(problem, replay)
            for batch in job.run.batches(record)[:1]:
                require_symmetric(problem, job.weights, trajectory.parameters, trajectory.buffers, batch)


class ReverseStep:
    """Pulls cotangents back through one step and tallies what flows to the sample weights."""

    def __init__(self, job: Job, replay: Replay, tally: Tally) -> None:
        curvature = job.method.curvature
        self._job, self._replay, self._tally = job, replay, tally
        self._problem = LossModule(job.run.model, job.run.loss, use_explicit_batch_norm)
        self._products: Products | None = None
        self._single: CurvatureProducts | None = None
        if curvature == "none":
            self._products = ZeroCurvature(self._problem, job.weights, with_output=bool(job.classes))
        else:
            self._single = CurvatureProducts(
                self._problem,
                job.weights,
                job.statistics,
                gauss_newton=curvature == "ggn",
                with_output=bool(job.classes),
            )
        self._spans = job.spans()
        self._check_one_call = curvature == "ggn"

    def __call__(self, moment: Moment, cotangents: Cotangents) -> Cotangents:
        """Return the cotangents before the step."""
        record = moment.record
        self._replay.trajectory.arrange(record)
        same_modes(self._problem, self._replay)
        g_bar, before = self._through_update(moment, cotangents)
        w_bar, r_bar = before.w_bar, cotangents.r_bar
        for evaluated in reversed(moment.evaluated):
            curved, r_bar = self._through_micro_batch(moment, evaluated, g_bar, r_bar)
            w_bar = curved.add_(w_bar)
        if self._job.method.damping:
            w_bar.add_(g_bar, alpha=self._job.method.damping)
        return Cotangents(w_bar, before.states, r_bar)

    def _through_update(self, moment: Moment, cotangents: Cotangents) -> tuple[Tensor, Cotangent[Tensor]]:
        """Cotangent of the summed gradient, and those before the optimizer's step without the curvature term."""
        record = moment.record
        parts = parts_of(self._job.histories, self._spans, record.step)
        rho = smoothing_of(parts, moment.point, self._job.smoothing)
        after = Cotangent(cotangents.w_bar, cotangents.states)
        g_bar, before = transpose_all(parts, after, moment.point, rho)
        return transpose_transforms(record.transforms, self._job.weights.spans, g_bar, moment.gradients), before

    def _through_micro_batch(
        self, moment: Moment, evaluated: Evaluated, g_bar: Tensor, r_bar: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tally what flows to the samples; return the curvature product, and the statistics' cotangent before it."""
        part, batch = evaluated.part, evaluated.batch
        point = Point(moment.parameters, evaluated.buffers, batch, part.divisor, self._loss_weights(part, g_bar))
        if self._check_one_call:
            require_one_call(self._problem, moment.parameters, point)
            self._check_one_call = False
        if self._products is None:
            assert self._single is not None
            self._products = fastest_products(self._single, point, g_bar, r_bar)
        product = self._products(point, g_bar, r_bar)
        require_same_losses(product.along.losses, evaluated.losses, moment.record.step)
        self._tally.add_weighted(moment.record.step, part, product.along, batch)
        return product.w_bar, product.r_bar

    def _loss_weights(self, part: MicroBatch, like: Tensor) -> Tensor | None:
        """What the losses are multiplied by next to the divisor: the run's own weights, and coefficients of each."""
        alpha = self._job.run.loss_weights
        weights = None if alpha is None else alpha[part.indices].to(like)
        relative = part.loss_weights(like)
        if weights is None or relative is None:
            return relative if weights is None else weights
        return weights * relative


def backwards(job: Job, replay: Replay, start: Checkpoint, stop: int, memory: int) -> Iterator[Moment]:
    """Yield the moments of steps [start.step, stop) from the last to the first.

    Where their states do not fit into `memory`, the stretch is cut into parts whose starting states fit, and the
    parts are replayed again, last part first.
    """
    room = max(2, memory // max(1, _moment_bytes(job, start)))
    count = stop - start.step
    if count <= room:
        yield from reversed(_forward(job, replay, start, stop))
        return
    length = -(-count // room)
    starts = [start]
    replay.trajectory.restore(start)
    for cut in range(start.step + length, stop, length):
        for record in job.run.steps[cut - length : cut]:
            replay.advance(record, job.run.batches(record))
        starts.append(replay.trajectory.checkpoint(cut))
    ends = [*(each.step for each in starts[1:]), stop]
    for each, end in zip(reversed(starts), reversed(ends), strict=True):
        yield from backwards(job, replay, each, end, memory)


def _moment_bytes(job: Job, start: Checkpoint) -> int:
    """What the sweep keeps of a step; a checkpoint holds as much or more where rules have a closed form."""
    if not _needs_point(job):
        return start.bytes
    flat = job.weights.size * job.like.element_size()
    return start.bytes + 2 * flat


def _needs_point(job: Job) -> bool:
    return any(history.rule.closed_form is None for history in job.histories)


class _Collecting(StepHooks):
    """Notes what the sweep needs of a step while it is replayed."""

    def __init__(self, job: Job, replay: Replay, states: Sequence[str] | None) -> None:
        self._job, self._trajectory, self._states = job, replay.trajectory, states
        self.buffers: list[dict[str, Tensor]] = []
        self.gradients: list[Tensor] = []
        self.point: StepPoint | None = None

    def before_forward(self, number: int) -> None:
        self.buffers.append({name: value.clone() for name, value in self._trajectory.buffers.items()})

    def before_transform(self) -> None:
        self.gradients.append(self._trajectory.gradient(self._job.weights))

    def before_update(self) -> None:
        if self._states is not None:
            self.point = self._trajectory.point(self._job.weights, self._states)


def _forward(job: Job, replay: Replay, start: Checkpoint, stop: int) -> list[Moment]:
    trajectory = replay.trajectory
    trajectory.restore(start)
    states = state_names(job.histories) if _needs_point(job) else None
    moments = []
    for record in job.run.steps[start.step : stop]:
        parameters = {name: value.clone() for name, value in trajectory.parameters.items()}
        batches, noted = job.run.batches(record), _Collecting(job, replay, states)
        losses = replay.advance(record, batches, hooks=noted)
        evaluated = [
            Evaluated(*each) for each in zip(record.micro_batches, batches, noted.buffers, losses, strict=True)
        ]
        moments.append(Moment(record, parameters, evaluated, noted.point, noted.gradients))
    if job.run.has_checkpoint(stop):
        replay.check_against(job.run.checkpoint(stop))
    return moments
