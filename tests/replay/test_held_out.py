"""Held-out data have their own collate function: torch's by default, whatever training made its batches with."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, default_collate

import hydragrad as hg
from hydragrad.errors import QueryError
from hydragrad.reports.predictions import predictions
from twins import held_out, loss, made, mlp, order, sgd, vectors


def mixup(items):
    """Inputs and one-hot labels of a batch, mixed at random."""
    x, y = default_collate(items)
    share, other = torch.rand((), dtype=x.dtype), torch.randperm(len(x))
    return share * x + (1 - share) * x[other], y


def shifted(items):
    x, y = default_collate(items)
    return x + 1, y


def record(path, build=mlp, data=None, loss=loss, *, collate):
    """A run whose loop draws the random numbers of its collate function inside the steps."""
    model = made(build)
    train_set = vectors() if data is None else data
    options = {"epochs": 3, "batch_size": 4, "out": path, "collate": collate}
    return hg.train(model, loss, train_set, sgd(model), **options)


def mean_of(run, data):
    """The mean loss of the trained model, in plain torch."""
    with torch.no_grad():
        return loss(run.trained_model(), default_collate([data[i] for i in range(len(data))])).mean().item()


def test_a_mixup_of_training_leaves_held_out_data_alone(tmp_path):
    run, data = record(tmp_path, collate=mixup), held_out()
    expected = mean_of(run, data)
    query = hg.mean_loss(data)
    assert hg.attribute(run, query).query_values.item() == pytest.approx(expected, rel=1e-12)
    assert hg.hypergradients(run).contributions(query).query_values.item() == pytest.approx(expected, rel=1e-12)
    assert hg.counterfactual(run, [[0]], query).query_values.item() == pytest.approx(expected, rel=1e-12)
    assert predictions(run, data, range(len(data))).losses.mean() == pytest.approx(expected, rel=1e-12)
    singles = hg.hypergradients(run).contributions(hg.sample_losses(data, range(len(data))))
    assert singles.query_values.mean().item() == pytest.approx(expected, rel=1e-12)


def test_gradients_are_those_of_the_unmixed_data_on_every_route(tmp_path):
    run, data = record(tmp_path, collate=mixup), held_out()
    default = hg.mean_loss(data, collate=default_collate)
    expected = hg.attribute(run, default).values
    torch.testing.assert_close(hg.attribute(run, hg.mean_loss(data)).values, expected, rtol=0, atol=0)
    torch.testing.assert_close(hg.hypergradients(run).contributions(hg.mean_loss(data)).values, expected)


def test_a_tracker_takes_held_out_data_as_they_are():
    model, train_set = made(mlp), vectors()
    optimizer = sgd(model)
    with hg.Tracker(model, optimizer, loss, train_set, collate=mixup) as tracker:
        for indices in order(len(train_set)):
            batch = mixup([train_set[i] for i in indices])
            with tracker.step(indices, batch):
                optimizer.zero_grad()
                loss(model, batch).mean().backward()
                optimizer.step()
    ours, theirs = (
        tracker.contributions(query)
        for query in (hg.mean_loss(held_out()), hg.mean_loss(held_out(), collate=default_collate))
    )
    assert ours.query_values.item() == theirs.query_values.item()
    assert torch.equal(ours.values, theirs.values)


def test_another_fixed_collate_of_training_is_warned_of(tmp_path):
    run, data = record(tmp_path, collate=shifted), held_out()
    with pytest.warns(UserWarning, match=r"torch's default collate function.*hg\.mean_loss\(dataset, collate="):
        scores = hg.attribute(run, hg.mean_loss(data))
    assert scores.query_values.item() == pytest.approx(mean_of(run, data), rel=1e-12)


@pytest.mark.parametrize("collate", [default_collate, shifted])
def test_a_collate_that_the_query_brings_comes_first(tmp_path, collate):
    run, data = record(tmp_path, collate=shifted), held_out()
    with torch.no_grad():
        losses = loss(run.trained_model(), collate([data[i] for i in range(len(data))]))
    everything = range(len(data))
    queries = {
        "mean": (hg.mean_loss(data, collate=collate), losses.mean()[None]),
        "samples": (hg.sample_losses(data, everything, collate=collate), losses),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for query, expected in queries.values():
            torch.testing.assert_close(hg.attribute(run, query).query_values, expected)
            torch.testing.assert_close(hg.hypergradients(run).contributions(query).query_values, expected)
        assert hg.attribute(run, hg.sample_margins(data, [0], collate=collate)).query_values.isfinite().all()


class Sequences(Dataset):
    """Sequences of different lengths, which torch's default can't make a batch of."""

    def __init__(self, length, seed):
        generator = torch.Generator().manual_seed(seed)
        self.items = [
            (torch.randn(2 + i % 3, 3, generator=generator, dtype=torch.float64), i % 2) for i in range(length)
        ]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def padded(items):
    return pad_sequence([x for x, _ in items], batch_first=True), torch.tensor([y for _, y in items])


def noisy(items):
    x, y = padded(items)
    return x + 0.01 * torch.randn_like(x), y


class Summing(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2).double()

    def forward(self, x):
        return self.linear(x.sum(1))


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def test_where_the_default_makes_no_batch_a_fixed_one_of_training_does(tmp_path):
    data = Sequences(6, 2)
    run = record(tmp_path, Summing, Sequences(12, 1), cross_entropy, collate=padded)
    with torch.no_grad():
        expected = cross_entropy(run.trained_model(), padded(data.items)).mean().item()
    assert hg.attribute(run, hg.mean_loss(data)).query_values.item() == pytest.approx(expected, rel=1e-12)


def test_where_only_an_augmenting_one_makes_batches_the_query_must_bring_its_own(tmp_path):
    data = Sequences(6, 2)
    run = record(tmp_path, Summing, Sequences(12, 1), cross_entropy, collate=noisy)
    for route in (hg.attribute, lambda run, query: hg.hypergradients(run).contributions(query)):
        with pytest.raises(QueryError, match=r"same batch every time.*hg\.mean_loss\(dataset, collate="):
            route(run, hg.mean_loss(data))
    query = hg.mean_loss(data, collate=padded)
    with torch.no_grad():
        expected = cross_entropy(run.trained_model(), padded(data.items)).mean().item()
    assert hg.attribute(run, query).query_values.item() == pytest.approx(expected, rel=1e-12)


def test_training_data_of_a_report_go_through_the_collate_of_training(tmp_path):
    run = record(tmp_path, mlp, vectors(), collate=shifted)
    with torch.no_grad():
        expected = loss(run.trained_model(), shifted([run.train_set[i] for i in range(len(run.train_set))]))
    seen = predictions(run, run.train_set, range(len(run.train_set))).losses
    torch.testing.assert_close(torch.from_numpy(seen), expected)
