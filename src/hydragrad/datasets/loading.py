"""A data set by the name that the command line uses."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from hydragrad.datasets.cifar10 import CIFAR10, read_cifar10
from hydragrad.datasets.digits import read_digits
from hydragrad.datasets.files import data_folder
from hydragrad.datasets.idx import FASHION, MNIST, read_idx
from hydragrad.datasets.published import Labels, Pixels, Published
from hydragrad.datasets.splits import Splits, normalised
from hydragrad.errors import DataError, UnknownName

SPLIT_SEED = 2021


@dataclass(frozen=True, kw_only=True)
class Source:
    """How to read a data set from the data folder (or None), and how to divide its training images."""

    read: Callable[[Path | None], Published]
    train: int
    validation: int


DATASETS: dict[str, Source] = {
    "mnist": Source(read=partial(read_idx, MNIST), train=50_000, validation=10_000),
    "fashion": Source(read=partial(read_idx, FASHION), train=50_000, validation=10_000),
    "cifar10": Source(read=partial(read_cifar10, CIFAR10), train=40_000, validation=10_000),
    "digits": Source(read=lambda _folder: read_digits(SPLIT_SEED), train=1_000, validation=297),
}


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    train_size: int | None = None,
    validation_size: int | None = None,
    test_size: int | None = None,
) -> Splits:
    """Load a data set, its files verified against the published checksums.

    The division into training, validation and test images is fixed: it depends on no argument. `seed` orders the
    training part, so it selects the images of a `train_size`; a smaller size takes the first images of a larger one.

    Args:
        name: A key of `DATASETS`.
        data_dir: A folder that holds the published files, in one of their usual sub-folders.
            None: the folder in the environment variable HYDRAGRAD_DATA; without one, the files are downloaded
            into the user's cache folder. Without effect for digits, which scikit-learn includes.
        seed: Orders the training part.
        train_size: Number of training images; None takes all.
        validation_size: Number of validation images: the first of a fixed random order.
        test_size: Number of test images: the first as published, so that a sample keeps its number. (Of MNIST's
            10,000, the first 5,000 are the easier ones.)

    Returns:
        Images of 32×32 (MNIST and Fashion-MNIST with black margins of 2, digits enlarged), normalised with
        the mean and standard deviation of the published training images, margins not counted.

    Raises:
        UnknownName: No data set has this name.
        DataError: A size is not between 1 and that of the part.
        DataNotFound: The files are not in the folder, or cannot be downloaded.
        ChecksumMismatch: A file is not the published one.
    """
    source = _source(name)
    _require_size(name, "train_size", train_size, source.train)
    _require_size(name, "validation_size", validation_size, source.validation)
    data = published(name, data_dir=data_dir)
    _require_size(name, "test_size", test_size, len(data.test_labels))
    train, validation = _divided(source, seed)
    train, validation = train[:train_size], validation[:validation_size]
    return Splits(
        name=name,
        train=_part(data, data.train_images[train], data.train_labels[train]),
        validation=_part(data, data.train_images[validation], data.train_labels[validation]),
        test=_part(data, data.test_images[:test_size], data.test_labels[:test_size]),
        positions=torch.from_numpy(train),
        classes=data.classes,
        mean=data.mean,
        std=data.std,
    )


def published(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Published:
    """Load a data set as its authors published it: integer pixels, in their order, for protocols with their own split.

    Args:
        name: A key of `DATASETS`.
        data_dir: As in `load`.

    Raises:
        UnknownName: No data set has this name.
        DataNotFound: The files are not in the folder, or cannot be downloaded.
        ChecksumMismatch: A file is not the published one.
    """
    return _source(name).read(data_folder(data_dir))


def _require_size(name: str, option: str, size: int | None, most: int) -> None:
    if size is not None and not 1 <= size <= most:
        raise DataError(f"{option} of {name} must be between 1 and {most:,}, got {size:,}.")


def _source(name: str) -> Source:
    if name not in DATASETS:
        raise UnknownName(f"The data set must be one of {', '.join(DATASETS)}, got {name!r}.")
    return DATASETS[name]


def _divided(source: Source, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of the training part, in its order, and of the validation part."""
    # RandomState, not Generator: numpy guarantees the same permutations in later versions.
    order = np.random.RandomState(SPLIT_SEED).permutation(source.train + source.validation)
    train, validation = order[: source.train], order[source.train :]
    return np.random.RandomState(seed).permutation(train), validation


def _part(published: Published, images: Pixels, labels: Labels) -> TensorDataset:
    return TensorDataset(normalised(images, published.mean, published.std), torch.tensor(labels))
