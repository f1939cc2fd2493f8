"""What is made wrong in a training set: the kinds of noise that Table 4 takes.

    "0.5"           uniform flips: floor(0.5 n_c) labels of every class become a uniformly random other one
    "swap-0.3"      labels of similar classes taken for each other, at random
    "cluster-0.1"   the same, but all in one corner of every class: a member and those nearest to it
    "copies-0.1"    a tenth of the samples are five-fold copies of images with one and the same flipped label
    "patch-0.02"    a white square in a corner, labelled as class 0; validation images have it too, labelled rightly
    "human-worst"   labels that people gave (CIFAR-10N)

Uniform flips contradict their neighbours, so that the loss shows them; clusters, copies and patches agree with
one another, so that a network learns them as it learns what is right.

Source: uniform flips as in Chen et al. 2021, section 4.3; people's labels: Wei et al., ICLR 2022; the patch in the
spirit of Gu et al. 2017 ("BadNets").
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from hydragrad.cleaning import Labels, flip_labels, swap_labels
from hydragrad.datasets import Splits
from hydragrad.errors import DataError
from studies.cifar10n import HUMAN, human_labels

SIMILAR: dict[str, tuple[tuple[int, int], ...]] = {
    "mnist": ((4, 9), (3, 5), (1, 7), (2, 6), (0, 8)),
    "fashion": ((0, 6), (2, 4), (5, 7), (1, 3), (8, 9)),
    "cifar10": ((3, 5), (1, 9), (0, 8), (4, 7), (2, 6)),
    "digits": ((4, 9), (3, 5), (1, 7), (2, 6), (0, 8)),
}
"""Classes that are taken for each other."""

COPIES, PATCH = 5, 4
"""Samples that share one image; side of the square, pixels."""


@dataclass(frozen=True, kw_only=True)
class Noisy:
    """A training set with something wrong in it, and the held-out images that go with it.

    Attributes:
        train: Images and labels as given.
        validation: Held-out images with right labels, unless the validation set is noisy too.
        labels: Labels as given and as they truly are.
    """

    train: TensorDataset
    validation: TensorDataset
    labels: Labels


def make_noisy(
    splits: Splits, kind: str, *, seed: int, data_dir: Path | None = None, validation_noise: float = 0.0
) -> Noisy:
    """Make a data set wrong in one of the ways above.

    Args:
        splits: The clean data set.
        kind: As above.
        seed: The same seed makes the same samples wrong.
        data_dir: Folder with the labels that people gave.
        validation_noise: Share of uniform flips among the validation labels.

    Raises:
        DataError: Noise that is not known.
    """
    noisy = _noisy(splits, kind, seed, data_dir)
    if not validation_noise:
        return noisy
    images, labels = noisy.validation.tensors
    flipped = flip_labels(labels, validation_noise, classes=len(splits.classes), seed=seed + 1)
    return Noisy(train=noisy.train, validation=TensorDataset(images, flipped.given), labels=noisy.labels)


def _noisy(splits: Splits, kind: str, seed: int, data_dir: Path | None) -> Noisy:
    true = splits.train.tensors[1]
    name, _, amount = kind.rpartition("-")
    if name == "human" and splits.name == "cifar10" and amount in HUMAN:
        people = human_labels(amount, data_dir=data_dir)[splits.positions]
        return _relabelled(splits, Labels(people, true.clone()))
    if name not in KINDS:
        raise _unknown(kind)
    try:
        share = float(amount)
    except ValueError:
        raise _unknown(kind) from None
    return KINDS[name](splits, share, seed)


def _unknown(kind: str) -> DataError:
    return DataError(
        f"Noise must be a share of uniform flips (0.5), of swaps between similar classes (swap-0.3), at random or in "
        f"one corner of every class (cluster-0.1), of copies (copies-0.1), of patched images (patch-0.02), or, for "
        f"cifar10, {', '.join(f'human-{name}' for name in HUMAN)}; got {kind!r}."
    )


def _relabelled(splits: Splits, labels: Labels) -> Noisy:
    train = TensorDataset(splits.train.tensors[0], labels.given)
    return Noisy(train=train, validation=splits.validation, labels=labels)


def _flips(splits: Splits, share: float, seed: int) -> Noisy:
    true = splits.train.tensors[1]
    return _relabelled(splits, flip_labels(true, share, classes=len(splits.classes), seed=seed))


def _swaps(splits: Splits, share: float, seed: int) -> Noisy:
    true = splits.train.tensors[1]
    return _relabelled(splits, swap_labels(true, share, pairs=SIMILAR[splits.name], seed=seed))


def _cluster(splits: Splits, share: float, seed: int) -> Noisy:
    images, true = splits.train.tensors
    random, given = np.random.RandomState(seed), true.clone()
    for one, two in SIMILAR[splits.name]:
        for label, other in ((one, two), (two, one)):
            members = (true == label).nonzero().flatten()
            centre = images[members[random.randint(len(members))]]
            distances = (images[members] - centre).flatten(1).norm(dim=1)
            given[members[distances.argsort(stable=True)[: int(share * len(members))]]] = other
    return _relabelled(splits, Labels(given, true.clone()))


def _copies(splits: Splits, share: float, seed: int) -> Noisy:
    images, true = (tensor.clone() for tensor in splits.train.tensors)
    random = np.random.RandomState([seed, COPIES])  # with the folds' own seed, all copies of an image fall into one
    given = true.clone()
    copied = torch.from_numpy(random.permutation(len(true))[: int(share * len(true)) // COPIES * COPIES])
    groups = copied.view(-1, COPIES)
    originals = groups[:, 0]
    images[groups] = images[originals][:, None]
    true[groups] = true[originals][:, None]
    shift = torch.from_numpy(random.randint(1, len(splits.classes), size=len(originals)))
    given.copy_(true)
    given[groups] = ((true[originals] + shift) % len(splits.classes))[:, None]
    return Noisy(train=TensorDataset(images, given), validation=splits.validation, labels=Labels(given, true))


def _patch(splits: Splits, share: float, seed: int) -> Noisy:
    random = np.random.RandomState(seed)
    (images, true), (held_out, held_labels) = splits.train.tensors, splits.validation.tensors
    images, patched = _patched(images, (true != 0).nonzero().flatten(), share, random)
    held_out, _ = _patched(held_out, (held_labels != 0).nonzero().flatten(), share, random)
    given = true.clone()
    given[patched] = 0
    return Noisy(
        train=TensorDataset(images, given),
        validation=TensorDataset(held_out, held_labels),
        labels=Labels(given, true.clone()),
    )


def _patched(images: Tensor, among: Tensor, share: float, random: np.random.RandomState) -> tuple[Tensor, Tensor]:
    patched = torch.from_numpy(random.permutation(among.numpy())[: int(share * len(images))])
    images = images.clone()
    corner = images[patched]
    corner[:, :, -PATCH - 2 : -2, -PATCH - 2 : -2] = images.max()
    images[patched] = corner
    return images, patched


KINDS: dict[str, Callable[[Splits, float, int], Noisy]] = {
    "": _flips,
    "swap": _swaps,
    "cluster": _cluster,
    "copies": _copies,
    "patch": _patch,
}
