"""A smooth run is called smooth, a kinked one is not, and what was trained is what is said."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.errors import QueryError
from hydragrad.scores import Note
from hydragrad.trust.smoothness import SMOOTH


def loss(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


class Jagged(nn.Module):
    """Its gradient jumps with every small move of the weights."""

    def forward(self, x):
        return x + 0.02 * (400 * x).sin()


def trained(activation, folder, epochs=6):
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(64, 3, dtype=torch.float64, generator=generator)
    data = TensorDataset(points, (points.sum(1) > 0).long())
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 8), activation, nn.Linear(8, 2)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5)
    return hg.train(model, loss, data, optimizer, epochs=epochs, batch_size=8, out=folder)


def test_a_smooth_run_is_called_smooth(tmp_path):
    run = trained(nn.Tanh(), tmp_path / "run")
    found = hg.smoothness(run, query=hg.mean_loss(run.train_set), steps=(0.5, 0.01))
    assert [probe.step for probe in found.probes] == [0.01, 0.5]
    assert found.probes[0].cosine > 0.999
    assert found.probes[0].slope_agreement > 0.98
    assert found.probes[1].cosine > SMOOTH
    assert found.recommended == "hessian"
    assert found.options == found.quick == {"curvature": "hessian"}
    assert 0.1 < found.rounding_growth < 100
    assert "hessian" in found.sentence
    assert found.to_frame().shape == (2, 2)
    # The probe's trainings are counterfactuals: the last one is a real removal, kept for later questions.
    assert len(list((run.path / "retrained").iterdir())) == 1 + 2 * 2 * 2


def test_a_jagged_run_is_not(tmp_path):
    found = hg.smoothness(trained(Jagged(), tmp_path / "run"), workers=1)
    smooth = hg.smoothness(trained(nn.Tanh(), tmp_path / "smooth"))
    assert found.probes[-1].cosine < smooth.probes[-1].cosine - 0.2
    assert found.options == {"curvature": "ggn", "replays": 4}
    assert found.quick == {"curvature": "ggn"}
    assert found.rounding_growth > 10 * smooth.rounding_growth


def test_coupled_samples_take_the_exact_curvature(tmp_path):
    found = hg.smoothness(trained(nn.Sequential(nn.BatchNorm1d(8), Jagged()), tmp_path / "run"))
    assert found.probes[-1].cosine < SMOOTH
    assert found.options == {"curvature": "hessian", "replays": 4}


def test_the_verdict_goes_into_the_evidence_once(tmp_path):
    run = trained(nn.Tanh(), tmp_path / "run", epochs=1)
    found = hg.smoothness(run, steps=[0.5], directions=1)
    scores = hg.attribute(run, hg.query("w", lambda model: next(model.parameters()).sum()))
    evidence = found.noted(found.noted(scores.evidence))
    assert evidence.notes == (*scores.evidence.notes, Note("smoothness", found.sentence))


def test_it_refuses_what_it_cannot_probe(tmp_path):
    run = trained(nn.Tanh(), tmp_path / "run", epochs=1)
    for options in ({"steps": ()}, {"steps": (0.0,)}, {"share": 1.0}, {"directions": 0}):
        with pytest.raises(ValueError, match="steps above 0"):
            hg.smoothness(run, **options)
    with pytest.raises(QueryError, match="one scalar"):
        hg.smoothness(run, query=hg.sample_losses(run.train_set, [0, 1]))
