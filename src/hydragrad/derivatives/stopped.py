"""Blocks without gradients carry no tangent either.

torch's reverse mode stops at `torch.no_grad` blocks and its forward mode goes through them. Training used the former,
so a forward derivative must be that of the same gradient.
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
