"""One step of torch.optim.SGD: its tangent and its transpose, side by side.

Legend: w weights, b momentum buffer, g gradient; x_dot tangent, x_bar cotangent of x; lr rate, mu momentum,
d dampening, wd weight decay. Every function works on floats and on tensors of any (equal) shape alike, so the
scalar recursion of the closed form and the sweep over real weights are the same code.

Source: Chen et al. 2021, eqs. 35-36, generalised to dampening, Nesterov, `maximize` and a buffer that starts
late (torch.optim.SGD semantics).
"""

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

Value = TypeVar("Value", float, Tensor)


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


class SGDTangent(NamedTuple, Generic[Value]):
    """Tangents of weights and momentum buffer; `b_dot` is None while the buffer does not exist."""

    w_dot: Value
    b_dot: Value | None


class SGDCotangent(NamedTuple, Generic[Value]):
    """Cotangents of weights and momentum buffer."""

    w_bar: Value
    b_bar: Value


def tangent_step(state: SGDTangent[Value], g_dot: Value, options: SGDOptions) -> SGDTangent[Value]:
    """Advance d(weights, buffer)/d(sample weight) by one step.

    Args:
        state: Tangents before the step.
        g_dot: Tangent of the loss gradient (curvature times `w_dot` plus the sample's own gradient), before
            weight decay and before `maximize` turns its sign; same shape.
        options: The options in force at this step.
    """
    w_dot, b_dot = state
    g_dot = options.loss_sign * g_dot + options.weight_decay * w_dot
    if options.momentum == 0:
        return SGDTangent(w_dot - options.lr * g_dot, b_dot)
    if b_dot is None:
        b_dot = g_dot
    else:
        b_dot = options.momentum * b_dot + (1 - options.dampening) * g_dot
    update = g_dot + options.momentum * b_dot if options.nesterov else b_dot
    return SGDTangent(w_dot - options.lr * update, b_dot)


def transpose_step(
    state: SGDCotangent[Value], options: SGDOptions, *, first: bool
) -> tuple[Value, SGDCotangent[Value]]:
    """Pull cotangents back through one step.

    Args:
        state: Cotangents after the step.
        options: The options in force at this step.
        first: True where this step created the momentum buffer.

    Returns:
        The cotangent `g_bar` of the loss gradient (sign of `maximize` included), and the cotangents before
        the step without the curvature term; the caller adds curvature times `g_bar` to `w_bar`. A sample of
        a batch of B gathers <g_bar, its gradient>/B.
    """
    w_bar, b_bar = state
    delta = -options.lr * w_bar
    if options.momentum == 0:
        g_bar = delta
    else:
        # Factors of one are left out: a pass over all parameters costs what a product with the curvature does.
        b_bar = b_bar + (options.momentum * delta if options.nesterov else delta)
        g_bar = b_bar if first or options.dampening == 0 else (1 - options.dampening) * b_bar
        if options.nesterov:
            g_bar = g_bar + delta
        b_bar = 0.0 * b_bar if first else options.momentum * b_bar
    if options.weight_decay != 0:
        w_bar = w_bar + options.weight_decay * g_bar
    return g_bar if options.loss_sign == 1 else -g_bar, SGDCotangent(w_bar, b_bar)
