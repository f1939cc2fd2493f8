"""One step of a run, in reverse: cotangents pulled back through it, and what flows to its samples.

Derivatives and products are taken the fastest way first. They are held to the gradient that trained at every step, and
curvature products to how that gradient changes at the first step of every kind and at random ones; a way that departs
gives way to a safer one.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from hydragrad.attribution.full_precision import FullPrecision
from hydragrad.attribution.moments import Evaluated, Moment
from hydragrad.attribution.part_probe import PartProbe
from hydragrad.attribution.plan import Plan
from hydragrad.attribution.routes import Comparisons
from hydragrad.attribution.tally import Derived, Tally
from hydragrad.derivatives import (
    CurvatureProducts,
    CurvatureStep,
    LossModule,
    Point,
    Products,
    ReverseProducts,
    ZeroCurvature,
    by_sample,
    fastest_products,
    require_one_call,
    require_symmetric,
    use_explicit_batch_norm,
)
from hydragrad.derivatives.curvature.held_products import HeldProducts
from hydragrad.derivatives.graph import KindWatch
from hydragrad.derivatives.held import NotHeld
from hydragrad.derivatives.trusted import FAST_PATH_ERRORS
from hydragrad.derivatives.trusted import reason as reason_of
from hydragrad.errors import HydragradError, Unsupported
from hydragrad.replay import Replay
from hydragrad.replay.buffer_flow import ReverseFlow
from hydragrad.replay.histories import parts_of
from hydragrad.steps import Cotangent, smoothing_of, transpose_all, transpose_transforms

HELD_SHARE = 1 / 512
"""Share of the steps whose curvature product is held to how the gradient changes."""


class Cotangents(NamedTuple):
    """Cotangents of weights and optimizer states (queries, parameters), running statistics (queries, statistics)."""

    w_bar: Tensor
    states: tuple[Tensor, ...]
    r_bar: Tensor


class _ThroughLoss(NamedTuple):
    """The products of every micro-batch, last first, and the statistics' cotangent before the step."""

    products: list[tuple[Evaluated, CurvatureStep]]
    r_bar: Tensor


class _Way(NamedTuple):
    """A way of taking products: `take` gives them, for rows like those at the point where they are first needed."""

    take: Callable[[Point, Tensor, Tensor], Products]
    held: HeldProducts | None


