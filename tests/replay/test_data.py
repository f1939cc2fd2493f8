import collections
import random
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset, default_collate

from hydragrad.errors import DataError
from hydragrad.replay.data import (
    data_fingerprint,
    fetch,
    map_tensors,
    non_finite_rows,
    require_finite,
    require_map_style,
)
from recording.killing import Augmented
from recording.toys import Plain, samples

CPU = torch.device("cpu")


def draw(data: Any, indices: list[int], seed: int = 3, collate: Any = None) -> Any:
    return fetch(data, indices, seed=seed, collate=collate, device=CPU)


def test_data_in_memory_come_as_a_stock_loader_gives_them():
    data, indices = samples(), [4, 0, 21, 4]
    stock = default_collate([data[i] for i in indices])
    assert all(map(torch.equal, draw(data, indices), stock))
    assert all(map(torch.equal, draw(Plain(), indices), stock))
    assert torch.equal(draw(data, indices, collate=lambda items: torch.stack([x for x, _ in items])), stock[0])


def test_augmentation_is_told_by_the_seed_alone():
    torch.manual_seed(9)
    first = draw(Augmented(), [1, 2])[0]
    random.random(), np.random.random(), torch.rand(())
    assert torch.equal(draw(Augmented(), [1, 2])[0], first)
    assert not torch.equal(draw(Augmented(), [1, 2], seed=4)[0], first)


def test_fetching_leaves_the_global_generators_alone():
    before = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()
    draw(Augmented(), [1, 2])
    data_fingerprint(Augmented())
    assert (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()) == before


class Point(NamedTuple):
    x: Any
    y: Any


def test_containers_keep_their_types():
    one = torch.ones(1)
    nested = Point({"a": [one, 3]}, (one, "text", None))
    assert map_tensors(nested, lambda tensor: tensor + 1) == Point({"a": [one + 1, 3]}, (one + 1, "text", None))


# --- fingerprints


def test_every_number_of_data_in_memory_counts():
    x, y = samples().tensors
    prints = [data_fingerprint(TensorDataset(x, y))["digest"]]
    for index in (0, 9, 21):
        other = y.clone()
        other[index] = (other[index] + 1) % 3
        prints.append(data_fingerprint(TensorDataset(x, other))["digest"])
    prints.append(data_fingerprint(TensorDataset(x, y.int()))["digest"])
    prints.append(data_fingerprint(TensorDataset(x.reshape(22, 2, 2), y))["digest"])
    assert len(set(prints)) == len(prints)
    assert data_fingerprint(samples()) == data_fingerprint(TensorDataset(x.T.contiguous().T, y))


class Items(Dataset[Any]):
    def __init__(self, make: Any) -> None:
        self._make = make

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        return self._make(index)


class Thing:
    def __init__(self, number: int) -> None:
        self.number = number


Told = collections.namedtuple("Told", ["number"])

KINDS = {
    "numbers": lambda i: (i, 0.5 * i),
    "text": lambda i: f"sample {i}",
    "bytes": lambda i: bytes([i]),
    "arrays": lambda i: {"image": np.full((2, 2), i, dtype=np.uint8), "label": np.int64(i)},
    "none": lambda i: (torch.tensor(i), None),
    "named": lambda i: Told(i),
}


@pytest.mark.parametrize("kind", KINDS)
def test_items_of_any_kind_are_told_apart(kind):
    make = KINDS[kind]
    one = data_fingerprint(Items(make))
    assert data_fingerprint(Items(make)) == one
    assert data_fingerprint(Items(lambda i: make(i + 1)))["digest"] != one["digest"]
    assert data_fingerprint(Items(lambda i: make(i + 1)))["items"] == one["items"]


def test_objects_that_tell_only_their_address_do_not_change_the_fingerprint():
    """In another process they have another."""
    kept = [Thing(i) for i in range(10)]
    assert data_fingerprint(Items(lambda i: kept[i])) == data_fingerprint(Items(lambda i: kept[i + 5]))


# --- refusals


class StreamWithLength(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(samples())

    def __len__(self) -> int:
        return 22


@pytest.mark.parametrize("data", [iter([1]), StreamWithLength(), {1, 2}], ids=["iterator", "stream", "set"])
def test_data_without_index_are_refused(data):
    with pytest.raises(DataError, match=f"map-style data set .* a {type(data).__name__} is not"):
        require_map_style(data)


def test_empty_data_are_refused():
    with pytest.raises(DataError, match="training set is empty"):
        require_map_style([])
    require_map_style([1])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_none_are_named(value):
    x = torch.zeros(9, 2, 2)
    x[4, 1, 0] = x[7, 0, 0] = value
    with pytest.raises(DataError, match=r"2 training samples hold NaN or infinity \(the first: \[4, 7\]\)"):
        require_finite(TensorDataset(torch.arange(9), x))
    with pytest.raises(DataError, match=r"1 training samples .*\[2\]"):
        require_finite(TensorDataset(torch.tensor([0.0, 1.0, value])))
    assert non_finite_rows({"x": [x, torch.zeros(3)], "y": torch.arange(9)}, 9) == [4, 7]
