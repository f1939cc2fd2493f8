"""One step of torch.optim.Adafactor, which moves parameters as a whole.

Legend: w weights, v second moment, of matrices as a product of r (means of the squares of rows) and c (of columns), g
gradient, u update, rms the root of the mean square; lr rate, k the number of the step, b = k^beta2_decay.

    r' = (1 - b) r + b mean_columns(g^2)        c' = (1 - b) c + b mean_rows(g^2)        v = r' c' / mean(r')
    v = v' = (1 - b) v + b g^2                  of vectors
    u = g / sqrt(max(v, eps1^2))                a = min(lr, 1 / sqrt(k)) max(eps2, rms(w))
    w' = (1 - lr weight_decay) w - a u / max(1, rms(u) / d)

The derivative's `rho` is added to v under the root.

Source: Shazeer and Stern 2018; torch.optim semantics.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adafactor

from hydragrad.steps.by_autograd import derived
from hydragrad.steps.roots import root
from hydragrad.steps.rule import Move, Shape, StepPoint, number

ROWS, COLUMNS, VECTOR = STATES = ("row_var", "col_var", "variance")
"""A parameter has the first two or the last; the others stay zero."""


@dataclass(frozen=True, kw_only=True)
class AdafactorOptions:
    """The options in force for one parameter at one step.

    Attributes:
        eps1: The least root that is divided by; None is the precision of the weights.
        eps2: The least size of the weights that the rate is multiplied by.
        d: The largest update.
    """

    lr: float
    beta2_decay: float
    eps1: float | None
    eps2: float
    d: float
    weight_decay: float
    maximize: bool


def step(
    w: Tensor, states: tuple[Tensor, ...], g: Tensor, move: Move, *, rho: float = 0.0
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step of one parameter."""
    options: AdafactorOptions = move.options
    v, after = _variance(w, states, g, move)
    u = (-g if options.maximize else g) / root(v + rho)
    rate = min(options.lr, 1 / math.sqrt(move.age)) * _rms(w).clamp(min=options.eps2)
    w = (1 - options.lr * options.weight_decay) * w
    return w - rate / (_rms(u) / options.d).clamp(min=1.0) * u, after


def second_moment(point: StepPoint, move: Move) -> Tensor:
    """What the step divides by the root of."""
    return _variance(*point, move)[0]


def _variance(w: Tensor, states: tuple[Tensor, ...], g: Tensor, move: Move) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The second moment that is divided by the root of, and the states after the step."""
    options: AdafactorOptions = move.options
    rows, columns, vector = states
    share, square = math.pow(move.age, options.beta2_decay), g * g
    eps1 = torch.finfo(w.dtype).eps if options.eps1 is None else options.eps1
    if w.dim() > 1:
        rows = (1 - share) * rows + share * square.mean(-1, keepdim=True)
        columns = (1 - share) * columns + share * square.mean(-2, keepdim=True)
        v = rows * columns / rows.mean(-2, keepdim=True).clamp(min=eps1)
    else:
        v = vector = (1 - share) * vector + share * square
    return v.clamp(min=eps1 * eps1), (rows, columns, vector)


def _rms(x: Tensor) -> Tensor:
    return root((x * x).mean())


def _state_shape(name: str, shape: Shape) -> Shape:
    if name == VECTOR:
        return shape if len(shape) < 2 else (0,)
    if len(shape) < 2:
        return (0,)
    return (*shape[:-1], 1) if name == ROWS else (*shape[:-2], 1, shape[-1])


def _read(values: Mapping[str, Any]) -> AdafactorOptions:
    eps1, eps2 = values["eps"]
    return AdafactorOptions(
        **{name: number(values[name]) for name in ("lr", "beta2_decay", "d", "weight_decay")},
        eps1=None if eps1 is None else number(eps1),
        eps2=number(eps2),
        maximize=bool(values["maximize"]),
    )


RULE = derived(
    torch_class=Adafactor,
    options=("lr", "beta2_decay", "eps", "d", "weight_decay", "maximize"),
    kernels=("foreach",),
    read=_read,
    states=lambda options: STATES,
    step=step,
    second_moment=second_moment,
    elementwise=False,
    state_shape=_state_shape,
)
