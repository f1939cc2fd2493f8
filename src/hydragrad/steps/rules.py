"""The optimizers whose steps are known: torch's classes and their rules."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim import LBFGS, Optimizer, Rprop, SparseAdam

from hydragrad.errors import RecordingMismatch, Unsupported
from hydragrad.steps import adadelta, adafactor, adagrad, adam, adamax, asgd, muon, nadam, radam, rmsprop, sgd
from hydragrad.steps.rule import TENSOR, StepRule, class_name
from hydragrad.torch_release import OPTIONS_ADDED_LATER

RULES: dict[type[Optimizer], StepRule] = {
    rule.torch_class: rule
    for rule in (
        sgd.RULE,
        adam.ADAM,
        adam.ADAMW,
        nadam.RULE,
        radam.RULE,
        adamax.RULE,
        rmsprop.RULE,
        adagrad.RULE,
        adadelta.RULE,
        adafactor.RULE,
        muon.RULE,
        asgd.RULE,
    )
    if rule is not None  # torch has its class
}

WITHOUT_A_RULE: dict[type[Optimizer], str] = {
    LBFGS: "one step evaluates the loss several times and searches along a line, whose branches have no derivative",
    SparseAdam: "it takes sparse gradients, which are not recorded",
    Rprop: "its step depends on the signs of gradients only, so every derivative of it is 0 and predicts nothing",
}
"""Why some of torch's optimizers have no rule."""

RULE_OF_SCHEMA_1 = sgd.RULE
"""Runs and stores of schema 1 do not name their optimizer: there was only this one."""

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
        reason = WITHOUT_A_RULE.get(type(optimizer))
        raise Unsupported(
            f"The step of {class_name(type(optimizer))} has no rule here, so it can't be differentiated"
            f"{f': {reason}' if reason else ''}. Train with {known_names()} of torch.optim, or make an optimizer of "
            f"your own known by hg.register_optimizer."
        )
    known = {*rule.options, *rule.kernels}
    for group in optimizer.param_groups:
        # What a user notes in a group of torch's own optimizers does nothing there; what torch adds later does.
        acting = set(group) if rule.check is not None else set(group) & set(optimizer.defaults)
        unknown = sorted(acting - known - NOTES)
        if unknown:
            raise Unsupported(
                f"A parameter group of the optimizer has unknown options {unknown}. Known are {sorted(known)}; remove "
                f"the others."
            )
        missing = sorted(known - set(group))
        if missing and rule.check is not None:
            raise Unsupported(
                f"{rule.torch_class.__name__} was registered with options {sorted(known)}; a parameter group has no "
                f"{missing}. Register the options that its groups have."
            )
    if rule.check is not None:
        rule.check(rule, optimizer)
    return rule


def known_names() -> str:
    """The optimizers that have a rule, for messages."""
    *names, last = sorted((known.__name__ for known in RULES if known.__module__.startswith("torch.")), key=str.lower)
    return f"{', '.join(names)} or {last}"


def rule_named(name: str) -> StepRule:
    """The rule of a class as a manifest names it.

    A class of the user's own that was recorded or registered in a script, `__main__`, is known by its bare name.

    Raises:
        RecordingMismatch: Another class than those that are known.
    """
    rules = {rule.name: rule for rule in RULES.values()}
    if name in rules:
        return rules[name]
    module, _, bare = name.rpartition(".")
    same = [rule for rule in RULES.values() if rule.check is not None and rule.torch_class.__qualname__ == bare]
    in_scripts = [rule for rule in same if "__main__" in (module, rule.torch_class.__module__)]
    if len(in_scripts) == 1:
        return in_scripts[0]
    if module.startswith("torch."):
        remedy = (
            f"which this version of hydragrad does not know, or torch {torch.__version__} does not have. Use the "
            f"versions that recorded it"
        )
    else:
        remedy = "which has no rule in this process. Call hg.register_optimizer with it before the run is opened"
    raise RecordingMismatch(f"The run was recorded with the optimizer {name}, {remedy}.")


def read_group(rule: StepRule, group: Mapping[str, Any]) -> Options:
    """Read one parameter group's options as plain values."""
    group = {**OPTIONS_ADDED_LATER.get(rule.torch_class, {}), **group}
    return {name: _plain(group[name]) for name in (*rule.options, *rule.kernels)}


def states_in_force(rule: StepRule, options: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of the optimizer states of parameters under the options of some parameter groups, as they are read."""
    return max((rule.states(rule.read(values)) for values in options), key=len, default=())


def states_of(optimizer: Optimizer) -> tuple[str, ...]:
    """Names of the states that an optimizer keeps of a parameter, under its present options."""
    rule = rule_of(optimizer)
    return states_in_force(rule, [read_group(rule, group) for group in optimizer.param_groups])


def torch_group(options: Options) -> dict[str, Any]:
    """A parameter group's options as torch had them: rates that were tensors are tensors again."""
    return {name: _as_it_was(value) for name, value in options.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_plain(part) for part in value)
    if isinstance(value, torch.Tensor):  # torch computes with it in its own precision
        return (TENSOR, str(value.dtype).removeprefix("torch."), value.item())
    return value


def _as_it_was(value: Any) -> Any:
    if not isinstance(value, tuple):
        return value
    if value[:1] == (TENSOR,):
        return torch.tensor(value[2], dtype=getattr(torch, value[1]))
    return tuple(_as_it_was(part) for part in value)
