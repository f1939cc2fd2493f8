"""Attribution without curvature: a sum over steps, taken segment by segment in any order.

d phi / d alpha_i = sum over the steps that sampled i of kappa_t <grad phi, gradient of loss i> / B_t, with the
scalar coefficients kappa_t of `steps.coefficients`. Every segment is replayed from its checkpoint and adds its
terms; nothing flows from one segment to another.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydragrad.attribution.gradients import QueryGradients
from hydragrad.attribution.partial import Partial, PartialFold
from hydragrad.attribution.plan import Plan
from hydragrad.attribution.tally import Tally
from hydragrad.derivatives import (
    Batch,
    Directional,
    HooksInapplicable,
    LayerDots,
    LossModule,
    SharedForward,
    directional_derivatives,
    why_not_hooks,
    works_at_once,
)
from hydragrad.derivatives.trusted import agrees
from hydragrad.replay import Replay
from hydragrad.replay.resumable import Folded, Segment, check_end, fold_segments
from hydragrad.replay.trajectory import StepHooks
from hydragrad.runs import StepRecord
from hydragrad.steps import coefficients

Route = Literal["hooks", "jvp"]


def sum_segments(
    plan: Plan, gradients: QueryGradients, route: Route, segments: Sequence[Segment]
) -> tuple[Tally, float]:
    """Replay segments in the given order and sum their terms; return them and the replay's drift."""
    run, empty = plan.run, Tally(plan, len(gradients.names))
    kappa = np.stack([coefficients(history) for history in plan.histories])
    needed = [(a, b) for a, b in segments if any(empty.wants(record.indices) for record in run.steps[a:b])]
    saver = PartialFold(Partial(plan, gradients, f"none-{route}"), Tally.sums, empty.of)
    with run.replay() as replay:

        def through(segment: Segment, before: Tally) -> Generator[Tally, None, None]:
            start, stop = segment
            tally = before.copy()
            with _measuring(route, plan, gradients, replay, tally, kappa) as one_step:
                replay.trajectory.restore(run.checkpoint(start))
                for record in run.steps[start:stop]:
                    one_step(record, run.batches(record))
                    yield tally
            check_end(run, replay, stop)

        folded = fold_segments("attributing", needed, through, Folded(empty), replay=replay, saver=saver)
    return folded.state, folded.drift


