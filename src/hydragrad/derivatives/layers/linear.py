"""Linear, y = W x + b on the last dimension."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from hydragrad.derivatives.layers.layer_rule import LayerRule, ParameterRule
from hydragrad.derivatives.layers.positions import by_position, dot_products, outer_products


def weight_gradients(_layer: Any, x: Tensor, delta: Tensor) -> Tensor:
    """(n, o, i)."""
    return outer_products(by_position(delta), by_position(x))


def weight_dots(_layer: Any, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """<G, delta x'> as delta . (G x); direction (q, o, i)."""
    queries, outputs, _ = direction.shape
    y_dot = F.linear(x, direction.flatten(0, 1)).view(len(x), -1, queries, outputs)
    return dot_products(y_dot, delta.reshape(len(x), -1, 1, outputs))


def weight_factors(x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """(n, s, i) and (n, s, o)."""
    return by_position(x), by_position(delta)


def bias_gradients(_layer: Any, _x: Tensor, delta: Tensor) -> Tensor:
    """(n, o)."""
    return by_position(delta).sum(1)


def bias_dots(_layer: Any, _x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """<G, delta>; direction (q, o)."""
    return direction @ by_position(delta).sum(1).T


RULE = LayerRule(
    layers=(nn.Linear,),
    parameters={
        "weight": ParameterRule(gradients=weight_gradients, dots=weight_dots, factors=weight_factors),
        "bias": ParameterRule(gradients=bias_gradients, dots=bias_dots),
    },
)
