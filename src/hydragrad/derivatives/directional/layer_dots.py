"""Directional derivatives out of the replay's own backward pass: one extra product a layer.

Where samples are not coupled, <G, gradient of loss i> is a sum over layers, and a linear layer y = W x adds
delta_i . (G x_i), with x_i caught in the forward and delta_i = d loss / d y_i in the backward pass that the
replay runs anyway.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hydragrad.derivatives.layers.applicable import HooksInapplicable, why_not_one_row_a_sample
from hydragrad.derivatives.layers.layer_rule import LayerRule, ParameterRule
from hydragrad.derivatives.layers.rules import RULES


class _Part(NamedTuple):
    """One parameter's part of the directions, and which history its dot products belong to."""

    rule: ParameterRule
    direction: Tensor
    history: int


class LayerDots:
    """Gathers <G, gradient of loss i> while somebody else runs forward and backward.

    Args:
        model: The model that will be run; every layer that `directions` speaks of has a rule.
        directions: Parameter name to its part of G, (q, *shape); parameters left out count as zero.
        histories: Parameter name to the index of its history; dot products are summed separately by history.

    Attributes:
        totals: (histories, q, batch) after a backward pass; zeroed by `begin`.
    """

    def __init__(self, model: nn.Module, directions: dict[str, Tensor], histories: dict[str, int]) -> None:
        self._histories = len(set(histories.values()))
        self._queries = len(next(iter(directions.values())))
        self._handles: list[RemovableHandle] = []
        self._paused = False
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        for module in dict.fromkeys(model.modules()):
            named = {own: names[id(parameter)] for own, parameter in module.named_parameters(recurse=False)}
            parts = [
                _Part(RULES[type(module)].parameters[own], directions[name], histories[name])
                for own, name in named.items()
                if name in directions
            ]
            if parts:
                hook = self._forward_hook(RULES[type(module)], parts)
                self._handles.append(module.register_forward_hook(hook))

    def begin(self, size: int, like: Tensor) -> None:
        """Start a batch of `size` samples."""
        self._size = size
        self.totals = torch.zeros(self._histories, self._queries, size, dtype=like.dtype, device=like.device)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave backward passes out that run in here."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def _forward_hook(self, rule: LayerRule, parts: Sequence[_Part]) -> Callable[..., None]:
        def keep_input(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            reason = why_not_one_row_a_sample(layer, inputs, output, self._size)
            if reason is not None:
                raise HooksInapplicable(reason)
            input = inputs[0].detach()

            def add_dots(delta: Tensor) -> None:
                if self._paused:
                    return
                x = rule.rule_input(layer, input)
                for part in parts:
                    self.totals[part.history] += part.rule.dots(layer, x, delta, part.direction)

            if output.requires_grad:
                output.register_hook(add_dots)

        return keep_input
