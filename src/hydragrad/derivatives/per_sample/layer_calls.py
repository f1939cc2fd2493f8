"""What layers of a model see in a forward and backward pass that somebody else runs: inputs, gradients at outputs."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hydragrad.derivatives.layers.applicable import why_not_one_row_a_sample


class Call(NamedTuple):
    """One call of a layer.

    Attributes:
        x: Its input, (batch, ...).
        delta: The gradient that arrived at its output, (batch, ...).
    """

    x: Tensor
    delta: Tensor


class LayerCalls:
    """Catches the calls of some layers of a model.

    Args:
        layers: Are hooked; forward passes outside `begin` ... `take`, and those of copies, are ignored.
        anchor: A zero that requires a gradient, for a pass in which a layer's output may not: it is added to such
            outputs, so that the graph starts there.

    Attributes:
        anchor: The same.
        problems: Layers that did not see one row a sample since `begin`, and why.
    """

    def __init__(self, layers: Iterable[nn.Module], anchor: Tensor | None = None) -> None:
        self._layers, self.anchor = list(layers), anchor
        self._size: int | None = None
        self._caught: dict[nn.Module, list[Call]] = {}
        self.problems: dict[nn.Module, str] = {}
        self._handles: list[RemovableHandle] = [
            layer.register_forward_hook(self._hook(layer)) for layer in self._layers
        ]

    def begin(self, size: int) -> None:
        """Catch from now on what a batch of `size` samples shows."""
        self._size, self.problems = size, {}
        self._caught = {layer: [] for layer in self._layers}

    def take(self) -> dict[nn.Module, list[Call]]:
        """The calls of every layer since `begin`, whose gradient has arrived; nothing is caught any more."""
        caught, self._caught, self._size = self._caught, {}, None
        return caught

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, module: nn.Module) -> Callable[..., Tensor | None]:
        def keep_input(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor | None:
            if layer is not module or self._size is None:
                return None
            anchor = self.anchor if not output.requires_grad and torch.is_grad_enabled() else None
            if anchor is None and not output.requires_grad:
                return None
            reason = why_not_one_row_a_sample(layer, inputs, output, self._size)
            if reason is not None:
                self.problems[module] = reason
                return None
            input, calls = inputs[0].detach(), self._caught[module]
            output = output if anchor is None else output + anchor
            output.register_hook(lambda delta: calls.append(Call(input, delta.detach())))
            return output if anchor is not None else None

        return keep_input
