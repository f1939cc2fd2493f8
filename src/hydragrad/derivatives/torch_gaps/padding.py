"""Embeddings with a padding index: what they return for it is a constant.

torch's reverse mode gives the padding row no gradient, and so no step moves it; its forward mode passes the row's
tangent on. The private copies of the model cut it off, so that both modes speak of the gradient that training used.
"""

from types import MethodType

import torch
import torch.autograd.forward_ad as forward_mode
import torch.nn.functional as F
from torch import Tensor, nn


def use_constant_padding(model: nn.Module) -> None:
    """Give every Embedding layer of `model` that has a padding index a forward without tangent there, in place."""
    for module in model.modules():
        if type(module) is nn.Embedding and module.padding_idx is not None:
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]


def _forward(layer: nn.Embedding, input: Tensor) -> Tensor:
    assert layer.padding_idx is not None
    looked_up = F.embedding(input, layer.weight, layer.padding_idx)
    with forward_mode._set_fwd_grad_enabled(False):
        constant = F.embedding(input, layer.weight.detach())
    return torch.where(torch.eq(input, layer.padding_idx).unsqueeze(-1), constant, looked_up)
