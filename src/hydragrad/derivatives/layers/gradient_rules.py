"""Per-sample gradients of one layer, from what it was given and the gradient that arrived at its output.

Where samples are not coupled, the gradient of sample i's part of the loss by a layer's parameters needs only what
the layer was given (x_i) and the gradient that arrived at its output (delta_i): for y = Wx it is delta_i x_i'.

Legend: n chosen sample, s position, i input, o output feature.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import grad as conv_gradients


def linear_weight(layer: Any, x: Tensor, delta: Tensor) -> Tensor:
    """(n, o, i) of y = x W'."""
    return _outer(by_position(delta), by_position(x))


def channel_last_bias(layer: Any, x: Tensor, delta: Tensor) -> Tensor:
    """(n, o)."""
    return by_position(delta).sum(1)


def conv_weight(layer: Any, x: Tensor, delta: Tensor) -> Tensor:
    """(n, o, i / groups, kernel...) of a convolution of any dimension."""
    count, padding = len(x), layer.padding
    if layer.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
        padding = (0,) * (x.dim() - 2)
    if isinstance(layer, nn.Conv2d) and layer.groups == 1:
        if x.shape[2:] == layer.kernel_size and delta[0, 0].numel() == 1 and not any(padding):
            return _outer(delta.view(count, 1, -1), x.reshape(count, 1, -1)).view(count, *layer.weight.shape)
        if set(layer.kernel_size) == set(layer.stride) == {1} and not any(padding):
            return (delta.flatten(2) @ x.flatten(2).transpose(1, 2)).view(count, *layer.weight.shape)
        if _narrows(layer, padding):
            return _by_patches_of_delta(layer, x, delta, padding)
        patches = F.unfold(x, layer.kernel_size, layer.dilation, padding, layer.stride)
        return (delta.flatten(2) @ patches.transpose(1, 2)).view(count, *layer.weight.shape)
    # Samples as groups of one large convolution.
    rules = (conv_gradients.conv1d_weight, conv_gradients.conv2d_weight, conv_gradients.conv3d_weight)
    rule: Callable[..., Tensor] = rules[x.dim() - 3]
    shape = (count * layer.weight.shape[0], *layer.weight.shape[1:])
    x, delta = x.reshape(1, -1, *x.shape[2:]), delta.reshape(1, -1, *delta.shape[2:])
    stacked = rule(x, shape, delta, layer.stride, padding, layer.dilation, layer.groups * count)
    return stacked.view(count, *layer.weight.shape)


def _narrows(layer: nn.Conv2d, padding: Sequence[int]) -> bool:
    """Whether delta has the smaller patches, and x is their correlation with it."""
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


def conv_bias(layer: Any, x: Tensor, delta: Tensor) -> Tensor:
    """(n, o)."""
    return delta.flatten(2).sum(2)


def embedding_weight(layer: Any, x: Tensor, delta: Tensor) -> Tensor:
    """(n, vocabulary, o) of a lookup."""
    if layer.padding_idx is not None:
        delta = delta * (x != layer.padding_idx).unsqueeze(-1)
    rows = delta.new_zeros(len(x), *layer.weight.shape)
    at = x.reshape(len(x), -1, 1).expand(-1, -1, delta.shape[-1])
    return rows.scatter_add_(1, at, by_position(delta))


def layer_norm_weight(layer: Any, x: Tensor, delta: Tensor) -> Tensor:
    """(n, *normalized_shape)."""
    standardised = F.layer_norm(x, layer.normalized_shape, None, None, layer.eps)
    return (standardised * delta).reshape(len(x), -1, *layer.normalized_shape).sum(1)


def layer_norm_bias(layer: Any, x: Tensor, delta: Tensor) -> Tensor:
    """(n, *normalized_shape)."""
    return delta.reshape(len(x), -1, *layer.normalized_shape).sum(1)


def batch_norm_weight(layer: Any, x: Tensor, delta: Tensor) -> Tensor:
    """(n, channels); `x` is standardised."""
    return (x * delta).reshape(*x.shape[:2], -1).sum(2)


def batch_norm_bias(layer: Any, x: Tensor, delta: Tensor) -> Tensor:
    """(n, channels)."""
    return delta.reshape(*delta.shape[:2], -1).sum(2)


Rule = Callable[[Any, Tensor, Tensor], Tensor]
RULES: dict[type[nn.Module], dict[str, Rule]] = {
    nn.Linear: {"weight": linear_weight, "bias": channel_last_bias},
    nn.Conv1d: {"weight": conv_weight, "bias": conv_bias},
    nn.Conv2d: {"weight": conv_weight, "bias": conv_bias},
    nn.Conv3d: {"weight": conv_weight, "bias": conv_bias},
    nn.Embedding: {"weight": embedding_weight},
    nn.LayerNorm: {"weight": layer_norm_weight, "bias": layer_norm_bias},
    nn.BatchNorm1d: {"weight": batch_norm_weight, "bias": batch_norm_bias},
    nn.BatchNorm2d: {"weight": batch_norm_weight, "bias": batch_norm_bias},
    nn.BatchNorm3d: {"weight": batch_norm_weight, "bias": batch_norm_bias},
}
"""One rule a parameter of a layer type. Exact types only: a subclass may compute something else."""


def _outer(delta: Tensor, x: Tensor) -> Tensor:
    """(n, o, i): the sum over positions of delta x'."""
    return delta.transpose(1, 2) * x if x.shape[1] == 1 else torch.einsum("nso,nsi->noi", delta, x)


def by_position(value: Tensor) -> Tensor:
    """(n, s, features)."""
    return value.reshape(len(value), -1, value.shape[-1])
