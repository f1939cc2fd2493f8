"""Groups of suspects: what they have in common, how near they are, and how pure on noise that was planted."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.attribution.sample_rows import projected_gradients
from hydragrad.cleaning import Labels, save_labels
from hydragrad.errors import QueryError

SIZE = 800


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A run on digits: a third of the fours are labelled nine, forty other labels are random; suspects and truth."""
    path = tmp_path_factory.mktemp("groups") / "run"
    digits = load_digits()
    x, true = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    given = true[:SIZE].clone()
    fours = (given == 4).nonzero()[::3, 0]
    random = np.random.RandomState(0)
    others = torch.tensor(random.permutation((given != 4).nonzero()[:, 0].numpy())[:40])
    given[others] = (given[others] + torch.tensor(random.randint(1, 10, 40))) % 10
    given[fours] = 9
    save_labels(path, Labels(given, true[:SIZE]))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    run = hg.train(model, loss, TensorDataset(x[:SIZE], given), optimizer, epochs=8, batch_size=32, out=path)
    scores = hg.attribute(run, hg.mean_loss(TensorDataset(x[SIZE:1400], true[SIZE:1400])))
    return run, hg.suspects(run, scores), fours


def test_one_kind_of_mistake_is_one_group(planted):
    run, suspects, fours = planted
    groups = hg.suspect_groups(run, suspects)
    first = groups.iloc[0]
    assert (first["given"], first["suggested"]) == (9, 4)
    assert first["size"] >= len(fours) / 2 and set(first["samples"]) <= set(fours.tolist())
    assert first["flipped"] == 1.0 and first["agreement"] > 0.5


def test_every_suspect_is_in_one_group_with_the_same_labels(planted):
    run, suspects, _ = planted
    groups = hg.suspect_groups(run, suspects, first=60)
    members = [sample for samples in groups["samples"] for sample in samples]
    assert sorted(members) == sorted(suspects["sample"].head(60)) and groups.attrs["suspects"] == 60
    by_sample = suspects.set_index("sample")
    for group in groups.itertuples():
        part = by_sample.loc[list(group.samples)]
        assert set(part["given_label"]) == {group.given} and set(part["suggested_label"]) == {group.suggested}
        assert group.size == len(part) and set(group.representatives) <= set(group.samples)
        assert group.contribution == pytest.approx(part["contribution"].sum())
    assert groups["contribution"].is_monotonic_increasing


def test_agreement_is_the_mean_cosine_of_gradients(planted):
    run, suspects, _ = planted
    group = hg.suspect_groups(run, suspects).iloc[0]
    rows = F.normalize(projected_gradients(run, list(group["samples"])).double(), dim=1)
    cosines = (rows @ rows.T)[~torch.eye(len(rows), dtype=torch.bool)]
    assert group["agreement"] == pytest.approx(float(cosines.mean()))
    central = (rows @ rows.T).sum(1).argmax()
    assert group["representatives"][0] == group["samples"][central]


def test_nearness_decides_how_many_groups_there_are(planted):
    run, suspects, _ = planted
    apart, together = (hg.suspect_groups(run, suspects, first=60, nearness=near) for near in (1.0, 0.0))
    pairs = suspects.head(60)[["given_label", "suggested_label"]].drop_duplicates()
    assert len(apart) >= 55 and len(together) < len(apart)
    assert len(together) >= len(pairs)


def test_values_are_grouped_by_the_side_on_which_they_are_wrong(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    y = x.sum(1)
    y[:12] += 5
    y[12:20] -= 5
    torch.manual_seed(0)
    model = nn.Linear(3, 1).double()

    def squares(model, batch):
        return (model(batch[0])[:, 0] - batch[1]).square()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    run = hg.train(model, squares, TensorDataset(x, y), optimizer, epochs=10, batch_size=20, out=tmp_path / "run")
    scores = hg.attribute(run, hg.mean_loss(TensorDataset(x[50:].clone(), x[50:].sum(1))))
    groups = hg.suspect_groups(run, hg.suspects(run, scores), first=20, nearness=0.0)
    sides = {sample: group.given for group in groups.itertuples() for sample in group.samples}
    assert sides == dict.fromkeys(range(12), "too high") | dict.fromkeys(range(12, 20), "too low")


def test_what_can_not_be_grouped_is_refused(planted):
    run, suspects, _ = planted
    with pytest.raises(QueryError, match="need suspects with given and suggested labels"):
        hg.suspect_groups(run, suspects.drop(columns="suggested_label"))
    with pytest.raises(QueryError, match="first must be 1 or more suspects, or None, got 0"):
        hg.suspect_groups(run, suspects, first=0)
    with pytest.raises(QueryError, match=r"nearness is a cosine from 0 to 1, got 1\.5"):
        hg.suspect_groups(run, suspects, nearness=1.5)
    none = suspects[suspects["given_label"] == suspects["suggested_label"]]
    assert len(hg.suspect_groups(run, none)) == 0
    assert isinstance(none, pd.DataFrame)
