"""Scores say where another estimator is known, or likely, to predict removals better."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.attribution.advice import NAME, Advice, saved_advice
from hydragrad.derivatives.kinks import kinks
from hydragrad.scores import Method


def loss(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


class Functional(nn.Module):
    """ReLU and pooling as functions, where no module shows them."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(3, 2)

    def forward(self, x):
        return self.last(F.max_pool1d(F.relu(self.first(x))[:, None], 2)[:, 0])


def trained(model, folder):
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(12, 4, generator=generator), torch.randint(2, (12,), generator=generator))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return hg.train(model, loss, data, optimizer, epochs=1, batch_size=6, out=folder)


def notes(run, **options):
    query = hg.query("w", lambda model: sum(p.square().sum() for p in model.parameters()))
    return [note.text for note in hg.attribute(run, query, **options).evidence.notes if note.kind == "advice"]


def test_kinks_are_found_wherever_they_are_written():
    x = torch.randn(3, 4, requires_grad=True)
    assert kinks((x.relu() + x.abs()).sum()) == ["ReLU", "absolute value"]
    assert kinks(F.gelu(x).sum()) == [] == kinks(torch.ones(1))
    image = x[None, None]
    assert kinks(F.max_pool2d(image, 2).sum()) == ["max-pooling"]


def test_a_model_with_kinks_gets_a_note_until_smoothness_was_measured(tmp_path):
    run = trained(Functional(), tmp_path / "kinked")
    (note,) = notes(run, curvature="hessian")
    assert "kinks (ReLU, max-pooling)" in note and "hg.smoothness" in note
    assert notes(run, curvature="ggn") == []
    assert notes(run, curvature="hessian", replays=1) == []
    good, quick = {"curvature": "hessian", "replays": 2}, {"curvature": "ggn", "damping": 0.1}
    Advice(best=Method.of(**good), quick=Method.of(**quick), because="it was measured").save(run)
    (note,) = notes(run, curvature="ggn")
    assert "curvature='hessian', replays=2, or in one sweep with curvature='ggn', damping=0.1" in note
    assert note.endswith("it was measured.")
    assert notes(run, **good) == notes(run, **quick) == notes(run, curvature="hessian", replays=3) == []
    for unreadable in ("{", "{}", '{"options": {"curvature": "best"}, "quick": {}, "because": ""}'):
        (run.path / f"{NAME}.json").write_text(unreadable)
        assert saved_advice(run) is None


def test_a_smooth_model_is_left_in_peace(tmp_path):
    run = trained(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), tmp_path / "smooth")
    assert notes(run, curvature="hessian") == []


def test_smoothness_leaves_its_advice_with_the_run(tmp_path):
    run = trained(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), tmp_path / "smooth")
    found = hg.smoothness(run, steps=[0.5], directions=1)
    advice = saved_advice(run)
    assert advice is not None and advice.best.options == found.options
    assert advice.because.lower() in found.sentence.lower()
    assert notes(run, **found.options) == []