def choose_route(plan: Plan) -> tuple[Route, str]:
    """Choose how directional derivatives are taken, and say why.

    Hooks are chosen where every layer has a rule and, at the first, a middle and the last segment, the dot
    products agree with forward mode along a random direction.
    """
    if plan.classes:
        return "jvp", "contributions of every label need the tangent of the logits"
    with plan.run.replay() as replay:
        starts = [start for start, _ in plan.run.segments]
        for start in sorted({starts[0], starts[len(starts) // 2], starts[-1]}):
            reason = _why_not_here(plan, replay, plan.run.steps[start])
            if reason is not None:
                return "jvp", reason
    return "hooks", "every layer has a rule, and three steps agree with forward mode"


OneStep = Callable[[StepRecord, Sequence[Batch]], None]


@contextmanager
def _measuring(
    route: Route, plan: Plan, gradients: QueryGradients, replay: Replay, tally: Tally, kappa: NDArray[np.float64]
) -> Iterator[OneStep]:
    if route == "jvp":
        problem = LossModule(plan.run.model, plan.run.loss)
        shared = SharedForward(replay.trajectory.model, problem.model)
        try:
            yield _by_jvp(plan, gradients.w_bar, replay, tally, kappa, problem, shared)
        finally:
            shared.remove()
        return
    dots = _layer_dots(plan, replay, gradients.w_bar)
    try:
        yield _by_hooks(plan, replay, tally, kappa, dots)
    finally:
        dots.remove()


class _ByHooks(StepHooks):
    """Dot products in the backward pass of every micro-batch; it starts from coefficients, so they are inside."""

    def __init__(self, dots: LayerDots, like: Tensor, record: StepRecord) -> None:
        self._dots, self._like, self._record = dots, like, record
        self.totals: list[Tensor] = []

    def before_forward(self, number: int) -> None:
        self._dots.begin(len(self._record.micro_batches[number]), self._like)

    def after_backward(self, number: int) -> None:
        self.totals.append(self._dots.totals.double().cpu())


def _by_hooks(plan: Plan, replay: Replay, tally: Tally, kappa: NDArray[np.float64], dots: LayerDots) -> OneStep:
    like = plan.like

    def one_step(record: StepRecord, batches: Sequence[Batch]) -> None:
        hooks = _ByHooks(dots, like, record)
        replay.advance(record, batches, hooks=hooks)
        factors = torch.from_numpy(kappa[:, record.step])
        for part, totals in zip(record.micro_batches, hooks.totals, strict=True):
            tally.add(record.step, part.indices, torch.einsum("h,hqb->qb", factors, totals))

    return one_step


class _ByJVP(StepHooks):
    """Forward-mode derivatives between the forward and the backward pass of every micro-batch."""

    def __init__(
        self,
        problem: LossModule,
        replay: Replay,
        shared: SharedForward,
        batches: Sequence[Batch],
        evaluate: Callable[[Batch, dict[str, Tensor]], Directional],
    ) -> None:
        self._problem, self._replay, self._shared = problem, replay, shared
        self._batches, self._evaluate = batches, evaluate
        self._buffers: dict[str, Tensor] = {}
        self.along: list[Directional] = []

    def before_forward(self, number: int) -> None:
        self._shared.begin()
        same_modes(self._problem, self._replay)
        self._buffers = {name: value.clone() for name, value in self._replay.trajectory.buffers.items()}

    def after_forward(self, number: int) -> None:
        self.along.append(self._evaluate(self._batches[number], self._buffers))


def _by_jvp(
    plan: Plan,
    directions: Tensor,
    replay: Replay,
    tally: Tally,
    kappa: NDArray[np.float64],
    problem: LossModule,
    shared: SharedForward,
) -> OneStep:
    spans = plan.spans()
    at_once: bool | None = None if len(directions) > 1 else False

    def one_step(record: StepRecord, batches: Sequence[Batch]) -> None:
        factors = kappa[:, record.step]
        if not (factors.any() and tally.wants(record.indices)):
            shared.begin()
            replay.advance(record, batches)
            return
        scaled_directions = scaled(directions, factors, spans)

        def evaluate(batch: Batch, buffers: dict[str, Tensor]) -> Directional:
            nonlocal at_once
            here = (problem, plan.weights, replay.trajectory.parameters, buffers, batch)
            if at_once is None:
                at_once = works_at_once(*here)
            return directional_derivatives(*here, scaled_directions, with_output=bool(plan.classes), at_once=at_once)

        hooks = _ByJVP(problem, replay, shared, batches, evaluate)
        every = replay.advance(record, batches, hooks=hooks)
        for part, batch, along, losses in zip(record.micro_batches, batches, hooks.along, every, strict=True):
            tally.add_micro_batch(record, part, batch, along, losses)

    return one_step


def _why_not_here(plan: Plan, replay: Replay, record: StepRecord) -> str | None:
    trajectory = replay.trajectory
    trajectory.restore(plan.run.checkpoint(record.step))
    trajectory.arrange(record)
    reason = why_not_hooks(trajectory.model)
    if reason is not None:
        return reason
    problem = LossModule(plan.run.model, plan.run.loss)
    same_modes(problem, replay)
    present = np.array([float(history.moves[record.step] is not None) for history in plan.histories])
    generator = torch.Generator().manual_seed(record.step)
    random = torch.randn(1, plan.weights.size, generator=generator, dtype=plan.like.dtype).to(plan.run.device)
    direction = scaled(random, present, plan.spans())
    batches, part = plan.run.batches(record), record.micro_batches[0]
    along = directional_derivatives(
        problem, plan.weights, trajectory.parameters, trajectory.buffers, batches[0], direction
    )
    expected = part.weighted(along.losses_dot)
    dots = _layer_dots(plan, replay, direction)
    hooks = _ByHooks(dots, plan.like, record)
    try:
        replay.advance(record, batches, hooks=hooks)
    except HooksInapplicable as error:
        return str(error)
    finally:
        dots.remove()
    if not agrees(hooks.totals[0].sum(0).to(expected), expected):
        return "the layers are used in a way that the rules do not know (shared tensors, coupled samples)"
    return None


def _layer_dots(plan: Plan, replay: Replay, directions: Tensor) -> LayerDots:
    number_of = {name: number for number, history in enumerate(plan.histories) for name in history.names}
    return LayerDots(replay.trajectory.model, plan.weights.views(directions), number_of)


def scaled(directions: Tensor, factors: NDArray[np.float64], spans: Sequence[slice]) -> Tensor:
    """Multiply each history's part of flat directions (queries, parameters) by its factor."""
    result = torch.empty_like(directions)
    for factor, span in zip(factors, spans, strict=True):
        result[:, span] = directions[:, span] * factor
    return result


def same_modes(problem: LossModule, replay: Replay) -> None:
    """Put the copy's modules into the modes of the trajectory's model."""
    for copy, original in zip(problem.model.modules(), replay.trajectory.model.modules(), strict=True):
        copy.training = original.training
