"""Attribution by the transpose of the run, swept from its last step to its first.

The cotangents of weights, optimizer states and running statistics start at the query's gradients and go back step by
step: through the optimizer's step, the transforms of the gradient, and the curvature product of every micro-batch at
g_bar. The states that the sweep needs are replayed forward, segment by segment, and held in memory only as far as a
budget allows. Without curvature the same sweep has no product; rules without a closed form take it.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hydragrad.attribution.gradients import QueryGradients
from hydragrad.attribution.partial import Partial, PartialFold
from hydragrad.attribution.plan import Plan
from hydragrad.attribution.routes import Comparisons, same_modes
from hydragrad.attribution.tally import Tally
from hydragrad.derivatives import (
    Batch,
    CurvatureProducts,
    CurvatureStep,
    LossModule,
    Point,
    Products,
    ZeroCurvature,
    fastest_products,
    require_one_call,
    require_symmetric,
    use_explicit_batch_norm,
)
from hydragrad.derivatives.held import Held
from hydragrad.derivatives.trusted import FAST_PATH_ERRORS
from hydragrad.errors import HydragradError, Unsupported
from hydragrad.replay import Replay
from hydragrad.replay.histories import parts_of, state_names
from hydragrad.replay.resumable import Folded, Segment, check_end, fold_segments
from hydragrad.replay.trajectory import PlaceOfStep
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


class Cotangents(NamedTuple):
    """Cotangents of weights and optimizer states (queries, parameters), running statistics (queries, statistics)."""

    w_bar: Tensor
    states: tuple[Tensor, ...]
    r_bar: Tensor


class Swept(NamedTuple):
    """What the sweep has when it has come back to a step: the cotangents there, and the sums over later steps."""

    cotangents: Cotangents
    tally: Tally

    def tensors(self) -> dict[str, Tensor]:
        """By name, to be saved."""
        w_bar, states, r_bar = self.cotangents
        named = {f"state_{number}": state for number, state in enumerate(states)}
        return {"w_bar": w_bar, "r_bar": r_bar} | named | self.tally.sums()

    def of(self, tensors: Mapping[str, Tensor]) -> "Swept":
        """The same with other tensors."""
        saved = {name: tensors[name].to(tensor.device) for name, tensor in self.tensors().items()}
        states = tuple(saved[f"state_{number}"] for number in range(len(self.cotangents.states)))
        return Swept(Cotangents(saved["w_bar"], states, saved["r_bar"]), self.tally.of(saved))


def sweep(
    plan: Plan, gradients: QueryGradients, *, memory: int, comparisons: Comparisons | None = None
) -> tuple[Tally, float]:
    """Sweep the whole run; return the summed derivatives and the replay's drift.

    Args:
        plan: Which run and method.
        gradients: Of the queries at the final model.
        memory: Bytes that replayed states may take.
        comparisons: Count what is compared.

    Raises:
        Unsupported: No derivative of the model is that of the gradient that trained.
    """
    run, w_bar = plan.run, gradients.w_bar
    zeros = tuple(torch.zeros_like(w_bar) for _ in state_names(plan.histories))
    end = Swept(Cotangents(w_bar, zeros, gradients.r_bar), Tally(plan, len(gradients.names)))
    saver = PartialFold(Partial(plan, gradients, plan.method.curvature), Swept.tensors, end.of)
    with run.replay() as replay:
        reverse = ReverseStep(plan, replay, comparisons)

        def through(segment: Segment, swept: Swept) -> Generator[Swept, None, None]:
            start, stop = segment
            cotangents, tally = swept.cotangents, swept.tally.copy()
            for moment in backwards(plan, replay, run.checkpoint(start), stop, memory):
                cotangents = reverse(moment, cotangents, tally)
                yield Swept(cotangents, tally)

        folded = fold_segments("attributing", run.segments[::-1], through, Folded(end), replay=replay, saver=saver)
    return folded.state.tally, folded.drift


def require_curvature(plan: Plan) -> None:
    """Refuse runs whose trained gradient has no symmetric derivative, judged by the first and by a late step.

    Raises:
        Unsupported: The gradient is stopped on its way, where that changes it.
    """
    problem = LossModule(plan.run.model, plan.run.loss, use_explicit_batch_norm)
    with plan.run.replay() as replay:
        trajectory = replay.trajectory
        for start in sorted({plan.run.segments[0][0], plan.run.segments[-1][0]}):
            record = plan.run.steps[start]
            trajectory.restore(plan.run.checkpoint(start))
            trajectory.arrange(record)
            same_modes(problem, replay)
            for batch in plan.run.batches(record)[:1]:
                require_symmetric(problem, plan.weights, trajectory.parameters, trajectory.buffers, batch)


class ReverseStep:
    """Pulls cotangents back through one step and tallies what flows to the sample weights."""

    def __init__(self, plan: Plan, replay: Replay, comparisons: Comparisons | None = None) -> None:
        curvature = plan.method.curvature
        self._plan, self._replay = plan, replay
        self._comparisons = comparisons or Comparisons(Held(), Held())
        self._problem = LossModule(plan.run.model, plan.run.loss, use_explicit_batch_norm)
        self._products: Products | None = None
        self._single: CurvatureProducts | None = None
        if curvature == "none":
            self._products = ZeroCurvature(self._problem, plan.weights, with_output=bool(plan.classes))
        else:
            self._single = CurvatureProducts(
                self._problem,
                plan.weights,
                plan.statistics,
                gauss_newton=curvature == "ggn",
                with_output=bool(plan.classes),
            )
        self._spans = plan.spans()
        self._one_by_one = False
        self._check_one_call = curvature == "ggn"

    def __call__(self, moment: Moment, cotangents: Cotangents, tally: Tally) -> Cotangents:
        """Return the cotangents before the step; add to the tally."""
        record = moment.record
        self._replay.trajectory.arrange(record)
        same_modes(self._problem, self._replay)
        g_bar, before = self._through_update(moment, cotangents)
        try:
            products = self._through_loss(moment, g_bar, cotangents.r_bar)
        except HydragradError:
            raise
        except FAST_PATH_ERRORS as error:
            self._take_safer_products(error)
            products = self._through_loss(moment, g_bar, cotangents.r_bar)
        w_bar, r_bar = before.w_bar, cotangents.r_bar
        for evaluated, product in products:
            tally.add_micro_batch(record, evaluated.part, evaluated.batch, product.along, evaluated.losses)
            w_bar, r_bar = product.w_bar.add_(w_bar), product.r_bar
        if self._plan.method.damping:
            w_bar.add_(g_bar, alpha=self._plan.method.damping)
        return Cotangents(w_bar, before.states, r_bar)

    def _through_loss(self, moment: Moment, g_bar: Tensor, r_bar: Tensor) -> list[tuple[Evaluated, CurvatureStep]]:
        """The products of every micro-batch, last first, held to the gradient that trained."""
        products = []
        for evaluated in reversed(moment.evaluated):
            product = self._through_micro_batch(moment, evaluated, g_bar, r_bar)
            products.append((evaluated, product))
            r_bar = product.r_bar
        terms = [self._weighted(evaluated.part, product.along.losses_dot) for evaluated, product in products]
        self._comparisons.gradients.hold(torch.cat(terms, -1), moment.gradient, g_bar, "Directional derivatives")
        return products

    def _weighted(self, part: MicroBatch, losses_dot: Tensor) -> Tensor:
        """Derivatives of losses with all that they are multiplied by in the step's loss."""
        alpha = self._plan.run.loss_weights
        weighted = part.weighted(losses_dot)
        return weighted if alpha is None else weighted * alpha[part.indices].to(weighted)

    def _take_safer_products(self, error: Exception) -> None:
        """Take one backward pass a sample, where there is no curvature.

        Raises:
            Unsupported: There is nothing safer.
        """
        curvature, reason = self._plan.method.curvature, (str(error) or type(error).__name__).splitlines()[0]
        if curvature != "none" or self._plan.classes or self._one_by_one:
            remedy = "Use curvature='none'." if curvature != "none" else "Leave labels=True out."
            raise Unsupported(
                f"No way to the derivatives that curvature={curvature!r} needs agrees with the gradient that trained: "
                f"{reason}. {'' if self._one_by_one else remedy}"
            ) from error
        self._one_by_one = True
        self._products = ZeroCurvature(self._problem, self._plan.weights, one_by_one=True)

    def _through_update(self, moment: Moment, cotangents: Cotangents) -> tuple[Tensor, Cotangent[Tensor]]:
        """Cotangent of the summed gradient, and those before the optimizer's step without the curvature term."""
        record = moment.record
        parts = parts_of(self._plan.histories, self._spans, record.step)
        rho = smoothing_of(parts, moment.point, self._plan.smoothing)
        after = Cotangent(cotangents.w_bar, cotangents.states)
        g_bar, before = transpose_all(parts, after, moment.point, rho)
        return transpose_transforms(record.transforms, self._plan.weights.spans, g_bar, moment.gradients), before

    def _through_micro_batch(self, moment: Moment, evaluated: Evaluated, g_bar: Tensor, r_bar: Tensor) -> CurvatureStep:
        """Derivatives of the losses, the curvature product, and the statistics' cotangent before the micro-batch."""
        part, batch = evaluated.part, evaluated.batch
        point = Point(moment.parameters, evaluated.buffers, batch, part.divisor, self._loss_weights(part, g_bar))
        if self._check_one_call:
            require_one_call(self._problem, moment.parameters, point)
            self._check_one_call = False
        if self._products is None:
            assert self._single is not None
            self._products = fastest_products(self._single, point, g_bar, r_bar)
        return self._products(point, g_bar, r_bar)

    def _loss_weights(self, part: MicroBatch, like: Tensor) -> Tensor | None:
        """What the losses are multiplied by next to the divisor: the run's own weights, and coefficients of each."""
        alpha = self._plan.run.loss_weights
        weights = None if alpha is None else alpha[part.indices].to(like)
        relative = part.loss_weights(like)
        if weights is None or relative is None:
            return relative if weights is None else weights
        return weights * relative


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

    def __init__(self, plan: Plan, replay: Replay, states: Sequence[str] | None) -> None:
        super().__init__(replay.trajectory, plan.weights, states)
        self.buffers: list[dict[str, Tensor]] = []

    @property
    def gradient(self) -> Tensor:
        """What the backward passes left."""
        return self.gradients[0] if self.gradients else self.last_gradient

    def before_forward(self, number: int) -> None:
        self.buffers.append({name: value.clone() for name, value in self._trajectory.buffers.items()})


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
            Evaluated(*parts) for parts in zip(record.micro_batches, batches, noted.buffers, losses, strict=True)
        ]
        moments.append(Moment(record, parameters, evaluated, noted.gradient, noted.point, noted.gradients))
    check_end(plan.run, replay, stop)
    return moments
