"""Where a resumed loop goes on, among the steps that a store holds already."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from hydragrad.errors import ReplayMismatch
from hydragrad.recording import StepRecord
from hydragrad.recording.replay import first_trained_norm


def place_among(
    known: Sequence[StepRecord], chosen: list[int], values: Mapping[str, Tensor], folder: Path | None
) -> int:
    """The step that the loop makes next, recognised by its batch and by the weights before it.

    Args:
        known: The store's steps; some.
        chosen: Samples of the loop's next batch.
        values: The loop's parameters now.
        folder: Where the store lies.

    Raises:
        ReplayMismatch: The loop is at none of them.
    """
    for step in range(len(known), -1, -1):
        same_batch = step == len(known) or known[step].indices == chosen
        before = known[step - 1] if step else None
        if same_batch and (before is None or first_trained_norm(values, before.structure) == before.norm):
            return step
    raise ReplayMismatch(
        f"The loop goes on from weights that the store in {folder} has not seen, or with another batch. Resume it "
        f"from a checkpoint of the same run, or choose another folder."
    )


def require_same_step(known: StepRecord, record: StepRecord) -> None:
    """Refuse a step that was made otherwise the first time.

    Raises:
        ReplayMismatch: Other samples, or other weights after it.
    """
    if known.indices != record.indices or known.norm != record.norm:
        raise ReplayMismatch(
            f"Step {record.step} was repeated otherwise than the store has it (other samples or other weights), so "
            f"the two can't be one run. Seed what the loop draws, or start again in another folder."
        )
