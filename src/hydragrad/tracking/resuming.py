"""Where a resumed loop continues, among the steps that a store holds already."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from hydragrad.errors import ReplayMismatch
from hydragrad.runs import StepRecord


def state_norm(optimizer: Optimizer) -> float:
    """L2 norm of all parameters and optimizer states: tells states apart, also while a rate is 0.

    Two states with equal norms, before the same batch, moved no row differently.
    """
    parameters = [parameter.detach() for group in optimizer.param_groups for parameter in group["params"]]
    states = [value for entries in optimizer.state.values() for value in entries.values()]
    return get_total_norm([*parameters, *(value for value in states if _is_shaped(value))]).item()


def _is_shaped(value: object) -> bool:
    """Whether an entry of the optimizer's state goes with the parameter's coordinates: a step number does not."""
    return isinstance(value, Tensor) and value.dim() > 0


def place_among(known: Sequence[StepRecord], indices: list[int], norm: float, folder: Path | None) -> int:
    """The step that the loop makes next, recognised by its batch and by the state before it.

    Args:
        known: The store's steps, with the `state_norm` after each; at least one.
        indices: Samples of the loop's next batch, the first of a step.
        norm: Of the loop's state now.
        folder: Where the store lies.

    Raises:
        ReplayMismatch: The loop is at none of them.
    """
    for step in range(len(known), -1, -1):
        same_batch = step == len(known) or known[step].micro_batches[0].indices == indices
        before = known[step - 1] if step else None
        if same_batch and (before is None or before.state == norm):
            return step
    raise ReplayMismatch(
        f"The loop continues from weights that the store in {folder} has not seen, or with another batch. Resume it "
        f"from a checkpoint of the same run, or choose another folder."
    )


def require_same_step(known: StepRecord, record: StepRecord) -> None:
    """Refuse a step that was made otherwise the first time.

    Raises:
        ReplayMismatch: Other samples, or other weights after it.
    """
    if known.indices != record.indices or known.state != record.state:
        raise ReplayMismatch(
            f"Step {record.step} was repeated with other samples or other weights than the store has, so the two can't "
            f"be one run. Seed everything random in the loop, or start again in another folder."
        )
