"""Projected gradients of single samples: those of autograd, and their products."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.attribution.sample_rows import projected_gradients
from hydragrad.errors import NonFinite

SIZE = 150


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SIZE, 20, generator=generator, dtype=torch.float64)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.Dropout(0.5), nn.Tanh(), nn.Linear(30, 3)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = TensorDataset(x, torch.arange(SIZE) % 3)
    return hg.train(model, loss, data, optimizer, epochs=2, batch_size=30, out=tmp_path_factory.mktemp("rows") / "run")


def by_autograd(run, sample, data=None):
    model = run.trained_model().requires_grad_(True)
    x, y = (run.train_set if data is None else data)[sample]
    value = loss(model, (x[None], y[None])).sum()
    return torch.cat([part.flatten() for part in torch.autograd.grad(value, list(model.parameters()))])


def test_without_projection_they_are_those_of_autograd(run):
    samples = [7, 3, 149, *range(80)]
    rows = projected_gradients(run, samples, dims=10**6)
    expected = torch.stack([by_autograd(run, sample) for sample in samples])
    torch.testing.assert_close(rows, expected)


def test_products_of_projected_ones_are_right_on_average(run):
    rows = projected_gradients(run, range(SIZE), dims=400)
    exact = projected_gradients(run, range(SIZE), dims=10**6)
    assert rows.shape == (SIZE, 400) and exact.shape[1] > 700
    gap = (
        F.normalize(rows, dim=1) @ F.normalize(rows, dim=1).T - F.normalize(exact, dim=1) @ F.normalize(exact, dim=1).T
    )
    assert gap.square().mean().sqrt() < 2 / 400**0.5
    assert abs(gap.mean()) < 0.02


def test_other_data_and_checkpoints(run):
    data = TensorDataset(*(part.flip(0) for part in run.train_set.tensors))
    rows = projected_gradients(
        run, [2], fetch_batch=lambda ids: torch.utils.data.default_collate([data[i] for i in ids])
    )
    torch.testing.assert_close(rows, projected_gradients(run, [SIZE - 3]))
    elsewhere = hg.Checkpoints(run.final.parameters, run.model, loss, run.train_set)
    torch.testing.assert_close(projected_gradients(elsewhere, [4, 5]), projected_gradients(run, [4, 5]))


def test_samples_without_finite_gradients_are_named(run):
    def broken(ids):
        x, y = run.collate(ids)
        x[torch.tensor(ids) == 9] = float("nan")
        return x, y

    with pytest.raises(NonFinite, match=r"those of \[9\] have not"):
        projected_gradients(run, [8, 9, 10], fetch_batch=broken)
