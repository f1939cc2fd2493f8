"""One step of torch.optim.NAdam.

Legend: w weights, m and v first and second moment, g gradient; lr rate, b1, b2 the decay rates, k the number of the
step, mu_k its momentum and P_k the product of all momenta so far.

    m' = b1 m + (1 - b1) g        v' = b2 v + (1 - b2) g^2        mu_k = b1 (1 - 0.96^(k momentum_decay) / 2)
    w' = w - lr ((1 - mu_k) / (1 - P_k) g + mu_(k+1) / (1 - P_k mu_(k+1)) m') / (sqrt(v' / (1 - b2^k)) + eps)

with g including the weight decay, or w scaled by 1 - lr * weight_decay first where it is decoupled. `rho` goes under
the root. P_k depends on the options of earlier steps, so it belongs to a parameter's age.

Source: Dozat 2016; torch.optim semantics.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import NAdam

from hydragrad.steps.by_autograd import derived
from hydragrad.steps.moments import decayed, mean_square
from hydragrad.steps.roots import root
from hydragrad.steps.rule import Move, StepPoint, capturable, number, steps_so_far

STATES = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class NAdamOptions:
    """The options in force for one parameter at one step."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum_decay: float = 4e-3
    maximize: bool = False
    decoupled: bool = False

    def momentum(self, k: int) -> float:
        """mu_k."""
        return self.betas[0] * (1 - 0.5 * math.pow(0.96, k * self.momentum_decay))


class NAdamAge(NamedTuple):
    """The number of a step, and the product of the momenta up to it."""

    steps: int = 0
    product: float = 1.0


def step(
    w: Tensor, states: tuple[Tensor, ...], g: Tensor, move: Move, *, rho: float = 0.0
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step."""
    options: NAdamOptions = move.options
    b1, b2 = options.betas
    k, product = move.age
    v, g = _square(w, states, g, options)
    m = b1 * states[0] + (1 - b1) * g
    now, then = options.momentum(k), options.momentum(k + 1)
    by_g, by_m = (1 - now) / (1 - product), then / (1 - product * then)
    if options.decoupled:
        w = w * (1 - options.lr * options.weight_decay)
    return w - options.lr * (by_g * g + by_m * m) / (root(v / (1 - b2**k) + rho) + options.eps), (m, v)


def second_moment(point: StepPoint, move: Move) -> Tensor:
    """The bias-corrected second moment that the step divides by the root of."""
    options: NAdamOptions = move.options
    moment, _ = _square(*point, options)
    return moment / (1 - math.pow(options.betas[1], move.age[0]))


def _square(w: Tensor, states: tuple[Tensor, ...], g: Tensor, options: NAdamOptions) -> tuple[Tensor, Tensor]:
    """The second moment after the step, and the gradient with the weight decay."""
    g = decayed(w, g, options)
    return mean_square(states[1], g, options.betas[1]), g


def _read(values: Mapping[str, Any]) -> NAdamOptions:
    b1, b2 = values["betas"]
    return NAdamOptions(
        **{name: number(values[name]) for name in ("lr", "eps", "weight_decay", "momentum_decay")},
        betas=(number(b1), number(b2)),
        maximize=bool(values["maximize"]),
        decoupled=bool(values["decoupled_weight_decay"]),
    )


def _age(state: Mapping[str, Any]) -> NAdamAge:
    return NAdamAge(steps_so_far(state), float(state.get("mu_product", 1.0)))


def _grow(age: tuple[int, float], options: NAdamOptions) -> tuple[NAdamAge, NAdamAge]:
    steps, product = age
    # torch keeps the product as a number of its default type, and rounds it at every step.
    after = NAdamAge(steps + 1, (torch.tensor(product) * options.momentum(steps + 1)).item())
    return after, after


RULE = derived(
    torch_class=NAdam,
    options=("lr", "betas", "eps", "weight_decay", "momentum_decay", "decoupled_weight_decay", "maximize"),
    kernels=("foreach", "capturable", "differentiable"),
    read=_read,
    states=lambda options: STATES,
    age=_age,
    grow=_grow,
    step=step,
    second_moment=second_moment,
    numbers_on_device=capturable,
)
