"""Autocast: what a loop's forward passes run under, and what is entered inside the model, where no hook sees it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from hydragrad.errors import Unsupported
from hydragrad.runs.log import Autocast


def autocast_in_force(device: str) -> Autocast | None:
    """The autocast that operations on a kind of device run under now; None where there is none."""
    if not torch.is_autocast_enabled(device):
        return None
    return device, str(torch.get_autocast_dtype(device)).removeprefix("torch.")


def described(autocast: Autocast | None) -> str:
    """For messages."""
    return "none" if autocast is None else f"autocast to {autocast[1]}"


@contextmanager
def refusing_autocast(model: nn.Module) -> Iterator[None]:
    """Look at every function of torch that is called inside the block; compiled models are let through.

    Raises:
        Unsupported: Some ran under autocast.

    Cost: several microseconds a function, so for a step now and then.
    """
    if any(_is_compiled(module) for module in model.modules()):
        yield
        return
    with _Noticing(next(model.parameters()).device.type) as noticing:
        yield
    if noticing.function is not None:
        raise Unsupported(
            f"The model must run in float32 or float64; {noticing.function} ran under an autocast that the model or "
            f"the loss enters itself, and derivatives of a half-precision run are noise. Remove torch.autocast from "
            f"forward, or disable it (enabled=False); around the forward pass in the loop it is recorded."
        )


class _Noticing(TorchFunctionMode):
    """Notes the name of the first function that ran under autocast."""

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self._device_type = device_type
        self.function: str | None = None

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if self.function is None and torch.is_autocast_enabled(self._device_type):
            self.function = getattr(function, "__name__", str(function))
        return function(*args, **(kwargs or {}))


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
