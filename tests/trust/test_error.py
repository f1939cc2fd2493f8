"""The measured error is that of the two attributions, and the bounds hold."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.errors import QueryError
from hydragrad.scores import Note
from hydragrad.trust.bounds import descent_bound, published_bound

OPTIONS = {
    "plain": {},
    "decay": {"weight_decay": 0.05},
    "momentum": {"momentum": 0.8, "dampening": 0.1},
    "nesterov": {"momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
}


def loss(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


def network(kind):
    hidden = nn.BatchNorm1d(5) if kind == "batch norm" else nn.Identity()
    return nn.Sequential(nn.Linear(3, 5), hidden, nn.Tanh(), nn.Linear(5, 3)).double()


@pytest.fixture(params=[*OPTIONS, "batch norm"])
def run(request, tmp_path):
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(26, 3, dtype=torch.float64, generator=generator)
    data = TensorDataset(points, torch.randint(3, (26,), generator=generator))
    torch.manual_seed(2)
    model = network(request.param)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **OPTIONS.get(request.param, {"momentum": 0.5}))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    return hg.train(model, loss, data, optimizer, epochs=4, batch_size=8, out=tmp_path / "run", scheduler=scheduler)


def test_the_error_is_that_of_the_two_attributions(run):
    query, samples = hg.query("norm", lambda model: sum(p.square().sum() for p in model.parameters())), [1, 4, 9, 20]
    error = hg.approximation_error(run, samples=samples, query=query, points=5)
    exact, approximate = (
        hg.attribute(run, query, curvature=curvature, samples=samples).values[0] for curvature in ("hessian", "none")
    )
    last = error.points[-1]
    assert last.step == len(run.steps)
    expected = float((exact - approximate).norm() / exact.norm())
    assert expected > 1e-3
    assert last.relative_contribution_error == pytest.approx(expected, rel=1e-6)
    assert last.sign_disagreements == float((exact.sign() != approximate.sign()).double().mean())
    assert 0 < last.error <= last.measured_bound <= last.bound


def test_under_adam_there_is_an_error_and_no_bound(tmp_path):
    data = TensorDataset(torch.randn(26, 3, dtype=torch.float64), torch.randint(3, (26,)))
    torch.manual_seed(2)
    model = network("momentum")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run = hg.train(model, loss, data, optimizer, epochs=2, batch_size=8, out=tmp_path / "run")
    query = hg.query("norm", lambda model: sum(p.square().sum() for p in model.parameters()))
    last = hg.approximation_error(run, samples=[1, 4, 9], query=query, points=2, eigenvalues=1).points[-1]
    exact, approximate = (
        hg.attribute(run, query, curvature=curvature, samples=[1, 4, 9], smoothing=0).values[0]
        for curvature in ("hessian", "none")
    )
    assert last.relative_contribution_error == pytest.approx(
        float((exact - approximate).norm() / exact.norm()), rel=1e-6
    )
    assert last.bound is None is last.measured_bound and last.error > 0


def test_the_bounds_hold_at_every_point(run):
    error = hg.approximation_error(run, samples=8, points=len(run.steps), eigenvalues=len(run.steps))
    assert len(error.points) == len(run.steps)
    for point in error.points:
        # The first step's hypergradient is 0 before it, so nothing was dropped.
        assert point.error <= point.measured_bound * (1 + 1e-9)
        assert point.measured_bound <= point.bound * (1 + 1e-2)  # Lanczos to a thousandth
    assert error.to_frame().shape == (len(run.steps), 10)
    assert "wrong sign" in error.sentence
    evidence = error.noted(hg.attribute(run, hg.query("w", lambda m: next(m.parameters()).sum())).evidence)
    assert error.noted(evidence).notes == evidence.notes
    assert evidence.notes[-1] == Note("approximation error", error.sentence)


def test_it_refuses_what_it_cannot_compare(run):
    for samples in (0, 27, [26], [1, 1], []):
        with pytest.raises(QueryError, match=r"1 to 26|0 to 25"):
            hg.approximation_error(run, samples=samples)
    with pytest.raises(QueryError, match="one scalar"):
        hg.approximation_error(run, query=hg.sample_losses(run.train_set, [0, 1]))


@pytest.mark.parametrize("decay", [0.0, 1e-9, 0.1, 1.0])
def test_gradient_descent_stays_within_the_bound(decay):
    generator = np.random.default_rng(0)
    root = generator.standard_normal((4, 4))
    hessian, g = root @ root.T / 4, generator.standard_normal(4)
    rates = 0.1 * 0.9 ** np.arange(60)
    exact, approximate, errors, largest = np.zeros(4), np.zeros(4), [], 0.0
    for eta in rates:
        largest = max(largest, float(np.linalg.norm(exact)))
        exact = exact - eta * (hessian @ exact + decay * exact + g)
        approximate = approximate - eta * (decay * approximate + g)
        errors.append(np.linalg.norm(exact - approximate))
    facts = {"weight_decay": decay, "hessian": np.linalg.norm(hessian, 2), "hypergradient": largest}
    bound = descent_bound(rates, **facts)
    assert errors[-1] > 0
    assert (np.array(errors) <= bound * (1 + 1e-12)).all()
    if decay:
        assert (bound <= published_bound(rates, **facts) * (1 + 1e-9)).all()


def test_theorem_2_has_a_counterexample():
    """With rates falling geometrically the error does not vanish: math.md's case in one dimension."""
    exact = approximate = 0.0
    for step in range(400):
        eta = 0.5 * 0.8**step
        exact, approximate = exact - eta * (1.1 * exact + 1), approximate - eta * (0.1 * approximate + 1)
    assert exact - approximate == pytest.approx(1.3625, abs=5e-5)
    assert exact - approximate <= 1 * abs(exact) * 0.5 / (1 - 0.8)
