"""Verification on a smooth run: exact scores predict removals, and the check says what it measured."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.errors import DataError, LossError, QueryError
from hydragrad.replay.retraining import FOLDER
from hydragrad.trust.lds import lds, lds_interval


def loss(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(60, 3, dtype=torch.float64, generator=generator)
    labels = (points.sum(1) + 0.5 * torch.randn(60, generator=generator) > 0).long()
    return TensorDataset(points[:40], labels[:40]), TensorDataset(points[40:], labels[40:])


@pytest.fixture
def run(data, tmp_path):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    return hg.train(model, loss, data[0], optimizer, epochs=3, batch_size=8, out=tmp_path / "run")


def test_exact_scores_of_a_smooth_run_predict_removals(run, data):
    scores = hg.attribute(run, [hg.mean_loss(data[1]), hg.sample_losses(data[1], [0, 3])], curvature="hessian")
    evidence = hg.verify(run, scores, groups=8, size=[1, 0.1], seed=3)
    assert scores.evidence.checks == ()
    assert scores.with_evidence(evidence).evidence.checks == evidence.checks
    random = [check for check in evidence.checks if check.kind == "random"]
    assert [(check.size, check.groups) for check in random] == [(1, 8)] * 3 + [(4, 8)] * 3
    for check in random:
        assert check.lds > 0.9
        assert check.slope == pytest.approx(1.0, abs=0.2)
        assert check.scale == pytest.approx(1.0, abs=0.2)
        low, high = check.lds_interval
        assert low <= check.lds <= high
    given = [[3, 4], [9]]
    check = hg.verify(run, scores, groups=given, size=1).checks[0]
    assert list(check.actual) == hg.counterfactual(run, given, hg.mean_loss(data[1])).values[0].tolist()
    assert list(check.predicted) == [scores.total(group)[0].item() for group in given]


def test_a_sample_that_a_group_lists_twice_is_left_out_once(run, data):
    scores = hg.attribute(run, hg.mean_loss(data[1]), curvature="hessian")
    once, twice = (hg.verify(run, scores, groups=[group, [9]]).checks[0] for group in ([3, 4], [3, 4, 3]))
    assert once == twice and once.group_sizes == (2, 1)
    assert scores.total([3, 4, 3]).tolist() == scores.total([3, 4]).tolist()


def test_scores_of_another_run_are_refused(run, data, tmp_path):
    query = hg.mean_loss(data[1])
    scores = hg.attribute(run, query, curvature="hessian")
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    other = hg.train(model, loss, data[0], optimizer, epochs=3, batch_size=8, out=tmp_path / "other")
    for use in (
        lambda: hg.verify(other, scores, groups=3),
        lambda: hg.suspects(other, scores),
        lambda: hg.report(other, scores, tmp_path / "page.html"),
        lambda: hg.report(other, hg.attribute(other, query), tmp_path / "page.html", removals=scores),
    ):
        with pytest.raises(QueryError, match="The scores are about another run than"):
            use()
    scores.save(tmp_path / "scores.safetensors")
    with pytest.raises(QueryError, match="another run"):
        hg.suspects(other, hg.Scores.load(tmp_path / "scores.safetensors"))


def test_evidence_of_other_scores_is_refused(run, data):
    query = hg.mean_loss(data[1])
    evidence = hg.verify(run, hg.attribute(run, query, curvature="hessian"), groups=3, size=4)
    for other in ({}, {"curvature": "hessian", "removal": "renormalised"}):
        with pytest.raises(QueryError, match="This evidence is of other scores: hessian of the same run"):
            hg.attribute(run, query, **other).with_evidence(evidence)


def test_what_leaving_out_does_is_not_predicted_without_a_measured_scale(run, data, tmp_path):
    scores = hg.attribute(run, hg.mean_loss(data[1]), curvature="hessian")
    with pytest.raises(QueryError, match=r"removals= takes scores of .* whose scale was measured"):
        hg.report(run, scores, tmp_path / "page.html", removals=scores)


@pytest.mark.parametrize("size", [float("nan"), 1.5, -0.1])
def test_a_share_that_is_none_is_refused(run, data, size):
    with pytest.raises(QueryError, match="or a share between 0 and 1"):
        hg.verify(run, hg.attribute(run, hg.mean_loss(data[1])), groups=3, size=size)


def test_a_repeat_says_what_can_be_expected(run, data):
    scores = hg.attribute(run, hg.mean_loss(data[1]), curvature="hessian")
    plain = hg.verify(run, scores, groups=6, size=0.1, extremes=False).checks[0]
    check = hg.verify(run, scores, groups=6, size=0.1, extremes=False, ceiling=True).checks[0]
    assert plain.ceiling_lds is None and "repeat" not in plain.sentence
    assert dataclasses.replace(check, ceiling_lds=None, ceiling_interval=None) == plain
    assert check.ceiling_lds > 0.99  # a smooth run in float64: rounding changes nothing
    assert check.sentence == plain.sentence + (
        " A repeat of the same run, one rounding apart, ranks these removals with LDS 1.00: more can't be expected of "
        "any score."
    )
    files = len(list((run.path / FOLDER).glob("*.safetensors")))
    assert files == 12  # six groups, each once more


def test_retrainings_are_kept_and_not_made_twice(run, data, monkeypatch):
    query = hg.mean_loss(data[1])
    first = hg.counterfactual(run, [[0, 1], [5]], query)
    assert len(list((run.path / FOLDER).iterdir())) == 2

    def fail(*_):
        raise AssertionError("retrained again")

    monkeypatch.setattr("hydragrad.replay.retraining._Retraining.__call__", fail)
    again = hg.counterfactual(run, [[5], [1, 0]], [query, hg.sample_losses(data[1], [2])])
    assert again.values[0].tolist() == [first.values[0, 1].item(), first.values[0, 0].item()]
    with pytest.raises(AssertionError, match="retrained again"):
        hg.counterfactual(run, [[5]], query, keep=False)


def test_two_workers_give_the_same_numbers(run, data):
    query = hg.mean_loss(data[1])
    one = hg.counterfactual(run, [[0], [1], [2]], query, keep=False)
    two = hg.counterfactual(run, [[0], [1], [2]], query, workers=2, keep=False)
    assert torch.equal(one.values, two.values)


def test_other_weights_and_labels_are_really_trained(run, data):
    query, (points, labels) = hg.mean_loss(data[1]), data[0].tensors
    given = labels[7].item()
    same = hg.counterfactual(run, [[7]], query, labels={7: given})
    assert same.values[0, 0].item() == 0.0
    assert hg.counterfactual(run, [[7]], query, weight=1.0).values[0, 0].item() == 0.0
    doubled = hg.counterfactual(run, [[7]], query, weight=2.0).values[0, 0].item()
    exact = hg.attribute(run, query, curvature="hessian").values[0, 7].item()
    assert doubled == pytest.approx(-exact, rel=0.2)

    changed = labels.clone()
    changed[7] = 1 - given
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    for record in run.steps:
        optimizer.zero_grad()
        loss(model, (points[record.indices], changed[record.indices])).mean().backward()
        optimizer.step()
    with torch.no_grad():
        difference = loss(model, data[1].tensors).mean().item() - same.query_values[0].item()
    found = hg.counterfactual(run, [[7]], query, labels={7: 1 - given}).values[0, 0].item()
    assert found == pytest.approx(difference, rel=1e-10)


def test_labels_need_integer_labels(tmp_path):
    data = TensorDataset(torch.randn(8, 2), torch.randn(8, 1))
    model = nn.Linear(2, 1)

    def squared(model, batch):
        return (model(batch[0]) - batch[1]).square().sum(1)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = hg.train(model, squared, data, optimizer, epochs=1, batch_size=4, out=tmp_path / "run")
    with pytest.raises(LossError, match="integer labels"), pytest.warns(UserWarning, match="training samples"):
        hg.counterfactual(run, [[0]], hg.mean_loss(data), labels={0: 1})


def test_it_refuses_what_it_cannot_check(run, data, tmp_path):
    query = hg.mean_loss(data[1])
    scores = hg.attribute(run, query, curvature="none")
    with pytest.raises(DataError, match="too large"):
        hg.verify(run, scores, groups=2, size=40)
    for size in (0, -0.5, 1.5):
        with pytest.raises(QueryError, match="between 0 and 1"):
            hg.verify(run, scores, groups=2, size=size)
    with pytest.raises(QueryError, match="at least 1"):
        hg.verify(run, scores, groups=0, size=1)
    scores.save(tmp_path / "scores.safetensors")
    loaded = hg.Scores.load(tmp_path / "scores.safetensors")
    with pytest.raises(QueryError, match="loaded from a file"):
        hg.verify(run, loaded, groups=1, size=1)
    with pytest.raises(QueryError, match="about the queries mean loss of 20 samples, got other"):
        hg.verify(run, loaded, groups=1, size=1, queries=hg.mean_loss(data[1], name="other"))
    evidence = hg.verify(run, loaded, groups=[[1], [2], [3]], size=1, queries=query)
    assert evidence.checks[0].groups == 3
    run.manifest = dataclasses.replace(run.manifest, status="recording")
    with pytest.raises(QueryError, match="not completed"):
        hg.verify(run, scores, groups=1, size=1)


def test_the_score_of_a_perfect_and_of_a_reversed_ranking():
    values = np.arange(12.0).reshape(2, 6)
    assert lds(values, values**3) == pytest.approx(1.0)
    assert lds(values, -values) == pytest.approx(-1.0)
    assert np.isnan(lds(values, np.ones((2, 6))))
    low, high = lds_interval(values, values + np.array([0, 3, 0, 0, -3, 0]))
    assert low < high <= 1.0
