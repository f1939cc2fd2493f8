"""BatchNorm that normalises by constants: in eval mode, or with its batch's statistics frozen.

Where the batch's own statistics are differentiated the samples are coupled, and no rule of a single sample holds.
`x` is standardised.
"""

from typing import Any

from torch import Tensor, nn

from hydragrad.derivatives.layers.layer_rule import LayerRule, ParameterRule
from hydragrad.derivatives.torch_gaps.batch_norm import standardised


def weight_gradients(_layer: Any, x: Tensor, delta: Tensor) -> Tensor:
    """(n, channels)."""
    return sums_over_positions(x * delta)


def weight_dots(_layer: Any, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """Of the gradients; direction (q, channels)."""
    return direction @ sums_over_positions(x * delta).T


def bias_gradients(_layer: Any, _x: Tensor, delta: Tensor) -> Tensor:
    """(n, channels)."""
    return sums_over_positions(delta)


def bias_dots(_layer: Any, _x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """Of the gradients; direction (q, channels)."""
    return direction @ sums_over_positions(delta).T


def sums_over_positions(values: Tensor) -> Tensor:
    """(n, channels) of (n, channels, ...)."""
    return values.reshape(*values.shape[:2], -1).sum(2)


RULE = LayerRule(
    layers=(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    parameters={
        "weight": ParameterRule(gradients=weight_gradients, dots=weight_dots),
        "bias": ParameterRule(gradients=bias_gradients, dots=bias_dots),
    },
    rule_input=standardised,
)
