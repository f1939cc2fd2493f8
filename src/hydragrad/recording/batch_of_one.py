"""A batch of one sample under BatchNorm: the variance of one number is none, and torch refuses it."""

from collections.abc import Iterator
from contextlib import contextmanager

from hydragrad.errors import DataError

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
