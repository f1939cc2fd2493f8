"""Why a step can't be repeated: what the loop did next to what a replay does, and which fault it looks like.

Every function returns a sentence for a message, and makes no difference to what is refused.

Legend: g gradient that the optimizer got, e gradient that was expected.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hydragrad.runs.log import StepRecord

PARALLEL = 1e-5
"""Sine of the angle up to which two gradients count as parallel (in float32, whose rounding reaches 1e-6)."""
READ_OFF = (
    "Take the losses from the block (with recorder.step(indices) as step: losses = step.losses(batch)): how the loop "
    "reduces them is then read off its backward pass."
)
OTHER_BATCH = (
    "the loop's batch is not train_set[indices]: a Subset's own numbers in place of the data set's, another "
    "collate_fn, or augmentation and in-place changes. Take batches from hg.indexed(loader), or pass the "
    "batch to step() and store_batches=True."
)
ROUNDING = 1e-6
"""Relative difference that other operations for the same loss make in float64 or float32."""


@dataclass(frozen=True)
class StepSeen:
    """What is known of a step that was repeated, by the names of the parameters.

    Attributes:
        start: Before the step.
        after: After it, in the loop.
        replayed: After it, in the replay.
        gradients: The gradients that the loop's optimizer got; empty where they are not known.
        expected: The gradients of the replay.
        trained: Parameters of the optimizer.
        size: Samples of the batch.
        same_batch: Whether the loop's batch is the one that was fetched again; None where that is not known.
    """

    start: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    replayed: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    expected: Mapping[str, Tensor]
    trained: Sequence[str]
    size: int
    same_batch: bool | None


def cause_of_other_step(seen: StepSeen) -> str:
    """What a loop's step looks like that ends elsewhere than its replay."""
    foreign = [
        name
        for name, value in seen.after.items()
        if name not in seen.trained and not torch.equal(value.cpu(), seen.start[name].cpu())
    ]
    if foreign:
        return (
            f"{_listed(foreign)} moved, which the recorded optimizer does not have: another optimizer steps in the "
            f"block, or weights are set by hand."
        )
    names = [name for name in seen.gradients if name in seen.expected]
    if not names or len(names) < len(seen.expected):
        return _cause_of_unseen_gradient(seen)
    g, e = ([_flat(some[name]) for name in names] for some in (seen.gradients, seen.expected))
    if all(torch.equal(x, y) for x, y in zip(g, e, strict=True)):
        return _cause_of_moved_weights(seen)
    if seen.same_batch is False:
        return OTHER_BATCH
    return cause_of_other_gradient(torch.cat(g), torch.cat(e), seen.size)


def cause_of_other_gradient(g: Tensor, e: Tensor, size: int) -> str:
    """What a gradient looks like that backward() gave, next to the one of the recorded loss.

    Args:
        g: As the loop had it, flat.
        e: As the recorded loss has it, flat.
        size: Samples of the batch.
    """
    difference = float((g - e).norm() / e.norm().clamp(min=1e-300))
    if difference < ROUNDING:
        return (
            f"it is rounding (the gradients differ by {difference:.0e} of their size): the loop computes the same "
            f"loss by other operations, as a stock mean or label smoothing does. Call the recorded loss in the loop, "
            f"and reduce what it returns."
        )
    ratio = _ratio_of_parallel(g, e)
    if ratio is not None:
        return f"the loop's gradient is {_number(ratio)} times that of the recorded loss: {_divisor(ratio, size)}"
    return (
        "the loop's gradient has another direction than that of the recorded loss: another loss (a regulariser or "
        "weights of classes or samples in the loop only), another reduction, batches other than train_set[indices], or "
        f"randomness that is not torch's. {READ_OFF}"
    )


def cause_of_edited_gradients(before: Tensor, after: Tensor, sizes: Sequence[int]) -> str:
    """What changed gradients after backward(), from a sample of their coordinates.

    Args:
        before: When backward() ended, the parameters side by side.
        after: When the optimizer stepped.
        sizes: How many of the coordinates are of each parameter.
    """
    if len(before) != len(after) or sum(sizes) != len(after):
        return "other parameters have gradients."
    ratio = _ratio_of_parallel(after, before)
    if ratio is not None:
        clipping = ": clipping by norm." if 0 < ratio < 1 else "."
        return f"all were scaled by {_number(ratio)}{clipping}"
    limit = float(after.abs().max())
    if limit > 0 and torch.equal(after, before.clamp(-limit, limit)):
        return f"they were limited to values within {_number(limit)}: clipping by value."
    parts = list(zip(after.split(list(sizes)), before.split(list(sizes)), strict=True))
    if all(torch.equal(x, y) or not x.any() or _ratio_of_parallel(x, y) is not None for x, y in parts):
        return "single parameters were scaled or set to 0: clipping of each on its own, or masking."
    return "noise was added, or they were edited in another way."


