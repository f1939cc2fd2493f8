"""Embedding, a lookup of rows of its weight: `x` holds integers of any shape (n, ...)."""

import torch
from torch import Tensor, nn

from hydragrad.derivatives.layers.layer_rule import LayerRule, ParameterRule
from hydragrad.derivatives.layers.positions import by_position


def weight_gradients(layer: nn.Embedding, x: Tensor, delta: Tensor) -> Tensor:
    """(n, vocabulary, o)."""
    delta = without_padding(layer, x, delta)
    rows = delta.new_zeros(len(x), *layer.weight.shape)
    index = x.reshape(len(x), -1, 1).expand(-1, -1, delta.shape[-1])
    return rows.scatter_add_(1, index, by_position(delta))


def weight_dots(layer: nn.Embedding, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """delta . (rows of G that were looked up); direction (q, vocabulary, o)."""
    y_dot = direction[:, x.reshape(len(x), -1)]
    return torch.einsum("qnso,nso->qn", y_dot, by_position(without_padding(layer, x, delta)))


def without_padding(layer: nn.Embedding, x: Tensor, delta: Tensor) -> Tensor:
    """No gradient reaches the padding row."""
    return delta if layer.padding_idx is None else delta * (x != layer.padding_idx).unsqueeze(-1)


def gradient_is_plain(layer: nn.Embedding) -> bool:
    """Counts of the whole batch, or rows that the forward pass rescales, make the gradient another one."""
    return not layer.scale_grad_by_freq and layer.max_norm is None


RULE = LayerRule(
    layers=(nn.Embedding,),
    parameters={"weight": ParameterRule(gradients=weight_gradients, dots=weight_dots)},
    applies=gradient_is_plain,
)
