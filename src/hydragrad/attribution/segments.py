"""Attribution without curvature: a sum over steps, taken segment by segment in any order.

d phi / d alpha_i = sum over the steps that drew i of kappa_t <grad phi, gradient of loss i> / B_t, with the
scalar coefficients kappa_t of `steps.coefficients`. Every segment is replayed from its checkpoint and adds its
terms; nothing flows from one segment to another.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydragrad.attribution.plan import Job, Tally, require_same_losses
from hydragrad.attribution.resumable import Partial, as_ids
from hydragrad.derivatives import (
    Batch,
    HooksInapplicable,
    LayerDots,
    LossModule,
    SharedForward,
    directional_derivatives,
    why_not_hooks,
    works_at_once,
)
from hydragrad.progress import bar
from hydragrad.replay import Replay
from hydragrad.runs import StepRecord
from hydragrad.steps import coefficients

Route = Literal["hooks", "jvp"]


def sum_segments(job: Job, route: Route, segments: Sequence[tuple[int, int]]) -> tuple[Tally, float]:
    """Replay segments in the given order and sum their terms; return them and the replay's drift."""
    tally, drift = Tally(job), 0.0
    kappa = np.stack([coefficients(lane) for lane in job.lanes])
    partial = Partial(job, f"none-{route}")
    kept = partial.load()
    done: list[int] = kept["done"].tolist() if kept else []
    if kept:
        tally.restore(kept)
        drift = kept["drift"].item()
    needed = [(a, b) for a, b in segments if any(tally.wants(r.indices) for r in job.run.steps[a:b])]
    total = sum(stop - start for start, stop in needed)
    already = sum(stop - start for start, stop in needed if start in done)

    def state() -> dict[str, Tensor]:
        return tally.state() | {"done": as_ids(done), "drift": torch.tensor(drift, dtype=torch.float64)}

    with job.run.replay() as replay, bar("attributing", total, already) as progress:
        for start, stop in needed:
            if start in done:
                continue
            before = tally.state()
            try:
                with _measuring(route, job, replay, tally, kappa) as one_step:
                    replay.trajectory.restore(job.run.checkpoint(start))
                    for record in job.run.steps[start:stop]:
                        one_step(record, job.run.batch(record))
                        progress.advance()
                if job.run.has_checkpoint(stop):
                    replay.check_against(job.run.checkpoint(stop))
            except KeyboardInterrupt:
                # A segment counts as a whole or not at all.
                tally.restore(before)
                partial.save(state(), now=True)
                raise
            drift = max(drift, replay.drift)
            done.append(start)
            partial.save(state())
    partial.remove()
    return tally, drift


