"""One step of torch.optim.RAdam.

Legend: w weights, m and v first and second moment, g gradient; a hat is the bias correction; lr rate, b1, b2 the decay
rates, k the number of the step, r_k the rectification, which there is once the second moment rests on enough steps.

    m' = b1 m + (1 - b1) g        v' = b2 v + (1 - b2) g^2
    w' = w - lr m_hat                                                       in the first steps
    w' = w - lr r_k sqrt(1 - b2^k) m_hat / (sqrt(v') + eps)                 later

with g including the weight decay, or w scaled by 1 - lr * weight_decay first where it is decoupled. The derivative's
`rho` is added to v_hat = v' / (1 - b2^k).

Source: Liu et al. 2020; torch.optim semantics.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import RAdam

from hydragrad.steps.by_autograd import derived
from hydragrad.steps.moments import decayed, mean_square
from hydragrad.steps.roots import root
from hydragrad.steps.rule import Move, StepPoint, capturable, number

STATES = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class RAdamOptions:
    """The options in force for one parameter at one step."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    maximize: bool = False
    decoupled: bool = False

    def rectification(self, k: int) -> float | None:
        """r_k; None while the step is not divided by a root."""
        b2 = self.betas[1]
        limit = 2 / (1 - b2) - 1
        length = limit - 2 * k * b2**k / (1 - b2**k)
        if length <= 5:
            return None
        ratio: float = (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)
        return math.sqrt(ratio)


def step(
    w: Tensor, states: tuple[Tensor, ...], g: Tensor, move: Move, *, rho: float = 0.0
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step."""
    options: RAdamOptions = move.options
    (b1, b2), k = options.betas, move.age
    v, g = _square(w, states, g, options)
    m = b1 * states[0] + (1 - b1) * g
    update, rectification = m / (1 - b1**k), options.rectification(k)
    if rectification is not None:
        correction = 1 - b2**k
        update = update * (correction**0.5 * rectification) / (root(v + rho * correction) + options.eps)
    if options.decoupled:
        w = w * (1 - options.lr * options.weight_decay)
    return w - options.lr * update, (m, v)


def second_moment(point: StepPoint, move: Move) -> Tensor:
    """The bias-corrected second moment that the step divides by the root of; empty in the first steps."""
    options: RAdamOptions = move.options
    if options.rectification(move.age) is None:
        return point.weights.new_empty(0)
    moment, _ = _square(*point, options)
    return moment / (1 - math.pow(options.betas[1], move.age))


def _square(w: Tensor, states: tuple[Tensor, ...], g: Tensor, options: RAdamOptions) -> tuple[Tensor, Tensor]:
    """The second moment after the step, and the gradient with the weight decay."""
    g = decayed(w, g, options)
    return mean_square(states[1], g, options.betas[1]), g


def _read(values: Mapping[str, Any]) -> RAdamOptions:
    b1, b2 = values["betas"]
    return RAdamOptions(
        **{name: number(values[name]) for name in ("lr", "eps", "weight_decay")},
        betas=(number(b1), number(b2)),
        maximize=bool(values["maximize"]),
        decoupled=bool(values["decoupled_weight_decay"]),
    )


RULE = derived(
    torch_class=RAdam,
    options=("lr", "betas", "eps", "weight_decay", "decoupled_weight_decay", "maximize"),
    kernels=("foreach", "capturable", "differentiable"),
    read=_read,
    states=lambda options: STATES,
    step=step,
    second_moment=second_moment,
    numbers_on_device=capturable,
)
