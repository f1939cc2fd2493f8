"""Attribution with curvature: the exact transpose of the run, swept from its last step to its first.

The cotangents (w_bar, b_bar, r_bar) of weights, momentum buffers and running statistics start at the query's
gradients and go back step by step (`steps.transpose_step`, then the curvature product at g_bar). The states that
the sweep needs are replayed forward, segment by segment, and kept in memory only as far as a budget allows.
"""

from collections.abc import Iterator
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
    fastest_products,
    require_one_call,
    require_symmetric,
    use_explicit_batch_norm,
)
from hydragrad.progress import bar
from hydragrad.replay import Replay
from hydragrad.runs import Checkpoint, StepRecord
from hydragrad.steps import SGDCotangent, transpose_step


class Moment(NamedTuple):
    """What the sweep needs of one step: its state before, its data, and the losses it had."""

    record: StepRecord
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    batch: Batch
    losses: Tensor


class Cotangents(NamedTuple):
    """Cotangents of weights and momentum buffers (queries, parameters), running statistics (queries, statistics)."""

    w_bar: Tensor
    b_bar: Tensor
    r_bar: Tensor


def sweep(job: Job, *, gauss_newton: bool, memory: int) -> tuple[Tally, float]:
    """Sweep the whole run; return the summed derivatives and the replay's drift.

    Args:
        job: What is asked.
        gauss_newton: J' H_out J in place of the Hessian.
        memory: Bytes that replayed states may take.
    """
    tally, drift, stop = Tally(job), 0.0, len(job.run.steps)
    cotangents = Cotangents(job.w_bar(), torch.zeros_like(job.w_bar()), job.r_bar())
    partial = Partial(job, "ggn" if gauss_newton else "hessian")
    kept = partial.load()
    if kept:
        cotangents = Cotangents(*(kept[name].to(job.run.device) for name in Cotangents._fields))
        tally.restore(kept)
        stop, drift = int(kept["stop"]), kept["drift"].item()

    def state() -> dict[str, Tensor]:
        numbers = {"stop": torch.tensor(stop), "drift": torch.tensor(drift, dtype=torch.float64)}
        return cotangents._asdict() | tally.state() | numbers

    with (
        job.run.replay() as replay,
        bar("attributing", len(job.run.steps), len(job.run.steps) - stop) as progress,
    ):
        reverse = ReverseStep(job, replay, tally, gauss_newton=gauss_newton)
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
            require_symmetric(problem, job.weights, trajectory.parameters, trajectory.buffers, job.run.batch(record))


class ReverseStep:
    """Pulls cotangents back through one step and tallies what flows to the sample weights."""

    def __init__(self, job: Job, replay: Replay, tally: Tally, *, gauss_newton: bool) -> None:
        self._job, self._replay, self._tally = job, replay, tally
        self._problem = LossModule(job.run.model, job.run.loss, use_explicit_batch_norm)
        self._products: Products | None = None
        self._single = CurvatureProducts(
            self._problem,
            job.weights,
            job.statistics,
            gauss_newton=gauss_newton,
            with_output=bool(job.classes),
        )
        self._spans = job.spans()
        self._check_one_call = gauss_newton

    def __call__(self, moment: Moment, cotangents: Cotangents) -> Cotangents:
        """Return the cotangents before the step."""
        record = moment.record
        self._replay.trajectory.arrange(record)
        same_modes(self._problem, self._replay)
        g_bar, w_bar, b_bar = self._transpose(record.step, cotangents)
        alpha = self._job.run.loss_weights
        weights = None if alpha is None else alpha[record.indices].to(g_bar)
        point = Point(moment.parameters, moment.buffers, moment.batch, self._job.run.divisor(record), weights)
        if self._check_one_call:
            require_one_call(self._problem, moment.parameters, point)
            self._check_one_call = False
        if self._products is None:
            self._products = fastest_products(self._single, point, g_bar, cotangents.r_bar)
        product = self._products(point, g_bar, cotangents.r_bar)
        require_same_losses(product.along.losses, moment.losses, record.step)
        self._tally.add(record, product.along.losses_dot / point.divisor)
        self._tally.add_labels(record.indices, product.along, moment.batch, 1 / point.divisor)
        w_bar = product.w_bar.add_(w_bar)
        if self._job.method.damping:
            w_bar.add_(g_bar, alpha=self._job.method.damping)
        return Cotangents(w_bar, b_bar, product.r_bar)

    def _transpose(self, step: int, cotangents: Cotangents) -> tuple[Tensor, Tensor, Tensor]:
        if len(self._job.lanes) == 1 and (options := self._job.lanes[0].options[step]) is not None:
            state = SGDCotangent(cotangents.w_bar, cotangents.b_bar)
            g_bar, state = transpose_step(state, options, first=self._job.lanes[0].first[step])
            return g_bar, *state
        g_bar = torch.zeros_like(cotangents.w_bar)
        w_bar, b_bar = cotangents.w_bar.clone(), cotangents.b_bar.clone()
        for lane, span in zip(self._job.lanes, self._spans, strict=True):
            options = lane.options[step]
            if options is not None:
                state = SGDCotangent(w_bar[:, span], b_bar[:, span])
                g, state = transpose_step(state, options, first=lane.first[step])
                g_bar[:, span], w_bar[:, span], b_bar[:, span] = g, *state
        return g_bar, w_bar, b_bar


def backwards(job: Job, replay: Replay, start: Checkpoint, stop: int, memory: int) -> Iterator[Moment]:
    """Yield the moments of steps [start.step, stop) from the last to the first.

    Where their states do not fit into `memory`, the stretch is cut into parts whose starting states fit, and the
    parts are replayed again, last part first.
    """
    room = max(2, memory // max(1, _bytes(start)))
    count = stop - start.step
    if count <= room:
        yield from reversed(_forward(job, replay, start, stop))
        return
    length = -(-count // room)
    starts = [start]
    replay.trajectory.restore(start)
    for cut in range(start.step + length, stop, length):
        for record in job.run.steps[cut - length : cut]:
            replay.advance(record, job.run.batch(record))
        starts.append(replay.trajectory.checkpoint(cut))
    ends = [*(each.step for each in starts[1:]), stop]
    for each, end in zip(reversed(starts), reversed(ends), strict=True):
        yield from backwards(job, replay, each, end, memory)


def _forward(job: Job, replay: Replay, start: Checkpoint, stop: int) -> list[Moment]:
    trajectory = replay.trajectory
    trajectory.restore(start)
    moments = []
    for record in job.run.steps[start.step : stop]:
        parameters = {name: value.clone() for name, value in trajectory.parameters.items()}
        buffers = {name: value.clone() for name, value in trajectory.buffers.items()}
        batch = job.run.batch(record)
        moments.append(Moment(record, parameters, buffers, batch, replay.advance(record, batch)))
    if job.run.has_checkpoint(stop):
        replay.check_against(job.run.checkpoint(stop))
    return moments


def _bytes(checkpoint: Checkpoint) -> int:
    parts = (checkpoint.parameters, checkpoint.buffers, checkpoint.momentum)
    return sum(tensor.nbytes for part in parts for tensor in part.values())
