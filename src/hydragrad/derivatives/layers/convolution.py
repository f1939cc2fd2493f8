"""Convolutions of one, two and three dimensions, with groups, strides, dilation and every padding mode."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import grad as conv_gradients

from hydragrad.derivatives.layers.layer_rule import LayerRule, ParameterRule
from hydragrad.derivatives.layers.positions import dot_products, outer_products

QUERIES_THAT_PAY_FOR_GRADIENTS = 7
"""From so many queries on, per-sample gradients made once are cheaper than one convolution a query."""
GRADIENT_NUMBERS_AT_ONCE = 1 << 24
"""Numbers of per-sample gradients that one layer holds at once."""


def weight_gradients(layer: Any, x: Tensor, delta: Tensor) -> Tensor:
    """(n, o, i / groups, kernel...)."""
    count, padding = len(x), layer.padding
    if layer.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
        padding = (0,) * (x.dim() - 2)
    if isinstance(layer, nn.Conv2d) and layer.groups == 1:
        if x.shape[2:] == layer.kernel_size and delta[0, 0].numel() == 1 and not any(padding):
            return outer_products(delta.view(count, 1, -1), x.reshape(count, 1, -1)).view(count, *layer.weight.shape)
        if set(layer.kernel_size) == set(layer.stride) == {1} and not any(padding):
            return (delta.flatten(2) @ x.flatten(2).transpose(1, 2)).view(count, *layer.weight.shape)
        if _patches_of_delta_are_smaller(layer, padding):
            return _by_patches_of_delta(layer, x, delta, padding)
        patches = F.unfold(x, layer.kernel_size, layer.dilation, padding, layer.stride)
        return (delta.flatten(2) @ patches.transpose(1, 2)).view(count, *layer.weight.shape)
    return _by_one_convolution(layer, x, delta, padding)


def _patches_of_delta_are_smaller(layer: nn.Conv2d, padding: Sequence[int]) -> bool:
    """Whether the gradient may be made of patches of delta instead of x, and that is less work."""
    reach = [step * (size - 1) for step, size in zip(layer.dilation, layer.kernel_size, strict=True)]
    fits = all(before <= most for before, most in zip(padding, reach, strict=True))
    return layer.out_channels < layer.in_channels and set(layer.stride) == {1} and fits


def _by_patches_of_delta(layer: nn.Conv2d, x: Tensor, delta: Tensor, padding: Sequence[int]) -> Tensor:
    """The sum over z of x_z delta_{z-k+padding}, which is the sum over s of delta_s x_{s+k-padding}."""
    sizes, steps = layer.kernel_size, layer.dilation
    rest = [step * (size - 1) - before for step, size, before in zip(steps, sizes, padding, strict=True)]
    patches = F.unfold(delta, sizes, steps, tuple(rest))
    flipped = (patches @ x.flatten(2).transpose(1, 2)).view(len(x), layer.out_channels, *sizes, layer.in_channels)
    return flipped.flip(2, 3).movedim(4, 2)


def _by_one_convolution(layer: Any, x: Tensor, delta: Tensor, padding: Sequence[int]) -> Tensor:
    """Samples as groups of one large convolution."""
    count = len(x)
    by_dimension = (conv_gradients.conv1d_weight, conv_gradients.conv2d_weight, conv_gradients.conv3d_weight)
    weight_gradient: Callable[..., Tensor] = by_dimension[x.dim() - 3]
    shape = (count * layer.weight.shape[0], *layer.weight.shape[1:])
    x, delta = x.reshape(1, -1, *x.shape[2:]), delta.reshape(1, -1, *delta.shape[2:])
    stacked = weight_gradient(x, shape, delta, layer.stride, padding, layer.dilation, layer.groups * count)
    return stacked.view(count, *layer.weight.shape)


def weight_dots(layer: Any, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """delta . (convolution of x by G), or products with the gradients; direction (q, o, i / groups, kernel...)."""
    if len(direction) >= QUERIES_THAT_PAY_FOR_GRADIENTS:
        return _dots_of_gradients(layer, x, delta, direction)
    queries, groups = len(direction), layer.groups
    # Output channels lie group by group, so the directions are stacked within each group.
    stacked = direction.unflatten(1, (groups, -1)).transpose(0, 1).flatten(0, 2)
    y_dot = layer._conv_forward(x, stacked, None).reshape(len(x), groups, queries, -1)
    return dot_products(y_dot, delta.reshape(len(x), groups, 1, -1))


def _dots_of_gradients(layer: Any, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """One more query is one more row of a matrix product."""
    rows, at_once = direction.flatten(1), max(1, GRADIENT_NUMBERS_AT_ONCE // direction[0].numel())
    pairs = zip(x.split(at_once), delta.split(at_once), strict=True)
    return torch.cat([rows @ weight_gradients(layer, *pair).flatten(1).T for pair in pairs], 1)


def bias_gradients(_layer: Any, _x: Tensor, delta: Tensor) -> Tensor:
    """(n, o)."""
    return delta.flatten(2).sum(2)


def bias_dots(_layer: Any, _x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """<G, delta>; direction (q, o)."""
    return direction @ delta.flatten(2).sum(2).T


RULE = LayerRule(
    layers=(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    parameters={
        "weight": ParameterRule(gradients=weight_gradients, dots=weight_dots),
        "bias": ParameterRule(gradients=bias_gradients, dots=bias_dots),
    },
)
