"""Recurrent layers by torch's own operations: the fused kernels of oneDNN and cuDNN have no forward-mode rule.

Only the private copies that are differentiated use them; the trajectory is replayed with the user's own kernels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import nn


def use_unfused_recurrence(model: nn.Module) -> None:
    """Give every RNN, LSTM and GRU layer of `model` a forward without fused kernels, in place."""
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.forward = MethodType(_unfused, module)


def _unfused(layer: nn.RNNBase, *args: Any, **kwargs: Any) -> Any:
    with _without_fused_kernels():
        return type(layer).forward(layer, *args, **kwargs)


@contextmanager
def _without_fused_kernels() -> Iterator[None]:
    # The public `flags` of both back ends set more than `enabled`, and warn of it.
    onednn, cudnn = torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    torch._C._set_cudnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(onednn)
        torch._C._set_cudnn_enabled(cudnn)
