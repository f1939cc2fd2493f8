"""Calls are the same wherever they are made: whatever mode of torch surrounds them is put aside, and put back after.

Put aside: `torch.no_grad`, `torch.inference_mode`, autocast, anomaly detection, disabled hooks on saved tensors, and a
default device that is not the CPU. The default dtype is set to the run's own, where it is known. A call inside a
transform of `torch.func` or a mode without data is refused: its tensors would be placeholders.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch._C import _autograd as hooks
from torch._C import _functorch as functorch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack as dispatch_modes

from hydragrad.errors import Unsupported
from hydragrad.torch_release import default_device

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

CPU = torch.device("cpu")
AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")


_users_device: ContextVar[torch.device | None] = ContextVar("users_device", default=None)


@contextmanager
def clean(default_dtype: torch.dtype | None = None) -> Iterator[None]:
    """Put the surroundings aside inside the block.

    Args:
        default_dtype: What torch makes new tensors of inside the block; the caller's if None.

    Raises:
        Unsupported: A transform of torch.func, or a mode without data, surrounds the call.
    """
    if not _surrounded(default_dtype):
        yield
        return
    _require_plain_tensors()
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        if torch.is_anomaly_enabled():
            stack.enter_context(torch.autograd.set_detect_anomaly(False))
        why_disabled = hooks._saved_tensors_hooks_get_disabled_error_message()
        if why_disabled is not None:
            stack.callback(hooks._saved_tensors_hooks_disable, why_disabled)
            hooks._saved_tensors_hooks_enable()
        for kind in AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        device = default_device()
        if device != CPU:
            stack.callback(_users_device.reset, _users_device.set(device))
            stack.enter_context(CPU)
        if default_dtype is not None and default_dtype != torch.get_default_dtype():
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(default_dtype)
        yield


def users_default_device() -> AbstractContextManager[Any]:
    """The caller's default device, for user code that `clean` surrounds; one without data is never restored."""
    device = _users_device.get()
    return nullcontext() if device is None or device.type == "meta" else device


def in_clean_surroundings(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Make a function of the public face run in `clean` surroundings.

    The default dtype is that of the function's first argument, where it has a `default_dtype` (as a recorded run does).
    """

    @wraps(function)
    def inside(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        dtype = _default_dtype(args)
        if not _surrounded(dtype):  # as a rule; this is called at every step of a loop
            return function(*args, **kwargs)
        with clean(dtype):
            return function(*args, **kwargs)

    return inside


def _surrounded(default_dtype: torch.dtype | None) -> bool:
    """Whether anything is to be put aside."""
    return bool(
        not torch.is_grad_enabled()
        or torch.is_inference_mode_enabled()
        or torch.is_anomaly_enabled()
        or hooks._saved_tensors_hooks_get_disabled_error_message() is not None
        or torch._C._is_any_autocast_enabled()
        or torch._C._len_torch_function_stack()  # where a default device is, among others
        or torch._C._len_torch_dispatch_stack()
        or functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or default_dtype not in (None, torch.get_default_dtype())
    )


def _default_dtype(args: tuple[Any, ...]) -> torch.dtype | None:
    dtype = getattr(args[0], "default_dtype", None) if args else None
    return dtype if isinstance(dtype, torch.dtype) else None


def _require_plain_tensors() -> None:
    around = functorch.peek_interpreter_stack()
    inside = [type(mode).__name__ for mode in dispatch_modes() if type(mode).__name__ == "FakeTensorMode"]
    if around is not None:
        inside.append(f"a torch.func transform ({around.key().name.lower()})")
    if forward_ad._current_level >= 0:
        inside.append("torch.autograd.forward_ad.dual_level()")
    if inside:
        raise Unsupported(
            f"hydragrad's functions must be called outside of torch.func transforms, dual levels and modes without "
            f"data; this call was made inside {inside[0]}. Move it out of there."
        )
