"""A batch of one sample under BatchNorm: the variance of one number is none, and torch refuses it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset

from hydragrad.derivatives import Evaluator, PerSampleLoss, copy_of, normalises_batches
from hydragrad.errors import DataError
from hydragrad.randomness import preserved
from hydragrad.replay.data import Collate, fetch

TORCH_SAYS = "Expected more than 1 value per channel"


@contextmanager
def naming_batch_of_one(size: int) -> Iterator[None]:
    """Turn torch's refusal inside the block into one that says what to do.

    Args:
        size: Samples of the batch.

    Raises:
        DataError: A BatchNorm layer in training mode got one value a channel.
    """
    try:
        yield
    except ValueError as error:
        if not (size == 1 and str(error).startswith(TORCH_SAYS)):
            raise
        raise DataError(
            "BatchNorm needs at least two samples in every training batch, and the last batch of an epoch has one. Set "
            "drop_last=True (in hg.train, or in the DataLoader), or another batch_size."
        ) from error


def leaves_one(loader: DataLoader[Any]) -> bool:
    """Whether the last batch of an epoch has one sample, and the others have more."""
    batches = loader.batch_sampler
    batches = getattr(batches, "batch_sampler", batches)  # accelerate's, of one process, hands on another one's
    if not isinstance(batches, BatchSampler) or batches.drop_last or batches.batch_size == 1:
        return False
    try:
        return len(batches.sampler) % batches.batch_size == 1  # type: ignore[arg-type]
    except TypeError:  # a sampler without a length
        return False


def require_batch_of_one(
    model: nn.Module, loss: PerSampleLoss, train_set: Dataset[Any], collate: Collate | None = None
) -> None:
    """Evaluate the loss on one sample, in the modes that the model is in, where a later batch of the run has no more.

    Raises:
        DataError: A BatchNorm layer can't take a batch of one sample.
    """
    if not normalises_batches(model):
        return
    device = next(model.parameters()).device
    with preserved(), torch.no_grad():
        try:
            data = fetch(train_set, [0], seed=0, collate=collate, device=device)
            with naming_batch_of_one(1):
                Evaluator(loss)(copy_of(model), data)
        except DataError:
            raise
        except Exception:
            return  # the first step raises other errors of the loss