class ReverseStep:
    """Pulls cotangents back through one step and tallies what flows to the sample weights.

    Args:
        plan: Which run and method.
        replay: Has the run's structure at every step.
        comparisons: Count what is compared.
    """

    def __init__(self, plan: Plan, replay: Replay, comparisons: Comparisons) -> None:
        self._plan, self._replay, self._comparisons = plan, replay, comparisons
        self._problem = LossModule(plan.run.model, plan.loss, use_explicit_batch_norm)
        self._of_samples = (
            LossModule(plan.run.model, plan.run.loss, use_explicit_batch_norm) if plan.parts else self._problem
        )
        self._full = FullPrecision(plan, self._of_samples, comparisons.losses)
        self._probe = PartProbe(self._problem, plan.weights, comparisons.parts)
        self._check_one_call = plan.method.curvature == "ggn"
        self._ways = self._all_ways()
        self._way = next(self._ways)
        self._products: Products | None = None
        self._kinds = KindWatch(HELD_SHARE)

    def __call__(self, moment: Moment, cotangents: Cotangents, tally: Tally) -> Cotangents:
        """Return the cotangents before the step; add to the tally.

        Raises:
            Unsupported: No way to the derivatives agrees with the gradient that trained.
        """
        record = moment.record
        self._replay.trajectory.arrange(record)
        for problem in (self._problem, self._of_samples):
            problem.take_modes(self._replay.trajectory.model)
        g_bar, before = self._through_update(moment, cotangents)
        products, r_bar = self._first_that_holds(moment, g_bar, cotangents.r_bar)
        w_bar = before.w_bar
        tally.add_step(record, [_derived(evaluated, product) for evaluated, product in reversed(products)])
        for _, product in products:
            w_bar = product.w_bar.add_(w_bar)
        if self._plan.method.damping:
            w_bar.add_(g_bar, alpha=self._plan.method.damping)
        return Cotangents(w_bar, before.states, r_bar)

    def _all_ways(self) -> Iterator[_Way]:
        """From the fastest to the safest."""
        plan, problem, gauss_newton = self._plan, self._problem, self._plan.method.curvature == "ggn"
        labels = bool(plan.classes)
        if plan.method.curvature == "none":
            zero = ZeroCurvature(problem, plan.weights, with_output=labels)
            yield _Way(lambda *_: zero, None)
            if not labels:
                singly = ZeroCurvature(problem, plan.weights, one_by_one=True)
                yield _Way(lambda *_: singly, None)
            return
        forward = partial(
            CurvatureProducts,
            weights=plan.weights,
            statistics=plan.statistics,
            gauss_newton=gauss_newton,
            with_output=labels,
        )
        single = forward(problem)
        yield _Way(lambda *where: fastest_products(single, *where), self._held(forward))
        if not labels:
            reverse = partial(
                ReverseProducts, weights=plan.weights, statistics=plan.statistics, gauss_newton=gauss_newton
            )
            again = reverse(problem)
            yield _Way(lambda *_: again, self._held(reverse))

    def _held(self, make: Callable[[LossModule], Products]) -> HeldProducts:
        plan = self._plan
        gauss_newton = plan.method.curvature == "ggn"
        moved = plan.moved()
        return HeldProducts(self._problem, plan.weights, plan.statistics, moved, make, gauss_newton=gauss_newton)

    def _first_that_holds(self, moment: Moment, g_bar: Tensor, r_bar: Tensor) -> _ThroughLoss:
        while True:
            try:
                return self._through_loss(moment, g_bar, r_bar)
            except HydragradError:
                raise
            except FAST_PATH_ERRORS as error:
                self._take_next_way(error)

    def _take_next_way(self, error: Exception) -> None:
        curvature, reason = self._plan.method.curvature, reason_of(error)
        try:
            self._way, self._products = next(self._ways), None
            self._kinds = KindWatch(HELD_SHARE)
        except StopIteration:
            rows = (
                ", or the exact rows of hg.hypergradients(run, curvature='hessian')" if curvature == "hessian" else ""
            )
            remedy = f"Use curvature='none'{rows}." if curvature != "none" else "Write model and loss without it."
            raise Unsupported(
                f"No way to the derivatives that curvature={curvature!r} needs agrees with the gradient that trained: "
                f"{reason}. {'Leave labels=True out.' if self._plan.classes else remedy}"
            ) from error

    def _through_loss(self, moment: Moment, g_bar: Tensor, r_bar: Tensor) -> _ThroughLoss:
        """The products of every micro-batch, last first, held to the gradient that trained."""
        products, flow = [], ReverseFlow(moment.record, r_bar)
        for number, evaluated in reversed([*enumerate(moment.evaluated)]):
            product = self._through_micro_batch(moment, evaluated, g_bar, flow.after(number))
            products.append((evaluated, product))
            flow.before(number, product.r_bar)
        terms = [_weighted(evaluated, product.along.losses_dot) for evaluated, product in products]
        in_full = None
        if self._full.wants(moment.record):
            in_full = torch.stack([self._in_full(moment, evaluated) for evaluated in moment.evaluated]).sum(0)
        self._comparisons.hold(moment.record, torch.cat(terms, -1), moment.gradient, in_full, g_bar)
        for evaluated, product in products:
            self._full.note(evaluated.part, product.along.losses, evaluated.losses)
        return _ThroughLoss(products, flow.start)

    def _in_full(self, moment: Moment, evaluated: Evaluated) -> Tensor:
        where = evaluated.part, evaluated.batch, moment.parameters, evaluated.buffers
        return self._full.gradient(*where, evaluated.weights)

    def _through_update(self, moment: Moment, cotangents: Cotangents) -> tuple[Tensor, Cotangent[Tensor]]:
        """Cotangent of the summed gradient, and those before the optimizer's step without the curvature term."""
        record = moment.record
        parts = parts_of(self._plan.histories, self._plan.weights, record.step)
        rho = smoothing_of(parts, moment.point, self._plan.smoothing)
        after = Cotangent(cotangents.w_bar, cotangents.states)
        g_bar, before = transpose_all(parts, after, moment.point, rho)
        return transpose_transforms(record.transforms, self._plan.weights.spans, g_bar, moment.gradients), before

    def _through_micro_batch(self, moment: Moment, evaluated: Evaluated, g_bar: Tensor, r_bar: Tensor) -> CurvatureStep:
        """Derivatives of the losses, the curvature product, and the statistics' cotangent before the micro-batch."""
        part, batch, terms = evaluated.part, evaluated.batch, evaluated.terms
        weights = _loss_weights(evaluated, g_bar)
        if terms is not None:
            batch, weights = terms.batch(batch), terms.spread(weights)
        point = Point(moment.parameters, evaluated.buffers, batch, part.divisor, weights)
        if self._check_one_call:
            require_one_call(self._problem, moment.parameters, point)
            self._check_one_call = False
        if self._products is None:
            self._products = self._way.take(point, g_bar, r_bar)
        product = self._products(point, g_bar, r_bar)
        if self._way.held is not None and self._kinds.wants(moment.record.step, evaluated.kind):
            require_symmetric(self._problem, self._plan.weights, point.parameters, point.buffers, batch)
            self._hold_curvature(self._way.held, point, g_bar, r_bar, moment.record.step)
        if terms is None:
            return product
        where = point.parameters, point.buffers, batch
        self._probe.hold(moment.record.step, evaluated.kind, where, product.along, g_bar)
        return product._replace(along=by_sample(product.along, terms))

    def _hold_curvature(self, held: HeldProducts, point: Point, g_bar: Tensor, r_bar: Tensor, seed: int) -> None:
        try:
            self._comparisons.curvature.note(held.hold(self._problem, point, g_bar[0], r_bar[0], seed))
        except (HydragradError, NotHeld):
            raise
        except FAST_PATH_ERRORS:
            pass  # A model of a precision of its own can't be held in float64, and is not counted as held.


def _weighted(evaluated: Evaluated, losses_dot: Tensor) -> Tensor:
    """Derivatives of losses with all that they are multiplied by in the step's loss."""
    weighted, weights = evaluated.part.weighted(losses_dot), evaluated.weights
    return weighted if weights is None else weighted * weights.to(weighted)


def _loss_weights(evaluated: Evaluated, like: Tensor) -> Tensor | None:
    """What the losses are multiplied by next to the divisor: the run's own weights, and coefficients of each."""
    weights, relative = evaluated.weights, evaluated.part.loss_weights(like)
    if weights is None or relative is None:
        return relative if weights is None else weights.to(like)
    return weights.to(like) * relative


def _derived(evaluated: Evaluated, product: CurvatureStep) -> Derived:
    return Derived(
        part=evaluated.part,
        batch=evaluated.batch,
        along=product.along,
        losses=evaluated.losses,
        part_count=evaluated.part_count,
        alpha=evaluated.alpha,
        factor=evaluated.factor,
    )
