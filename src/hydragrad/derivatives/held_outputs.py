"""The outputs of a model's calls, held while what the loss compares them with is replaced, or replaced themselves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hydragrad.derivatives.label_leaf import copied, possible_logits
from hydragrad.derivatives.leaves import tensor_leaves
from hydragrad.randomness import reseed_everything


class HeldOutputs:
    """The outputs of the model's calls, which every further evaluation gets in place of a forward pass."""

    def __init__(self, model: nn.Module) -> None:
        self._model, self._calls, self._outputs = model, 0, list[Any]()

    @property
    def calls(self) -> int:
        """How often the loss calls the model."""
        return len(self._outputs)

    def logits(self, size: int) -> list[Tensor]:
        """The outputs that may be logits, (size, classes)."""
        return possible_logits(self._outputs, size)

    def floating(self, size: int) -> list[Tensor]:
        """All outputs of floating point, (size, ...)."""
        return floating_outputs(self._outputs, size)

    def gradients(
        self, loss_of: Callable[[Any], Tensor], data: Any, select: Callable[[int], list[Tensor]]
    ) -> tuple[Tensor, list[Tensor]]:
        """Losses, and the gradient of their sum in every output that `select` returns; none where one has none."""
        reseed_everything(0)
        with self.evaluating():
            losses = loss_of(copied(data))
        outputs = select(len(losses))
        if not losses.requires_grad or not outputs or not all(leaf.requires_grad for leaf in outputs):
            return losses.detach(), []
        gradients = torch.autograd.grad(losses.sum(), outputs, allow_unused=True)
        return losses.detach(), [
            (torch.zeros_like(leaf) if gradient is None else gradient).double()
            for leaf, gradient in zip(outputs, gradients, strict=True)
        ]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Answer the model's calls with what they returned the first time, as the leaves of a graph."""
        self._calls = 0
        attributes = vars(self._model)  # traced modules let nobody set or delete their forward
        own, forward = attributes.get("forward"), self._model.forward
        attributes["forward"] = partial(self._answer, forward)
        try:
            yield
        finally:
            del attributes["forward"]
            if own is not None:
                attributes["forward"] = own

    def _answer(self, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        if self._calls == len(self._outputs):
            with torch.no_grad():
                output = forward(*inputs, **options)
            for leaf in tensor_leaves(output):
                if leaf.is_floating_point() and not leaf.requires_grad and not leaf.is_inference():
                    leaf.requires_grad_()
            self._outputs.append(output)
        output = self._outputs[self._calls]
        self._calls += 1
        return output.clone() if isinstance(output, Tensor) else output  # the loss may change it in place


def floating_outputs(output: Any, size: int) -> list[Tensor]:
    """Tensors of a model's output, or of several ones, that are floating-point, (size, ...)."""
    floating = [leaf for leaf in tensor_leaves(output) if leaf.is_floating_point() and not leaf.is_nested]
    return [leaf for leaf in floating if leaf.dim() > 0 and len(leaf) == size]
