"""Ids of training samples, checked."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hydragrad.errors import QueryError


def checked_samples(samples: Sequence[int] | Tensor | None, length: int) -> Tensor:
    """Ids of training samples, int64; all if None.

    Raises:
        QueryError: Ids that do not exist, repeated ids, or none at all.
    """
    if samples is None:
        return torch.arange(length)
    ids = torch.as_tensor(samples, dtype=torch.int64).reshape(-1)
    wrong = ids[(ids < 0) | (ids >= length)].tolist()
    if wrong or not len(ids) or len(ids.unique()) < len(ids):
        got = str(wrong[:5]) if wrong else "none" if not len(ids) else "some twice"
        raise QueryError(f"The model is trained on samples 0 to {length - 1}, got {got}.")
    return ids
