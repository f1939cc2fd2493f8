"""One step of all parameters at once, laid out in one flat vector.

Every part of the vector has its rule and its move; parts that the step skipped are left as they are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hydragrad.steps.rule import Cotangent, Move, StepPoint, StepRule, Tangent

SMOOTHING = 0.01
"""Share of the mean second moment that derivatives add under its root by default: on smooth networks trained with Adam
such derivatives predict removals, where exact ones hold for tiny changes only."""


class Part(NamedTuple):
    """Coordinates that a step moved alike.

    Attributes:
        span: Where they lie.
        rule: Of their optimizer.
        move: What the step did to them.
    """

    span: slice
    rule: StepRule
    move: Move


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
    for span, rule, move in parts:
        if rule.second_moment is not None:
            moment = rule.second_moment(_part(point, span, rule, move), move)
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
    size = after.w_bar.shape[-1]
    if len(parts) == 1 and parts[0].span == slice(0, size) and _states(parts[0]) == len(after.states):
        span, rule, move = parts[0]
        return rule.transpose(after, move, None if point is None else _part(point, span, rule, move), rho=rho)
    g_bar = torch.zeros_like(after.w_bar)
    w_bar, states = after.w_bar.clone(), tuple(state.clone() for state in after.states)
    for part in parts:
        span, rule, move = part
        used = states[: _states(part)]
        here = None if point is None else _part(point, span, rule, move)
        state = Cotangent(w_bar[..., span], tuple(each[..., span] for each in used))
        g, before = rule.transpose(state, move, here, rho=rho)
        g_bar[..., span], w_bar[..., span] = g, before.w_bar
        for whole, value in zip(used, before.states, strict=True):
            whole[..., span] = value
    return g_bar, Cotangent(w_bar, states)


def tangent_all(
    parts: Sequence[Part], before: Tangent[Tensor], g_dot: Tensor, point: StepPoint | None, rho: float
) -> Tangent[Tensor]:
    """Advance flat tangents (..., coordinates) by one step; arguments as in `transpose_all`."""
    w_dot, states = before.w_dot.clone(), tuple(state.clone() for state in before.states)
    for part in parts:
        span, rule, move = part
        used = states[: _states(part)]
        here = None if point is None else _part(point, span, rule, move)
        state = Tangent(w_dot[..., span], tuple(each[..., span] for each in used))
        after = rule.tangent(state, g_dot[..., span], move, here, rho=rho)
        w_dot[..., span] = after.w_dot
        for whole, value in zip(used, after.states, strict=True):
            whole[..., span] = value
    return Tangent(w_dot, states)


def _states(part: Part) -> int:
    return len(part.rule.states(part.move.options))


def _part(point: StepPoint, span: slice, rule: StepRule, move: Move) -> StepPoint:
    here = point.part(span)
    return here._replace(states=here.states[: len(rule.states(move.options))])
