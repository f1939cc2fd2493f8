"""Loss weights from contributions: what harms gets less, what is recommended is really better, else nothing is."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.cleaning.reweigh import AGAIN, EQUAL
from hydragrad.errors import QueryError
from hydragrad.randomness import seeded
from hydragrad.replay.changed_run import Change, ChangedRun

SAMPLES, FOREIGN = 120, 40


def squared(model, batch):
    return (model(batch[0]) - batch[1]).square()[:, 0]


def values(length, seed, slope=1.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(length, 4, generator=generator)
    return x, slope * x.sum(1, keepdim=True) + 0.1 * torch.randn(length, 1, generator=generator)


def trained(out, *, foreign=FOREIGN, epochs=6):
    """The first samples follow another rule than the held-out data."""
    wrong, right = values(foreign, 1, slope=-1.0), values(SAMPLES - foreign, 2)
    train_set = TensorDataset(*(torch.cat(both) for both in zip(wrong, right, strict=True)))
    with seeded(0):
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    return hg.train(model, squared, train_set, optimizer, epochs=epochs, batch_size=12, out=out)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("reweigh") / "run")


def held_out(seed):
    return TensorDataset(*values(100, seed))


def test_foreign_samples_get_less_and_the_loss_is_really_lower(run):
    result = hg.reweigh(run, hg.mean_loss(held_out(3)), held_out(4), rounds=2)
    assert result.recommended is result.outcomes[-1]
    assert result.weights[:FOREIGN].mean() < 0.4 < 1.2 < result.weights[FOREIGN:].mean()
    assert result.weights.mean() == pytest.approx(1.0) and result.weights.min() >= 0
    model, (x, y) = run.trained_model(), held_out(4).tensors
    model.load_state_dict(result.recommended.state)
    loss = (model(x) - y).square().mean().item()
    assert result.recommended.loss == pytest.approx(loss, rel=1e-5)
    assert loss < result.outcomes[0].loss - 3 * result.recommended.loss_gain_error
    assert "better by" in result.sentence and "in loss" in result.sentence
    assert list(result.to_frame().index[:2]) == [EQUAL, AGAIN]
    assert len(result.outcomes) <= 4


def test_the_recommended_weights_are_those_that_were_trained(run):
    result = hg.reweigh(run, hg.mean_loss(held_out(3)), held_out(4), rounds=1, steps=[0.5])
    changed = ChangedRun(run, Change(weights=dict(enumerate(result.weights.tolist()))))
    for name, value in changed.final.parameters.items():
        torch.testing.assert_close(result.recommended.state[name], value, rtol=1e-4, atol=1e-6)


def test_nothing_is_recommended_where_nothing_is_better(tmp_path):
    """The data that choose are what the run predicts: any other model is worse on them."""
    run = trained(tmp_path / "run")
    x, _ = values(60, 5)
    predicted = TensorDataset(x, run.trained_model()(x).detach())
    result = hg.reweigh(run, hg.mean_loss(held_out(3)), predicted, rounds=1)
    assert result.recommended.remedy.name == EQUAL and bool((result.weights == 1).all())
    assert result.sentence.startswith("No weights that were tried are surely better")


def test_contributions_of_a_reweighted_run_are_held_to_its_gradient(run):
    """Weights of 0 included: the derivative by a weight is not 0 where the weight is."""
    weights = dict.fromkeys(range(0, 30), 0.0) | dict.fromkeys(range(50, 80), 1.7)
    query, h = hg.mean_loss(held_out(3)), 1e-2
    changed = ChangedRun(run, Change(weights=weights), memory=1 << 20)
    found = hg.attribute(changed, query, curvature="hessian").values[0]
    x, y = held_out(3).tensors
    for sample in (3, 60, 100):
        losses = []
        for sign in (1, -1):
            moved = weights | {sample: weights.get(sample, 1.0) + sign * h}
            model = run.trained_model()
            model.load_state_dict(ChangedRun(run, Change(weights=moved)).final.parameters)
            losses.append((model(x) - y).square().mean().item())
        assert found[sample].item() == pytest.approx((losses[1] - losses[0]) / (2 * h), rel=0.02)
    assert hg.attribute(changed, query).values.abs().min() > 0


def test_refusals(run, tmp_path):
    query = hg.mean_loss(held_out(3))
    with pytest.raises(QueryError, match="one scalar, got 2"):
        hg.reweigh(run, hg.sample_losses(held_out(3), [0, 1]), held_out(4))
    for options in ({"steps": []}, {"steps": [0.0]}, {"rounds": 0}):
        with pytest.raises(QueryError, match="sizes above 0"):
            hg.reweigh(run, query, held_out(4), **options)


def test_labels_are_not_needed_but_may_be_there(tmp_path):
    def cross_entropy(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    x, y = values(200, 1)
    labels = (y[:, 0] > 0).long()
    flipped = labels[:100].clone()
    flipped[:25] = 1 - flipped[:25]
    with seeded(0):
        model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    train_set = TensorDataset(x[:100], flipped)
    run = hg.train(model, cross_entropy, train_set, optimizer, epochs=5, batch_size=10, out=tmp_path / "run")
    choosing = TensorDataset(x[150:], labels[150:])
    result = hg.reweigh(run, hg.mean_loss(TensorDataset(x[100:150], labels[100:150])), choosing)
    assert result.outcomes[0].accuracy is not None
    assert result.weights[:25].mean() < result.weights[25:].mean()
