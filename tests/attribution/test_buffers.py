"""Buffers that update themselves in ways other than BatchNorm's: no curvature, or refused by name."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

import hydragrad as hg
from attribution import oracle
from case_models import cross_entropy_loss, vectors
from cases import Case
from hydragrad.errors import Unsupported


class Centred(nn.Module):
    """Subtracts a running mean that it updates itself, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(4, 5), nn.Linear(5, 3)
        self.register_buffer("centre", torch.zeros(5))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        if self.training:
            with torch.no_grad():
                self.centre.mul_(0.8).add_(0.2 * hidden.mean(0))
                self.calls += 1
        return self.out(hidden - self.centre)


def record(path, model: nn.Module) -> hg.Recording:
    model = model.double()
    optimizer = SGD(model.parameters(), lr=0.2, momentum=0.5)
    return hg.train(model, cross_entropy_loss, vectors(4)(10, 1), optimizer, epochs=3, batch_size=4, out=path)


@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_they_are_refused_by_name(curvature, tmp_path):
    run = record(tmp_path, Centred())
    with pytest.raises(Unsupported, match=r"The buffers centre update themselves.*curvature='none'"):
        hg.attribute(run, hg.mean_loss(vectors(4)(4, 2)), curvature=curvature)


def test_instance_norm_is_refused_by_name(tmp_path):
    model = nn.Sequential(nn.InstanceNorm1d(3, track_running_stats=True), nn.Flatten(), nn.Linear(12, 3))
    model = model.double()
    optimizer = SGD(model.parameters(), lr=0.2)
    run = hg.train(model, cross_entropy_loss, vectors(3, 4)(8, 1), optimizer, epochs=1, batch_size=4, out=tmp_path)
    with pytest.raises(Unsupported, match=r"0\.running_mean, 0\.running_var"):
        hg.attribute(run, hg.mean_loss(vectors(3, 4)(4, 2)), curvature="hessian")


def test_without_curvature_they_are_constants(tmp_path):
    """The closed form, by hand: the sum over steps of kappa <grad, own gradient>, buffers as the run had them."""
    run = record(tmp_path, Centred())
    held_out = vectors(4)(4, 2)
    scores = hg.attribute(run, hg.mean_loss(held_out))
    model = run.trained_model().requires_grad_(True)
    parameters = list(model.parameters())
    gradient = torch.autograd.grad(cross_entropy_loss(model, held_out[:]).mean(), parameters)
    model = Centred().double()
    model.load_state_dict({**run.initial.parameters, **run.initial.buffers})
    optimizer = SGD(model.parameters(), lr=0.2, momentum=0.5)
    expected = torch.zeros(10, dtype=torch.float64)
    for step, record_ in enumerate(run.steps):
        x, y = run.train_set[record_.indices]
        optimizer.zero_grad()
        losses = cross_entropy_loss(model, (x, y))
        # With momentum mu and a constant rate: kappa_t = -lr (1 + mu + ... + mu^(T-1-t)).
        kappa = -0.2 * sum(0.5**k for k in range(len(run.steps) - step))
        for place, sample in enumerate(record_.indices):
            own = torch.autograd.grad(losses[place], list(model.parameters()), retain_graph=True)
            dot = sum((g * o).sum() for g, o in zip(gradient, own, strict=True))
            expected[sample] -= kappa * dot / len(record_.indices)
        losses.mean().backward()
        optimizer.step()
    assert oracle.relative(scores.values[0], expected) < 1e-10


def test_batch_norm_that_stayed_in_eval_mode_needs_no_permission(recorded):
    case = Case("frozen_statistics", "all")
    assert hg.attribute(recorded(case), hg.mean_loss(case.held_out), curvature="hessian").values.abs().min() > 0
