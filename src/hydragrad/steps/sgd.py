"""One step of torch.optim.SGD: the step, its tangent and its transpose, next to one another.

Legend: w weights, b momentum buffer, g gradient; x_dot tangent, x_bar cotangent of x; lr rate, mu momentum,
d dampening, wd weight decay. Tangent and transpose work on floats and on tensors of any (equal) shape alike, so the
scalar recursion of the closed form and the sweep over real weights are the same code.

Source: Chen et al. 2021, eqs. 35-36, generalised to dampening, Nesterov, `maximize` and a buffer that starts
late (torch.optim.SGD semantics).
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import SGD

from hydragrad.steps.rule import ClosedForm, Cotangent, Move, StepPoint, StepRule, Tangent, Value, number

BUFFER = "momentum_buffer"


@dataclass(frozen=True, kw_only=True)
class SGDOptions:
    """The options in force for one parameter at one step.

    Raises:
        ValueError: Nesterov momentum without momentum, or with dampening, as torch.optim.SGD has it.
    """

    lr: float
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    maximize: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise ValueError(f"Nesterov needs momentum > 0 and dampening 0; got {self.momentum} and {self.dampening}.")

    @property
    def loss_sign(self) -> float:
        """-1 where the optimizer maximises, else 1."""
        return -1.0 if self.maximize else 1.0


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
    """Advance d(weights, buffer)/d(sample weight) by one step."""
    w_dot, states = before
    options: SGDOptions = move.options
    g_dot = options.loss_sign * g_dot + options.weight_decay * w_dot
    if options.momentum == 0:  # a buffer waits
        return Tangent(w_dot - options.lr * g_dot, states)
    if move.age:
        b_dot = g_dot
    else:
        b_dot = options.momentum * states[0] + (1 - options.dampening) * g_dot
    update = g_dot + options.momentum * b_dot if options.nesterov else b_dot
    return Tangent(w_dot - options.lr * update, (b_dot,))


def transpose(
    after: Cotangent[Value], move: Move, point: StepPoint | None = None, *, rho: float = 0.0
) -> tuple[Value, Cotangent[Value]]:
    """Pull cotangents back through one step."""
    w_bar, states = after
    options: SGDOptions = move.options
    delta = -options.lr * w_bar
    if options.momentum == 0:
        g_bar = delta
    else:
        # Factors of one are left out: a pass over all parameters costs what a product with the curvature does.
        b_bar = states[0] + (options.momentum * delta if options.nesterov else delta)
        g_bar = b_bar if move.age or options.dampening == 0 else (1 - options.dampening) * b_bar
        if options.nesterov:
            g_bar = g_bar + delta
        states = (0.0 * b_bar if move.age else options.momentum * b_bar,)
    if options.weight_decay != 0:
        w_bar = w_bar + options.weight_decay * g_bar
    return g_bar if options.loss_sign == 1 else -g_bar, Cotangent(w_bar, states)


def step_map(move: Move) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One step as (w_dot, b_dot) -> matrix @ (w_dot, b_dot) + injection * gradient."""
    columns = []
    for w_dot, b_dot, g_dot in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)):
        # A buffer that does not exist yet carries no tangent.
        state = tangent(Tangent(w_dot, (0.0 if move.age else b_dot,)), g_dot, move)
        columns.append((state.w_dot, state.states[0]))
    table = np.array(columns).T
    return table[:, :2], table[:, 2]


def _read(values: Mapping[str, Any]) -> SGDOptions:
    numbers = {name: number(values[name]) for name in ("lr", "momentum", "dampening", "weight_decay")}
    return SGDOptions(**numbers, nesterov=bool(values["nesterov"]), maximize=bool(values["maximize"]))


def _has_buffer(state: Mapping[str, Any]) -> bool:
    return state.get(BUFFER) is not None


def _grow(has_buffer: bool, options: SGDOptions) -> tuple[bool, bool]:
    """Whether the step creates the buffer, and whether there is one after it."""
    creates = options.momentum != 0 and not has_buffer
    return creates, has_buffer or creates


def _same_step(move: Move) -> Hashable:
    # The step that creates the buffer escapes dampening; without dampening it is like every other.
    return move.options, move.age and move.options.dampening != 0


RULE = StepRule(
    torch_class=SGD,
    options=("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"),
    kernels=("foreach", "differentiable", "fused"),
    read=_read,
    states=lambda options: (BUFFER,) if options.momentum != 0 else (),
    age=_has_buffer,
    grow=_grow,
    step=step,
    tangent=tangent,
    transpose=transpose,
    closed_form=ClosedForm(states=1, step_map=step_map),
    same_step=_same_step,
)
