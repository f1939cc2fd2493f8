"""Batches and items of any class: digested, copied, differentiated, and of no effect on the answers."""

from collections import UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset

import hydragrad as hg
from hydragrad.errors import RecordingMismatch, ReplayMismatch
from hydragrad.replay.data import data_fingerprint
from hydragrad.replay.fingerprints import batch_digest
from twins import answers, assert_same, held_out, loss, made, mlp, record, sgd, vectors


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Record:
    x: Tensor
    y: Tensor
    name: str = "a"


class Bag:
    """As graph libraries have batches: tensors as attributes, `to` in place, iteration by pairs."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return 2

    def __getitem__(self, key: int) -> Any:
        return [("x", self.x), ("y", self.y)][key]

    def to(self, device: torch.device) -> "Bag":
        self.x, self.y = self.x.to(device), self.y.to(device)
        return self


class Slots:
    __slots__ = ("x", "y")

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y


class Items(Dataset[Any]):
    """The vectors as items of another class."""

    def __init__(self, make: Any, data: Any = None) -> None:
        self._make, self.data = make, vectors() if data is None else data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return self._make(*self.data[index])


def user_dict(x: Tensor, y: Tensor) -> Any:
    return UserDict(x=x, y=y)


def attributes_loss(model: Any, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch.x), batch.y, reduction="none")


def keys_loss(model: Any, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def packed(x: Tensor, y: Tensor) -> Any:
    return pack_sequence(list(x), enforce_sorted=False), y


def packed_loss(model: Any, batch: Any) -> Tensor:
    rows = batch[0].data.reshape(4, -1).t()[batch[0].unsorted_indices]
    return F.cross_entropy(model(rows), batch[1], reduction="none")


KINDS = {
    "a named tuple": (Pair, attributes_loss),
    "a frozen data class": (Record, attributes_loss),
    "an object that moves itself": (Bag, attributes_loss),
    "an object with slots": (Slots, attributes_loss),
    "a user dict": (user_dict, keys_loss),
    "a packed sequence": (packed, packed_loss),
}


def collate(make: Any) -> Any:
    return lambda items: make(torch.stack([x for x, _ in items]), torch.stack([y for _, y in items]))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return answers(record(tmp_path_factory.mktemp("plain")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_any_class_gives_the_answers_of_a_list(tmp_path, plain, kind):
    make, its_loss = KINDS[kind]
    run = record(tmp_path, loss=its_loss, collate=collate(make))
    assert_same(answers(run), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_that_were_mended_after_a_loop_over_a_loader_are_noticed(tmp_path, kind):
    make, its_loss = KINDS[kind]
    data, model = vectors(), made(mlp)
    optimizer = sgd(model)
    loader = DataLoader(data, batch_size=4, collate_fn=collate(make))
    with hg.Recorder(tmp_path, model, optimizer, its_loss, data, collate=collate(make)) as recorder:
        for indices, batch in hg.indexed(loader):
            with recorder.step(indices):
                optimizer.zero_grad()
                its_loss(model, batch).mean().backward()
                optimizer.step()
    run = hg.Recording(tmp_path, made(mlp), its_loss, data, collate=collate(make))
    data.tensors[1][9] = (data.tensors[1][9] + 1) % 3
    with pytest.raises(ReplayMismatch, match=r"The batch of step 2 .* holds other data"):
        hg.attribute(run, hg.mean_loss(held_out()))


@pytest.mark.parametrize("make", [Record, Bag, Slots, user_dict, Pair])
def test_items_of_any_class_are_told_from_others(tmp_path, make):
    def collate_items(items: Any) -> Any:
        get = (lambda item, name: item[name]) if make is user_dict else getattr
        return [torch.stack([get(item, name) for item in items]) for name in ("x", "y")]

    data = Items(make)
    record(tmp_path, mlp, data, loss, collate=collate_items)
    other = Items(make, vectors(seed=5))
    assert data_fingerprint(data) == data_fingerprint(Items(make)) != data_fingerprint(other)
    with pytest.raises(RecordingMismatch, match="same length but other content"):
        hg.Recording(tmp_path, made(mlp), loss, other, collate=collate_items)


def test_labels_that_are_numbers_or_arrays_count():
    x = torch.ones(2)
    digests = [
        batch_digest(batch)
        for batch in (
            {"x": x, "y": [1, 2]},
            {"x": x, "y": [1, 3]},
            {"x": x, "y": np.array([1, 2])},
            {"x": x, "y": np.array([1, 3])},
            {"x": x, "y": np.array([1.0, 2.0])},
            {"x": x, "y": np.array(["a", "b"])},
        )
    ]
    assert len(set(digests)) == len(digests)


def test_sparse_and_nested_tensors_count():
    dense = torch.eye(3)
    kinds = [dense, dense.to_sparse(), (2 * dense).to_sparse(), dense.roll(1, 0).to_sparse()]
    digests = [batch_digest([tensor]) for tensor in kinds]
    assert len(set(digests)) == len(digests)
    assert batch_digest([dense.to_sparse()]) == digests[1]
