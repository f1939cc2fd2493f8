"""Read torch optimizers: what they do, in our own terms, or a refusal with its reason."""

from typing import Any

import torch
from torch.optim import SGD, Optimizer

from hydragrad.errors import Unsupported
from hydragrad.steps.sgd import SGDOptions

DERIVATIVE_OPTIONS = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
KERNEL_OPTIONS = ("foreach", "differentiable", "fused")
"""Options that choose the kernel: they change the rounding, so replay needs them, and nothing else."""


def require_supported(optimizer: Optimizer) -> None:
    """Refuse every optimizer whose step we cannot differentiate.

    Raises:
        Unsupported: Not exactly torch.optim.SGD, or a parameter group with an option that SGD does not have.
    """
    if type(optimizer) is not SGD:
        raise Unsupported(
            f"hydragrad differentiates torch.optim.SGD only, for now; this optimizer is "
            f"{type(optimizer).__module__}.{type(optimizer).__name__}. Train with torch.optim.SGD."
        )
    known = {"params", "param_names", "initial_lr", *DERIVATIVE_OPTIONS, *KERNEL_OPTIONS}
    # Schedulers leave their own notes in the groups; they act only through the options above.
    notes = {"swa_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "name"}
    for group in optimizer.param_groups:
        unknown = sorted(set(group) - known - notes)
        if unknown:
            raise Unsupported(
                f"The optimizer's parameter group has unknown options {unknown}. Known are "
                f"{sorted(known - {'params'})}; remove the others."
            )


def read_group(group: dict[str, Any]) -> dict[str, float | bool | None]:
    """Read one parameter group's options as plain numbers, flags and None."""
    values: dict[str, float | bool | None] = {}
    for name in DERIVATIVE_OPTIONS + KERNEL_OPTIONS:
        value = group[name]
        values[name] = value.item() if isinstance(value, torch.Tensor) else value
    return values


def sgd_options(values: dict[str, Any]) -> SGDOptions:
    """Keep of a group's recorded options those that enter the derivative."""
    numbers = {name: float(values[name]) for name in ("lr", "momentum", "dampening", "weight_decay")}
    return SGDOptions(**numbers, nesterov=bool(values["nesterov"]), maximize=bool(values["maximize"]))