def choose_route(job: Job) -> tuple[Route, str]:
    """Choose how directional derivatives are taken, and say why.

    Hooks are chosen where every layer has a rule and, at the first, a middle and the last segment, the dot
    products agree with forward mode along a random direction.
    """
    if job.classes:
        return "jvp", "contributions of every label need the tangent of the logits"
    with job.run.replay() as replay:
        starts = [start for start, _ in job.run.segments]
        for start in sorted({starts[0], starts[len(starts) // 2], starts[-1]}):
            reason = _why_not_here(job, replay, job.run.steps[start])
            if reason is not None:
                return "jvp", reason
    return "hooks", "every layer has a rule, and three steps agree with forward mode"


OneStep = Callable[[StepRecord, Batch], None]


@contextmanager
def _measuring(route: Route, job: Job, replay: Replay, tally: Tally, kappa: NDArray[np.float64]) -> Iterator[OneStep]:
    if route == "jvp":
        problem = LossModule(job.run.model, job.run.loss)
        shared = SharedForward(replay.trajectory.model, problem.model)
        try:
            yield _by_jvp(job, replay, tally, kappa, problem, shared)
        finally:
            shared.remove()
        return
    dots = _layer_dots(job, replay, job.w_bar())
    try:
        yield _by_hooks(job, replay, tally, kappa, dots)
    finally:
        dots.remove()


def _by_hooks(job: Job, replay: Replay, tally: Tally, kappa: NDArray[np.float64], dots: LayerDots) -> OneStep:
    like = job.like

    def one_step(record: StepRecord, batch: Batch) -> None:
        dots.begin(batch.size, like)
        replay.advance(record, batch)
        # The backward pass starts from the step's own loss, so the divisor is inside already.
        factors = torch.from_numpy(kappa[:, record.step])
        tally.add(record, torch.einsum("l,lqb->qb", factors, dots.totals.double().cpu()))

    return one_step


def _by_jvp(
    job: Job, replay: Replay, tally: Tally, kappa: NDArray[np.float64], problem: LossModule, shared: SharedForward
) -> OneStep:
    directions, spans = job.w_bar(), job.spans()
    at_once: bool | None = None if len(directions) > 1 else False

    def one_step(record: StepRecord, batch: Batch) -> None:
        moment = kappa[:, record.step]
        shared.begin()
        if not (moment.any() and tally.wants(record.indices)):
            replay.advance(record, batch)
            return
        trajectory, found = replay.trajectory, []
        trajectory.arrange(record)
        same_modes(problem, replay)
        buffers = {name: value.clone() for name, value in trajectory.buffers.items()}

        def beside() -> None:
            nonlocal at_once
            here = (problem, job.weights, trajectory.parameters, buffers, batch)
            if at_once is None:
                at_once = works_at_once(*here)
            along = directional_derivatives(
                *here, scaled(directions, moment, spans), with_output=bool(job.classes), at_once=at_once
            )
            found.append(along)

        losses = replay.advance(record, batch, beside=beside)
        (along,) = found
        require_same_losses(along.losses, losses, record.step)
        divisor = job.run.divisor(record)
        tally.add(record, along.losses_dot / divisor)
        tally.add_labels(record.indices, along, batch, 1 / divisor)

    return one_step


def _why_not_here(job: Job, replay: Replay, record: StepRecord) -> str | None:
    trajectory = replay.trajectory
    trajectory.restore(job.run.checkpoint(record.step))
    trajectory.arrange(record)
    reason = why_not_hooks(trajectory.model)
    if reason is not None:
        return reason
    problem = LossModule(job.run.model, job.run.loss)
    same_modes(problem, replay)
    present = np.array([float(lane.options[record.step] is not None) for lane in job.lanes])
    generator = torch.Generator().manual_seed(record.step)
    random = torch.randn(1, job.weights.size, generator=generator, dtype=job.like.dtype).to(job.run.device)
    direction = scaled(random, present, job.spans())
    batch = job.run.batch(record)
    along = directional_derivatives(problem, job.weights, trajectory.parameters, trajectory.buffers, batch, direction)
    expected = along.losses_dot / job.run.divisor(record)
    dots = _layer_dots(job, replay, direction)
    try:
        dots.begin(batch.size, job.like)
        replay.advance(record, batch)
    except HooksInapplicable as error:
        return str(error)
    finally:
        dots.remove()
    tolerance = 1e-3 if job.like.dtype == torch.float32 else 1e-8
    if float((dots.totals.sum(0) - expected).norm()) > tolerance * float(expected.norm()):
        return "the layers are used in a way that the rules do not know (shared tensors, coupled samples)"
    return None


def _layer_dots(job: Job, replay: Replay, directions: Tensor) -> LayerDots:
    lane_of = {name: number for number, lane in enumerate(job.lanes) for name in lane.names}
    return LayerDots(replay.trajectory.model, job.weights.views(directions), lane_of)


def scaled(directions: Tensor, factors: NDArray[np.float64], spans: Sequence[slice]) -> Tensor:
    """Multiply each lane's part of flat directions (queries, parameters) by its factor."""
    result = torch.empty_like(directions)
    for factor, span in zip(factors, spans, strict=True):
        result[:, span] = directions[:, span] * factor
    return result


def same_modes(problem: LossModule, replay: Replay) -> None:
    """Put the copy's modules into the modes of the trajectory's model."""
    for copy, original in zip(problem.model.modules(), replay.trajectory.model.modules(), strict=True):
        copy.training = original.training
