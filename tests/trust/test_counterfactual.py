"""Counterfactuals: equal to a plain loop without the samples' gradients, and refused where they mean nothing."""

import shutil
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Subset, TensorDataset

import hydragrad as hg
from hydragrad.errors import DataError, QueryError, Unfinished
from hydragrad.execution.claims import Claims
from hydragrad.replay.changed_run import Change
from hydragrad.replay.retraining import FOLDER
from hydragrad.runs.kept import Kept

# Asked about the training samples on purpose: the numbers are what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:The query")


def loss(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


def start():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(30, 3, dtype=torch.float64, generator=generator)
    return TensorDataset(points, (points.sum(1) > 0).long())


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    model, optimizer = start()
    return hg.train(model, loss, data, optimizer, epochs=2, batch_size=8, out=tmp_path_factory.mktemp("trust") / "run")


def test_it_is_a_real_retraining_with_weight_zero(run, data):
    group = [2, 5, 11]
    points, labels = data.tensors
    model, optimizer = start()
    for record in run.steps:
        weights = torch.tensor([0.0 if i in group else 1.0 for i in record.indices], dtype=torch.float64)
        optimizer.zero_grad()
        ((loss(model, (points[record.indices], labels[record.indices])) * weights).sum() / len(weights)).backward()
        optimizer.step()
    with torch.no_grad():
        after = loss(model, data.tensors).mean().item()
        before = loss(run.trained_model(), data.tensors).mean().item()
    found = hg.counterfactual(run, [group, [0]], [hg.mean_loss(data), hg.sample_losses(data, [4])])
    assert found.values.shape == (2, 2)
    assert found.values[0, 0].item() == pytest.approx(after - before, rel=1e-12)
    assert found.query_values[0].item() == pytest.approx(before, rel=1e-12)


def test_small_groups_change_as_the_derivative_predicts(run, data):
    query = hg.mean_loss(data)
    scores = hg.attribute(run, query, curvature="hessian")
    groups = [[i] for i in range(8)]
    actual = hg.counterfactual(run, groups, query).values[0]
    predicted = torch.stack([scores.total(group)[0] for group in groups])
    assert torch.corrcoef(torch.stack([predicted, actual]))[0, 1] > 0.99


def test_every_group_may_have_its_own_weight(run, data):
    query = hg.mean_loss(data)
    found = hg.counterfactual(run, [[2, 5], [2, 5], [7]], query, weight=[0.0, 2.0, 0.5]).values[0]
    each = [
        hg.counterfactual(run, [group], query, weight=weight).values[0, 0].item()
        for group, weight in (([2, 5], 0.0), ([2, 5], 2.0), ([7], 0.5))
    ]
    assert found.tolist() == each
    assert len(set(each)) == 3
    everything = list(range(30))
    assert hg.counterfactual(run, [everything], query, weight=[2.0]).values.abs().min() > 0
    for weight in ([0.0], [0.0, 1.0, 2.0, 3.0], [0.0, float("nan"), 1.0]):
        with pytest.raises(QueryError, match="one for each of the 3 groups"):
            hg.counterfactual(run, [[2, 5], [2, 5], [7]], query, weight=weight)


def test_questions_about_training_samples_are_warned_of(run, data):
    points, labels = data.tensors
    for overlapping in (data, Subset(Subset(data, [3, 4]), [0]), TensorDataset(points[4:6], labels[4:6])):
        with pytest.warns(UserWarning, match="is about training samples"):
            hg.counterfactual(run, [[1]], hg.mean_loss(overlapping))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hg.counterfactual(run, [[1]], hg.mean_loss(TensorDataset(points[4:6].clone(), labels[4:6].clone())))


def test_a_run_that_was_not_completed_has_no_counterfactual(data, tmp_path):
    model, optimizer = start()
    with pytest.raises(KeyboardInterrupt), hg.Recorder(tmp_path / "cut", model, optimizer, loss, data) as recorder:
        with recorder.step([0, 1, 2]):
            optimizer.zero_grad()
            loss(model, data[:3]).mean().backward()
            optimizer.step()
        raise KeyboardInterrupt
    with pytest.warns(UserWarning, match="interrupted|not completed|last complete"):
        cut = hg.Recording(tmp_path / "cut", start()[0], loss, data)
    with pytest.raises(QueryError, match="was not completed"):
        hg.counterfactual(cut, [[1]], hg.mean_loss(data))
    scores = hg.attribute(cut, hg.mean_loss(data))
    assert not scores.evidence.completed and scores.evidence.notes[-1].kind == "interrupted"
    with pytest.raises(QueryError, match="was not completed"):
        hg.verify(cut, scores, groups=3)


@pytest.mark.parametrize(
    ("group", "error", "message"),
    [
        ([30], QueryError, r"samples 0 to 29, got \[30\]"),
        ([], QueryError, "got an empty group"),
        (list(range(30)), DataError, "leaves nothing"),
    ],
)
def test_groups_that_mean_nothing_are_refused(run, data, group, error, message):
    with pytest.raises(error, match=message):
        hg.counterfactual(run, [group], hg.mean_loss(data))


def test_slices_of_retrainings_meet_and_the_last_one_has_the_result(data, run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run", ignore=shutil.ignore_patterns("retrained"))
    copied = hg.Recording(tmp_path / "run", start()[0], loss, data)
    groups, query = [[0], [1, 2], [3], [4, 5]], hg.mean_loss(data)
    expected = hg.counterfactual(run, groups, query, keep=False).values
    changes = [Change(weights=dict.fromkeys(group, 0.0)) for group in groups]
    names = [Kept(copied.path / FOLDER, "", change.key(copied)).path.stem for change in changes]
    with Claims(copied.path / FOLDER) as others:
        assert others.take(names[1]) and others.take(names[2])
        with pytest.raises(Unfinished, match="Part 1/2 is done; 2 of 4 retrainings are still missing"):
            hg.counterfactual(copied, groups, query, part="1/2")
    assert torch.equal(hg.counterfactual(copied, groups, query, part="2/2").values, expected)
    assert torch.equal(hg.counterfactual(copied, groups, query, part="1/2").values, expected)
    assert sorted(path.stem for path in (copied.path / FOLDER).glob("*.safetensors")) == sorted(names)


def test_slices_that_save_nothing_are_refused(data, run):
    with pytest.raises(QueryError, match="part= needs keep=True"):
        hg.counterfactual(run, [[0]], hg.mean_loss(data), part="1/2", keep=False)
