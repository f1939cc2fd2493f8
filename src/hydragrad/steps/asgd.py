"""One step of torch.optim.ASGD.

Legend: w weights, g gradient; x_dot tangent, x_bar cotangent of x; lr rate, wd weight decay, k the number of the step,
eta_k the rate that the step before (for k = 1 the optimizer's start) has set.

    w' = (1 - lambd eta_k) w - eta_k (g + wd w)        eta_(k+1) = lr / (1 + lambd lr k)^alpha

The step is linear, with the same numbers for every coordinate. eta_k depends on the options of the step before, so it
belongs to a parameter's age. The averaged weights `ax` enter no step.

Source: Polyak and Juditsky 1992; torch.optim semantics.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import ASGD

from hydragrad.steps.rule import ClosedForm, Cotangent, Move, StepPoint, StepRule, Tangent, Value, number, steps_so_far

AT_START = (0, None)
"""The age of a parameter without a step: how many it made, and the rate of the next one, which its first step sets."""


@dataclass(frozen=True, kw_only=True)
class ASGDOptions:
    """The options in force for one parameter at one step."""

    lr: float
    lambd: float = 1e-4
    alpha: float = 0.75
    weight_decay: float = 0.0
    maximize: bool = False


def step(
    w: Tensor, states: tuple[Tensor, ...], g: Tensor, move: Move, *, rho: float = 0.0
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step; `rho` has no root to go under."""
    # The step is linear, so it is its own tangent.
    after = tangent(Tangent(w, states), g, move)
    return after.w_dot, after.states


def tangent(
    before: Tangent[Value], g_dot: Value, move: Move, point: StepPoint | None = None, *, rho: float = 0.0
) -> Tangent[Value]:
    """Advance d(weights)/d(sample weight) by one step."""
    by_w, by_g = _factors(move)
    return Tangent(by_w * before.w_dot + by_g * g_dot, before.states)


def transpose(
    after: Cotangent[Value], move: Move, point: StepPoint | None = None, *, rho: float = 0.0
) -> tuple[Value, Cotangent[Value]]:
    """Pull cotangents back through one step."""
    by_w, by_g = _factors(move)
    return by_g * after.w_bar, Cotangent(by_w * after.w_bar, after.states)


def step_map(move: Move) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One step as w_dot -> matrix @ w_dot + injection * gradient."""
    by_w, by_g = _factors(move)
    return np.array([[by_w]]), np.array([by_g])


def _factors(move: Move) -> tuple[float, float]:
    options: ASGDOptions = move.options
    eta: float = move.age[1]
    return 1 - eta * (options.lambd + options.weight_decay), eta if options.maximize else -eta


def _read(values: Mapping[str, Any]) -> ASGDOptions:
    numbers = {name: number(values[name]) for name in ("lr", "lambd", "alpha", "weight_decay")}
    return ASGDOptions(**numbers, maximize=bool(values["maximize"]))


def _age(state: Mapping[str, Any]) -> tuple[int, float | None]:
    return (steps_so_far(state), float(state["eta"])) if state else AT_START


def _grow(age: tuple[int, float | None], options: ASGDOptions) -> tuple[Any, Any]:
    k, eta = age[0] + 1, _kept(options.lr) if age[1] is None else age[1]
    return (k, eta), (k, _kept(options.lr / (1 + options.lambd * options.lr * k) ** options.alpha))


def _kept(rate: float) -> float:
    """A rate as torch keeps it, a number of its default type."""
    return torch.tensor(rate).item()


RULE = StepRule(
    torch_class=ASGD,
    options=("lr", "lambd", "alpha", "weight_decay", "maximize", "t0"),
    kernels=("foreach", "capturable", "differentiable"),
    read=_read,
    states=lambda options: (),
    age=_age,
    grow=_grow,
    step=step,
    tangent=tangent,
    transpose=transpose,
    closed_form=ClosedForm(states=0, step_map=step_map),
    numbers_on_device=lambda group: True,
)
