"""One step of torch.optim.Adam and AdamW: the step, its tangent and its transpose, next to one another.

Legend: w weights, m and v first and second moment, x the largest v so far (amsgrad), g gradient; a hat is the bias
correction; x_dot tangent, x_bar cotangent of x; lr rate, b1, b2 the decay rates, k the number of the step.

    m' = b1 m + (1 - b1) g        v' = b2 v + (1 - b2) g^2        w' = w - lr m_hat / (sqrt(v_hat) + eps)

with g including the weight decay for Adam, and w scaled by 1 - lr * weight_decay first for AdamW.

Where v_hat is tiny the step is nearly the sign of g: its derivative is huge, and holds for tiny changes only. `rho`
smooths the root in the derivative, sqrt(v_hat + rho), and leaves the step as it is; 0 is the exact derivative.

Source: Kingma and Ba 2015; Loshchilov and Hutter 2019; Reddi et al. 2018 (amsgrad); torch.optim semantics.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Adam, AdamW

from hydragrad.steps.roots import root
from hydragrad.steps.rule import Cotangent, Move, StepPoint, StepRule, Tangent, number, one_step_more, steps_so_far

MOMENTS = ("exp_avg", "exp_avg_sq")
LARGEST = "max_exp_avg_sq"


@dataclass(frozen=True, kw_only=True)
class AdamOptions:
    """The options in force for one parameter at one step.

    Attributes:
        lr: Rate.
        betas: Decay rates of first and second moment.
        eps: Added to the root.
        weight_decay: Times the weights, added to the gradient; or taken off the weights where `decoupled`.
        amsgrad: Divide by the root of the largest second moment so far.
        maximize: The optimizer goes up.
        decoupled: Weight decay as in AdamW.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    maximize: bool = False
    decoupled: bool = False


class _Update(NamedTuple):
    """What a step computes on its way: moments after it, and the update's parts."""

    g: Tensor
    m: Tensor
    v: Tensor
    largest: Tensor | None
    m_hat: Tensor
    v_hat: Tensor


def step(
    w: Tensor, states: tuple[Tensor, ...], g: Tensor, move: Move, *, rho: float = 0.0
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step."""
    options: AdamOptions = move.options
    update = _update(StepPoint(w, states, g), move)
    if options.decoupled:
        w = w * (1 - options.lr * options.weight_decay)
    w = w - options.lr * update.m_hat / (root(update.v_hat + rho) + options.eps)
    moments = (update.m, update.v)
    return w, moments if update.largest is None else (*moments, update.largest)


def tangent(
    before: Tangent[Tensor], g_dot: Tensor, move: Move, point: StepPoint | None = None, *, rho: float = 0.0
) -> Tangent[Tensor]:
    """Advance d(weights, moments)/d(sample weight) by one step."""
    assert point is not None
    options: AdamOptions = move.options
    (b1, b2), k = options.betas, move.age
    w_dot, (m_dot, v_dot, *largest_dot) = before
    update = _update(point, move)
    g_dot = -g_dot if options.maximize else g_dot
    if not options.decoupled:
        g_dot = g_dot + options.weight_decay * w_dot
    m_dot = b1 * m_dot + (1 - b1) * g_dot
    v_dot = b2 * v_dot + 2 * (1 - b2) * update.g * g_dot
    states: tuple[Tensor, ...] = (m_dot, v_dot)
    divided_dot = v_dot
    if options.amsgrad:
        divided_dot = torch.where(point.states[2] >= update.v, largest_dot[0], v_dot)
        states = (m_dot, v_dot, divided_dot)
    by_m, by_v = _slopes(update, options, k, rho)
    if options.decoupled:
        w_dot = (1 - options.lr * options.weight_decay) * w_dot
    return Tangent(w_dot + by_m * m_dot + by_v * divided_dot, states)


def transpose(
    after: Cotangent[Tensor], move: Move, point: StepPoint | None = None, *, rho: float = 0.0
) -> tuple[Tensor, Cotangent[Tensor]]:
    """Pull cotangents back through one step."""
    assert point is not None
    options: AdamOptions = move.options
    (b1, b2), k = options.betas, move.age
    w_bar, (m_bar, v_bar, *largest_bar) = after
    update = _update(point, move)
    by_m, by_v = _slopes(update, options, k, rho)
    m_bar = m_bar + by_m * w_bar
    if options.amsgrad:
        divided_bar = largest_bar[0] + by_v * w_bar
        stays = point.states[2] >= update.v
        v_bar = v_bar + torch.where(stays, 0.0, divided_bar)
        largest_bar = [torch.where(stays, divided_bar, 0.0)]
    else:
        v_bar = v_bar + by_v * w_bar
    g_bar = (1 - b1) * m_bar + 2 * (1 - b2) * update.g * v_bar
    if options.decoupled:
        w_bar = (1 - options.lr * options.weight_decay) * w_bar
    elif options.weight_decay != 0:
        w_bar = w_bar + options.weight_decay * g_bar
    before = Cotangent(w_bar, (b1 * m_bar, b2 * v_bar, *largest_bar))
    return -g_bar if options.maximize else g_bar, before


def second_moment(point: StepPoint, move: Move) -> Tensor:
    """The bias-corrected second moment that the step divides by the root of."""
    return _update(point, move).v_hat


def _update(point: StepPoint, move: Move) -> _Update:
    options: AdamOptions = move.options
    (b1, b2), k = options.betas, move.age
    w, (m, v, *largest), g = point
    g = -g if options.maximize else g
    if options.weight_decay != 0 and not options.decoupled:
        g = g + options.weight_decay * w
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g * g
    divided = torch.maximum(largest[0], v) if options.amsgrad else v
    m_hat, v_hat = m / (1 - b1**k), divided / (1 - b2**k)
    return _Update(g, m, v, divided if options.amsgrad else None, m_hat, v_hat)


def _slopes(update: _Update, options: AdamOptions, k: float, rho: float) -> tuple[Tensor, Tensor]:
    """d w' / d m' and d w' / d v' (of the second moment that is divided by), of the parameter's shape."""
    (b1, b2), root = options.betas, (update.v_hat + rho).sqrt()
    divisor = root + options.eps
    by_m = -options.lr / ((1 - b1**k) * divisor)
    # Not over divisor^2 at once, which underflows where gradients are tiny and eps is 0.
    by_v = options.lr * (update.m_hat / divisor) / (2 * root * divisor * (1 - b2**k))
    # A coordinate that never had a gradient has m = v = 0; its step does not move with v.
    return by_m, torch.where(root > 0, by_v, 0.0)


def _read(values: Mapping[str, Any]) -> AdamOptions:
    b1, b2 = values["betas"]
    return AdamOptions(
        lr=number(values["lr"]),
        betas=(number(b1), number(b2)),
        eps=number(values["eps"]),
        weight_decay=number(values["weight_decay"]),
        amsgrad=bool(values["amsgrad"]),
        maximize=bool(values["maximize"]),
        decoupled=bool(values["decoupled_weight_decay"]),
    )


ADAM = StepRule(
    torch_class=Adam,
    options=("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay"),
    kernels=("foreach", "capturable", "differentiable", "fused"),
    read=_read,
    states=lambda options: (*MOMENTS, LARGEST) if options.amsgrad else MOMENTS,
    age=steps_so_far,
    grow=one_step_more,
    step=step,
    tangent=tangent,
    transpose=transpose,
    second_moment=second_moment,
    numbers_on_device=lambda group: bool(group.get("capturable") or group.get("fused")),
)
ADAMW = replace(ADAM, torch_class=AdamW)
