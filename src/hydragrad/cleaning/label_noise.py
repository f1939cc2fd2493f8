"""Label noise: made on purpose and saved with the run, so that its detection can be measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hydragrad.disk import load_sealed, save_sealed
from hydragrad.errors import DataError, RunDamaged

FILE = "labels.safetensors"


@dataclass(frozen=True)
class Labels:
    """The labels of a training set: those that are trained on, and the true ones.

    Attributes:
        given: Labels that are trained on, int64 (samples,).
        true: Labels without noise, int64 (samples,).
    """

    given: Tensor
    true: Tensor

    @property
    def flipped(self) -> Tensor:
        """Where they differ, bool (samples,)."""
        return self.given != self.true


def flip_labels(labels: Tensor, share: float, *, classes: int, seed: int) -> Labels:
    """Replace, per class, floor(share x samples) labels by another one, sampled uniformly.

    Args:
        labels: True labels, int64 (samples,).
        share: Between 0 and 1.
        classes: Number of classes.
        seed: The same seed flips the same labels.

    Raises:
        DataError: A share outside [0, 1], or labels out of range.

    Source: Chen et al. 2021, section 4.3.
    """
    if not 0 <= share <= 1:
        raise DataError(f"The share of labels to flip must be between 0 and 1, got {share}.")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(f"Labels must be 0 to {classes - 1}, got {int(labels.min())} to {int(labels.max())}.")
    # RandomState, not Generator: numpy promises that its stream stays the same in later versions.
    random = np.random.RandomState(seed)
    noisy = labels.clone()
    for label in range(classes):
        members = (labels == label).nonzero().flatten().numpy()
        flipped = random.permutation(members)[: int(share * len(members))]
        others = random.randint(classes - 1, size=len(flipped))
        noisy[torch.from_numpy(flipped)] = torch.from_numpy(others + (others >= label)).to(labels.dtype)
    return Labels(noisy, labels.clone())


def swap_labels(labels: Tensor, share: float, *, pairs: Sequence[tuple[int, int]], seed: int) -> Labels:
    """Replace, per class of a pair, floor(share x samples) labels by the other class of its pair.

    Args:
        labels: True labels, int64 (samples,).
        share: Between 0 and 1.
        pairs: Classes that are confused with each other; a class is in one pair at most.
        seed: The same seed swaps the same labels.

    Raises:
        DataError: A share outside [0, 1], or a class in two pairs.
    """
    if not 0 <= share <= 1:
        raise DataError(f"The share of labels to swap must be between 0 and 1, got {share}.")
    other = {one: two for pair in pairs for one, two in (pair, pair[::-1])}
    if len(other) != 2 * len(pairs):
        raise DataError(f"Each class may be in one pair only, got {list(pairs)}.")
    random = np.random.RandomState(seed)
    noisy = labels.clone()
    for label in sorted(other):
        members = (labels == label).nonzero().flatten().numpy()
        noisy[torch.from_numpy(random.permutation(members)[: int(share * len(members))])] = other[label]
    return Labels(noisy, labels.clone())


def save_labels(run: Path, labels: Labels) -> None:
    """Save the labels with a run."""
    save_sealed({"given": labels.given, "true": labels.true}, run / FILE)


def load_labels(run: Path) -> Labels | None:
    """The labels saved with a run, if there are any.

    Raises:
        RunDamaged: The file is altered.
    """
    path = run / FILE
    if not path.exists():
        return None
    try:
        return Labels(**load_sealed(path)[0])
    except (TypeError, ValueError) as error:
        raise RunDamaged(f"{path} can't be read ({error}). Restore it from a copy, or train again.") from error
