"""A step's data: fetched again from the training set, the same to the bit, and told apart from other data."""

import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset, default_collate

from hydragrad.derivatives import tensor_leaves
from hydragrad.derivatives.leaves import leaves
from hydragrad.derivatives.leaves import map_tensors as map_tensors
from hydragrad.derivatives.leaves import to_device as to_device
from hydragrad.errors import DataError, NonFinite
from hydragrad.randomness import preserved, reseed_everything
from hydragrad.replay.fingerprints import strided_parts
from hydragrad.runs.log import MicroBatch, StepRecord
from hydragrad.runs.processes import part_of
from hydragrad.runs.stored_batches import load_batch
from hydragrad.surroundings import users_default_device

Collate = Callable[[list[Any]], Any]

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Channels last, by the number of dimensions."""

FINGERPRINT_ITEMS = 16
FINGERPRINT_SEED = 20210519


def require_map_style(train_set: Any, name: str = "training set") -> None:
    """Refuse data sets without length and index access, and empty ones.

    Raises:
        DataError: Says what came.
    """
    is_stream = isinstance(train_set, IterableDataset)  # which has a __getitem__, and may have a length
    if is_stream or not hasattr(train_set, "__getitem__") or not hasattr(train_set, "__len__"):
        raise DataError(
            f"The {name} must be a map-style data set (with len() and [index]); a "
            f"{type(train_set).__name__} is not. Samples need an index to be attributed to."
        )
    if len(train_set) == 0:
        raise DataError(f"The {name} is empty; give one with at least one sample.")


def fetch(
    train_set: Dataset[Any],
    indices: Sequence[int],
    *,
    seed: int,
    collate: Collate | None,
    device: torch.device,
) -> Any:
    """Fetch and collate samples, as a stock DataLoader would, on `device`.

    Args:
        train_set: Map-style data set.
        indices: Which samples.
        seed: What random augmentation in the data set's `__getitem__` draws from.
        collate: Turns a list of items into a batch; torch's default if None.
        device: Where the tensors are put.
    """
    if type(train_set) is TensorDataset and collate is None:
        chosen = torch.as_tensor(indices)
        return [tensor[chosen].to(device) for tensor in train_set.tensors]
    with preserved():
        reseed_everything(seed)
        with users_default_device():
            data = collate_items(train_set, indices, collate)
        return to_device(data, device)


def fetch_micro_batch(
    record: StepRecord,
    part: MicroBatch,
    train_set: Dataset[Any],
    *,
    collate: Collate | None,
    device: torch.device,
    stored_in: Path | None,
) -> Any:
    """Fetch the data of a recorded micro-batch again, on `device`.

    Args:
        record: The step.
        part: Its micro-batch.
        train_set, collate, device: As `fetch` takes them.
        stored_in: The run directory, where batches are stored in it (or in the parts of ranks); None where
            `train_set` gives them.
    """
    if stored_in is not None:
        own = [other for other in record.micro_batches if other.rank == part.rank]
        number = next(number for number, other in enumerate(own) if other is part)
        data = to_device(load_batch(part_of(stored_in, part.rank), record.step, number), device)
    else:
        data = fetch(train_set, part.indices, seed=part.batch_seed, collate=collate, device=device)
    return laid_out(data, part.channels_last) if part.channels_last else data


def channels_last(data: Any) -> tuple[int, ...]:
    """Which tensors of a batch are laid out with the channels last, by their number."""
    return tuple(
        number
        for number, leaf in enumerate(tensor_leaves(data))
        if leaf.dim() in LAYOUTS and leaf.is_contiguous(memory_format=LAYOUTS[leaf.dim()]) and not leaf.is_contiguous()
    )


def laid_out(data: Any, numbers: Sequence[int]) -> Any:
    """A batch with some tensors laid out with the channels last."""
    count = itertools.count()

    def change(leaf: Tensor) -> Tensor:
        return leaf.contiguous(memory_format=LAYOUTS[leaf.dim()]) if next(count) in numbers else leaf

    return map_tensors(data, change)


def collate_items(train_set: Dataset[Any], indices: Sequence[int], collate: Collate | None) -> Any:
    """Fetch items one by one and collate them."""
    return (collate or default_collate)([train_set[i] for i in indices])


def data_fingerprint(train_set: Dataset[Any]) -> dict[str, Any]:
    """Tell this data set from others: its length and a digest of its content.

    Of a TensorDataset everything is digested, of any other data set fixed items under a fixed seed.
    """
    length = len(train_set)  # type: ignore[arg-type]
    digest = hashlib.sha256()
    if type(train_set) is TensorDataset:
        for tensor in train_set.tensors:
            _add(digest, tensor)
        return {"length": length, "digest": digest.hexdigest(), "items": "all"}
    chosen = np.random.default_rng(FINGERPRINT_SEED).integers(length, size=min(FINGERPRINT_ITEMS, length))
    with preserved():
        for index in chosen.tolist():
            reseed_everything(FINGERPRINT_SEED)
            for leaf in leaves(train_set[index]):
                _add(digest, _as_tensor(leaf))
    return {"length": length, "digest": digest.hexdigest(), "items": chosen.tolist()}


def require_finite(train_set: Dataset[Any], losses_of: Callable[[list[int]], Tensor] | None = None) -> None:
    """Refuse in-memory data with NaN or infinity, before any work, unless the loss masks them.

    Args:
        train_set: Map-style data set.
        losses_of: Evaluates the loss of samples; where it is finite on the first ones concerned, they are accepted.

    Raises:
        DataError: Names the first samples concerned.
    """
    if type(train_set) is TensorDataset:
        for tensor in train_set.tensors:
            # The sum is one pass without a mask; only where it is not finite is the tensor looked through.
            if tensor.is_floating_point() and not tensor.sum().isfinite() and not tensor.isfinite().all():
                bad = (~tensor.isfinite()).flatten(1).any(1) if tensor.dim() > 1 else ~tensor.isfinite()
                first = bad.nonzero().flatten()[:5].tolist()
                if losses_of is not None and _all_finite(losses_of, first):
                    continue  # every step is held to finite losses and weights in any case
                raise DataError(
                    f"{int(bad.sum())} training samples hold NaN or infinity (the first: {first}). "
                    f"Remove or repair them, or have the loss mask them (y.nan_to_num() before it is used)."
                )


def _all_finite(losses_of: Callable[[list[int]], Tensor], samples: list[int]) -> bool:
    try:
        return bool(losses_of(samples).isfinite().all())
    except Exception:
        return False


def non_finite_rows(data: Any, size: int) -> list[int]:
    """Rows of a batch whose floating-point tensors hold NaN or infinity."""
    bad = torch.zeros(size, dtype=torch.bool)
    for leaf in tensor_leaves(data):
        if leaf.is_floating_point() and leaf.dim() > 0 and len(leaf) == size:
            bad |= ~leaf.isfinite().reshape(size, -1).all(1).cpu()
    return bad.nonzero().flatten().tolist()


def require_finite_step(record: StepRecord, data: Callable[[], list[Any]], parameters: Mapping[str, Tensor]) -> None:
    """Refuse a step after which state or loss are not finite; names the samples or the parameter at fault.

    Args:
        record: The step.
        data: Gives the data of its micro-batches.
        parameters: After the step, by name.

    Raises:
        NonFinite: The loss, the weights, or the optimizer's states.
    """
    if math.isfinite(record.state) and (record.loss is None or math.isfinite(record.loss)):
        return
    kept = "; the run is kept up to the step before" if record.step else ""
    samples = [
        part.indices[row]
        for part, batch in zip(record.micro_batches, data(), strict=True)
        for row in non_finite_rows(batch, len(part))
    ]
    if samples:
        raise NonFinite(
            f"Step {record.step} trained on NaN or infinity in samples {samples[:5]} "
            f"of the training set. Remove or repair them, or mask them before they are used: torch.where after "
            f"the loss leaves the gradient NaN{kept}."
        )
    broken = [name for name, value in parameters.items() if not value.isfinite().all()]
    if broken and (record.loss is None or math.isfinite(record.loss)):
        raise NonFinite(
            f"{broken[0]} became NaN or infinite at step {record.step}: the run diverged, or a weight without a "
            f"gradient was divided by 0 (eps=0). Lower the rate ({record.rate}), or train with eps above 0{kept}."
        )
    raise NonFinite(
        f"Loss or weights became NaN or infinite at step {record.step}: the run diverged. Lower the rate "
        f"({record.rate}){kept}."
    )


def _as_tensor(leaf: Any) -> Tensor:
    if isinstance(leaf, Tensor):
        return leaf
    try:
        return torch.as_tensor(np.asarray(leaf))
    except (TypeError, ValueError):
        nameless = repr(leaf) == object.__repr__(leaf)  # which tells the address in memory
        told = type(leaf).__name__ if nameless else repr(leaf)
        return torch.tensor(list(told.encode()))


def _add(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    for part in strided_parts(tensor):
        digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
