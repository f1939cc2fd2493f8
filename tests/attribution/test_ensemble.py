"""An ensemble is what its runs say one by one, kept, and refused where a mean would mean nothing."""

import importlib
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.errors import QueryError, RecordingMismatch, Unfinished, Unsupported
from hydragrad.execution import folders, shipping
from hydragrad.execution.claims import Claims


def loss(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


def dataset(seed, count):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 3, generator=generator)
    return TensorDataset(points, (points.sum(1) > 0).long())


def make(seed, folder, train_set=None):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = {"epochs": 2, "batch_size": 8, "out": folder, "seed": seed, "resume": True}
    return hg.train(model, loss, train_set or dataset(0, 24), optimizer, **given)


@pytest.fixture
def queries():
    held_out = dataset(1, 12)
    return [hg.mean_loss(held_out), hg.sample_losses(held_out, [3])]


def test_an_ensemble_is_the_mean_over_runs_with_its_standard_error(tmp_path, queries):
    found = hg.ensemble(make, queries, seeds=[4, 7, 9], out=tmp_path, curvature="ggn", labels=True, samples=range(20))
    each = [
        hg.attribute(make(seed, tmp_path / f"seed-{seed}"), queries, curvature="ggn", labels=True, samples=range(20))
        for seed in (4, 7, 9)
    ]
    values = torch.stack([scores.values for scores in each])
    assert (values[0] != values[1]).any()
    assert torch.allclose(found.values, values.mean(0))
    assert torch.allclose(found.standard_errors, values.std(0) / 3**0.5)
    assert torch.allclose(found.label_contributions, torch.stack([s.label_contributions for s in each]).mean(0))
    assert torch.allclose(found.query_values, torch.stack([scores.query_values for scores in each]).mean(0))
    assert found.evidence.seeds == 3
    assert "Means over 3 independent runs (seeds 4, 7, 9)" in found.evidence.notes[-2].text
    assert "0.9 takes" in found.evidence.notes[-1].text
    assert {note.kind for note in found.evidence.notes[-2:]} == {"ensemble"}
    assert torch.equal(hg.ensemble(make, queries, seeds=2, out=tmp_path, workers=2).sample_ids, torch.arange(24))


def test_runs_and_scores_are_kept(tmp_path, queries, monkeypatch):
    first = hg.ensemble(make, queries[0], seeds=2, out=tmp_path)
    module = importlib.import_module("hydragrad.attribution.ensemble")  # The package's name for it is the function.
    monkeypatch.setattr(module, "attribute", lambda *_, **__: pytest.fail("attributed again"))
    again = hg.ensemble(make, queries[0], seeds=2, out=tmp_path)
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.standard_errors, again.standard_errors)
    # A query of the same name that asks other data is another question.
    with pytest.raises(pytest.fail.Exception, match="attributed again"):
        hg.ensemble(make, hg.mean_loss(dataset(2, 12)), seeds=2, out=tmp_path)


def test_an_ensemble_is_verified_against_the_mean_of_really_retrained_runs(tmp_path, queries):
    scores = hg.ensemble(make, queries[0], seeds=2, out=tmp_path, curvature="hessian")
    runs = [make(seed, tmp_path / f"seed-{seed}") for seed in range(2)]
    groups = [[0, 1, 2], [5, 6, 7], [9, 11, 13]]
    check = hg.verify(runs, scores, groups=groups).checks[0]
    actual = [hg.counterfactual(run, groups, queries[0]).values[0] for run in runs]
    assert list(check.actual) == ((actual[0] + actual[1]) / 2).tolist()
    assert list(check.predicted) == [scores.total(group)[0].item() for group in groups]
    with pytest.raises(QueryError, match="got none"):
        hg.verify([], scores)


@pytest.mark.parametrize("seeds", [1, 0, [3], [2, 2]])
def test_one_run_is_no_ensemble(tmp_path, queries, seeds):
    with pytest.raises(QueryError, match="at least two different seeds"):
        hg.ensemble(make, queries, seeds=seeds, out=tmp_path)


def test_runs_on_different_data_have_no_mean(tmp_path, queries):
    def other(seed, folder):
        return make(seed, folder, dataset(seed, 24))

    with pytest.raises(RecordingMismatch, match="seeds 0 and 1 were trained on different data"):
        hg.ensemble(other, queries, seeds=2, out=tmp_path)


def test_slices_of_an_ensemble_share_its_folder(tmp_path, queries):
    expected = hg.ensemble(make, queries, seeds=[4, 7, 9], out=tmp_path / "whole")
    with Claims(tmp_path / "sliced") as others:
        assert others.take("seed-7")
        with pytest.raises(Unfinished, match="Part 1/2 is done; 1 of 3 runs are still missing"):
            hg.ensemble(make, queries, seeds=[4, 7, 9], out=tmp_path / "sliced", part="1/2")
        assert not (tmp_path / "sliced" / "seed-7").exists()
    last = hg.ensemble(make, queries, seeds=[4, 7, 9], out=tmp_path / "sliced", part="2/2")
    assert torch.equal(last.values, expected.values)
    assert torch.equal(last.standard_errors, expected.standard_errors)
    assert last.evidence == expected.evidence


def test_workers_that_do_not_see_the_folder_are_named(tmp_path, queries, monkeypatch):
    monkeypatch.setattr(folders.Listing, "seen", lambda self: False)
    work = importlib.import_module("hydragrad.attribution.ensemble")._Work(make, queries, tmp_path, None, False, None)
    shipment = shipping.Shipment.of(work)
    label = replace(shipment.label, origin=("elsewhere", 1))
    with pytest.raises(Unsupported, match="must be the same folder for every worker"):
        shipping.do(label, lambda: shipment.content, 4)
