"""What `accelerate` made of a loop's model, optimizer and loader: what is inside, and its loader's own bookkeeping.

Its wrappers are known by where their classes come from, so that nothing is imported. A wrapped loader places batches on
the device, counts epochs and knows the last batch; it goes on doing so, around a loader whose batches are seeded.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from hydragrad.derivatives.copying import enters_autocast
from hydragrad.errors import Unsupported
from hydragrad.recording.sampler_position import Indices

Batches = Callable[[DataLoader[Any]], Iterator[tuple[Indices, Any]]]


def bare_optimizer(optimizer: Any) -> Optimizer:
    """The torch optimizer inside of accelerate's wrapper; any other optimizer as it is.

    Raises:
        Unsupported: The wrapper scales losses, as for float16, and so divides gradients; or each process has a part of
            the optimizer's state.
    """
    if any(base.__name__ == "ZeroRedundancyOptimizer" for base in type(optimizer).__mro__):
        raise Unsupported(
            "The optimizer must have the whole of its state; of a ZeroRedundancyOptimizer each process has a part. Use "
            "the optimizer that it wraps."
        )
    if not _of_accelerate(optimizer):
        bare: Optimizer = optimizer
        return bare
    if getattr(optimizer, "scaler", None) is not None:
        raise Unsupported(
            "Precision must be float32, float64 or bfloat16; this Accelerator has mixed_precision='fp16', whose scaled "
            "gradients and skipped steps are not recorded. Use mixed_precision='bf16'."
        )
    return bare_optimizer(optimizer.optimizer)


def bare_optimizers(optimizers: Any) -> list[Optimizer]:
    """The same of one or of several in a list."""
    listed = optimizers if isinstance(optimizers, list | tuple) else [optimizers]
    return [bare_optimizer(optimizer) for optimizer in listed]


@contextmanager
def autocast_outside(model: nn.Module) -> Iterator[None]:
    """Enter the autocast that accelerate enters inside of the model's forward, so that it can be seen and repeated."""
    if not enters_autocast(model):
        yield
        return
    forward = model.__dict__.pop("forward")
    precision = sys.modules["accelerate.state"].AcceleratorState().mixed_precision
    device = next(model.parameters()).device.type
    try:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        model.__dict__["forward"] = forward


def refuse_autocast_inside(model: nn.Module) -> None:
    """Refuse a forward pass in which accelerate's autocast is entered where nobody sees it.

    Raises:
        Unsupported: Says how to call the model.
    """
    if enters_autocast(model):
        raise Unsupported(
            "Autocast must be entered outside of the model; accelerate's mixed_precision enters it inside of the "
            "model's forward. Take the losses from the recorder, which enters it outside: with recorder.step(indices) "
            "as step: losses = step.losses(batch)."
        )


def is_prepared(loader: Any) -> bool:
    """Whether a loader is one that accelerate prepared."""
    return _of_accelerate(loader)


def prepared_batches(loader: Any, batches: Batches) -> Iterator[tuple[Indices, Any]]:
    """Iterate a prepared loader, over batches whose samples are known.

    Args:
        loader: What `accelerator.prepare` returned.
        batches: Makes these batches of a stock DataLoader.

    Raises:
        Unsupported: The loader hands out batches of another process, or its class is not known here.
    """
    base = getattr(loader, "base_dataloader", None)
    if base is None or type(loader).__name__ not in ("DataLoaderShard", "SkipDataLoader"):
        raise Unsupported(
            f"hg.indexed takes a DataLoader, or what accelerator.prepare made of it (accelerate 1.0 or newer); it "
            f"got accelerate's {type(loader).__name__}. Set dispatch_batches=False, or pass the DataLoader itself."
        )
    waiting: deque[Indices] = deque()
    loader.base_dataloader = _Noting(base, batches, waiting)
    try:
        skipped = loader.skip_batches
        for batch in loader:
            for _ in range(skipped):
                waiting.popleft()
            skipped = 0
            yield waiting.popleft(), batch  # the wrapper fetches one batch ahead, in order
    finally:
        loader.base_dataloader = base


class _Noting:
    """Stands for a DataLoader: its batches, and a note of the samples of each."""

    def __init__(self, base: DataLoader[Any], batches: Batches, waiting: deque[Indices]) -> None:
        self._base, self._batches, self._waiting = base, batches, waiting

    def __iter__(self) -> Iterator[Any]:
        for indices, batch in self._batches(self._base):
            self._waiting.append(indices)
            yield batch

    def __len__(self) -> int:
        return len(self._base)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)


def _of_accelerate(wrapped: Any) -> bool:
    return type(wrapped).__module__.partition(".")[0] == "accelerate"
