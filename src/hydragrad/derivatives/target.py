"""A target that is more than one class a sample: its kind, where a batch holds it, what the loss counts of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hydragrad.derivatives.held_outputs import HeldOutputs
from hydragrad.derivatives.leaves import tensor_leaves
from hydragrad.errors import LossError

Kind = Literal["values", "multi-label", "positions"]


@dataclass(frozen=True)
class Target:
    """Where a batch holds the target, and how the model's output answers it.

    Attributes:
        kind: "values" (regression: the output that lowers the loss most is the target itself), "multi-label" (0 or 1
            for every class), "positions" (a class at every position: pixels, tokens).
        leaf: Its number among the batch's tensor leaves.
        name: Where it stands: "[1]", "['mask']".
        output: Which of the model's floating-point outputs the loss compares it with.
        classes: Dimension of the output that holds the classes, of "positions".
        shift: How many positions later the target stands that an output is compared with: 1 for a model of the next
            token whose loss shifts.
        cut: The model reads sequences without their last `shift` positions, so that every output has its target.
        probabilities: The output holds probabilities, of "multi-label"; else logits.
    """

    kind: Kind
    leaf: int
    name: str
    output: int = 0
    classes: int = -1
    shift: int = 0
    cut: bool = False
    probabilities: bool = False

    @property
    def how(self) -> str:
        """How it was found, as a sentence."""
        moved = (
            f"Found from how the loss behaves: with tensor {self.name} of the batch changed, its gradient in the output"
        )
        if self.kind == "values":
            return f"{moved} moves the opposite way, and vanishes where the output is the target."
        if self.kind == "multi-label":
            scale = "probabilities" if self.probabilities else "logits"
            return f"{moved} ({scale}) changes sign with every 0 that becomes 1."
        later = ", one position earlier" if self.shift else ""
        return f"{moved}{later} falls at the class that is given now, and rises at the one that was."

    def of(self, data: Any, output: Tensor) -> Tensor:
        """The target of a batch, of the output's shape, for positions without its classes and the shift.

        Raises:
            LossError: The batch has no such tensor, or one of another shape.
        """
        leaves = tensor_leaves(data)
        shape = self.answers(output).shape
        shape = shape[:-1] if self.kind == "positions" else shape
        target = leaves[self.leaf].detach() if self.leaf < len(leaves) else torch.empty(0)
        target = target[:, self.shift :] if self.shift and target.dim() > 1 else target
        if squeezed(target.shape) != squeezed(shape):
            raise LossError(
                f"The target must have the shape of what the model returns, {tuple(shape)}; tensor {self.name} of this "
                f"batch has {tuple(target.shape)}. Rank by contributions alone (signals=None)."
            )
        return target.reshape(shape)

    def answers(self, output: Tensor) -> Tensor:
        """The output in the target's order: for positions with the classes last, without what the shift leaves over."""
        if self.kind != "positions":
            return output
        moved = output.movedim(self.classes, -1)
        return moved[:, : -self.shift] if self.shift and not self.cut else moved

    def counted(self, model: nn.Module, loss_of: Callable[[Any], Tensor], data: Any) -> Tensor:
        """Which elements of the target the loss counts, bool of the target's shape: not padding, not masked ones.

        Those whose output has a gradient where the output is far from any target: all classes as likely as each other,
        or a value next to the right one.

        Args:
            model: Called once by the loss.
            loss_of: Per-sample losses of a batch's data.
            data: The batch.
        """
        held = HeldOutputs(model)
        with torch.enable_grad():
            losses, _ = held.gradients(loss_of, data, held.floating)
            output = held.floating(len(losses))[self.output]
            target = self.of(data, output)
            off = off_target(target, output) if self.kind == "values" else undecided(self, output)
            put(output, off.reshape(output.shape))
            _, gradients = held.gradients(loss_of, data, held.floating)
        gradient = self.answers(gradients[self.output])
        return (gradient != 0).any(-1) if self.kind == "positions" else gradient != 0


def undecided(target: Target, output: Tensor) -> Tensor:
    """An output that says nothing: every class as likely as not."""
    return torch.full_like(output, 0.5 if target.probabilities else 0.0)


def off_target(target: Tensor, output: Tensor) -> Tensor:
    """Values that are no target; between 0 and 1 where all targets and outputs are, which a loss may ask for."""
    if between_0_and_1(target) and between_0_and_1(output):
        return torch.where(target < 0.5, target + 0.25, target - 0.25)
    return target + 1 + target.abs()


def between_0_and_1(values: Tensor) -> bool:
    """Whether all of them are."""
    return bool(((values >= 0) & (values <= 1)).all())


def put(output: Tensor, values: Tensor | float) -> None:
    """Put other values into an output that is held."""
    with torch.no_grad():
        output.copy_(torch.as_tensor(values).to(output))


def squeezed(shape: torch.Size) -> tuple[int, ...]:
    """A shape without its dimensions of size 1, but for the first."""
    return (*shape[:1], *(size for size in shape[1:] if size != 1))