def cause_of_other_state(difference: float, *, batch_known: bool) -> str:
    """What a replay looks like that departs from the record by a relative difference of the state.

    Args:
        difference: Of the number over the state.
        batch_known: Whether the step's batch agreed with its digest.
    """
    if difference < 1e-9:
        return (
            "That is rounding: the same loss by other operations or kernels, another number of threads, or a loop that "
            "does not call the recorded loss."
        )
    if batch_known:
        return (
            "Its batch is the recorded one, so the loss or the code of the model differ from the recording, they draw "
            "on something that is not seeded, or the loop did something at this step that is not recorded."
        )
    return (
        "The loss, the data or the code of the model differ from the recording, or they draw on something that is not "
        "seeded, or the loop did something at this step that is not recorded."
    )


def cause_of_jump(record: StepRecord, *, same_loss: bool | None, processes: int = 1) -> str:
    """What a replay that rounds otherwise looks like where it departs from the record by more than rounding.

    Args:
        record: The step.
        same_loss: Whether the step's loss is the reported one, as far as rounding lets one say; None where none was.
        processes: How many processes made the run.
    """
    averaged = (
        ""
        if processes == 1
        else " So does a gradient that is no average over the ranks: a communication hook that compresses it, "
        "inputs of Join, another all-reduce."
    )
    if same_loss:
        return (
            "The step's loss is the reported one, so data and loss are the recorded ones up to here, and the loop did "
            f"something after the forward pass that is not recorded: clipping, another regulariser, weights set by "
            f"hand.{averaged}"
        )
    known = "Its batch is the recorded one, so the" if record.shown else "The data or labels, the"
    return (
        f"{known} loss or the code of the model differ from the recording, or the loop did something not "
        f"recorded.{averaged}"
    )


def _cause_of_unseen_gradient(seen: StepSeen) -> str:
    difference = _distance(seen.after, seen.replayed) / max(_distance(seen.replayed, seen.start), 1e-300)
    if difference < ROUNDING:
        return (
            f"it is rounding (the updates differ by {difference:.0e} of their size): the loop computes the same loss "
            f"by other operations, as a stock mean or label smoothing does. Call the recorded loss in the loop, and "
            f"reduce what it returns."
        )
    return (
        "the loop does something that is not recorded: another loss or reduction than the recorder has, "
        "or batches other than train_set[indices] (take them from hg.indexed(loader), or pass the batch to step() and "
        "store_batches=True). Take it out of the step."
    )


def _distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float((one[name].double() - other[name].double()).square().sum()) for name in one))


def _cause_of_moved_weights(seen: StepSeen) -> str:
    """The gradients agree, and the weights do not."""
    changed = {name: value for name, value in seen.after.items() if not torch.equal(value, seen.replayed[name])}
    after = torch.cat([_flat(value) for value in changed.values()])
    replayed = torch.cat([_flat(seen.replayed[name]) for name in changed])
    limit = float(after.abs().max())
    if torch.equal(after, replayed.clamp(-limit, limit)):
        return f"the weights were limited to values within {_number(limit)} after the step: clamped."
    ratio = _ratio_of_parallel(after, replayed)
    if ratio is not None and abs(ratio - 1) > ROUNDING:
        return f"the weights of {_listed(list(changed))} were scaled by {_number(ratio)} around the step."
    return f"the gradients agree, and {_listed(list(changed))} moved otherwise: set by hand around the step."


def _divisor(ratio: float, size: int) -> str:
    if math.isclose(ratio, size, rel_tol=1e-4):
        return "the loop sums the losses and the recorder has their mean (reduction='sum')."
    if math.isclose(ratio, 1 / size, rel_tol=1e-4):
        return "the loop takes the mean and the recorder has the sum (reduction='mean')."
    inverse = 1 / ratio
    if inverse > 1.5 and math.isclose(inverse, round(inverse), rel_tol=1e-4):
        return f"the loop divides its loss by {round(inverse)}, as for gradient accumulation. {READ_OFF}"
    return f"another divisor, as the mean over tokens or the weights of classes have. {READ_OFF}"


def _ratio_of_parallel(x: Tensor, y: Tensor) -> float | None:
    """The factor by which x is y, where they are parallel to rounding."""
    x, y = x.double(), y.double()
    scale = y @ y
    if not scale > 0:
        return None
    ratio = float(x @ y / scale)
    return ratio if float((x - ratio * y).norm()) <= PARALLEL * float(x.norm()) else None


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).double().cpu()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _number(value: float) -> str:
    return f"{value:.4g}"
