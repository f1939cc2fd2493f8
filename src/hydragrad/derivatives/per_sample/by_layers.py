"""Per-sample gradients out of a forward and backward pass that somebody else runs."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hydragrad.derivatives.layers.applicable import HooksInapplicable, why_not_hooks
from hydragrad.derivatives.layers.layer_rule import ParameterRule
from hydragrad.derivatives.layers.rules import RULES
from hydragrad.derivatives.layout import Layout
from hydragrad.derivatives.per_sample.layer_calls import LayerCalls
from hydragrad.derivatives.per_sample.projection import Projector


class _Parameter(NamedTuple):
    """A parameter of a layer: its name in the model, and its rules."""

    name: str
    value: nn.Parameter
    rule: ParameterRule


class LayerGradients:
    """Catches inputs and output gradients of a model's layers and makes per-sample gradients of them.

    Args:
        model: Is hooked; forward passes outside `begin` ... `rows`, and those of copies, are ignored.
        layout: The parameters to differentiate by.
        projector: Projects each parameter's gradients as they are made.
        anchored: For a pass of our own whose parameters do not require gradients: the graph then starts at the first
            layer's output, and the backward pass computes nothing that is thrown away.

    Raises:
        HooksInapplicable: A layer without a rule, or one that couples the samples.
    """

    def __init__(
        self, model: nn.Module, layout: Layout, projector: Projector | None = None, *, anchored: bool = False
    ) -> None:
        reason = why_not_hooks(model)
        if reason is not None:
            raise HooksInapplicable(reason)
        self._layout, self._projector = layout, projector
        self._like = next(model.parameters()).detach()
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._parameters: dict[nn.Module, list[_Parameter]] = {}
        self._size = 0
        for module in dict.fromkeys(model.modules()):
            parameters = [
                _Parameter(names[id(value)], value, RULES[type(module)].parameters[own])
                for own, value in module.named_parameters(recurse=False)
                if names[id(value)] in layout.spans
            ]
            if parameters:
                self._parameters[module] = parameters
        anchor = self._like.new_zeros((), requires_grad=True) if anchored else None
        self._calls = LayerCalls(self._parameters, anchor)

    def begin(self, size: int) -> None:
        """Catch from now on what a batch of `size` samples shows."""
        self._size = size
        self._calls.begin(size)

    def rows(self, positions: Sequence[int]) -> Tensor:
        """Gradients of the differentiated loss, split into samples, (positions, columns).

        Raises:
            HooksInapplicable: A layer did not see one row a sample.
        """
        caught = self._calls.take()
        if self._calls.problems:
            raise HooksInapplicable(next(iter(self._calls.problems.values())))
        everything = list(positions) == list(range(self._size))
        wanted = slice(None) if everything else torch.as_tensor(positions, device=self._like.device, dtype=torch.int64)
        if self._projector is None:
            out = self._like.new_zeros(len(positions), self._layout.size)
        else:
            out = self._projector.zeros(len(positions))
        with torch.no_grad():
            for module, calls in caught.items() if positions else ():
                for input, delta in calls:
                    x = RULES[type(module)].rule_input(module, input)
                    self._add(out, module, x[wanted], delta[wanted])
        return out

    def remove(self) -> None:
        """Take the hooks off the model."""
        self._calls.remove()

    def _add(self, out: Tensor, module: nn.Module, x: Tensor, delta: Tensor) -> None:
        for name, value, rule in self._parameters[module]:
            if not value.requires_grad:
                continue
            if self._projector is None:
                out[:, self._layout.spans[name]] += rule.gradients(module, x, delta).reshape(len(x), -1)
            elif rule.factors is not None:
                self._projector.add_outer_products(out, name, *rule.factors(x, delta))
            else:
                self._projector.add(out, name, rule.gradients(module, x, delta))
