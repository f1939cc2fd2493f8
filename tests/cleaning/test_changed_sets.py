"""Data sets with other labels for some samples: labels keep their type, everything else stays as it is."""

from collections import UserDict, namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

import hydragrad as hg
from hydragrad.cleaning import relabelled
from hydragrad.cleaning.items import with_leaf
from hydragrad.derivatives import Label
from hydragrad.errors import DataError, LossError
from hydragrad.replay import label_of, labels_of
from labelled_items import LAYOUTS, SAMPLES, Items, held_out, train, vectors


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_relabelled_set_trains_like_a_set_with_those_labels(name, tmp_path):
    layout, (x, given) = LAYOUTS[name], vectors(SAMPLES, 1)
    run, query = train(layout, tmp_path / "run"), hg.mean_loss(held_out(layout))
    new = {3: (given[3] + 1) % 3, 8: (given[8] + 2) % 3}
    changed = relabelled(run.train_set, list(new), list(new.values()), label_of(run))
    expected = Items(layout, x, [new.get(i, y) for i, y in enumerate(given)])
    assert len(changed) == SAMPLES
    assert repr([changed[i] for i in range(SAMPLES)]) == repr([expected[i] for i in range(SAMPLES)])
    assert repr(run.train_set[3]) == repr(Items(layout, x, given)[3])
    again = train(layout, tmp_path / "again", changed)
    assert labels_of(again).tolist() == expected.labelled
    twin = train(layout, tmp_path / "twin", expected)
    assert hg.attribute(again, query).query_values == hg.attribute(twin, query).query_values


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float64])
def test_tensors_in_memory_keep_their_dtype(dtype):
    label = Label(leaf=1, name="[1]", classes=3, one_hot=False, softmax=True)
    data = TensorDataset(torch.zeros(4, 2), torch.tensor([0, 2, 1, 1]).to(dtype), torch.arange(4))
    changed = relabelled(data, [1, 3], [0, 2], label)
    assert type(changed) is TensorDataset
    assert changed.tensors[1].tolist() == [0, 0, 1, 2] and changed.tensors[1].dtype is dtype
    assert data.tensors[1].tolist() == [0, 2, 1, 1] and changed.tensors[2].tolist() == [0, 1, 2, 3]
    assert relabelled(data, [], [], label).tensors[1].tolist() == [0, 2, 1, 1]
    with pytest.raises(LossError, match="got 3"):
        relabelled(data, [1], [3], label)


Named = namedtuple("Named", "x y")


def test_one_value_of_an_item_is_replaced_and_keeps_its_kind():
    one = torch.tensor(1)
    assert with_leaf(Named("text", 0), 0, one) == Named("text", 1)
    assert with_leaf([b"a", (0, {"k": 0.0})], 1, one) == [b"a", (0, {"k": 1.0})]
    assert with_leaf(UserDict(a=0, b=True), 0, one) == UserDict(a=1, b=True)
    assert with_leaf((0, False), 1, one)[1] is True
    array = with_leaf((np.array(0, dtype=np.int8), None), 0, one)[0]
    assert array.dtype == np.int8 and array == 1
    tensor = with_leaf([torch.tensor([0], dtype=torch.uint8)], 0, torch.tensor([1]))[0]
    assert tensor.dtype is torch.uint8 and tensor.tolist() == [1]
    assert with_leaf((0, 0), 5, one) == (0, 0)


class Texts(Dataset):
    """Its labels are an object's own, of which default collate makes nothing that could be replaced."""

    class Item(dict):
        def __getitem__(self, key):
            return 0 if key == "label" else super().__getitem__(key)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.Item(x=torch.zeros(2), label=0)


def test_a_label_that_the_item_does_not_hold_is_refused():
    label = Label(leaf=1, name="['label']", classes=3, one_hot=False, softmax=True)
    changed = relabelled(Texts(), [1], [2], label)
    assert changed[0]["label"] == 0
    with pytest.raises(DataError, match=r"Sample 1 should get label 2, but its item holds no .*\['label'\]"):
        changed[1]
