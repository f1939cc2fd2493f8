"""Where a replay is equal to the bit: threads, processor, versions."""

import importlib.metadata
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hydragrad.replay.backend import backend_flags

ALWAYS_NOTED = ("torch", "processor", "device")
"""What every version has recorded of a machine; the rest is compared where it was."""

COMPARED = (*ALWAYS_NOTED, "vector instructions")
"""What must be the same for a replay to be equal to the bit."""


def this_machine(device: torch.device) -> dict[str, Any]:
    """What replay must find again to be bit-equal."""
    return {
        "hydragrad": importlib.metadata.version("hydragrad"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "backend": backend_flags(device),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
    }


def default_dtype_of(machine: Mapping[str, Any]) -> torch.dtype | None:
    """What torch made new tensors of; None where it was not noted."""
    dtype = getattr(torch, str(machine.get("default_dtype")), None)
    return dtype if isinstance(dtype, torch.dtype) else None


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run with a number of threads: the same sum over more threads is rounded differently."""
    before = torch.get_num_threads()
    try:
        if count != before:
            torch.set_num_threads(count)
        yield
    finally:
        if count != before:
            torch.set_num_threads(before)


def warn_other_machine(recorded: Sequence[Mapping[str, object]], present: Mapping[str, object]) -> bool:
    """Compare the machines of a run's parts with this one; warn about what differs. True where replay is bit-equal."""
    differing = [
        f"{key}: {machine.get(key)!r} then, {present[key]!r} now"
        for machine in recorded
        for key in COMPARED
        if machine.get(key, None if key in ALWAYS_NOTED else present[key]) != present[key]
    ]
    differing = list(dict.fromkeys(differing))  # of several processes on one machine
    if differing:
        warnings.warn(
            "This is not the machine of the recording (" + "; ".join(differing) + "). Replay starts every segment "
            "from its recorded weights, and the evidence of the scores tells how far it drifted.",
            stacklevel=5,
        )
    return not differing


def same_kind(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether replays on two machines are equal to the bit."""
    return all(one[key] == other[key] for key in COMPARED)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
