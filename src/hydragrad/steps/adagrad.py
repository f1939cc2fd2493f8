"""One step of torch.optim.Adagrad.

Legend: w weights, v sum of squares, g gradient; lr rate, k the number of the step.

    v' = v + g^2        w' = w - lr / (1 + (k - 1) lr_decay) g / (sqrt(v') + eps)

with g including the weight decay. `rho` goes under the root.

Source: Duchi et al. 2011; torch.optim semantics.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adagrad

from hydragrad.steps.by_autograd import derived
from hydragrad.steps.moments import decayed
from hydragrad.steps.roots import root
from hydragrad.steps.rule import Move, StepPoint, number

SUM = "sum"


@dataclass(frozen=True, kw_only=True)
class AdagradOptions:
    """The options in force for one parameter at one step.

    Attributes:
        initial_accumulator_value: The sum before a parameter's first step.
    """

    lr: float
    lr_decay: float = 0.0
    eps: float = 1e-10
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    maximize: bool = False


def step(
    w: Tensor, states: tuple[Tensor, ...], g: Tensor, move: Move, *, rho: float = 0.0
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step."""
    options: AdagradOptions = move.options
    v, g = _sum(w, states, g, move)
    rate = options.lr / (1 + (move.age - 1) * options.lr_decay)
    return w - rate * g / (root(v + rho) + options.eps), (v,)


def second_moment(point: StepPoint, move: Move) -> Tensor:
    """What the step divides by the root of."""
    return _sum(*point, move)[0]


def _sum(w: Tensor, states: tuple[Tensor, ...], g: Tensor, move: Move) -> tuple[Tensor, Tensor]:
    """The sum after the step, and the gradient with the weight decay."""
    options: AdagradOptions = move.options
    g = decayed(w, g, options)
    # torch makes the sum with the optimizer, or at the first step of a parameter that joins later.
    v = torch.full_like(w, options.initial_accumulator_value) if move.age == 1 else states[0]
    return v + g * g, g


def _read(values: Mapping[str, Any]) -> AdagradOptions:
    names = ("lr", "lr_decay", "eps", "weight_decay", "initial_accumulator_value")
    return AdagradOptions(**{name: number(values[name]) for name in names}, maximize=bool(values["maximize"]))


RULE = derived(
    torch_class=Adagrad,
    options=("lr", "lr_decay", "eps", "weight_decay", "initial_accumulator_value", "maximize"),
    kernels=("foreach", "differentiable", "fused"),
    read=_read,
    states=lambda options: (SUM,),
    step=step,
    second_moment=second_moment,
    numbers_on_device=lambda group: bool(group.get("fused")),
)
