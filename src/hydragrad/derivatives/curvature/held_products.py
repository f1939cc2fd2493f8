"""Curvature products held to what they stand for.

A reverse step's product is the gradient, by weights and running statistics, of

    s(w, r) = <g_bar, G(w, r)> + <r_bar, statistics after the batch>

where G is the gradient that training takes: whatever changes it on its way is inside. So along any direction the
product must be the difference quotient of s, which takes two gradients. The Gauss-Newton product is an approximation of
that and no derivative; it must be symmetric: <u, B v> = <v, B u>.

A network may stand on a kink, as where a bias that starts at 0 meets a blank image. A difference quotient is no
derivative there; a product that is symmetric is accepted, too.

All is evaluated in float64, on a copy of the model where the run was in float32: it is the rule that is held, not its
rounding.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hydragrad.derivatives.curvature.products import Products
from hydragrad.derivatives.held import NotHeld
from hydragrad.derivatives.kinks import kinks
from hydragrad.derivatives.layout import Layout
from hydragrad.derivatives.leaves import map_leaves
from hydragrad.derivatives.loss_module import Batch, LossModule
from hydragrad.derivatives.moving import moved_by, random_direction
from hydragrad.derivatives.per_sample.weighted import weighted_gradient
from hydragrad.derivatives.point import Point
from hydragrad.derivatives.trusted import FAST_PATH_ERRORS
from hydragrad.errors import HydragradError

STEPS = (1e-8, 1e-7, 1e-9)
"""Of the difference quotient, relative to the weights: so short that hardly a ReLU changes sides on the way."""

ROUNDINGS = 100
"""Roundings of the gradient that a difference may be off by."""

LARGEST_GAP = 1e-3
"""Between product and difference quotient, relative to the sizes that are multiplied."""


class HeldProducts:
    """Holds one way of taking products.

    Args:
        problem: Private copy of model and loss; is copied once more where it is in float32.
        weights: Lays out the trained parameters.
        statistics: Lays out the running statistics.
        moved: Which entries of the flat weights the run moved; what the others would change is of no account.
        make: The products of a problem.
        gauss_newton: Whether they are Gauss-Newton products.
    """

    def __init__(
        self,
        problem: LossModule,
        weights: Layout,
        statistics: Layout,
        moved: Tensor,
        make: Callable[[LossModule], Products],
        *,
        gauss_newton: bool,
    ) -> None:
        self._problem, self._weights, self._statistics = _in_float64(problem), weights, statistics
        self._moved = moved.to(torch.float64)
        self._products, self._gauss_newton = make(self._problem), gauss_newton

    def hold(self, like: LossModule, point: Point, g_bar: Tensor, r_bar: Tensor, seed: int) -> float:
        """Compare the products of one row at a point; return the gap.

        Args:
            like: Has the modes of the modules.
            point: Where.
            g_bar: (parameters,).
            r_bar: (statistics,).
            seed: Of the random direction.

        Raises:
            NotHeld: They are not what they stand for.
        """
        self._problem.take_modes(like.model)
        point, g_bar, r_bar = _point_in_float64(point), g_bar.double(), r_bar.double()
        if not (g_bar.isfinite().all() and r_bar.isfinite().all() and g_bar.any()):
            return 0.0
        g_bar, r_bar = g_bar / g_bar.norm(), r_bar / g_bar.norm()
        gap = self._asymmetry(point, g_bar, seed) if self._gauss_newton else self._gap(point, g_bar, r_bar, seed)
        if not (self._gauss_newton or gap <= LARGEST_GAP) and has_kinks(self._problem, self._weights, point):
            gap = self._asymmetry(point, g_bar, seed)
        if not gap <= LARGEST_GAP:
            raise NotHeld(
                f"The curvature product differs from how the gradient that trained really changes by {gap:.1e} of its "
                f"size"
            )
        return gap

    def _gap(self, point: Point, g_bar: Tensor, r_bar: Tensor, seed: int) -> float:
        product = self._products(point, g_bar[None], r_bar[None])
        w_dot = random_direction(self._weights, point.parameters, g_bar, _seeded(seed)) * self._moved
        r_dot = random_direction(self._statistics, point.buffers, r_bar, _seeded(seed + 1))
        terms = torch.cat([product.w_bar[0] * w_dot, product.r_bar[0] * r_dot])
        along, size = float(terms.sum()), float(terms.norm())
        gaps = []
        for step in STEPS:
            up, down = (
                self._pulled(point, g_bar, r_bar, factor * step * w_dot, factor * step * r_dot) for factor in (1, -1)
            )
            quotient = (up - down) / (2 * step)
            rounding = ROUNDINGS * torch.finfo(torch.float64).eps * (abs(up) + abs(down)) / step
            gaps.append(max(0.0, abs(quotient - along) - rounding) / max(abs(quotient), abs(along), size, 1e-300))
            if gaps[-1] <= LARGEST_GAP:
                break
        return min(gaps)

    def _pulled(self, point: Point, g_bar: Tensor, r_bar: Tensor, w_dot: Tensor, r_dot: Tensor) -> float:
        """s at a moved point."""
        parameters = moved_by(self._weights, point.parameters, w_dot)
        buffers = moved_by(self._statistics, point.buffers, r_dot)
        like = next(iter(parameters.values()))
        weights = like.new_ones(point.batch.size) if point.loss_weights is None else point.loss_weights
        gradient, after = weighted_gradient(self._problem, self._weights, parameters, buffers, point.batch, weights)
        moved = self._statistics.flatten({name: after[name] for name in self._statistics.names}, r_bar)
        return float(g_bar @ gradient / point.divisor + r_bar @ moved)

    def _asymmetry(self, point: Point, g_bar: Tensor, seed: int) -> float:
        other = random_direction(self._weights, point.parameters, g_bar, _seeded(seed)) * self._moved
        zero = g_bar.new_zeros(2, self._statistics.size)
        product = self._products(point, torch.stack([g_bar, other]), zero).w_bar
        return _relative(product[0] * other, product[1] * g_bar)


def tangent_gap(
    problem: LossModule,
    weights: Layout,
    statistics: Layout,
    tangent: Callable[[LossModule, Point, Tensor, Tensor, Tensor], Any],
    point: Point,
    seed: int,
) -> float:
    """How far a tangent of gradient and statistics is from their difference quotient, relative to its norm.

    Args:
        problem: Private copy of model and loss; is copied once more where it is in float32.
        weights: Lays out the parameters.
        statistics: Lays out the running statistics.
        tangent: Of a problem at a point, along w_dot, r_dot and alpha_dot: has `g_dot` and `r_dot`, with one row.
        point: Where.
        seed: Of the random direction.

    Returns:
        The smallest gap of several steps; 0 where the model can't be evaluated in float64.
    """
    try:
        twin, point = _in_float64(problem), _point_in_float64(point)
        twin.take_modes(problem.model)
        return _tangent_gap(twin, weights, statistics, partial(tangent, twin, point), point, seed)
    except HydragradError:
        raise
    except FAST_PATH_ERRORS:
        if next(iter(problem.parameters())).dtype == torch.float64:
            raise
        return 0.0


def _tangent_gap(
    problem: LossModule,
    weights: Layout,
    statistics: Layout,
    tangent: Callable[[Tensor, Tensor, Tensor], Any],
    point: Point,
    seed: int,
) -> float:
    like = next(iter(point.parameters.values()))
    alpha = like.new_ones(point.batch.size) if point.loss_weights is None else point.loss_weights
    gradient, _ = weighted_gradient(problem, weights, point.parameters, point.buffers, point.batch, alpha)
    # Along entries that move with the samples: those without a gradient at this batch may be padding.
    w_dot, other = (
        random_direction(weights, point.parameters, like, _seeded(seed + n)) * (gradient != 0) for n in (0, 2)
    )
    r_dot = random_direction(statistics, point.buffers, like, _seeded(seed + 1))
    alpha_dot = torch.randn(alpha.shape, generator=_seeded(seed), dtype=like.dtype).to(like)
    rows, gaps = tangent(w_dot, r_dot, alpha_dot), []
    exact = torch.cat([rows.g_dot[0], rows.r_dot[0]])

    def moved(h: float) -> Tensor:
        where = (point, h * w_dot, h * r_dot, alpha + h * alpha_dot)
        return _gradient_and_statistics(problem, weights, statistics, *where)

    for step in STEPS:
        up, down = moved(step), moved(-step)
        rounding = ROUNDINGS * torch.finfo(torch.float64).eps * float(up.norm() + down.norm()) / step
        difference = float(((up - down) / (2 * step) - exact).norm())
        gaps.append(max(0.0, difference - rounding) / max(float(exact.norm()), 1e-300))
        if gaps[-1] <= LARGEST_GAP:
            return gaps[-1]
    if not has_kinks(problem, weights, point):
        return min(gaps)
    still = torch.zeros_like(r_dot), torch.zeros_like(alpha_dot)
    return _relative(tangent(w_dot, *still).g_dot[0] * other, tangent(other, *still).g_dot[0] * w_dot)


def has_kinks(problem: LossModule, weights: Layout, point: Point) -> bool:
    """Whether an operation behind the losses has a derivative that jumps."""
    with torch.enable_grad():
        leaves = {name: point.parameters[name].detach().requires_grad_() for name in weights.names}
        losses, _ = problem.at(point.parameters | leaves, point.buffers, point.batch)
    return bool(kinks(losses))


def _gradient_and_statistics(
    problem: LossModule,
    weights: Layout,
    statistics: Layout,
    point: Point,
    w_dot: Tensor,
    r_dot: Tensor,
    alpha: Tensor,
) -> Tensor:
    """Both after moving the state, as one vector."""
    parameters = moved_by(weights, point.parameters, w_dot)
    buffers = moved_by(statistics, point.buffers, r_dot)
    gradient, after = weighted_gradient(problem, weights, parameters, buffers, point.batch, alpha)
    moved = statistics.flatten({name: after[name] for name in statistics.names}, gradient)
    return torch.cat([gradient / point.divisor, moved])


def _relative(one: Tensor, two: Tensor) -> float:
    """How far two sums of terms are apart, relative to what is added up."""
    size = max(float(one.norm()), float(two.norm()), abs(float(one.sum())), abs(float(two.sum())), 1e-300)
    return abs(float(one.sum() - two.sum())) / size


def _in_float64(problem: LossModule) -> LossModule:
    copy = LossModule(problem.model, partial(_without_casts, problem.loss))
    return copy.double()


def _without_casts(loss: Callable[[Any, Any], Tensor], model: Any, batch: Any) -> Tensor:
    with _Float64Throughout():
        return loss(model, batch)


class _Float64Throughout(TorchFunctionMode):
    """Leaves out what takes a model from float64 to float32 inside, as norms of language models do."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is Tensor.float:
                return args[0]
            args = tuple(map(_not_float32, args))
            kwargs = {name: _not_float32(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)


def _not_float32(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument


def _point_in_float64(point: Point) -> Point:
    return Point(
        {name: _double(value) for name, value in point.parameters.items()},
        {name: _double(value) for name, value in point.buffers.items()},
        Batch(map_leaves(point.batch.data, _double), point.batch.size, point.batch.seed),
        point.divisor,
        None if point.loss_weights is None else point.loss_weights.double(),
    )


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
