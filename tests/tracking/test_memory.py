"""Rows that would not fit are refused before the first step, with the number that do."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.errors import NotEnoughMemory


def loss(model, batch):
    return (model(batch[0]) - batch[1]).square().sum(1)


@pytest.fixture
def training():
    data = TensorDataset(torch.randn(20, 3), torch.randn(20, 1))
    model = nn.Linear(3, 1)  # 4 numbers a row
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), loss, data


@pytest.fixture
def free(monkeypatch):
    def only(count):
        monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=count))

    return only


def one_step(tracker, model, optimizer, loss, data):
    with tracker, tracker.step(range(5)):
        optimizer.zero_grad()
        loss(model, data[:5]).mean().backward()
        optimizer.step()


def test_rows_in_memory(training, free, tmp_path):
    free(20 * 4 * 4 * 2 - 1)  # weights and velocities, float32
    with pytest.raises(NotEnoughMemory, match=r"20 rows of 4 numbers.*19 samples fit.*store="):
        one_step(hg.Tracker(*training), *training)
    one_step(hg.Tracker(*training, samples=range(19)), *training)
    one_step(hg.Tracker(*training, store=tmp_path / "store"), *training)
    one_step(hg.Tracker(*training, dtype=torch.bfloat16), *training)


def test_exact_rows_need_copies_wherever_they_lie(training, free, tmp_path):
    free(10 * 4 * 4 * 4)
    with pytest.raises(NotEnoughMemory, match=r"10 samples fit\. Give fewer samples"):
        one_step(hg.Tracker(*training, curvature="hessian", store=tmp_path / "store"), *training)
    run = hg.train(*training[:1], loss, training[3], training[1], epochs=1, batch_size=5, out=tmp_path / "run")
    with pytest.raises(NotEnoughMemory, match="6 samples fit"):
        hg.hypergradients(run, curvature="hessian")
    hg.hypergradients(run, curvature="hessian", samples=range(6))
