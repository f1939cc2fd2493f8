"""Labels of dtype uint8: torch's losses take them, and its second derivatives fail on them; they get int64 instead."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hydragrad.derivatives.leaves import tensor_leaves

LOSSES = (F.cross_entropy, F.nll_loss)


class _LongLabels(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func in LOSSES:
            args = tuple(_long(argument) for argument in args)
            options = {name: _long(argument) for name, argument in options.items()}
        return func(*args, **options)


@contextmanager
def long_labels(data: Any) -> Iterator[None]:
    """Give cross-entropies int64 labels in place of uint8 ones, if a batch's data hold uint8 at all."""
    if not any(leaf.dtype is torch.uint8 for leaf in tensor_leaves(data)):
        yield
        return
    with _LongLabels():
        yield


def _long(argument: Any) -> Any:
    return argument.long() if isinstance(argument, Tensor) and argument.dtype is torch.uint8 else argument
