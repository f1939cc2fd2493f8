"""State that a model keeps outside of its parameters and buffers: no checkpoint has it, so no step can be repeated.

A centre that follows the batches in a plain attribute, a counter of forward passes, a generator of the module's own.
What is only kept for looking at (an activation) changes too, and does no harm: it is overwritten before it is read.
"""

import copy
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hydragrad.derivatives import Batch, Evaluator, PerSampleLoss, copy_of
from hydragrad.derivatives.copying import copying_kept_tensors, is_trainer
from hydragrad.derivatives.leaves import leaves
from hydragrad.errors import ReplayMismatch, Unsupported
from hydragrad.randomness import preserved, reseed_everything
from hydragrad.runs.buffers import put_buffers

OUTSIDE_STATE = "outside_state"
"""Entry of a manifest's `about`: attributes that were found to be state."""

Key = tuple[str, str]
"""Path of a module, name of its attribute."""

OF_TORCH = {*vars(nn.Module()), "_is_full_backward_hook"}
LARGEST = 1 << 26
"""Bytes; what is larger are data that the model holds, and is not copied to be compared."""
KINDS = (
    *(Tensor, torch.Generator, np.ndarray, np.random.Generator, random.Random),
    *(bool, int, float, complex, str, bytes, type(None)),
)


def refuse_outside_state(names: Sequence[str]) -> None:
    """Refuse attributes that are state, if there are any.

    Raises:
        Unsupported: Names them.
    """
    if names:
        raise Unsupported(
            f"What a model keeps from step to step must be in its buffers, so that a step can be repeated; "
            f"{', '.join(names)} changes while it trains, changes what it computes, and is a plain attribute. Register "
            f"it (self.register_buffer, a number as a tensor), or draw from torch's own generator."
        )


class OutsideState:
    """Watches the plain attributes of a model that trains: a threshold may be passed late.

    Args:
        model: The model being trained.
        loss: The per-sample loss.

    Attributes:
        names: Attributes that were found to be state.
    """

    def __init__(self, model: nn.Module, loss: PerSampleLoss) -> None:
        self._model, self._evaluate = model, Evaluator(loss)
        self._start: dict[Key, Any] = {}
        self.names: list[str] = []

    def begin(self) -> None:
        """Training begins."""
        self._start = _held(self._model)

    @contextmanager
    def named_where(self, batches: Callable[[], Sequence[Batch]]) -> Iterator[None]:
        """Where a step can't be repeated inside the block, look for state outside the buffers first.

        Raises:
            Unsupported: Names what was found.
            ReplayMismatch: As the block did, where nothing was.
        """
        try:
            yield
        except ReplayMismatch:
            self.require_none(batches)
            raise

    def require_none(self, batches: Callable[[], Sequence[Batch]]) -> None:
        """Refuse attributes that have changed since the beginning, and change the losses of a batch.

        Raises:
            Unsupported: Names them.

        Cost: where none has changed, a look at all of them; else two evaluations, and two for every changed one.
        """
        now = _held(self._model)
        changed = [key for key in now if key not in self._start or not _same(self._start[key], now[key])]
        if not changed:
            return
        with preserved():
            try:
                self.names = [_name(key) for key in self._that_matter(changed, now, batches()[0])]
            except Exception:
                return  # the loss does not take this batch in both modes
        refuse_outside_state(self.names)

    def _that_matter(self, changed: list[Key], now: dict[Key, Any], batch: Batch) -> list[Key]:
        copied = copy_of(self._model)
        buffers = {name: value.detach().clone() for name, value in copied.named_buffers()}

        def losses(values: dict[Key, Any]) -> list[Tensor]:
            both = []
            for training in (False, True):
                put_buffers(copied, buffers)
                _put(copied, values, now.keys())
                reseed_everything(batch.seed)
                both.append(self._evaluate(copied.train(training), batch.data).detach())
            return both

        expected = losses(self._start)
        return [key for key in changed if not _equal(losses({**self._start, key: now[key]}), expected)]


def _equal(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


def _held(model: nn.Module) -> dict[Key, Any]:
    """Copies of the attributes that may be state."""
    held = {}
    recorded = {_memory(tensor) for tensor in (*model.parameters(), *model.buffers())} - {None}
    for path, module in model.named_modules():
        torchs_own = type(module).__module__.startswith("torch.nn.")
        for name, value in vars(module).items():
            if torchs_own and isinstance(value, bool | int | float | str):
                continue  # settings, which the loop may change and no forward pass does
            if name not in OF_TORCH and not is_trainer(value) and _may_be_state(value, recorded):
                try:
                    with copying_kept_tensors():
                        held[path, name] = copy.deepcopy(value)
                except Exception:
                    continue
    return held


def _may_be_state(value: Any, recorded: Set[int | None]) -> bool:
    """Whether a value is of numbers, text, arrays, tensors and generators only, and small enough to be copied.

    Tensors over the memory of parameters or buffers (a recurrent layer lists its weights) are recorded with these.
    """
    parts = _parts(value)
    if any(isinstance(leaf, Tensor) and _memory(leaf) in recorded for leaf in parts):
        return False
    sizes = [
        leaf.nbytes if isinstance(leaf, np.ndarray) else leaf.numel() * leaf.element_size()
        for leaf in parts
        if isinstance(leaf, np.ndarray | Tensor)
    ]
    return all(isinstance(leaf, KINDS) for leaf in parts) and sum(sizes) <= LARGEST


def _memory(tensor: Tensor) -> int | None:
    """Where a tensor's numbers lie; None where that is not one place."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return None


def _parts(value: Any) -> list[Any]:
    return list(leaves(list(value) if isinstance(value, deque | set) else value))


def _put(model: nn.Module, values: dict[Key, Any], every: Any) -> None:
    modules = dict(model.named_modules())
    for path, name in every:
        if (path, name) not in values:
            modules[path].__dict__.pop(name, None)
    for (path, name), value in values.items():
        modules[path].__dict__[name] = copy.deepcopy(value)


def _same(a: Any, b: Any) -> bool:
    ours, theirs = _parts(a), _parts(b)
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
