"""The gradients between the backward pass and the optimizer: what the optimizer gets must be what backward() gave.

Hooks note the gradients when a backward pass ends. Whoever changes them afterwards (clipping, scaling, noise) is seen
where the optimizer steps, at whatever step that first happens: torch counts changes in place, and norms and a strided
sample show those that it does not count.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hydragrad.errors import ReplayMismatch
from hydragrad.recording.strided import strided
from hydragrad.replay.causes import cause_of_edited_gradients


@dataclass(frozen=True)
class _Noted:
    """The gradients when the backward pass ended."""

    gradients: list[Tensor | None]
    versions: list[int]
    norms: list[Tensor] | None
    sample: Tensor


class GradientWatch:
    """Compares the gradients that the optimizer gets with those that the block's backward pass gave.

    Gradients that no backward pass made (assigned by hand) can't be compared, and are left to the replays.

    Args:
        parameters: The model's, by name.
        trained: The parameters that the optimizer has now.
        method: The call that opens a step block, for messages.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], trained: Callable[[], Sequence[nn.Parameter]], method: str
    ) -> None:
        self._parameters, self._trained_now, self._method = parameters, trained, method
        self._handles: dict[str, RemovableHandle] = {}
        self._trained: Sequence[nn.Parameter] = ()
        self._inside = self._ending = self._stale = False
        self._noted: _Noted | None = None
        self._edits = False  # whether the loop edits gradients in place, as clipping does that does not act

    def begin(self) -> None:
        """A step block was entered."""
        self._inside, self._ending, self._stale, self._noted = True, False, False, None
        self._trained = self._trained_now()
        for name, parameter in self._parameters.items():
            if parameter.requires_grad and name not in self._handles:
                self._handles[name] = parameter.register_post_accumulate_grad_hook(self._arrived)

    def end(self) -> None:
        """The step block was left; its gradients are forgotten."""
        self._inside, self._noted = False, None

    def detach(self) -> None:
        """Take the hooks off."""
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()

    def require_untouched(self, step: int) -> None:
        """Refuse gradients that are not those of the block's last backward pass; called where the optimizer steps.

        Raises:
            ReplayMismatch: Says what happened to them: clipping, scaling, accumulation, or something else.
        """
        if self._noted is None:
            return
        if self._stale:
            raise ReplayMismatch(
                f"A step's gradient must be that of its own batch. At step {step} the backward pass of "
                f"{self._method} added to gradients that were there before: gradient accumulation, or a missing "
                f"optimizer.zero_grad(). Clear the gradients before the backward pass, and call it once a step."
            )
        noted, now = self._noted, [parameter.grad for parameter in self._trained]
        pairs = [(old, new) for old, new in zip(noted.gradients, now, strict=True) if old is not None]
        if any(new is None for _, new in pairs):  # dropped by hand: the optimizer skips it, as the record says
            return
        same = all(old is new for old, new in pairs) and noted.versions == _versions(noted.gradients)
        present = [new for _, new in pairs if new is not None]
        sample = _sample(present)
        self._edits |= not same
        if torch.equal(sample, noted.sample) and (same or _same_norms(noted.norms, present)):
            return
        if not bool(noted.sample.isfinite().all()):  # what diverged is named after the step
            return
        cause = cause_of_edited_gradients(noted.sample, sample, [len(strided(gradient)) for gradient in present])
        raise ReplayMismatch(
            f"The optimizer must get the gradients that backward() gave. At step {step} they changed between "
            f"backward() and optimizer.step() in {self._method}: {cause} Take that out of the step."
        )

    def _arrived(self, parameter: Tensor) -> None:
        if self._inside and not self._ending:
            self._ending = True
            self._stale = self._has_stale(parameter)
            torch.autograd.Variable._execution_engine.queue_callback(self._backward_ended)

    def _has_stale(self, first: Tensor) -> bool:
        """Whether the other parameters, whose gradients are still to come, have gradients other than 0."""
        before: list[Tensor] = []
        for parameter in self._trained:
            gradient = parameter.grad
            if gradient is not None and parameter is not first and gradient.layout is torch.strided:
                before.append(gradient)
        return bool(before) and bool(_stacked(_norms(before)).any())

    def _backward_ended(self) -> None:
        self._ending = False
        gradients = [parameter.grad for parameter in self._trained]
        present = [gradient for gradient in gradients if gradient is not None]
        if not present or any(gradient.layout is not torch.strided for gradient in present):
            self._noted = None  # sparse gradients are refused by name
            return
        self._noted = _Noted(
            gradients, _versions(gradients), _norms(present) if self._edits else None, _sample(present)
        )


def _versions(gradients: Sequence[Tensor | None]) -> list[int]:
    return [0 if gradient is None else gradient._version for gradient in gradients]


def _same_norms(noted: list[Tensor] | None, present: Sequence[Tensor]) -> bool:
    """Whether norms are as they were; where edits in place are new, none were taken, and the sample has to do."""
    return noted is None or torch.equal(_stacked(_norms(present)), _stacked(noted))


def _norms(gradients: Sequence[Tensor]) -> list[Tensor]:
    return list(torch._foreach_norm(list(gradients), 2))


def _stacked(norms: Sequence[Tensor]) -> Tensor:
    return torch.stack([norm.to("cpu", torch.float64) for norm in norms])


def _sample(gradients: Sequence[Tensor]) -> Tensor:
    samples = [strided(gradient) for gradient in gradients]
    if any(sample.device != samples[0].device for sample in samples):
        samples = [sample.cpu() for sample in samples]
    return torch.cat(samples)
