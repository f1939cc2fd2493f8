"""Per-sample gradients out of a forward and backward pass that somebody else runs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from hydragrad.derivatives.directional.layer_dots import HooksInapplicable, why_not_hooks
from hydragrad.derivatives.layers.gradient_rules import RULES, Rule, by_position, linear_weight
from hydragrad.derivatives.layout import Layout
from hydragrad.derivatives.per_sample.projection import Projector
from hydragrad.derivatives.torch_gaps.batch_norm import standardised


class LayerGradients:
    """Catches inputs and output gradients of a model's layers and makes per-sample gradients of them.

    Args:
        model: Is hooked; forwards outside `begin` ... `rows`, and those of copies, are passed over.
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
        self._anchor = self._like.new_zeros((), requires_grad=True) if anchored else None
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._rules: dict[nn.Module, list[tuple[str, nn.Parameter, Rule]]] = {}
        self._caught: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
        self._handles: list[RemovableHandle] = []
        self._size: int | None = None
        self._problem: str | None = None
        for module in dict.fromkeys(model.modules()):
            rules = [
                (names[id(parameter)], parameter, RULES[type(module)][own])
                for own, parameter in module.named_parameters(recurse=False)
                if names[id(parameter)] in layout.spans
            ]
            if rules:
                self._rules[module] = rules
                self._handles.append(module.register_forward_hook(self._hook(module)))

    def begin(self, size: int) -> None:
        """Catch from now on what a batch of `size` samples shows."""
        self._size, self._problem = size, None
        self._caught = {module: [] for module in self._rules}

    def rows(self, positions: Sequence[int]) -> Tensor:
        """Gradients of the differentiated loss, split into samples, (positions, columns).

        Raises:
            HooksInapplicable: A layer did not see one row a sample.
        """
        caught, size, self._caught, self._size = self._caught, self._size, {}, None
        if self._problem is not None:
            raise HooksInapplicable(self._problem)
        everything = list(positions) == list(range(size or 0))
        chosen = slice(None) if everything else torch.as_tensor(positions, device=self._like.device, dtype=torch.int64)
        if self._projector is None:
            out = self._like.new_zeros(len(positions), self._layout.size)
        else:
            out = self._projector.zeros(len(positions))
        with torch.no_grad():
            for module, calls in caught.items() if positions else ():
                for x, delta in calls:
                    if isinstance(module, _BatchNorm):
                        x = standardised(module, x)  # by statistics of the whole batch
                    self._add(out, module, x[chosen], delta[chosen])
        return out

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def _add(self, out: Tensor, module: nn.Module, x: Tensor, delta: Tensor) -> None:
        for name, parameter, rule in self._rules[module]:
            if not parameter.requires_grad:
                continue
            if self._projector is None:
                out[:, self._layout.spans[name]] += rule(module, x, delta).reshape(len(x), -1)
            elif rule is linear_weight:
                self._projector.add_linear(out, name, by_position(x), by_position(delta))
            else:
                self._projector.add(out, name, rule(module, x, delta))

    def _hook(self, module: nn.Module) -> Callable[..., Tensor | None]:
        def caught(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor | None:
            if layer is not module or self._size is None:
                return None
            anchor = self._anchor if not output.requires_grad and torch.is_grad_enabled() else None
            if anchor is None and not output.requires_grad:
                return None
            if len(inputs) != 1 or any(len(value) != self._size for value in (inputs[0], output)):
                self._problem = f"{type(layer).__name__} does not see one row a sample"
                return None
            x, calls = inputs[0].detach(), self._caught[module]
            output = output if anchor is None else output + anchor
            output.register_hook(lambda delta: calls.append((x, delta.detach())))
            return output if anchor is not None else None

        return caught
