"""One step of all parameters at once, laid out in one flat vector.

Every part of the vector has its rule and its move; parts that the step skipped are left as they are.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hydragrad.steps.rule import Cotangent, Move, Shape, StepPoint, StepRule, Tangent

SMOOTHING = 0.01
"""Share of the mean second moment that derivatives add under its root by default: on smooth networks trained with Adam
such derivatives predict removals, where exact ones hold for tiny changes only."""


class Part(NamedTuple):
    """Coordinates that a step moved alike.

    Attributes:
        span: Where they lie.
        rule: Of their optimizer.
        move: What the step did to them.
        shape: Of the one parameter that they are, where the rule is not elementwise; else None.
    """

    span: slice
    rule: StepRule
    move: Move
    shape: Shape | None = None

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the states that the step takes and gives; they are the first ones of the flat vectors."""
        return self.rule.states(self.move.options)

    def cut(self, weights: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Its own coordinates of flat vectors (..., coordinates), in the shapes that the rule takes; views."""
        own = weights[..., self.span].reshape(*weights.shape[:-1], *self._shape)
        return own, tuple(
            state[..., span].reshape(*state.shape[:-1], *shape)
            for state, (span, shape) in zip(states, self._places(), strict=False)
        )

    def put(self, states: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Write its states back into flat vectors (..., coordinates)."""
        for state, value, (span, _) in zip(states, values, self._places(), strict=False):
            state[..., span] = value.reshape(*state.shape[:-1], span.stop - span.start)

    def at(self, point: StepPoint | None) -> StepPoint | None:
        """Its own coordinates of a flat point."""
        if point is None:
            return None
        weights, states = self.cut(point.weights, point.states)
        return StepPoint(weights, states, point.gradient[self.span].reshape(self._shape))

    @property
    def _shape(self) -> Shape:
        return (self.span.stop - self.span.start,) if self.shape is None else self.shape

    def _places(self) -> list[tuple[slice, Shape]]:
        shapes = [self.rule.state_shape(name, self._shape) for name in self.states]
        return [(slice(self.span.start, self.span.start + math.prod(shape)), shape) for shape in shapes]


def smoothing_of(parts: Sequence[Part], point: StepPoint | None, share: float) -> float:
    """What is added under the roots of second moments in a derivative: a share of their mean over all coordinates.

    Args:
        parts: What the step moved.
        point: Where, flat; None where no rule needs it.
        share: Of the mean second moment; 0 is the exact derivative.
    """
    if point is None or share == 0:
        return 0.0
    total, count = 0.0, 0
    for part in parts:
        here = part.at(point)
        if part.rule.second_moment is not None and here is not None:
            moment = part.rule.second_moment(here, part.move)
            total, count = total + float(moment.double().sum()), count + moment.numel()
    return share * total / max(1, count)


def transpose_all(
    parts: Sequence[Part], after: Cotangent[Tensor], point: StepPoint | None, rho: float
) -> tuple[Tensor, Cotangent[Tensor]]:
    """Pull flat cotangents (..., coordinates) back through one step.

    Args:
        parts: What the step moved.
        after: Cotangents after it; as many states as any part has.
        point: Where it was taken, flat; None where no rule needs it.
        rho: As `smoothing_of` gives it.

    Returns:
        `g_bar`, and the cotangents before the step without the curvature term; new tensors.
    """
    if len(parts) == 1 and _is_everything(parts[0], after):
        return parts[0].rule.transpose(after, parts[0].move, parts[0].at(point), rho=rho)
    g_bar = torch.zeros_like(after.w_bar)
    w_bar, states = after.w_bar.clone(), tuple(state.clone() for state in after.states)
    for part in parts:
        g, before = part.rule.transpose(Cotangent(*part.cut(*after)), part.move, part.at(point), rho=rho)
        g_bar[..., part.span], w_bar[..., part.span] = _flat(g, w_bar), _flat(before.w_bar, w_bar)
        part.put(states, before.states)
    return g_bar, Cotangent(w_bar, states)


def tangent_all(
    parts: Sequence[Part], before: Tangent[Tensor], g_dot: Tensor, point: StepPoint | None, rho: float
) -> Tangent[Tensor]:
    """Advance flat tangents (..., coordinates) by one step; arguments as in `transpose_all`."""
    w_dot, states = before.w_dot.clone(), tuple(state.clone() for state in before.states)
    for part in parts:
        own, _ = part.cut(g_dot, ())
        after = part.rule.tangent(Tangent(*part.cut(*before)), own, part.move, part.at(point), rho=rho)
        w_dot[..., part.span] = _flat(after.w_dot, w_dot)
        part.put(states, after.states)
    return Tangent(w_dot, states)


def _is_everything(part: Part, after: Cotangent[Tensor]) -> bool:
    whole = part.shape is None and part.span == slice(0, after.w_bar.shape[-1])
    return whole and len(part.states) == len(after.states)


def _flat(value: Tensor, like: Tensor) -> Tensor:
    return value.reshape(*like.shape[:-1], -1)
