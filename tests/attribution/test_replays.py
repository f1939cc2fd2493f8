"""Attribution of a run with other weights is the derivative there; averages are averages, and resumed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.attribution import replays
from hydragrad.errors import QueryError
from hydragrad.replay.changed_run import Change
from hydragrad.replay.retraining import retrain


def loss(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


@pytest.fixture(params=["tanh", "batch norm"])
def run(request, tmp_path):
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(24, 3, dtype=torch.float64, generator=generator)
    data = TensorDataset(points, torch.randint(2, (24,), generator=generator))
    torch.manual_seed(1)
    hidden = nn.BatchNorm1d(4) if request.param == "batch norm" else nn.Identity()
    model = nn.Sequential(nn.Linear(3, 4), hidden, nn.Tanh(), nn.Linear(4, 2)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.6, weight_decay=0.01)
    return hg.train(model, loss, data, optimizer, epochs=3, batch_size=5, out=tmp_path / "run")


@pytest.fixture
def held_out():
    generator = torch.Generator().manual_seed(5)
    points = torch.randn(9, 3, dtype=torch.float64, generator=generator)
    return TensorDataset(points, torch.randint(2, (9,), generator=generator))


def test_a_replays_contributions_are_the_derivative_there(run, held_out):
    query = hg.mean_loss(held_out)
    found = hg.attribute(run, query, curvature="hessian", replays=1, drop=0.25)
    here = hg.attribute(run, query, curvature="hessian")
    assert (found.values - here.values).norm() > 1e-2 * here.values.norm()
    dropped = replays.leave_out(24, 0.25, 0).weights
    assert len(dropped) == 24 - 18 and set(dropped.values()) == {0.0}
    h = 1e-5
    model = run.trained_model()

    def value(changed):
        ((_, state),) = retrain(run, [Change(weights=changed)], keep=False)
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            tensor.copy_(state[name])
        with torch.no_grad():
            return loss(model, held_out.tensors).mean().item()

    for sample in (0, 7, next(iter(dropped))):
        at = dropped.get(sample, 1.0)
        slope = (value(dropped | {sample: at + h}) - value(dropped | {sample: at - h})) / (2 * h)
        # Weights of retrainings are float32, so h is known to seven digits only.
        assert found.values[0, sample].item() == pytest.approx(-slope, rel=2e-2, abs=1e-7)


@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_several_replays_are_averaged_and_workers_change_nothing(run, held_out, curvature):
    queries = [hg.mean_loss(held_out), hg.sample_losses(held_out, [1, 2])]
    both = hg.attribute(run, queries, curvature=curvature, replays=2, labels=True)
    each = [hg.attribute(run, queries, curvature=curvature, replays=[number], labels=True) for number in range(2)]
    assert torch.allclose(both.values, (each[0].values + each[1].values) / 2, rtol=1e-12)
    assert torch.allclose(both.label_contributions, (each[0].label_contributions + each[1].label_contributions) / 2)
    assert (each[0].values != each[1].values).any()
    assert both.evidence.replays == 2
    assert both.evidence.notes[0].kind == "replays" and "left out" in both.evidence.notes[0].text
    together = hg.attribute(run, queries, curvature=curvature, replays=2, labels=True, workers=2)
    assert torch.equal(together.values, both.values)
    one_row_a_pass = hg.attribute(run, queries, curvature=curvature, replays=2, memory=1)
    assert torch.allclose(one_row_a_pass.values, both.values, rtol=1e-10)


def test_an_interrupted_average_over_replays_is_resumed(run, held_out, monkeypatch):
    query, real, seen = hg.mean_loss(held_out), replays.sweep, []

    def interrupted(*args, **options):
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(*args, **options)

    expected = hg.attribute(run, query, curvature="ggn", replays=4)
    monkeypatch.setattr(replays, "sweep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hg.attribute(run, query, curvature="ggn", replays=4)
    found = hg.attribute(run, query, curvature="ggn", replays=4)
    assert len(seen) == 3 + 2
    assert torch.equal(found.values, expected.values)
    assert not list((run.path / "scores").glob("partial-*"))


def test_impossible_replays_are_refused(run, held_out):
    query = hg.mean_loss(held_out)
    with pytest.raises(QueryError, match="with curvature"):
        hg.attribute(run, query, replays=2)
    for options in ({"replays": -1}, {"replays": [0, -2]}, {"replays": 2, "drop": 0.0}, {"replays": 2, "drop": 1.0}):
        with pytest.raises(QueryError, match="between 0 and 1"):
            hg.attribute(run, query, curvature="ggn", **options)
