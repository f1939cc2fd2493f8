"""Near duplicates and leaks: equal inputs are found whatever their labels, near ones come first."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import hydragrad as hg
from hydragrad.errors import QueryError

SIZE = 300


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Digits; 300 to 302 are copies, one with another label; 303 to 312 are 20 to 29 with noise or other contrast."""
    digits = load_digits()
    x, y = torch.tensor(digits.data[:SIZE], dtype=torch.float32) / 16, torch.tensor(digits.target[:SIZE])
    noise = 0.03 * torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, x[[5, 5, 9]], x[20:25] + noise[:5], 0.8 * x[25:30] + 0.05])
    y = torch.cat([y, y[[5, 5]], (y[[9]] + 1) % 10, y[20:30]])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    out = tmp_path_factory.mktemp("duplicates") / "run"
    return hg.train(model, loss, TensorDataset(x, y), optimizer, epochs=10, batch_size=32, out=out)


def test_equal_inputs_come_first_and_near_ones_next(run):
    pairs = hg.near_duplicates(run, first=10)
    assert list(zip(pairs["sample"], pairs["other"], strict=True))[:3] == [(5, 300), (5, 301), (9, 302)]
    assert pairs["same_input"].tolist() == [True] * 3 + [False] * 10
    near = set(zip(pairs["sample"][3:], pairs["other"][3:], strict=True))
    copies = [(20 + i, 303 + i) for i in range(10)]
    assert set(copies[:5]) <= near and len(near & set(copies)) >= 9
    assert pairs["nearness"][3:].is_monotonic_decreasing
    equal = pairs.iloc[:2]
    assert np.allclose(equal[["nearness", "gradient_cosine", "input_cosine"]], 1, atol=1e-6)
    assert pairs["gradient_cosine"][2] < 0.9  # another label pulls another way


def test_nearness_is_the_product_of_both_cosines(run):
    pairs = hg.near_duplicates(run)
    assert len(pairs) == 103
    x = run.train_set.tensors[0]
    units = F.normalize(x - x.mean(0), dim=1)
    cosines = (units[pairs["sample"].tolist()] * units[pairs["other"].tolist()]).sum(1)
    assert np.allclose(pairs["input_cosine"], cosines, atol=1e-5)
    product = pairs["gradient_cosine"].clip(lower=0) * pairs["input_cosine"].clip(lower=0)
    assert np.allclose(pairs["nearness"], product)
    assert not pairs.duplicated(["sample", "other"]).any()


def test_training_samples_in_held_out_data_are_leaks(run):
    digits = load_digits()
    x, y = torch.tensor(digits.data[400:500], dtype=torch.float32) / 16, torch.tensor(digits.target[400:500])
    x[7], y[7] = run.train_set.tensors[0][44], 3  # with whatever label
    x[8], y[8] = run.train_set.tensors[0][45] + 0.01, run.train_set.tensors[1][45]
    pairs = hg.near_duplicates(run, TensorDataset(x, y), first=5)
    assert pairs[["sample", "other", "same_input"]].values.tolist()[:2] == [[44, 7, True], [45, 8, False]]
    assert len(pairs) == 6


def test_data_without_copies_have_pairs_that_are_not_equal(run):
    pairs = hg.near_duplicates(run, first=0)
    assert pairs["same_input"].all() and len(pairs) == 3


class Sequences(Dataset):
    """Token ids of several lengths, with labels and numbers of samples around them."""

    def __init__(self, ids):
        self.ids = ids

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        return index, torch.tensor(self.ids[index]), sum(self.ids[index]) % 2


def padded(items):
    ids = nn.utils.rnn.pad_sequence([item[1] for item in items], batch_first=True)
    return torch.tensor([item[0] for item in items]), ids, torch.tensor([item[2] for item in items])


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(9, 6), nn.Linear(6, 2)

    def forward(self, ids):
        return self.layer(self.embedding(ids).sum(1))


def test_equal_sequences_are_found_in_batches_of_other_lengths(tmp_path, monkeypatch):
    monkeypatch.setattr("hydragrad.cleaning.model_inputs.AT_ONCE", 4)
    random = np.random.RandomState(0)
    ids = [random.randint(1, 9, size=random.randint(3, 9)).tolist() for _ in range(24)]
    ids[20], ids[3] = ids[1], [1, 2, 3]
    ids[22] = ids[3]
    assert ids[4] == ids[19]  # by chance
    torch.manual_seed(0)
    model = Bag()

    def of_ids(model, batch):
        return F.cross_entropy(model(batch[1]), batch[2], reduction="none")

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = Sequences(ids)
    run = hg.train(model, of_ids, data, optimizer, epochs=2, batch_size=6, out=tmp_path / "run", collate=padded)
    pairs = hg.near_duplicates(run, first=2)
    assert pairs[pairs["same_input"]][["sample", "other"]].values.tolist() == [[4, 19], [1, 20], [3, 22]]
    assert pairs["input_cosine"].isna().all()


def test_a_negative_number_of_pairs_is_refused(run):
    with pytest.raises(QueryError, match="first must be 0 or more pairs, got -1"):
        hg.near_duplicates(run, first=-1)
