"""The tensors of nested data: found, mapped, moved, in whatever classes they come."""

import weakref
from collections import OrderedDict, UserDict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from hydragrad.derivatives import tensor_leaves
from hydragrad.derivatives.leaves import leaves, map_tensors, to_device
from hydragrad.errors import DataError

META = torch.device("meta")


class Named(NamedTuple):
    x: Tensor
    y: Any


@dataclass(frozen=True, slots=True)
class Frozen:
    x: Tensor
    name: str = "a"


@dataclass
class Plain:
    x: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class Slotted:
    __slots__ = ("__hidden", "x")

    def __init__(self, x: Tensor) -> None:
        self.x, self.__hidden = x, [x + 1]


class Store:
    """The part of a graph library's data that holds its tensors, and knows whose part it is."""

    def __init__(self, owner: "Graph", mapping: dict[str, Any]) -> None:
        self._owner, self._mapping = weakref.ref(owner), mapping


class Graph:
    """Data as graph libraries have them: attributes go to a store, and iteration gives pairs."""

    def __init__(self, **mapping: Any) -> None:
        self.__dict__["_store"] = Store(self, mapping)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_store"]._mapping[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def __setattr__(self, name: str, value: Any) -> None:
        self._store._mapping[name] = value

    def __len__(self) -> int:
        return len(self._store._mapping)

    def __getitem__(self, key: int) -> Any:
        return list(self._store._mapping.items())[key]

    def to(self, device: torch.device) -> "Graph":
        for name, value in self._store._mapping.items():
            self._store._mapping[name] = value.to(device) if isinstance(value, Tensor) else value
        return self


class Attributes(dict[str, Any]):
    """A dict whose entries are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


ONE = torch.arange(3.0)
KINDS = {
    "list": [ONE, "text", None],
    "tuple": (ONE, 1),
    "named tuple": Named(ONE, 2),
    "dict": {"x": ONE},
    "ordered dict": OrderedDict(x=ONE),
    "dict with attributes": Attributes(x=ONE),
    "user dict": UserDict(x=ONE),
    "data class": Plain(ONE),
    "frozen data class with slots": Frozen(ONE),
    "slots": Slotted(ONE),
    "graph": Graph(x=ONE, names=["a"]),
    "nested": {"items": [Frozen(ONE), (UserDict(x=ONE),)]},
}


def first(data: Any) -> Tensor:
    return tensor_leaves(data)[0]


def test_leaves_of_nested_data():
    a, b, c = torch.zeros(1), torch.ones(2), torch.ones(3)
    found = tensor_leaves({"x": [a, ("text", b)], "y": 3, "z": {"w": c}})
    assert [id(leaf) for leaf in found] == [id(a), id(b), id(c)]
    assert tensor_leaves(4) == []


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_are_found_in_every_kind_of_data(kind):
    assert any(leaf is ONE for leaf in tensor_leaves(KINDS[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_data_are_mapped_into_an_object_of_the_same_class_and_stay_as_they_are(kind):
    before = [leaf.clone() for leaf in tensor_leaves(KINDS[kind])]
    mapped = map_tensors(KINDS[kind], lambda tensor: tensor + 1)
    assert type(mapped) is type(KINDS[kind])
    assert all(torch.equal(new, old + 1) for new, old in zip(tensor_leaves(mapped), before, strict=True))
    assert all(torch.equal(new, old) for new, old in zip(tensor_leaves(KINDS[kind]), before, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_data_are_moved_and_stay_where_they_are(kind):
    moved = to_device(KINDS[kind], META)
    assert {leaf.device for leaf in tensor_leaves(moved)} == {META}
    assert {leaf.device.type for leaf in tensor_leaves(KINDS[kind])} == {"cpu"}


def test_data_that_are_there_already_are_not_copied():
    graph = Graph(x=ONE)
    assert to_device(graph, torch.device("cpu")) is graph


def test_a_part_that_knows_its_owner_knows_the_copy():
    copied = map_tensors(Graph(x=ONE), lambda tensor: tensor)
    assert copied._store._owner() is copied
    copied.x = ONE + 1
    assert torch.equal(copied.x, ONE + 1)


def test_data_that_contain_themselves_are_walked_once():
    data: dict[str, Any] = {"x": ONE}
    data["all"] = data
    assert len(tensor_leaves(data)) == 1
    copied = map_tensors(data, lambda tensor: tensor + 1)
    assert copied["all"] is copied


def test_a_tensor_that_is_there_twice_is_mapped_once():
    x, y = map_tensors((ONE, [ONE]), lambda tensor: tensor + 1)
    assert x is y[0]


def test_sizes_of_packed_sequences_stay_on_the_cpu():
    packed = pack_sequence([torch.ones(2), torch.ones(1)])
    copied = map_tensors(packed, lambda tensor: tensor)
    assert type(copied) is PackedSequence and len(tensor_leaves(packed)) == 2
    assert to_device(packed, torch.device("cpu")).batch_sizes.device.type == "cpu"


def test_objects_without_tensors_are_one_piece():
    thing = Plain.__new__(Plain)
    thing.x, thing.parts = 3, {}
    assert list(leaves([thing, "a"])) == [thing, "a"]
    assert map_tensors([thing], lambda tensor: tensor)[0] is thing


def test_images_and_tables_are_one_piece():
    class Image:
        def __init__(self) -> None:
            self.pixels = ONE

        def __array__(self) -> Any:
            return np.zeros(3)

    image = Image()
    assert list(leaves([image])) == [image]


def test_a_batch_that_can_be_read_only_once_is_refused():
    with pytest.raises(DataError, match=r"a generator can be read only once\. Make a list of it"):
        map_tensors({"x": (tensor for tensor in [ONE])}, lambda tensor: tensor)


def test_an_object_that_can_not_be_copied_is_refused():
    class Locked:
        def __init__(self) -> None:
            self.x = ONE

        def __copy__(self) -> "Locked":
            raise TypeError("locked")

    with pytest.raises(DataError, match=r"a Locked can't be copied \(locked\)\. Give it a __copy__ method"):
        map_tensors(Locked(), lambda tensor: tensor)
