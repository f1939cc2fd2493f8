"""Rules derived from a pure step: tangent and transpose by torch.func, for optimizers without derivatives by hand.

The step must have a derivative wherever it is taken: roots and quotients need one of 0 at 0, since autograd's 0 times
infinity is NaN.
"""

from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vjp

from hydragrad.steps.rule import (
    Cotangent,
    Move,
    Step,
    StepPoint,
    StepRule,
    Tangent,
    TangentStep,
    TransposeStep,
    one_step_more,
    steps_so_far,
)


def derived(*, step: Step, of: Step | None = None, **known: Any) -> StepRule:
    """A rule whose tangent and transpose are those of its step, for an optimizer that counts the steps as `step`.

    Args:
        step: One step, pure.
        of: What derivatives are taken of, where that is not the step.
        known: What else the rule has, as `StepRule` takes it; also another age.
    """
    pure = of or step
    counted = {"age": steps_so_far, "grow": one_step_more}
    return StepRule(step=step, tangent=tangent_of(pure), transpose=transpose_of(pure), **counted | known)


def tangent_of(step: Step) -> TangentStep:
    """The tangent of a pure step.

    Tangents have one leading dimension, (rows, *shape), or none.
    """

    def tangent(
        before: Tangent[Tensor], g_dot: Tensor, move: Move, point: StepPoint | None = None, *, rho: float = 0.0
    ) -> Tangent[Tensor]:
        assert point is not None

        def along(w_dot: Tensor, states: tuple[Tensor, ...], g_dot: Tensor) -> Any:
            return jvp(_at(step, move, rho), tuple(point), (w_dot, states, g_dot))[1]

        rows = g_dot.dim() > point.gradient.dim()
        w_dot, states = (torch.vmap(along) if rows else along)(before.w_dot, before.states, g_dot)
        return Tangent(w_dot, states)

    return tangent


def transpose_of(step: Step) -> TransposeStep:
    """The transpose of a pure step; cotangents as the tangents of `tangent_of`."""

    def transpose(
        after: Cotangent[Tensor], move: Move, point: StepPoint | None = None, *, rho: float = 0.0
    ) -> tuple[Tensor, Cotangent[Tensor]]:
        assert point is not None
        _, pull = vjp(_at(step, move, rho), *point)  # type: ignore[misc]
        rows = after.w_bar.dim() > point.weights.dim()
        back: Any = torch.vmap(pull) if rows else pull
        w_bar, states, g_bar = back((after.w_bar, after.states))
        return g_bar, Cotangent(w_bar, states)

    return transpose


def _at(step: Step, move: Move, rho: float) -> Any:
    def function(w: Tensor, states: tuple[Tensor, ...], g: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return step(w, states, g, move, rho=rho)

    return function
