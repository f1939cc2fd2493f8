"""One step of torch.optim.RMSprop.

Legend: w weights, v mean square, b momentum buffer, a mean gradient (centered), g gradient; lr rate, al decay rate
of the means, mu momentum.

    v' = al v + (1 - al) g^2        a' = al a + (1 - al) g
    b' = mu b + g / (sqrt(v' - a'^2) + eps)        w' = w - lr b'

with g including the weight decay. `rho` goes under the root.

Source: Tieleman and Hinton 2012; Graves 2013 (centered); torch.optim semantics.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import RMSprop

from hydragrad.steps.by_autograd import derived
from hydragrad.steps.moments import decayed, mean_square
from hydragrad.steps.roots import root
from hydragrad.steps.rule import Move, StepPoint, capturable, number

STATES = ("square_avg", "momentum_buffer", "grad_avg")
"""Each option's states come before the next one's, so that groups with other options have the first ones in common."""


@dataclass(frozen=True, kw_only=True)
class RMSpropOptions:
    """The options in force for one parameter at one step."""

    lr: float
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False
    maximize: bool = False


def step(
    w: Tensor, states: tuple[Tensor, ...], g: Tensor, move: Move, *, rho: float = 0.0
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step."""
    options: RMSpropOptions = move.options
    after, g = _means(w, states, g, options)
    update = g / (root(_under(after, options) + rho) + options.eps)
    if options.momentum > 0:
        update = options.momentum * states[1] + update
        after = (after[0], update, *after[2:])
    return w - options.lr * update, after


def second_moment(point: StepPoint, move: Move) -> Tensor:
    """What the step divides by the root of."""
    after, _ = _means(*point, move.options)
    return _under(after, move.options)


def _means(
    w: Tensor, states: tuple[Tensor, ...], g: Tensor, options: RMSpropOptions
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The states with their means after the step, and the gradient with the weight decay."""
    g = decayed(w, g, options)
    v = mean_square(states[0], g, options.alpha)
    if not options.centered:
        return (v, *states[1:]), g
    return (v, states[1], options.alpha * states[2] + (1 - options.alpha) * g), g


def _under(states: tuple[Tensor, ...], options: RMSpropOptions) -> Tensor:
    return states[0] - states[2] * states[2] if options.centered else states[0]


def _read(values: Mapping[str, Any]) -> RMSpropOptions:
    numbers = {name: number(values[name]) for name in ("lr", "alpha", "eps", "weight_decay", "momentum")}
    return RMSpropOptions(**numbers, centered=bool(values["centered"]), maximize=bool(values["maximize"]))


def _states(options: RMSpropOptions) -> tuple[str, ...]:
    if options.centered:
        return STATES
    return STATES[:2] if options.momentum > 0 else STATES[:1]


RULE = derived(
    torch_class=RMSprop,
    options=("lr", "alpha", "eps", "weight_decay", "momentum", "centered", "maximize"),
    kernels=("foreach", "capturable", "differentiable"),
    read=_read,
    states=_states,
    step=step,
    second_moment=second_moment,
    numbers_on_device=capturable,
)
