"""Self-influence against dense solves and norms of gradients by autograd."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

import hydragrad as hg
from attribution.dense import data as run_data
from attribution.dense import network as run_network
from attribution.dense import trained
from hydragrad.errors import NonFinite, QueryError, Unsupported
from trained_elsewhere.states import data, loss, network, trained_states

DAMPING = 0.05


def opened(count=2):
    return hg.Checkpoints(trained_states()[-count:], network(), loss, data(24, 0))


def dense(state):
    """Gradients of all samples (samples, parameters), and the damped matrix."""
    model = network().eval()
    model.load_state_dict(state)
    weights, (x, y) = list(model.parameters()), data(24, 0).tensors

    def flat(scalar):
        return torch.cat([part.flatten() for part in torch.autograd.grad(scalar, weights, retain_graph=True)])

    gradients = torch.stack([flat(F.cross_entropy(model(x[i : i + 1]), y[i : i + 1])) for i in range(24)])
    jacobian = torch.stack([flat(output) for output in model(x).flatten()]).view(24, 3, -1)
    p = model(x).softmax(1).detach()
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    matrix = torch.einsum("bcp,bcd,bdq->pq", jacobian, inner, jacobian) / 24
    return gradients, matrix + DAMPING * torch.eye(len(matrix), dtype=torch.float64)


@pytest.mark.parametrize("of", ["loss", "weights"])
def test_the_exact_one_is_that_of_dense_solves(of):
    expected = torch.zeros(24, dtype=torch.float64)
    for state in trained_states()[-2:]:
        gradients, matrix = dense(state)
        x = torch.linalg.solve(matrix, gradients.T).T
        expected += ((gradients * x).sum(1) / 24 if of == "loss" else x.square().sum(1) / 24**2) / 2
    scores = hg.self_influence(opened(), method="exact", of=of, damping=DAMPING, tolerance=1e-11, iterations=200)
    torch.testing.assert_close(scores.values[0], expected, rtol=1e-6, atol=0)
    assert scores.query_names == ("self-influence" if of == "loss" else "self-influence (weights)",)
    assert scores.evidence.about_itself and [one.at for one in scores.evidence.solved] == ["state 1", "state 2"]
    assert all(one.converged for one in scores.evidence.solved) and scores.evidence.states == opened().digests
    checkpoints = opened()
    model, (x, y) = checkpoints.trained_model(), data(24, 0).tensors
    assert float(scores.query_values[0]) == pytest.approx(float(F.cross_entropy(model(x), y)))


def test_it_is_influence_on_the_samples_own_losses():
    own = hg.influence(
        opened(), hg.sample_losses(data(24, 0), range(24)), damping=DAMPING, tolerance=1e-10, iterations=100
    )
    scores = hg.self_influence(opened(), method="exact", damping=DAMPING, tolerance=1e-10, iterations=100)
    torch.testing.assert_close(scores.values[0], own.values.diagonal(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("method", ["nystrom", "ekfac"])
def test_an_approximation_says_how_near_it_is(method):
    exact = hg.self_influence(opened(), method="exact", damping=DAMPING, tolerance=1e-8).values[0]
    scores = hg.self_influence(opened(), method=method, damping=DAMPING, tolerance=1e-8)
    ratios = scores.values[0] / exact
    (compared,) = scores.evidence.compared
    assert compared.what == f"self-influence by {method} with conjugate gradients" and compared.times == 32
    assert float((ratios - 1).abs().max()) < 1.5 * compared.gap + 1e-6
    assert f"by {method}. At 32 samples it is" in scores.evidence.notes[0].text
    assert torch.corrcoef(torch.stack([scores.values[0], exact]))[0, 1] > 0.9
    if method == "nystrom":  # 32 of 53 parameters
        assert compared.gap < 1e-3


def test_by_tracin_it_is_a_sum_of_squared_norms():
    rates, expected = [0.2, 0.1], 0
    for rate, state in zip(rates, trained_states()[-2:], strict=True):
        expected = expected + rate * dense(state)[0].square().sum(1)
    scores = hg.self_influence(opened(), method="tracin", rates=rates)
    torch.testing.assert_close(scores.values[0], expected)
    assert "summed over 2 checkpoints" in scores.evidence.notes[0].text and scores.evidence.route == "tracin"
    own = hg.tracin(opened(), hg.sample_losses(data(24, 0), range(24)), rates=rates)
    torch.testing.assert_close(scores.values[0], own.values.diagonal())


def test_a_recorded_run_and_some_samples(tmp_path):
    run = trained(tmp_path / "run", run_network())
    whole = hg.self_influence(run, damping=DAMPING)
    some = hg.self_influence(run, damping=DAMPING, samples=[7, 2])
    torch.testing.assert_close(some.values[0], whole.values[0, [7, 2]])
    assert whole.values.min() > 0 and whole.evidence.states == ()
    by_rates = hg.self_influence(run, method="tracin")
    assert "rates 0.05" in by_rates.evidence.notes[0].text and by_rates.values.std() > 0
    with pytest.raises(QueryError, match="contributions to queries are expected"):
        hg.suspects(run, whole)
    with pytest.raises(QueryError, match="do not add up over samples"):
        whole.total([1])


def test_a_sample_with_a_wrong_label_ranks_first():
    x, y = data(24, 0).tensors
    y = y.clone()
    y[5] = (y[5] + 1) % 3
    train_set = TensorDataset(x, y)
    checkpoints = hg.Checkpoints(trained_states(train_set=train_set, count=20)[-1], network(), loss, train_set)
    for method in ("nystrom", "ekfac"):
        assert hg.self_influence(checkpoints, method=method).most_helpful(1) == [5]


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(QueryError, match="one of nystrom, ekfac, exact, tracin"):
        hg.self_influence(opened(), method="lissa")
    with pytest.raises(QueryError, match="TracIn has no damping"):
        hg.self_influence(opened(), method="tracin", rates=0.1, damping=0.1)
    with pytest.raises(QueryError, match="rates= belong to method='tracin'"):
        hg.self_influence(opened(), rates=0.1)
    with pytest.raises(QueryError, match="iterations of 1 or more, got 0"):
        hg.self_influence(opened(), iterations=0)
    with pytest.raises(Unsupported, match=r"self_influence takes a recorded run or hg.Checkpoints"):
        hg.self_influence(network())


def test_samples_without_a_finite_gradient_are_named():
    x, y = data(24, 0).tensors
    x = x.clone()
    x[5, 2] = torch.nan
    broken = hg.Checkpoints(trained_states(), network(), loss, TensorDataset(x, y))
    with pytest.raises(NonFinite, match=r"those of \[5\] have not"):
        hg.self_influence(broken, method="tracin", rates=0.1)


def test_an_inverse_that_cannot_be_had_is_refused_by_name(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no rule for this.")

    monkeypatch.setattr("hydragrad.attribution.gauss_newton_matrix.fit_ekfac", fails)
    with pytest.raises(Unsupported, match=r"method='ekfac' can't be had here: no rule for this. Take method='exact'"):
        hg.self_influence(opened(), method="ekfac")
    scores = hg.influence(opened(), hg.mean_loss(run_data(12, 1)), preconditioner="ekfac")
    assert scores.evidence.solved[0].preconditioner == "none"
    assert "The preconditioner can't be had here: no rule for this." in scores.evidence.notes[0].text
    with pytest.raises(Unsupported, match="iterations=0 takes ekfac alone"):
        hg.influence(opened(), hg.mean_loss(run_data(12, 1)), preconditioner="ekfac", iterations=0)
