"""How a loop makes one number of the per-sample losses: its coefficients, read off the loop's own backward pass.

The gradient that arrives at the vector of per-sample losses is that of the step's loss by them. Where a reduction is
linear in the losses (a mean, a sum, a mean over tokens, class weights) these are coefficients that do not depend on the
weights. A reduction that is not linear has a derivative of its own, and is refused by name.
"""

from collections.abc import Sequence
from contextvars import ContextVar

import torch
from torch import Tensor

from hydragrad.errors import StepError
from hydragrad.recording.update_check import is_due

_looking: ContextVar[bool] = ContextVar("looking", default=False)
"""Whether a pass is one that looks, rather than the loop's own."""


class Reduction:
    """Watches what becomes of the losses of one micro-batch.

    Args:
        method: The call that opens a step block, for messages.

    Attributes:
        observed: Whether the loop was given the losses of the present or the last block.
    """

    def __init__(self, method: str) -> None:
        self._method = method
        self._step = 0
        self.observed = False
        self._losses: Tensor | None = None
        self._arrived: Tensor | None = None

    def begin(self, step: int) -> None:
        """A block was entered."""
        self._step, self.observed, self._losses, self._arrived = step, False, None, None

    def end(self) -> None:
        """It was left."""
        self._losses = None

    def observe(self, losses: Tensor) -> None:
        """The loop was given the losses of its micro-batch, (batch,).

        Raises:
            StepError: For the second time in this block, or they have no gradient.
        """
        if self.observed:
            raise StepError(
                f"losses() gives the losses of one micro-batch, and it was called twice in one {self._method} block, "
                f"at step {self._step}. Give each micro-batch a block of its own."
            )
        if not losses.requires_grad:
            raise StepError(
                f"losses() is for the training pass, and at step {self._step} its losses have no gradient: it was "
                f"called under torch.no_grad(), or the model has no trained parameter. Call it where backward() "
                f"follows."
            )
        self._losses, self.observed = losses, True
        losses.register_hook(self._arrive)

    def observe_reduced(self, loss: Tensor, size: int, *, mean: bool) -> None:
        """The loop reduced the losses of its micro-batch itself; what it makes of the result is read off.

        Args:
            loss: Their mean or sum, with its graph.
            size: Samples of the micro-batch.
            mean: Whether it is their mean.

        Raises:
            StepError: It is no scalar with a gradient.
        """
        if self.observed:  # it was made of losses that are watched already
            return
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise StepError(
                f"The loss of a step must be one number that backward() can start from; at step {self._step} it was "
                f"{loss.detach() if isinstance(loss, Tensor) else loss!r}. Give the loss that is differentiated."
            )
        self._losses, self.observed = loss, True
        loss.register_hook(lambda gradient: self._arrive((gradient / (size if mean else 1)).reshape(1).expand(size)))

    def before_backward(self, roots: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        """See whether what is differentiated is linear in the losses.

        Raises:
            StepError: It is not.
        """
        if self._losses is None or not is_due(self._step):
            return
        token = _looking.set(True)
        try:
            bends = _bends(self._losses, roots, gradients)
        finally:
            _looking.reset(token)
        if bends:
            raise StepError(
                f"A loop may reduce the per-sample losses by anything linear (a mean, a sum, weights of samples or "
                f"tokens); at step {self._step} the derivative of the reduction depends on the losses themselves: a "
                f"power, a maximum over a soft weight, a clamp of their mean. Make that part of the recorded loss, so "
                f"that it is differentiated too."
            )

    def coefficients(self) -> float | tuple[float, ...]:
        """Derivatives of the step's loss by the losses: one for all where they are equal.

        Raises:
            StepError: The backward pass did not reach the losses.
        """
        if self._arrived is None:
            raise StepError(
                f"The backward pass must start from the losses that losses() gave; at step {self._step} none reached "
                f"them. Reduce them and call backward() on the result, inside the {self._method} block."
            )
        arrived = self._arrived
        values: list[float] = arrived.double().cpu().tolist()
        if any(value != values[0] for value in values):
            return tuple(values)
        mean = 1 / len(values)
        return mean if values[0] == float(arrived.new_tensor(mean)) else values[0]

    def _arrive(self, gradient: Tensor) -> None:
        if _looking.get():
            return
        arrived = gradient.detach().clone()
        self._arrived = arrived if self._arrived is None else self._arrived + arrived


def _bends(losses: Tensor, roots: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> bool:
    """Whether the derivative of what is differentiated by the losses depends on the losses."""
    differentiated = [root for root in roots if root.requires_grad]
    given = [value for root, value in zip(roots, gradients, strict=True) if root.requires_grad]
    options = {"retain_graph": True, "allow_unused": True}
    (first,) = torch.autograd.grad(differentiated, [losses], given, create_graph=True, **options)
    if first is None or not first.requires_grad:
        return False
    (second,) = torch.autograd.grad([first], [losses], [_random_like(first)], **options)
    return second is not None and bool(second.any())


def _random_like(tensor: Tensor) -> Tensor:
    """Fixed weights without symmetry, and without a draw from a generator."""
    count = torch.arange(1, tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
    return torch.sin(count).reshape(tensor.shape)
