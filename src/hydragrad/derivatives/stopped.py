"""Gradients that are stopped on their way: by `detach()`, `.data` or a `torch.no_grad` block.

torch's reverse mode stops at `torch.no_grad` blocks and its forward mode goes through them. Training used the former,
so a forward derivative must be that of the same gradient: blocks without gradients carry no tangent either.

Where a stop has an effect, the gradient that trained is not the derivative of the loss, and its own derivative is not
symmetric: forward over reverse along a direction is not the transpose that a reverse sweep needs, and leaves out how
the stopped values depend on the weights.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _TangentsFollowGradients(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch._C._set_grad_enabled:
            torch._C._set_fwd_grad_enabled(args[0])
        return func(*args, **(kwargs or {}))


@contextmanager
def stopped_gradients() -> Iterator[None]:
    """Switch tangents off and on with gradients, which are on to begin with."""
    with torch.enable_grad(), _TangentsFollowGradients():
        yield


class _ThroughStops(TorchFunctionMode):
    """Tangents pass where gradients are stopped."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.Tensor.detach, torch.detach, torch.Tensor.data.__get__):  # type: ignore[attr-defined]
            return args[0].view_as(args[0])
        if func is torch.Tensor.detach_:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def through_stops() -> Iterator[None]:
    """Evaluate with tangents that nothing stops: those of the loss's own value."""
    with torch.no_grad(), _ThroughStops():
        yield


class _GradientsThroughStops(_ThroughStops):
    """Gradients are on all the time, too."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch._C._set_grad_enabled:
            return None
        return super().__torch_function__(func, types, args, kwargs)


@contextmanager
def gradients_through_stops() -> Iterator[None]:
    """Evaluate with a graph that nothing stops: that of the value itself."""
    with torch.enable_grad(), _GradientsThroughStops():
        yield
