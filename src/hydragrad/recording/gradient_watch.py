"""The gradients between the backward pass and the optimizer: what the optimizer gets must be what backward() gave.

They are noted when a backward pass ends, and again when torch's clipping, which is recorded, ends. Whoever else changes
them (scaling, noise, clipping by hand) is seen where the optimizer steps, at whatever step that first happens: torch
counts changes in place, and norms and a strided sample show those that it does not count. From one micro-batch to the
next gradients are held likewise.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch import Tensor, nn

from hydragrad.errors import ReplayMismatch, StepError
from hydragrad.recording.strided import strided
from hydragrad.replay.causes import cause_of_edited_gradients
from hydragrad.steps import Scale, Transform


class Earlier(Enum):
    """What a block's backward pass found of the gradients of earlier blocks since the last step."""

    NONE = auto()
    KEPT = auto()
    CLEARED = auto()


@dataclass(frozen=True)
class _Noted:
    """The gradients when a backward pass, or clipping, ended."""

    gradients: list[Tensor | None]
    versions: list[int]
    norms: list[Tensor] | None
    sample: Tensor


class GradientWatch:
    """Compares the gradients that the optimizer gets with those that backward passes and clipping gave.

    Gradients that no backward pass made (assigned by hand) can't be compared, and are left to the replays.

    Args:
        parameters: The model's, by name.
        trained: The parameters that the optimizer has now.
        method: The call that opens a step block, for messages.

    Attributes:
        transforms: How the gradients of this block were clipped, in order.
        clipped: Whether that changed any.
        backward_passes: Of this block.
        earlier: What its backward pass found of earlier blocks' gradients.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], trained: Callable[[], Sequence[nn.Parameter]], method: str
    ) -> None:
        self._trained_now, self._method = trained, method
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        self._trained: Sequence[nn.Parameter] = ()
        self._trained_ids: set[int] = set()
        self._step = 0
        self._noted: _Noted | None = None
        self._carried: _Noted | None = None  # what the last block left for the next micro-batch to add to
        self._follows = False  # whether the block before this one was a micro-batch of the same step
        self._edits = False  # whether the loop edits gradients in place, as clipping does that does not act
        self.transforms: list[Transform] = []
        self.clipped = False
        self.backward_passes = 0
        self.earlier = Earlier.NONE

    def begin(self, step: int) -> None:
        """A step block was entered."""
        self._step, self._noted = step, None
        self._trained, self._trained_ids = self._trained_now(), set[int]()
        self.transforms, self.clipped, self.backward_passes, self.earlier = [], False, 0, Earlier.NONE

    def carry(self) -> None:
        """The block was a micro-batch: what it left is what the next one must find."""
        self._carried, self._noted = self._noted, None
        self._follows = True

    def stepped(self) -> None:
        """The optimizer used the gradients up."""
        self._carried, self._follows, self._noted = None, False, None

    def before_backward(self) -> None:
        """See what is there before a backward pass adds to it.

        Raises:
            ReplayMismatch: Gradients of something else than this step's micro-batches.
            StepError: A second backward pass.
        """
        if self.backward_passes:
            raise StepError(
                f"A {self._method} block holds one backward pass; a second one began at step {self._step}. Give each "
                f"micro-batch a block of its own, and add up what belongs to one batch before backward()."
            )
        now = [parameter.grad for parameter in self._trained]
        present = [gradient for gradient in now if gradient is not None and gradient.layout is torch.strided]
        if not present or not bool(_stacked(_norms(present)).any()):
            self.earlier = Earlier.CLEARED if self._follows else Earlier.NONE
            return
        if not self._follows:
            raise ReplayMismatch(
                f"A step's gradient must be that of its own micro-batches. At step {self._step} the backward pass of "
                f"{self._method} would have added to gradients that were there before: of a batch outside of the "
                f"blocks, or of the step before (a missing optimizer.zero_grad()). Put every micro-batch into a block, "
                f"and clear the gradients before the first one."
            )
        if self._carried is not None:
            self._require_same(self._carried, now, "between two micro-batches")
        self.earlier = Earlier.KEPT

    def after_backward(self) -> None:
        """Note the gradients that a backward pass left."""
        self.backward_passes += 1
        self._note()

    def after_clipping(self, parameters: Sequence[Tensor], made: Callable[..., Transform], *, acted: bool) -> None:
        """Note what clipping did.

        Raises:
            StepError: It took gradients of another model into account, or clipped outside of any backward pass.
        """
        with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
        foreign = [parameter for parameter in with_gradient if id(parameter) not in self._names]
        if foreign:
            raise StepError(
                f"Clipping must be of parameters of the recorded model; at step {self._step} it took a parameter of "
                f"shape {tuple(foreign[0].shape)} into account that is not. Make it part of the model, or clip apart."
            )
        if self.backward_passes != 1:
            raise StepError(
                f"Gradients are clipped after the block's backward pass; at step {self._step} they were clipped in a "
                f"{self._method} block before it. Clip before optimizer.step()."
            )
        untrained = [parameter for parameter in with_gradient if not self._is_trained(parameter)]
        if acted and untrained:
            raise StepError(
                f"Clipping must be of parameters that a recorded optimizer trains; at step {self._step} it took the "
                f"gradient of {self._names[id(untrained[0])]} into account, which none has. Give all optimizers in a "
                f"list, freeze what is not trained (requires_grad_(False)), or clip what is."
            )
        self.transforms.append(made(names=tuple(self._names[id(parameter)] for parameter in with_gradient)))
        self.clipped |= acted
        if self._noted is not None:
            self._note()

    def _is_trained(self, parameter: Tensor) -> bool:
        if len(self._trained_ids) != len(self._trained):
            self._trained_ids = {id(trained) for trained in self._trained}
        return id(parameter) in self._trained_ids

    def require_untouched(self) -> None:
        """Refuse gradients that nobody but backward(), clipping and a gradient scaler may have changed.

        A scaler divides all of them by a power of two, which is exact, and is recorded as that.

        Raises:
            ReplayMismatch: Says what happened to them: scaling, masking, noise.
        """
        if self._noted is not None:
            self._require_same(
                self._noted,
                [parameter.grad for parameter in self._trained],
                f"between backward() and optimizer.step() in {self._method}",
                may_scale=self.backward_passes == 1,
            )

    def _require_same(self, noted: _Noted, now: Sequence[Tensor | None], when: str, *, may_scale: bool = False) -> None:
        if len(noted.gradients) != len(now):
            raise StepError(
                f"The optimizer must keep its parameters during a step; at step {self._step} it had "
                f"{len(noted.gradients)} of them at one micro-batch and {len(now)} at the next. Add parameter groups "
                f"between two steps."
            )
        pairs = [(old, new) for old, new in zip(noted.gradients, now, strict=True) if old is not None]
        if any(new is None for _, new in pairs):  # dropped by hand: the optimizer skips it, as the record says
            return
        same = all(old is new for old, new in pairs) and noted.versions == _versions(noted.gradients)
        present = [new for _, new in pairs if new is not None]
        sample = _sample(present)
        self._edits |= not same
        if torch.equal(sample, noted.sample) and (same or _same_norms(noted.norms, present)):
            return
        factor = _power_of_two(sample, noted.sample) if may_scale else None
        if factor is not None and _same_norms(noted.norms, present, factor):
            names = tuple(self._names[id(p)] for p in self._trained if p.grad is not None)
            self.transforms.append(Scale(names=names, factor=factor))
            self.clipped = True
            self._note()
            return
        if not bool(noted.sample.isfinite().all()):  # what diverged is named after the step
            return
        cause = cause_of_edited_gradients(noted.sample, sample, [len(strided(gradient)) for gradient in present])
        raise ReplayMismatch(
            f"The optimizer must get the gradients that backward() gave, clipped by torch.nn.utils or not. At step "
            f"{self._step} they changed {when}: {cause} Take that out of the step, or use torch's function for it."
        )

    def _note(self) -> None:
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


def _same_norms(noted: list[Tensor] | None, present: Sequence[Tensor], factor: float = 1.0) -> bool:
    """Whether norms are `factor` times what they were; where edits in place are new, the sample has to do."""
    return noted is None or torch.equal(_stacked(_norms(present)), factor * _stacked(noted))


def _power_of_two(after: Tensor, before: Tensor) -> float | None:
    """The power of two that all coordinates were multiplied by; None where it is none."""
    if after.shape != before.shape or not bool(before.isfinite().all()) or not bool(before.any()):
        return None
    largest = before.abs().argmax()
    factor = float(after[largest]) / float(before[largest])
    exact = factor > 0 and math.frexp(factor)[0] == 0.5
    return factor if exact and torch.equal(after, factor * before) else None


def _norms(gradients: Sequence[Tensor]) -> list[Tensor]:
    return list(torch._foreach_norm(list(gradients), 2))


def _stacked(norms: Sequence[Tensor]) -> Tensor:
    return torch.stack([norm.to("cpu", torch.float64) for norm in norms])


def _sample(gradients: Sequence[Tensor]) -> Tensor:
    samples = [strided(gradient) for gradient in gradients]
    if any(sample.device != samples[0].device for sample in samples):
        samples = [sample.cpu() for sample in samples]
    return torch.cat(samples)
