"""Directional derivatives out of the replay's own backward pass: one extra product a layer.

Where samples are not coupled, <G, gradient of loss i> splits into layers, and a linear layer y = Wx gives
delta_i . (G x_i) with x_i caught in the forward and delta_i = d loss / d y_i in the backward pass that the
replay runs anyway.

Legend: b sample, q direction, o output feature, s position; `delta` is the gradient arriving at a layer's
output, `direction` the part of G that belongs to the layer's parameter, with a leading q.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hydragrad.derivatives.layers.gradient_rules import conv_weight as conv_weight_gradient
from hydragrad.derivatives.torch_gaps.batch_norm import batch_coupled, standardised

MANY = 7
"""Queries from which on a convolution's per-sample gradients, made once, are cheaper than a convolution a query."""
NUMBERS = 1 << 24
"""Numbers of per-sample gradients that one layer holds at once."""


class HooksInapplicable(Exception):
    """A layer turned out to be used in a way that splits into samples no longer."""


def linear_weight(layer: Any, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """<G, delta x'> of y = x W'; x (b, s..., i), delta (b, s..., o), direction (q, o, i); returns (q, b)."""
    queries, outputs, _ = direction.shape
    y_dot = F.linear(x, direction.flatten(0, 1)).view(len(x), -1, queries, outputs)
    return _dot(y_dot, delta.reshape(len(x), -1, 1, outputs))


def _dot(y_dot: Tensor, delta: Tensor) -> Tensor:
    """Products (b, s or g, q, ...) and (b, s or g, 1, ...), summed to (q, b): three times as quick as an einsum."""
    dots: Tensor = torch.linalg.vecdot(y_dot, delta)
    return dots.sum(1).T


def channel_last_bias(layer: Any, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """<G, delta> of y = ... + bias on the last dimension; direction (q, o)."""
    return direction @ delta.reshape(len(x), -1, delta.shape[-1]).sum(1).T


def conv_weight(layer: Any, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """<G, weight gradient> of a convolution of any dimension; direction (q, o, i / groups, kernel...)."""
    queries, groups = len(direction), layer.groups
    # Output channels lie group by group, so the directions are stacked within each group.
    stacked = direction.unflatten(1, (groups, -1)).transpose(0, 1).flatten(0, 2)
    y_dot = layer._conv_forward(x, stacked, None).reshape(len(x), groups, queries, -1)
    return _dot(y_dot, delta.reshape(len(x), groups, 1, -1))


def conv_weight_of_many(layer: Any, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """The same from the samples' gradients: a query more is a row more in a matrix product."""
    rows, at_once = direction.flatten(1), max(1, NUMBERS // direction[0].numel())
    pairs = zip(x.split(at_once), delta.split(at_once), strict=True)
    return torch.cat([rows @ conv_weight_gradient(layer, *pair).flatten(1).T for pair in pairs], 1)


def conv_bias(layer: Any, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """<G, delta> of a convolution's bias; direction (q, o)."""
    return direction @ delta.flatten(2).sum(2).T


def embedding_weight(layer: Any, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """<G, gradient> of a lookup; x (b, s...) integers, direction (q, vocabulary, o)."""
    if layer.padding_idx is not None:
        delta = delta * (x != layer.padding_idx).unsqueeze(-1)
    y_dot = direction[:, x.reshape(len(x), -1)]
    return torch.einsum("qbso,bso->qb", y_dot, delta.reshape(len(x), -1, delta.shape[-1]))


def layer_norm_weight(layer: Any, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """<G, gradient> of LayerNorm's scale; direction (q, *normalized_shape)."""
    standardised = F.layer_norm(x, layer.normalized_shape, None, None, layer.eps)
    per_sample = (standardised * delta).reshape(len(x), -1, direction[0].numel()).sum(1)
    return direction.flatten(1) @ per_sample.T


def layer_norm_bias(layer: Any, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """<G, gradient> of LayerNorm's shift; direction (q, *normalized_shape)."""
    return direction.flatten(1) @ delta.reshape(len(x), -1, direction[0].numel()).sum(1).T


def batch_norm_weight(layer: Any, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """<G, gradient> of the scale of a BatchNorm in eval mode; direction (q, channels)."""
    return direction @ (standardised(layer, x) * delta).reshape(*delta.shape[:2], -1).sum(2).T


def batch_norm_bias(layer: Any, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
    """<G, gradient> of its shift; direction (q, channels)."""
    return direction @ delta.reshape(*delta.shape[:2], -1).sum(2).T


Rule = Callable[[Any, Tensor, Tensor, Tensor], Tensor]
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


def why_not_hooks(model: nn.Module) -> str | None:
    """Say why the layers of `model` do not split into samples, or None if nothing speaks against it."""
    if batch_coupled(model):
        return "BatchNorm in training mode couples the samples of a batch"
    for name, module in model.named_modules():
        own = {key for key, _ in module.named_parameters(recurse=False)}
        if own - RULES.get(type(module), {}).keys():
            return f"no rule for the parameters of {name or 'the model'} ({type(module).__name__})"
    return None


class LayerDots:
    """Gathers <G, gradient of loss i> while somebody else runs forward and backward.

    Args:
        model: The model that will be run.
        directions: Parameter name to its part of G, (q, *shape); parameters left out count as zero.
        lanes: Parameter name to the index of its lane; dot products are kept apart by lane.

    Attributes:
        totals: (lanes, q, b) after a backward pass; zeroed by `begin`.
    """

    def __init__(self, model: nn.Module, directions: dict[str, Tensor], lanes: dict[str, int]) -> None:
        self._count = len(set(lanes.values()))
        self._queries = len(next(iter(directions.values())))
        self._handles: list[RemovableHandle] = []
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        for module in dict.fromkeys(model.modules()):
            parts = [
                (self._rule(RULES[type(module)][own]), directions[names[id(p)]], lanes[names[id(p)]])
                for own, p in module.named_parameters(recurse=False)
                if names[id(p)] in directions
            ]
            if parts:
                self._handles.append(module.register_forward_hook(self._forward_hook(parts)))

    def _rule(self, rule: Rule) -> Rule:
        return conv_weight_of_many if rule is conv_weight and self._queries >= MANY else rule

    def begin(self, size: int, like: Tensor) -> None:
        """Start a batch of `size` samples."""
        self._size = size
        self.totals = torch.zeros(self._count, self._queries, size, dtype=like.dtype, device=like.device)

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def _forward_hook(self, parts: Sequence[tuple[Rule, Tensor, int]]) -> Callable[..., None]:
        def caught(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if len(inputs) != 1 or any(len(value) != self._size for value in (inputs[0], output)):
                raise HooksInapplicable(f"{type(layer).__name__} does not see one row a sample")
            x = inputs[0].detach()

            def arrived(delta: Tensor) -> None:
                for rule, direction, lane in parts:
                    self.totals[lane] += rule(layer, x, delta, direction)

            if output.requires_grad:
                output.register_hook(arrived)

        return caught
