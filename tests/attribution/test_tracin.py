"""TracIn against sums of gradient products by autograd, of a run and of checkpoints of a model trained elsewhere."""

import pytest
import torch
from torch import nn

import hydragrad as hg
from attribution.dense import cross_entropy, flat, trained
from attribution.dense import data as run_data
from attribution.dense import network as run_network
from hydragrad.errors import QueryError, Unsupported
from hydragrad.replay.checkpoint_spread import spread_steps
from trained_elsewhere.states import data, loss, network, trained_states

RATES = [0.3, 0.2, 0.1]


@pytest.fixture(scope="module")
def checkpoints():
    return hg.Checkpoints(trained_states(), network(), loss, data(24, 0))


def gradient(model, x, y):
    return flat(torch.autograd.grad(loss(model, (x, y)).mean(), list(model.parameters())))


def test_equal_sums_of_gradient_products(checkpoints):
    held_out = data(12, 1)
    scores = hg.tracin(checkpoints, [hg.mean_loss(held_out), hg.sample_losses(held_out, [4])], rates=RATES)
    expected = torch.zeros(2, 24, dtype=torch.float64)
    for rate, state in zip(RATES, trained_states(), strict=True):
        model = network().eval()
        model.load_state_dict(state)
        x, y = held_out.tensors
        queries = torch.stack([gradient(model, x, y), gradient(model, x[4:5], y[4:5])])
        samples = torch.stack([gradient(model, x[None], y[None]) for x, y in data(24, 0)])
        expected += rate * queries @ samples.T
    torch.testing.assert_close(scores.values, expected)
    assert scores.evidence.route == "tracin" and scores.evidence.states == checkpoints.digests
    assert not scores.evidence.scale_is_measured and scores.evidence.from_checkpoints
    assert "summed over 3 checkpoints of a model trained elsewhere" in scores.evidence.notes[0].text
    assert "rates 0.1 to 0.3." in scores.evidence.notes[0].text
    some = hg.tracin(checkpoints, hg.mean_loss(held_out), rates=RATES, samples=[7, 2])
    torch.testing.assert_close(some.values, scores.values[:1, [7, 2]])


def test_of_a_run_the_recorded_rates_are_taken(tmp_path):
    run, query = trained(tmp_path / "run", run_network()), hg.mean_loss(run_data(12, 1))
    count = len(spread_steps(run, 10))
    torch.testing.assert_close(
        hg.tracin(run, query).values, hg.tracin(run, query, rates=[0.05] * count).values, rtol=1e-12, atol=0
    )
    assert "rates 0.05." in hg.tracin(run, query).evidence.notes[0].text


def test_groups_with_different_rates_have_no_rate_of_the_run(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    optimizer = torch.optim.SGD([{"params": [model.weight]}, {"params": [model.bias], "lr": 0.5}], lr=0.05)
    run = hg.train(model, cross_entropy, run_data(24, 0), optimizer, epochs=1, batch_size=8, out=tmp_path / "run")
    with pytest.raises(QueryError, match=r"one rate a step for TracIn.* groups had 0.05, 0.5"):
        hg.tracin(run, hg.mean_loss(run_data(12, 1)))


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        (None, "must be given: rates=0.1, or one for each of the 3 checkpoints"),
        ([0.1, 0.2], "one number for each of the 3 checkpoints, got 2"),
        ([0.1, -0.2, 0.1], "finite and not negative"),
        (float("nan"), "finite and not negative"),
        (0.0, "not all 0"),
    ],
)
def test_rates_that_make_no_sum_are_refused(checkpoints, rates, message):
    with pytest.raises(QueryError, match=message):
        hg.tracin(checkpoints, hg.mean_loss(data(12, 1)), rates=rates)


def test_it_is_of_runs_and_checkpoints_only():
    with pytest.raises(Unsupported, match=r"tracin takes a recorded run or hg.Checkpoints, got Sequential"):
        hg.tracin(network(), hg.mean_loss(data(12, 1)), rates=0.1)


def test_the_report_says_what_they_are(checkpoints, tmp_path):
    scores = hg.tracin(checkpoints, hg.mean_loss(data(12, 1)), rates=0.1)
    page = hg.report(checkpoints, scores, tmp_path / "report.html").read_text()
    assert "sums over checkpoints (TracIn)" in page and "influence functions of checkpoints" not in page


def test_a_recorded_rate_may_be_a_tensor(tmp_path):
    values = []
    for number, rate in enumerate([0.01, torch.tensor(0.01)]):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3)
        samples = torch.utils.data.TensorDataset(torch.randn(12, 4), torch.randint(3, (12,)))
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        run = hg.train(model, cross_entropy, samples, optimizer, epochs=1, batch_size=4, out=tmp_path / str(number))
        values.append(hg.tracin(run, hg.mean_loss(samples)).values)
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-8)
