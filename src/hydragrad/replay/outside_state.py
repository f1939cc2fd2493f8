"""State that a model keeps outside of its parameters and buffers: no checkpoint has it, so no step can be repeated.

A centre that follows the batches in a plain attribute, a counter of forward passes, a generator of the module's own.
What is only kept for looking at (an activation) changes too, and does no harm: it is overwritten before it is read.
"""

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hydragrad.derivatives import Batch
from hydragrad.derivatives.copying import copying_kept_tensors
from hydragrad.derivatives.leaves import leaves
from hydragrad.errors import HydragradError, Unsupported
from hydragrad.replay.trajectory import Trajectory
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.runs.log import StepRecord

Key = tuple[str, str]
"""Path of a module, name of its attribute."""

OF_TORCH = {*vars(nn.Module()), "_is_full_backward_hook"}
KINDS = (Tensor, bool, int, float, complex, torch.Generator, np.ndarray, np.random.Generator, random.Random)


def require_no_outside_state(
    trajectory: Trajectory, model: nn.Module, start: Checkpoint, record: StepRecord, batches: Sequence[Batch]
) -> None:
    """Refuse attributes of a model that change as it trains, and change what a step does.

    Args:
        trajectory: Replays on a copy of the model.
        model: The model itself, after the step.
        start: The state before the step.
        record: What the step did.
        batches: Its data.

    Raises:
        Unsupported: Names them.

    Cost: the step a few times more; called only where a step could not be repeated.
    """
    before, live = _held(trajectory.model), _held(model)

    def weights_with(values: dict[Key, Any]) -> list[Tensor]:
        _put(trajectory.model, values, live.keys())
        trajectory.restore(start)
        trajectory.advance(record, batches)
        return [value.clone() for value in trajectory.parameters.values()]

    try:
        expected = weights_with(before)
        after = _held(trajectory.model)
        moved = [_name(key) for key in live if _matters(key, before, [after, live], weights_with, expected)]
    except HydragradError:
        return
    finally:
        _put(trajectory.model, before, live.keys())
    if moved:
        raise Unsupported(
            f"What a model keeps from step to step must be in its buffers, so that a step can be repeated; "
            f"{', '.join(moved)} changes while it trains, changes what it computes, and is a plain attribute. Register "
            f"it (self.register_buffer, a number as a tensor), or draw from torch's own generator."
        )


def _matters(
    key: Key,
    before: dict[Key, Any],
    others: Sequence[dict[Key, Any]],
    weights_with: Callable[[dict[Key, Any]], list[Tensor]],
    expected: list[Tensor],
) -> bool:
    """Whether a step does something else where an attribute has another of the values that it took."""
    for other in others:
        if key not in other or (key in before and _same(before[key], other[key])):
            continue
        weights = weights_with({**before, key: other[key]})
        if not all(torch.equal(*pair) for pair in zip(weights, expected, strict=True)):
            return True
    return False


def _held(model: nn.Module) -> dict[Key, Any]:
    """Copies of the attributes that may be state."""
    held = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in OF_TORCH and any(isinstance(leaf, KINDS) for leaf in leaves(value)):
                try:
                    with copying_kept_tensors():
                        held[path, name] = copy.deepcopy(value)
                except Exception:
                    continue
    return held


def _put(model: nn.Module, values: dict[Key, Any], every: Any) -> None:
    modules = dict(model.named_modules())
    for path, name in every:
        if (path, name) not in values:
            modules[path].__dict__.pop(name, None)
    for (path, name), value in values.items():
        modules[path].__dict__[name] = copy.deepcopy(value)


def _same(a: Any, b: Any) -> bool:
    ours, theirs = list(leaves(a)), list(leaves(b))
    return len(ours) == len(theirs) and all(map(_same_leaf, ours, theirs))


def _same_leaf(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, torch.Generator):
        return torch.equal(a.get_state(), b.get_state())
    if isinstance(a, np.random.Generator):
        return repr(a.bit_generator.state) == repr(b.bit_generator.state)
    if isinstance(a, random.Random):
        return bool(a.getstate() == b.getstate())
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return not isinstance(a, KINDS) or a is b or repr(a) == repr(b)


def _name(key: Key) -> str:
    return ".".join(part for part in key if part)
