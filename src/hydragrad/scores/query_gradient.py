"""The gradient of a query's scalar, held to the scalar itself.

A contribution is a derivative of the query's value, whatever gradient trained the model. Reverse mode gives another
vector where a gradient is stopped or changed on its way: by detach(), a `torch.no_grad` block, a hook, a custom
function, a padding row. So the gradient is compared with how the value really changes along a random direction. Where
that differs, stopped gradients are let through; where it differs still, the query is refused.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor

from hydragrad.derivatives import Layout
from hydragrad.derivatives.directional.forward_mode import differentiable_kernels, dual_parameters, unpack
from hydragrad.derivatives.graph import Kind, KindWatch, kind_of_graph
from hydragrad.derivatives.moving import SMALLEST, moved_by, random_direction
from hydragrad.derivatives.stopped import gradients_through_stops, through_stops
from hydragrad.derivatives.trusted import FAST_PATH_ERRORS
from hydragrad.derivatives.trusted import reason as reason_of
from hydragrad.errors import HydragradError, QueryError

Named = dict[str, Tensor]
Scalar = Callable[[Named, Named], Tensor]
"""Parameters and buffers to the value, a tensor with one number."""

STEPS, COARSE_STEPS = (1e-6, 1e-5, 1e-7), (1e-2, 3e-2, 1e-1)
"""Of the difference quotient, in the unit of the direction: in float64, and in float32."""

DIFFERENCE_GAP, FORWARD_GAP, COARSE_GAP = 1e-4, 1e-2, 0.1
"""Largest relative gap to a difference quotient in float64, to forward mode in float32, and to a difference quotient in
float32, where there is no forward mode."""

ROUNDINGS = 100
"""Roundings of the value that a difference may be off by."""

CHECKED_SHARE = 1 / 16
"""Share of the scalars that are compared where one with the same operations was compared before."""


class Direction(NamedTuple):
    """A direction of the state: (parameters,), (statistics,)."""

    weights: Tensor
    statistics: Tensor


class QueryGradient:
    """Differentiates the scalars of one query at one point.

    Args:
        parameters: Values of all parameters.
        buffers: Values of all buffers.
        weights: Lays out the parameters to differentiate by.
        statistics: Lays out the running statistics to differentiate by.

    Attributes:
        compared: How many gradients were compared with their tangents.
        gap: The largest relative difference that passed.
    """

    def __init__(self, parameters: Named, buffers: Named, weights: Layout, statistics: Layout) -> None:
        self._parameters, self._buffers = parameters, buffers
        self._weights, self._statistics = weights, statistics
        self._through_stops = False
        self._kinds = KindWatch(CHECKED_SHARE)
        self._calls = self.compared = 0
        self.gap = 0.0

    def __call__(self, scalar: Scalar, name: str) -> tuple[float, Tensor, Tensor]:
        """Value, and gradients by weights (parameters,) and running statistics (statistics,).

        Raises:
            QueryError: No scalar, one that does not depend on the parameters, NaN, or a gradient that is not the
                derivative of the value.
        """
        found, self._calls = self._differentiate(scalar, name), self._calls + 1
        if found.depends and self._kinds.wants(self._calls, found.kind):
            self.compared += 1
            gap = self._gap(scalar, found)
            if gap is not None and not self._through_stops:
                self._through_stops = True
                found = self._differentiate(scalar, name)
                gap = self._gap(scalar, found)
            if gap is not None:
                raise QueryError(
                    f"The gradient of query {name!r} is not the derivative of its value: along a random direction they "
                    f"differ by {gap:.1e}. Something changes the gradient on its way (a hook, a custom "
                    f"autograd.Function, a padding row). Write the query, or the model in eval mode, without it."
                )
        if not found.finite:
            raise QueryError(f"The gradient of query {name!r} holds NaN or infinity at the trained model.")
        if not found.depends:
            raise QueryError(
                f"Query {name!r} does not depend on the trained parameters (did it detach, or leave the model out?), "
                f"so every contribution would be zero. Return a differentiable function of the model."
            )
        return found.value, found.w_bar, found.r_bar

    def _differentiate(self, scalar: Scalar, name: str) -> "_Gradient":
        weights = {key: self._parameters[key].detach().requires_grad_() for key in self._weights.names}
        statistics = {key: self._buffers[key].detach().clone().requires_grad_() for key in self._statistics.names}
        leaves = [*weights.values(), *statistics.values()]
        gradients: tuple[Tensor | None, ...] = ()
        evaluating = gradients_through_stops if self._through_stops else torch.enable_grad
        with torch.enable_grad(), differentiable_kernels():
            with evaluating():
                value = _one_number(scalar(self._parameters | weights, self._buffers | statistics), name)
            kind = kind_of_graph(value)
            if value.requires_grad:
                gradients = _pulled_back(value, leaves, name)
        named = dict(zip((*weights, *statistics), gradients, strict=False))
        like = next(iter(self._parameters.values()))
        return _Gradient(
            float(value.detach()),
            self._weights.flatten(named, like),
            self._statistics.flatten(named, like),
            depends=any(gradient is not None for gradient in gradients),
            kind=kind,
        )

    def _gap(self, scalar: Scalar, found: "_Gradient") -> float | None:
        """How far gradient and value are apart along a random direction; None where that is rounding."""
        if not found.finite:
            return None  # Refused as such.
        if found.w_bar.dtype == torch.float64:
            moved = self._random_direction()
            gap = self._difference_gap(scalar, found, moved, DIFFERENCE_GAP, STEPS)
            return None if gap is None or self._jumps(scalar, found, moved) else gap
        try:
            return self._forward_gap(scalar, found)
        except HydragradError:
            raise
        except FAST_PATH_ERRORS:  # An operation without a forward-mode rule.
            return self._difference_gap(scalar, found, self._uphill(found), COARSE_GAP, COARSE_STEPS)

    def _jumps(self, scalar: Scalar, found: "_Gradient", moved: Direction) -> bool:
        """Whether it is the value that jumps, along entries without a gradient: signs and whole numbers are made of
        them. Forward mode agrees with the gradient then, and so does the value along all other entries."""
        try:
            agrees = self._forward_gap(scalar, found) is None
        except HydragradError:
            raise
        except FAST_PATH_ERRORS:
            return False
        others = Direction(moved.weights * (found.w_bar != 0), moved.statistics * (found.r_bar != 0))
        return agrees and self._difference_gap(scalar, found, others, DIFFERENCE_GAP, STEPS) is None

    def _random_direction(self) -> Direction:
        """Random, each tensor's part as large as the tensor's own entries."""
        generator = torch.Generator().manual_seed(self.compared)
        like = next(iter(self._parameters.values()))

        return Direction(
            random_direction(self._weights, self._parameters, like, generator),
            random_direction(self._statistics, self._buffers, like, generator),
        )

    def _uphill(self, found: "_Gradient") -> Direction:
        """Near the gradient, where a coarse precision shows a difference; one unit changes the value by itself."""
        generator = torch.Generator().manual_seed(self.compared)
        factors = {
            name: (0.5 + torch.rand((), generator=generator)).to(found.w_bar).expand(shape)
            for name, shape in self._weights.shapes.items()
        }
        size = float(found.w_bar.square().sum() + found.r_bar.square().sum())
        scale = max(abs(found.value), SMALLEST) / max(size, 1e-30)
        return Direction(found.w_bar * self._weights.flatten(factors, found.w_bar) * scale, found.r_bar * scale)

    def _difference_gap(
        self, scalar: Scalar, found: "_Gradient", moved: Direction, allowed: float, steps: Sequence[float]
    ) -> float | None:
        """To difference quotients; the smallest of several steps, since a kink or rounding may spoil one."""
        along, typical = found.along(moved)
        gaps = []
        for step in steps:
            up, down = self._value(scalar, step, moved), self._value(scalar, -step, moved)
            quotient = (up - down) / (2 * step)
            rounding = ROUNDINGS * torch.finfo(moved.weights.dtype).eps * max(abs(up), abs(down)) / step
            gaps.append(abs(quotient - along) / max(abs(quotient), abs(along), typical, 1e-300))
            if gaps[-1] <= allowed or abs(quotient - along) <= rounding:
                self.gap = max(self.gap, min(gaps))
                return None
        return min(gaps)

    def _forward_gap(self, scalar: Scalar, found: "_Gradient") -> float | None:
        moved = self._random_direction()
        with differentiable_kernels(), forward_mode.dual_level(), through_stops():
            weights = dual_parameters(self._weights, self._parameters, moved.weights)
            statistics = dual_parameters(self._statistics, self._buffers, moved.statistics)
            tangent = float(unpack(scalar(weights, statistics))[1])
        along, typical = found.along(moved)
        gap = abs(tangent - along) / max(abs(tangent), abs(along), typical, 1e-30)
        if gap > FORWARD_GAP:
            return gap
        self.gap = max(self.gap, gap)
        return None

    def _value(self, scalar: Scalar, factor: float, moved: Direction) -> float:
        parameters = moved_by(self._weights, self._parameters, factor * moved.weights)
        buffers = moved_by(self._statistics, self._buffers, factor * moved.statistics)
        with torch.no_grad():
            return float(scalar(parameters, buffers))


class _Gradient(NamedTuple):
    """A value, its gradient, whether it has one, and the operations behind it."""

    value: float
    w_bar: Tensor
    r_bar: Tensor
    depends: bool
    kind: Kind

    @property
    def finite(self) -> bool:
        return bool(self.w_bar.isfinite().all() and self.r_bar.isfinite().all())

    def along(self, moved: Direction) -> tuple[float, float]:
        """The derivative along a direction, and the size that such products have."""
        parts = torch.cat([self.w_bar * moved.weights, self.r_bar * moved.statistics])
        return float(parts.sum()), float(parts.norm())


def _pulled_back(value: Tensor, leaves: Sequence[Tensor], name: str) -> tuple[Tensor | None, ...]:
    try:
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(value, leaves, allow_unused=True)
    except HydragradError:
        raise
    except FAST_PATH_ERRORS as error:
        reason = reason_of(error)
        raise QueryError(
            f"torch cannot differentiate query {name!r}: {reason}. Write the query, or the model in eval mode, with "
            f"operations that have a gradient."
        ) from error
    return gradients


def _one_number(value: object, name: str) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        actual = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise QueryError(f"Query {name!r} must return a tensor with one number, got {actual}.")
    return value.squeeze()
