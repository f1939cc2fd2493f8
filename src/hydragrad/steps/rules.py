"""The optimizers whose steps are known: torch's classes and their rules."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from hydragrad.errors import RecordingMismatch, Unsupported
from hydragrad.steps import adam, sgd
from hydragrad.steps.rule import StepRule, class_name

RULES: dict[type[Optimizer], StepRule] = {
    rule.torch_class: rule
    for rule in (
        sgd.RULE,
        adam.ADAM,
        adam.ADAMW,
    )
}

RULE_OF_SCHEMA_1 = sgd.RULE
"""The one optimizer that runs and stores of schema 1 know; their files do not name it."""

STATES_OF_SCHEMA_1 = {"momentum": sgd.BUFFER}
"""State tensors as checkpoints of schema 1 call them, and as torch does."""

NOTES = {"params", "param_names", "initial_lr", "name", "swa_lr"} | {
    "max_lr",
    "min_lr",
    "base_momentum",
    "max_momentum",
}
"""What torch and its schedulers leave in parameter groups; they act only through the options."""

Options = dict[str, Any]
"""A parameter group's options as plain numbers, flags, tuples and None."""


def rule_of(optimizer: Optimizer) -> StepRule:
    """The rule of an optimizer.

    Raises:
        Unsupported: Another class than those that are known, or a parameter group with an option that it does not have.
    """
    rule = RULES.get(type(optimizer))
    if rule is None:
        raise Unsupported(
            f"The step of {class_name(type(optimizer))} has no rule here, so it can't be differentiated. Train with "
            f"{' or '.join(sorted(known.__name__ for known in RULES))} of torch.optim."
        )
    known = {*rule.options, *rule.kernels}
    for group in optimizer.param_groups:
        unknown = sorted(set(group) - known - NOTES)
        if unknown:
            raise Unsupported(
                f"A parameter group of the optimizer has unknown options {unknown}. Known are {sorted(known)}; remove "
                f"the others."
            )
    return rule


def rule_named(name: str) -> StepRule:
    """The rule of a class as a manifest names it.

    Raises:
        RecordingMismatch: Another class than those that are known.
    """
    for rule in RULES.values():
        if rule.name == name:
            return rule
    raise RecordingMismatch(
        f"The run was recorded with the optimizer {name}, which this version of hydragrad does not know. Use the "
        f"version that recorded it."
    )


def read_group(rule: StepRule, group: Mapping[str, Any]) -> Options:
    """Read one parameter group's options as plain values."""
    return {name: _plain(group[name]) for name in (*rule.options, *rule.kernels)}


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_plain(part) for part in value)
    return value.item() if isinstance(value, torch.Tensor) else value
