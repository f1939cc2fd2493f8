"""LayerNorm, each sample standardised by itself, over the last dimensions."""

import torch.nn.functional as F
from torch import Tensor, nn

from hydragrad.derivatives.layers.layer_rule import LayerRule, ParameterRule


def weight_gradients(layer: nn.LayerNorm, x: Tensor, delta: Tensor) -> Tensor:
    """(n, *normalized_shape)."""
    standardised = F.layer_norm(x, layer.normalized_shape, None, None, layer.eps)
    return (standardised * delta).reshape(len(x), -1, *layer.normalized_shape).sum(1)


def weight_dots(layer: nn.LayerNorm, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """Of the gradients; direction (q, *normalized_shape)."""
    return direction.flatten(1) @ weight_gradients(layer, x, delta).flatten(1).T


def bias_gradients(layer: nn.LayerNorm, x: Tensor, delta: Tensor) -> Tensor:
    """(n, *normalized_shape)."""
    return delta.reshape(len(x), -1, *layer.normalized_shape).sum(1)


def bias_dots(layer: nn.LayerNorm, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """Of the gradients; direction (q, *normalized_shape)."""
    return direction.flatten(1) @ bias_gradients(layer, x, delta).flatten(1).T


RULE = LayerRule(
    layers=(nn.LayerNorm,),
    parameters={
        "weight": ParameterRule(gradients=weight_gradients, dots=weight_dots),
        "bias": ParameterRule(gradients=bias_gradients, dots=bias_dots),
    },
)
