"""One step of torch.optim.Muon, which moves matrices as a whole.

Legend: w weights, b momentum buffer, g gradient, u update, o its orthogonalization; lr rate, mu momentum, wd weight
decay.

    b' = mu b + (1 - mu) g        u = (1 - mu) g + mu b' (Nesterov) or b'
    o = Newton-Schulz(u)          w' = (1 - lr wd) w - lr' o

torch makes the Newton-Schulz steps in bfloat16, and so does the step here. Derivatives are those of the same steps in
the precision of the weights: what rounding does has no derivative.

Source: Jordan et al. 2024; Liu et al. 2025 (rates by shape); torch.optim semantics.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hydragrad.steps.by_autograd import derived
from hydragrad.steps.rule import Move, number
from hydragrad.torch_release import MUON

BUFFER = "momentum_buffer"
PRECISION = torch.bfloat16
"""Of torch's Newton-Schulz steps."""


@dataclass(frozen=True, kw_only=True)
class MuonOptions:
    """The options in force for one parameter at one step.

    Attributes:
        coefficients: Of the polynomial of a Newton-Schulz step.
        iterations: How many such steps.
        eps: Least norm that the update is divided by.
        adjust: How the rate follows the shape: None, "original" or "match_rms_adamw".
    """

    lr: float
    weight_decay: float
    momentum: float
    nesterov: bool
    coefficients: tuple[float, float, float]
    iterations: int
    eps: float
    adjust: str | None = None

    def rate(self, rows: int, columns: int) -> float:
        """The rate of a matrix."""
        if self.adjust == "match_rms_adamw":
            return self.lr * 0.2 * math.sqrt(max(rows, columns))
        return self.lr * math.sqrt(max(1, rows / columns))


def step(
    w: Tensor, states: tuple[Tensor, ...], g: Tensor, move: Move, *, rho: float = 0.0
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step of one matrix, as torch makes it; `rho` has no root to go under."""
    return _step(w, states, g, move, PRECISION)


def unrounded(
    w: Tensor, states: tuple[Tensor, ...], g: Tensor, move: Move, *, rho: float = 0.0
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The step that derivatives are taken of."""
    return _step(w, states, g, move, w.dtype)


def _step(
    w: Tensor, states: tuple[Tensor, ...], g: Tensor, move: Move, precision: torch.dtype
) -> tuple[Tensor, tuple[Tensor, ...]]:
    options: MuonOptions = move.options
    b = torch.lerp(states[0], g, 1 - options.momentum)
    update = torch.lerp(g, b, options.momentum) if options.nesterov else b
    orthogonal = orthogonalized(update.to(precision), options).to(w.dtype)
    return (1 - options.lr * options.weight_decay) * w - options.rate(*w.shape) * orthogonal, (b,)


def orthogonalized(matrix: Tensor, options: MuonOptions) -> Tensor:
    """Singular values brought near 1 by Newton-Schulz steps, in the matrix's precision."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / x.norm().clamp(min=options.eps)
    a, b, c = options.coefficients
    for _ in range(options.iterations):
        gram = x @ x.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)
    return x if wide else x.T


def _read(values: Mapping[str, Any]) -> MuonOptions:
    a, b, c = map(number, values["ns_coefficients"])
    return MuonOptions(
        **{name: number(values[name]) for name in ("lr", "weight_decay", "momentum", "eps")},
        nesterov=bool(values["nesterov"]),
        coefficients=(a, b, c),
        iterations=int(values["ns_steps"]),
        adjust=values["adjust_lr_fn"],
    )


RULE = (
    None  # before torch 2.9
    if MUON is None
    else derived(
        torch_class=MUON,
        options=("lr", "weight_decay", "momentum", "nesterov", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn"),
        kernels=(),
        read=_read,
        states=lambda options: (BUFFER,),
        age=lambda state: 0,
        grow=lambda age, options: (0, 0),
        step=step,
        of=unrounded,
        elementwise=False,
    )
)
