"""Sequences spelled backwards: wrong samples that are planted in a text, so that it is known which ones they are."""

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from hydragrad.datasets.sequences import PADDING
from hydragrad.errors import DataError


def spelled_backwards(part: TensorDataset, *, share: float, seed: int) -> tuple[TensorDataset, Tensor]:
    """Spell a share of the names backwards.

    Args:
        part: Tokens read and tokens that follow, as `TextSplits` has them, with an end mark on either side of a name.
        share: Of all names, 0 to 1; names that read the same both ways are left alone.
        seed: Selects the names.

    Returns:
        The part with those names changed, and which ones they are, bool (N,).

    Raises:
        DataError: A share that is none, or more than there are names to change.
    """
    read, following = (tensor.clone() for tensor in part.tensors)
    lengths = (following != PADDING).sum(1) - 1
    backwards = [row[:length].flip(0) for row, length in zip(following, lengths.tolist(), strict=True)]
    changed = torch.tensor(
        [not torch.equal(row[: len(other)], other) for row, other in zip(following, backwards, strict=True)]
    )
    count, possible = round(share * len(read)), int(changed.sum())
    if not 0 <= share <= 1 or count > possible:
        raise DataError(
            f"The share of names to spell backwards must be between 0 and {possible:,}/{len(read):,} (the others "
            f"read the same both ways), got {share:g}."
        )
    order = torch.randperm(len(read), generator=torch.Generator().manual_seed(seed))
    planted = torch.zeros(len(read), dtype=torch.bool)
    planted[order[changed[order]][:count]] = True
    for sample in planted.nonzero().flatten().tolist():
        name = backwards[sample]
        read[sample, 1 : len(name) + 1] = name
        following[sample, : len(name)] = name
    return TensorDataset(read, following), planted
