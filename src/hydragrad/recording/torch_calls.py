"""What a loop calls of torch inside a step block: backward passes and clipping, under whatever name it imported them.

While somebody listens, `torch.autograd.backward` (which `Tensor.backward` calls) and the bodies of
`torch.nn.utils.clip_grad_norm_` and `clip_grad_value_` are surrounded; they compute what they always do. Where torch
builds them otherwise than known here, nothing is heard, and gradients that change are refused by name.
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from hydragrad.steps.transforms import EPSILON, ClipNorm, ClipValue, Transform


class Listener(Protocol):
    """Hears of the calls that its own thread makes while it is `inside` a block."""

    inside: bool

    def before_backward(self, roots: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        """A backward pass is about to start from `roots`, with the gradients given for them."""

    def after_backward(self) -> None:
        """It ended."""

    def before_clipping(self) -> None:
        """Gradients are about to be clipped."""

    def after_clipping(self, parameters: Sequence[Tensor], made: Callable[..., Transform], *, acted: bool) -> None:
        """Those of `parameters` were clipped: `made(names=...)` says how, `acted` whether any was over the limit."""


_listeners: list[tuple[Listener, int]] = []
_under_way: ContextVar[bool] = ContextVar("under_way", default=False)
_surroundings = ExitStack()


def listen(listener: Listener) -> Callable[[], None]:
    """Tell a listener of calls from now on; returns what ends that."""
    if not _listeners:
        _surroundings.enter_context(_surrounded())
    entry = listener, threading.get_ident()
    _listeners.append(entry)

    def end() -> None:
        _listeners.remove(entry)
        if not _listeners:
            _surroundings.close()

    return end


def _present() -> list[Listener]:
    here = threading.get_ident()
    return [listener for listener, thread in _listeners if thread == here and listener.inside]


@contextmanager
def _surrounded() -> Iterator[None]:
    with ExitStack() as stack:
        backward = torch.autograd.backward
        stack.callback(setattr, torch.autograd, "backward", backward)
        torch.autograd.backward = partial(_backward, backward)
        for function, around in ((clip_grad_norm_, _clip_norm), (clip_grad_value_, _clip_value)):
            cell = _body_of(function)
            if cell is not None:
                stack.callback(setattr, cell, "cell_contents", cell.cell_contents)
                cell.cell_contents = partial(around, cell.cell_contents)
        yield


def _body_of(function: Any) -> Any:
    """The cell that holds the decorated function, which every reference reaches; None where there is none."""
    for cell in getattr(function, "__closure__", None) or ():
        if getattr(cell.cell_contents, "__name__", None) == function.__name__:
            return cell
    return None


def _backward(original: Any, tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> Any:
    listeners = [] if _under_way.get() else _present()  # checkpoints start backward passes inside of one
    if not listeners:
        return original(tensors, grad_tensors, *args, **kwargs)
    roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    given = grad_tensors if isinstance(grad_tensors, list | tuple) else [grad_tensors] * len(roots)
    for listener in listeners:
        listener.before_backward(roots, given)
    token = _under_way.set(True)
    try:
        result = original(roots, grad_tensors, *args, **kwargs)
    finally:
        _under_way.reset(token)
    for listener in listeners:
        listener.after_backward()
    return result


def _clip_norm(
    original: Any,
    parameters: Any,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Any:
    listed = _listed(parameters)
    listeners = _present() if float(max_norm) < math.inf else []  # without a limit, frameworks measure a norm
    for listener in listeners:
        listener.before_clipping()
    result = original(listed, max_norm, norm_type, error_if_nonfinite, foreach)
    if listeners:
        acted = not bool(float(max_norm) / (result + EPSILON) >= 1)
        clipped = partial(ClipNorm, max_norm=float(max_norm), norm_type=float(norm_type), foreach=foreach)
        for listener in listeners:
            listener.after_clipping(listed, clipped, acted=acted)
    return result


def _clip_value(original: Any, parameters: Any, clip_value: float, foreach: bool | None = None) -> Any:
    listed, listeners = _listed(parameters), _present()
    for listener in listeners:
        listener.before_clipping()
    gradients = [parameter.grad for parameter in listed if parameter.grad is not None] if listeners else []
    largest = torch._foreach_norm(gradients, math.inf) if gradients else ()
    acted = any(not bool(norm <= clip_value) for norm in largest)
    result = original(listed, clip_value, foreach)
    for listener in listeners:
        clipped = partial(ClipValue, limit=float(clip_value), foreach=foreach)
        listener.after_clipping(listed, clipped, acted=acted)
    return result


def _listed(parameters: Any) -> list[Tensor]:
    return [parameters] if isinstance(parameters, Tensor) else list(parameters)
