"""Embeddings with a padding index: what they return for it is a constant.

torch's reverse mode gives the padding row no gradient, and so no step moves it; its forward mode passes the row's
tangent on. The private copies of the model cut it off, so that both modes speak of the gradient that training used.
"""

from collections import Counter
from types import MethodType

import torch
import torch.autograd.forward_ad as forward_mode
import torch.nn.functional as F
from torch import Tensor, nn


def use_constant_padding(model: nn.Module) -> None:
    """Give every Embedding layer of `model` that has a padding index a forward without tangent there, in place.

    A class of the user's own that calls `super().forward` (to scale what it looks up) gets it in place of torch's,
    unless another layer uses its weight: the padding row then learns, and whether a query feels that is for its check.
    """
    holders = Counter(id(value) for module in model.modules() for value in module._parameters.values())
    for module in model.modules():
        if not isinstance(module, nn.Embedding) or module.padding_idx is None:
            continue
        if type(module) is nn.Embedding:
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]
        elif not isinstance(module, _ConstantPadding) and holders[id(module.weight)] == 1:
            module.__class__ = type(type(module).__name__, (type(module), _ConstantPadding), {})


class _ConstantPadding(nn.Embedding):
    """Comes before torch's class in the order of methods."""

    def forward(self, input: Tensor) -> Tensor:
        return _forward(self, input)


def _forward(layer: nn.Embedding, input: Tensor) -> Tensor:
    assert layer.padding_idx is not None
    looked_up = F.embedding(input, layer.weight, layer.padding_idx)
    with forward_mode._set_fwd_grad_enabled(False):
        constant = F.embedding(input, layer.weight.detach())
    return torch.where(torch.eq(input, layer.padding_idx).unsqueeze(-1), constant, looked_up)
