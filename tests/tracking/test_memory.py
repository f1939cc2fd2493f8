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
    free(20 * 4 * 4 * 2 - 1)  # weights and momentum buffers, float32
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


@pytest.mark.parametrize("kind, name", [(torch.optim.Adam, "adam"), (torch.optim.AdamW, "adamw")])
def test_adam_rows_are_refused_with_the_number_that_fit_and_the_cheaper_route(kind, name, training, free, tmp_path):
    model, _, _, data = training
    optimizer = kind(model.parameters(), lr=0.01)
    training = (model, optimizer, loss, data)
    # A step holds the tangents of weights and moments before and after it and two more rows, next to the table itself.
    on_disk, in_memory = 4 * 4 * (2 * 3 + 2), 4 * 4 * (2 * 3 + 2 + 3)
    route = r"samples fit\. Give fewer samples; or record the run and use hg\.attribute\(run, query\)"
    free(20 * in_memory - 1)
    with pytest.raises(NotEnoughMemory, match=rf"20 rows of 4 numbers.*19 {route}"):
        one_step(hg.Tracker(*training), *training)
    one_step(hg.Tracker(*training, samples=range(19)), *training)
    free(20 * on_disk - 1)
    with pytest.raises(NotEnoughMemory, match=rf"19 {route}"):
        one_step(hg.Tracker(*training, store=tmp_path / "store"), *training)
    one_step(hg.Tracker(*training, store=tmp_path / "store", samples=range(19)), *training)
    run = hg.train(model, loss, data, kind(model.parameters(), lr=0.01), epochs=1, batch_size=5, out=tmp_path / name)
    free(7 * in_memory)
    with pytest.raises(NotEnoughMemory, match=rf"7 {route}"):
        hg.hypergradients(run)
    assert hg.hypergradients(run, samples=range(7)).rows.shape == (7, 4)
    assert hg.attribute(run, hg.mean_loss(data)).values.shape == (1, 20), "the cheaper route is open"
