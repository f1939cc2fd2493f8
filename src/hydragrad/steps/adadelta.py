"""One step of torch.optim.Adadelta.

Legend: w weights, v mean square of gradients, u mean square of updates, d update, g gradient; lr rate, b decay rate of
the means (torch calls it rho).

    v' = b v + (1 - b) g^2        d = sqrt(u + eps) / sqrt(v' + eps) g
    u' = b u + (1 - b) d^2        w' = w - lr d

with g including the weight decay. The derivative's `rho` goes under the root that divides.

Source: Zeiler 2012; torch.optim semantics.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Adadelta

from hydragrad.steps.by_autograd import derived
from hydragrad.steps.moments import decayed, mean_square
from hydragrad.steps.roots import root
from hydragrad.steps.rule import Move, StepPoint, capturable, number

STATES = ("square_avg", "acc_delta")


@dataclass(frozen=True, kw_only=True)
class AdadeltaOptions:
    """The options in force for one parameter at one step; `decay` is torch's `rho`."""

    lr: float
    decay: float = 0.9
    eps: float = 1e-6
    weight_decay: float = 0.0
    maximize: bool = False


def step(
    w: Tensor, states: tuple[Tensor, ...], g: Tensor, move: Move, *, rho: float = 0.0
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step."""
    options: AdadeltaOptions = move.options
    v, g = _square(w, states, g, options)
    d = root(states[1] + options.eps) / root(v + options.eps + rho) * g
    u = mean_square(states[1], d, options.decay)
    return w - options.lr * d, (v, u)


def second_moment(point: StepPoint, move: Move) -> Tensor:
    """What the step divides by the root of, eps left out."""
    return _square(*point, move.options)[0]


def _square(w: Tensor, states: tuple[Tensor, ...], g: Tensor, options: AdadeltaOptions) -> tuple[Tensor, Tensor]:
    """The gradients' mean square after the step, and the gradient with the weight decay."""
    g = decayed(w, g, options)
    return mean_square(states[0], g, options.decay), g


def _read(values: Mapping[str, Any]) -> AdadeltaOptions:
    numbers = {name: number(values[name]) for name in ("lr", "eps", "weight_decay")}
    return AdadeltaOptions(**numbers, decay=number(values["rho"]), maximize=bool(values["maximize"]))


RULE = derived(
    torch_class=Adadelta,
    options=("lr", "rho", "eps", "weight_decay", "maximize"),
    kernels=("foreach", "capturable", "differentiable"),
    read=_read,
    states=lambda options: STATES,
    step=step,
    second_moment=second_moment,
    numbers_on_device=capturable,
)
