"""One step of torch.optim.Adamax.

Legend: w weights, m first moment, u largest absolute gradient so far, fading, g gradient; lr rate, b1, b2 the decay
rates, k the number of the step.

    m' = b1 m + (1 - b1) g        u' = max(b2 u, |g| + eps)        w' = w - lr / (1 - b1^k) m' / u'

with g including the weight decay. u takes the place of the root of a second moment: the derivative's `rho` goes under
the root of u^2.

Source: Kingma and Ba 2015, algorithm 2; torch.optim semantics.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adamax

from hydragrad.steps.by_autograd import derived
from hydragrad.steps.moments import decayed
from hydragrad.steps.roots import root
from hydragrad.steps.rule import Move, StepPoint, capturable, number

STATES = ("exp_avg", "exp_inf")


@dataclass(frozen=True, kw_only=True)
class AdamaxOptions:
    """The options in force for one parameter at one step."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    maximize: bool = False


def step(
    w: Tensor, states: tuple[Tensor, ...], g: Tensor, move: Move, *, rho: float = 0.0
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step."""
    options: AdamaxOptions = move.options
    b1, _ = options.betas
    largest, g = _largest(w, states, g, options)
    m = b1 * states[0] + (1 - b1) * g
    divisor = root(largest * largest + rho) if rho else largest  # the square of a tiny one would underflow
    return w - options.lr / (1 - b1**move.age) * m / divisor, (m, largest)


def second_moment(point: StepPoint, move: Move) -> Tensor:
    """The square of what the step divides by."""
    return _largest(*point, move.options)[0].square()


def _largest(w: Tensor, states: tuple[Tensor, ...], g: Tensor, options: AdamaxOptions) -> tuple[Tensor, Tensor]:
    """The largest absolute gradient after the step, and the gradient with the weight decay."""
    g = decayed(w, g, options)
    return torch.maximum(options.betas[1] * states[1], g.abs() + options.eps), g


def _read(values: Mapping[str, Any]) -> AdamaxOptions:
    b1, b2 = values["betas"]
    numbers = {name: number(values[name]) for name in ("lr", "eps", "weight_decay")}
    return AdamaxOptions(**numbers, betas=(number(b1), number(b2)), maximize=bool(values["maximize"]))


RULE = derived(
    torch_class=Adamax,
    options=("lr", "betas", "eps", "weight_decay", "maximize"),
    kernels=("foreach", "capturable", "differentiable"),
    read=_read,
    states=lambda options: STATES,
    step=step,
    second_moment=second_moment,
    numbers_on_device=capturable,
)
