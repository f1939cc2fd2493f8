"""What is measured of Adam's second moments is what its formulas give, and smoothings are held to real changes."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.errors import Unsupported
from hydragrad.scores import Method
from hydragrad.trust import second_moments as moments_of
from hydragrad.trust.second_moments import SmoothingProbe, recommended, second_moments, smoothing_probes

module = sys.modules["hydragrad.trust.smoothness"]  # the package has the function of this name


def loss(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


def trained(folder, *, scale=(1.0, 1.0, 1.0), optimizer=torch.optim.AdamW, lr=0.01):
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(48, 3, dtype=torch.float64, generator=generator)
    data = TensorDataset(points * torch.tensor(scale, dtype=torch.float64), (points.sum(1) > 0).long())
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    chosen = optimizer(model.parameters(), lr=lr)
    return hg.train(model, loss, data, chosen, epochs=3, batch_size=8, out=folder)


def test_shares_are_those_of_adams_formulas(tmp_path):
    # An input that is small has tiny second moments: those of its six weights, of 38.
    run = trained(tmp_path / "run", scale=(1.0, 1.0, 1e-4))
    measured = second_moments(run, points=100)
    starts = [start for start, _ in run.segments][1:]
    model = run.trained_model()
    signs = tiny = 0
    for start in starts:
        checkpoint, record = run.checkpoint(start), run.steps[start]
        for name, parameter in model.named_parameters():
            parameter.data.copy_(checkpoint.parameters[name])
            parameter.grad = None
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        with torch.enable_grad():
            for parameter in model.parameters():
                parameter.requires_grad_(True)
            loss(model, run.train_set[list(record.indices)]).mean().backward()
        for name, parameter in model.named_parameters():
            saved = checkpoint.optimizer[name]
            optimizer.state[parameter] = {
                "step": torch.tensor(float(start)),
                "exp_avg": saved["exp_avg"].clone(),
                "exp_avg_sq": saved["exp_avg_sq"].clone(),
            }
        before = [parameter.detach().clone() for parameter in model.parameters()]
        optimizer.step()
        signs += sum(
            int(((old - new.detach()).abs() >= 0.9 * 0.01).sum())
            for old, new in zip(before, model.parameters(), strict=True)
        )
        moments = torch.cat([optimizer.state[parameter]["exp_avg_sq"].reshape(-1) for parameter in model.parameters()])
        tiny += int((moments < 0.01 * moments.mean()).sum())
    assert measured.sign_like == pytest.approx(signs / (len(starts) * 38))
    assert 0 < measured.sign_like < 1
    assert measured.tiny == pytest.approx(tiny / (len(starts) * 38))
    assert 6 / 38 <= measured.tiny < 1


def test_a_small_removal_is_predicted_by_the_exact_derivative(tmp_path):
    run = trained(tmp_path / "run")
    found = hg.smoothness(run, steps=[0.5], directions=1, share=1 / 48)
    exact, default, _ = found.smoothings
    assert (exact.smoothing, default.smoothing) == (0.0, 0.01)
    assert exact.size == pytest.approx(1, abs=0.2)
    assert found.smoothing == recommended(found.smoothings)
    assert f"{default.size:.3g} with smoothing 0.01" in found.sentence
    # One direction has one number: what is left of the real change along itself.
    assert exact.error == pytest.approx(abs(exact.size - 1))


def test_moves_that_are_known_are_measured_along_themselves(tmp_path):
    run = trained(tmp_path / "run")
    query = hg.query("weight", lambda model: model[0].weight[0, 0])
    values = hg.attribute(run, query, curvature="hessian", smoothing=0.1).values[0]
    move = {"0.weight": torch.zeros(6, 3, dtype=torch.float64)}
    move["0.weight"][0, 0] = -2 * values[:5].sum()
    (probe,) = smoothing_probes(run, [range(5)], [move], Method.of("hessian"), [0.1])
    assert probe.size == pytest.approx(-0.5) and probe.error == pytest.approx(1.5)
    assert smoothing_probes(run, [[0]], [{"0.weight": torch.zeros(6, 3)}], Method.of("hessian"), [0.1]) == ()


def test_the_default_stands_unless_another_smoothing_is_clearly_better():
    def probes(*errors):
        return [SmoothingProbe(smoothing=s, size=1.0, error=e) for s, e in zip((0.0, 0.01, 0.1), errors, strict=True)]

    assert recommended(probes(0.9, 1.0, 1.1)) == 0.01
    assert recommended(probes(0.9, 1.0, 0.5)) == 0.1
    assert recommended(()) == 0.01
    assert "keep the default smoothing=0.01" in moments_of.in_words(
        moments_of.SecondMoments(sign_like=0.1, tiny=0.2), probes(0.9, 1.0, 1.1)
    )


def test_a_better_smoothing_is_among_the_options(tmp_path, monkeypatch):
    run = trained(tmp_path / "run", lr=0.001)
    monkeypatch.setattr(moments_of, "recommended", lambda probes: 0.1)
    monkeypatch.setattr(module, "smoothing_probes", lambda *_, **__: ())
    found = hg.smoothness(run, steps=[0.5], directions=1)
    assert found.options["smoothing"] == found.quick["smoothing"] == found.smoothing == 0.1


def test_where_smoothings_cannot_be_compared_the_reason_is_said(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise Unsupported("the gradient is stopped")

    run = trained(tmp_path / "run")
    monkeypatch.setattr(module, "smoothing_probes", refused)
    found = hg.smoothness(run, steps=[0.5], directions=1)
    assert found.smoothings == () and found.smoothing == 0.01
    assert "Smoothings were not compared: the gradient is stopped" in found.sentence


def test_sgd_has_no_second_moment(tmp_path):
    run = trained(tmp_path / "run", optimizer=torch.optim.SGD)
    assert second_moments(run) is None
    found = hg.smoothness(run, steps=[0.5], directions=1)
    assert found.moments is None and found.smoothings == () and found.smoothing is None
