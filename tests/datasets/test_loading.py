"""Data sets by name: sizes, the fixed split, train_size, and what is refused."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from hydragrad.datasets import DATASETS, Splits, load
from hydragrad.datasets.idx import read_idx
from hydragrad.datasets.loading import Source
from hydragrad.errors import DataError, DataNotFound, UnknownName


def as_set(part: TensorDataset) -> set[bytes]:
    return {image.numpy().tobytes() for image in part.tensors[0]}


def tensors(splits: Splits) -> list[Tensor]:
    return [tensor for part in (splits.train, splits.validation, splits.test) for tensor in part.tensors]


def test_digits_have_the_documented_shapes() -> None:
    digits = load("digits")
    sizes = [len(part) for part in (digits.train, digits.validation, digits.test)]
    assert sizes == [1_000, 297, 500]
    for images, labels in (part.tensors for part in (digits.train, digits.validation, digits.test)):
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert images.shape[1:] == (1, 32, 32)
        assert torch.bincount(labels, minlength=10).min() > 10
    assert digits.classes == tuple("0123456789")


def test_the_parts_do_not_overlap() -> None:
    digits = load("digits")
    train, validation, test = as_set(digits.train), as_set(digits.validation), as_set(digits.test)
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_loading_twice_gives_the_same() -> None:
    assert all(map(torch.equal, tensors(load("digits")), tensors(load("digits"))))


def test_the_split_is_pinned() -> None:
    digits = load("digits")
    assert digits.train.tensors[1][:12].tolist() == [9, 3, 6, 1, 5, 9, 2, 9, 3, 4, 6, 8]


def test_the_seed_orders_the_training_part_and_nothing_else() -> None:
    first, second = load("digits", seed=0), load("digits", seed=1)
    assert not torch.equal(first.train.tensors[0], second.train.tensors[0])
    assert as_set(first.train) == as_set(second.train)
    assert all(map(torch.equal, tensors(first)[2:], tensors(second)[2:]))


def test_train_size_takes_the_first_images_and_does_not_change_the_other_parts() -> None:
    whole, small = load("digits"), load("digits", train_size=50)
    assert len(small.train) == 50
    for all_of_them, first in zip(whole.train.tensors, small.train.tensors, strict=True):
        assert torch.equal(all_of_them[:50], first)
    assert all(map(torch.equal, tensors(whole)[2:], tensors(small)[2:]))


def test_sizes_of_the_held_out_parts_take_their_first_images() -> None:
    whole, small = load("digits"), load("digits", validation_size=7, test_size=9)
    for part, size in (("train", 1_000), ("validation", 7), ("test", 9)):
        assert len(getattr(small, part)) == size
        pairs = zip(getattr(whole, part).tensors, getattr(small, part).tensors, strict=True)
        assert all(torch.equal(all_of_them[:size], first) for all_of_them, first in pairs)


@pytest.mark.parametrize(("part", "most"), [("train", 1_000), ("validation", 297), ("test", 500)])
@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_a_size_out_of_range_is_refused(part: str, most: int, offset: int) -> None:
    size = most + offset if offset > 0 else offset
    with pytest.raises(DataError, match=f"{part}_size of digits must be between 1 and {most:,}, got {size:,}"):
        load("digits", **{f"{part}_size": size})


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="must be one of mnist, fashion, cifar10, digits, got 'svhn'"):
        load("svhn")


@pytest.mark.parametrize("name", ["mnist", "fashion", "cifar10"])
@pytest.mark.parametrize("source", ["argument", "variable"])
def test_a_folder_without_the_files_is_refused(
    name: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source == "variable":
        monkeypatch.setenv("HYDRAGRAD_DATA", str(tmp_path))
    with pytest.raises(DataNotFound, match=f"{name} is not in {tmp_path}. Looked for"):
        load(name, data_dir=tmp_path if source == "argument" else None)


def test_labels_stay_with_their_images(idx_files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    idx_files.write(tmp_path)
    small = Source(read=partial(read_idx, idx_files.source), train=5, validation=2)
    monkeypatch.setitem(DATASETS, "mnist", small)
    splits = load("mnist", data_dir=tmp_path)
    label_of = dict(zip(map(bytes, idx_files.images), idx_files.labels, strict=True))
    for part in (splits.train, splits.validation, splits.test):
        for image, label in part:
            assert label_of[splits.picture(image)[2:-2, 2:-2].tobytes()] == label
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (5, 2, 7)


@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_the_published_files_are_divided_as_documented(name: str, data_dir: Path) -> None:
    splits = load(name, data_dir=data_dir)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [50_000, 10_000, 10_000]
    images, labels = splits.train.tensors
    assert images.shape == (50_000, 1, 32, 32)
    assert images[:, :, 2:-2, 2:-2].mean().item() == pytest.approx(0, abs=0.01)
    assert images[:, :, 2:-2, 2:-2].std().item() == pytest.approx(1, abs=0.01)
    assert np.bincount(labels).min() > 4_000
