"""Switches of torch that change the kernels or their rounding: recorded, and set again while a run is replayed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

Flags = dict[str, Any]


class _Switch(NamedTuple):
    """How a switch is read, and set."""

    read: Callable[[], Any]
    set: Callable[[Any], object]


def _flushes_denormals() -> bool:
    return float(torch.tensor([2.0**-1060], dtype=torch.float64).mul_(1.0)) == 0.0


def _set_backend(owner: Any, name: str) -> _Switch:
    return _Switch(lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


def _dtype_name() -> str:
    return str(torch.get_default_dtype()).removeprefix("torch.")


SWITCHES: dict[str, _Switch] = {
    "default dtype": _Switch(_dtype_name, lambda name: torch.set_default_dtype(getattr(torch, name))),
    "float32 matmul precision": _Switch(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "deterministic algorithms": _Switch(
        torch.are_deterministic_algorithms_enabled, lambda on: torch.use_deterministic_algorithms(on)
    ),
    "mkldnn": _Switch(lambda: torch._C._get_mkldnn_enabled(), lambda on: torch._C._set_mkldnn_enabled(on)),
    "attention fast path": _Switch(
        torch.backends.mha.get_fastpath_enabled, lambda on: torch.backends.mha.set_fastpath_enabled(on)
    ),
}
"""What holds on any device."""

SWITCHES_OF_CUDA: dict[str, _Switch] = {
    "cudnn": _set_backend(torch.backends.cudnn, "enabled"),
    "cudnn benchmark": _set_backend(torch.backends.cudnn, "benchmark"),
    "cudnn deterministic": _set_backend(torch.backends.cudnn, "deterministic"),
    "cudnn tf32": _set_backend(torch.backends.cudnn, "allow_tf32"),
    "matmul tf32": _set_backend(torch.backends.cuda.matmul, "allow_tf32"),
}

DENORMALS = "flush denormals"
"""Has no reader in torch: found by a small product, so it is read where a run is opened, and not at every step."""


def step_flags(device: torch.device) -> Flags:
    """The switches that are read at every step."""
    switches = SWITCHES | SWITCHES_OF_CUDA if device.type == "cuda" else SWITCHES
    return {name: switch.read() for name, switch in switches.items()}


def backend_flags(device: torch.device) -> Flags:
    """All switches as they are."""
    return step_flags(device) | {DENORMALS: _flushes_denormals()}


@contextmanager
def backend(recorded: Mapping[str, Any]) -> Iterator[None]:
    """Run with the switches of a recording; those that it does not name stay as they are."""
    known = SWITCHES | SWITCHES_OF_CUDA | {DENORMALS: _Switch(_flushes_denormals, torch.set_flush_denormal)}
    changed: dict[str, Any] = {}
    try:
        for name, value in recorded.items():
            if name in known and (before := known[name].read()) != value:
                known[name].set(value)
                changed[name] = before
        yield
    finally:
        for name, before in changed.items():
            known[name].set(before)
