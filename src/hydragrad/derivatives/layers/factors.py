"""Layers whose weight's gradient is a sum of outer products over positions: what is multiplied.

For y = W x + b at every position (of a sequence, of an image's patches) the gradient of one sample is the sum over
positions of delta_s x_s'. Kronecker-factored curvature is made of second moments of the two.

Source: Martens and Grosse 2015 (linear layers); Grosse and Martens 2016 (convolutions).
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from hydragrad.derivatives.layers.positions import by_position


def has_factors(layer: nn.Module) -> bool:
    """Whether `factors` takes the layer: Linear, and Conv1d and Conv2d without groups."""
    return type(layer) is nn.Linear or (type(layer) in (nn.Conv1d, nn.Conv2d) and bool(layer.groups == 1))


def factors(layer: Any, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Factors (n, s, inputs) and (n, s, o); the weight, (o, inputs) with its other dimensions flattened, gets delta x'.

    Args:
        layer: One that has factors.
        x: Its input, (n, ...).
        delta: Gradient at its output, (n, ...).
    """
    if isinstance(layer, nn.Linear):
        return by_position(x), by_position(delta)
    size, stride, dilation, padding = layer.kernel_size, layer.stride, layer.dilation, layer.padding
    if layer.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x, padding = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode), (0,) * len(size)
    if isinstance(layer, nn.Conv1d):  # an image that is one pixel high
        x, size, stride, dilation, padding = x.unsqueeze(2), (1, *size), (1, *stride), (1, *dilation), (0, *padding)
    patches = F.unfold(x, size, dilation, padding, stride)
    return patches.transpose(1, 2), delta.flatten(2).transpose(1, 2)
