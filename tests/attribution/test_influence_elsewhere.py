"""Influence functions at checkpoints of a model trained elsewhere are those of a run at the same checkpoints."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import ConcatDataset, TensorDataset

import hydragrad as hg
from attribution.dense import cross_entropy, data, dense_matrix, flat, network, trained
from hydragrad.attribution.averaged_over import averaged_over
from hydragrad.errors import DataError, NonFinite, QueryError
from hydragrad.replay.checkpoint_spread import checkpoint_at, spread_steps
from trained_elsewhere.states import data as other_data
from trained_elsewhere.states import loss, trained_states
from trained_elsewhere.states import network as other_network


def states_of(run, count):
    read = [checkpoint_at(run, step) for step in spread_steps(run, count)]
    return [at.parameters | at.buffers for at in read]


def frozen_network():
    model = network()
    model[0].bias.requires_grad_(False)
    return model


@pytest.mark.parametrize("damping", [None, 0.05])
@pytest.mark.parametrize("count", [1, 2])
def test_equal_those_of_a_recorded_run(tmp_path, damping, count):
    run, held_out = trained(tmp_path / "run", network()), data(12, 1)
    queries = [hg.mean_loss(held_out, "held out"), hg.sample_losses(held_out, [4])]
    checkpoints = hg.Checkpoints(states_of(run, count), frozen_network(), cross_entropy, run.train_set)
    theirs = hg.influence(run, queries, checkpoints=count, damping=damping)
    ours = hg.influence(checkpoints, queries, damping=damping)
    torch.testing.assert_close(ours.values, theirs.values, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(ours.query_values, theirs.query_values)
    assert ours.query_names == theirs.query_names and ours.values.std() > 0
    assert ours.evidence.states == checkpoints.digests and theirs.evidence.states == ()
    assert ours.evidence.trained_elsewhere and not theirs.evidence.trained_elsewhere


def test_the_note_names_the_states_and_says_where_one_is_worse(tmp_path):
    states = trained_states()
    checkpoints = hg.Checkpoints(states, other_network(), loss, other_data(24, 0))
    query = hg.mean_loss(other_data(12, 1))
    scores = hg.influence(checkpoints, query)
    (note,) = scores.evidence.notes
    assert "averaged over 3 checkpoints of a model trained elsewhere (state 1, state 2, state 3)" in note.text
    assert "Conjugate gradients left at most" in note.text and "predict better" not in note.text
    alone = hg.influence(hg.Checkpoints(states[-1], other_network(), loss, other_data(24, 0)), query)
    assert "at one checkpoint of a model trained elsewhere (state 1)" in alone.evidence.notes[0].text
    assert "Several checkpoints of the training predict better than one." in alone.evidence.notes[0].text
    scores.save(tmp_path / "scores.safetensors")
    assert hg.Scores.load(tmp_path / "scores.safetensors").evidence == scores.evidence


def test_fewer_checkpoints_are_spread_over_the_states():
    checkpoints = hg.Checkpoints(trained_states(count=7), other_network(), loss, other_data(24, 0))
    names = {count: averaged_over(checkpoints, count, "influence").names for count in (1, 2, 3, 7, 100)}
    assert names[1] == ("state 7",) and names[2] == ("state 4", "state 7")
    assert names[3] == ("state 2", "state 5", "state 7") and names[7] == names[100] == checkpoints.names
    with pytest.raises(QueryError, match="one checkpoint or more, got checkpoints=0"):
        hg.influence(checkpoints, hg.mean_loss(other_data(12, 1)), checkpoints=0)


def test_equal_a_dense_solve_of_a_network(tmp_path):
    run, held_out = trained(tmp_path / "run", network()), data(12, 1)
    checkpoints = hg.Checkpoints(states_of(run, 1), frozen_network(), cross_entropy, run.train_set)
    model = checkpoints.trained_model()
    weights = [p.requires_grad_() for name, p in model.named_parameters() if name != "0.bias"]

    def gradient(x, y):
        return flat(torch.autograd.grad(F.cross_entropy(model(x), y), weights))

    matrix = dense_matrix(run, "ggn", model)
    damped = matrix + 0.05 * torch.eye(len(matrix), dtype=torch.float64)
    samples = torch.stack([gradient(x[None], y[None]) for x, y in run.train_set])
    expected = samples @ torch.linalg.solve(damped, gradient(*held_out.tensors)) / 24
    scores = hg.influence(checkpoints, hg.mean_loss(held_out), damping=0.05, iterations=100, tolerance=1e-10)
    torch.testing.assert_close(scores.values[0], expected, rtol=1e-6, atol=1e-12)


def ridge(model, batch):
    return (model(batch[0])[:, 0] - batch[1]).square() / 2


def test_equal_the_closed_form_of_a_regularised_linear_model():
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((30, 4), (30,)))
    y, decay = x @ torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64) + noise, 0.1
    hessian = x.T @ x / 30 + decay * torch.eye(4, dtype=torch.float64)
    weights = torch.linalg.solve(hessian, x.T @ y / 30)
    model = nn.Linear(4, 1, bias=False).double()
    checkpoints = hg.Checkpoints({"weight": weights[None]}, model, ridge, TensorDataset(x, y))
    scores = hg.influence(checkpoints, hg.sample_losses(TensorDataset(x, y), [3, 8]), damping=decay, tolerance=1e-12)
    gradients = (x @ weights - y)[:, None] * x
    expected = gradients[[3, 8]] @ torch.linalg.solve(hessian, gradients.T) / 30
    torch.testing.assert_close(scores.values, expected, rtol=1e-6, atol=0)
    # Really solved again without sample 3's neighbours in value: the sign and the size are those of a removal.
    removed = torch.ones(30, dtype=torch.float64).index_fill(0, torch.tensor([5]), 0)
    without = torch.linalg.solve(x.T * removed @ x / 30 + decay * torch.eye(4), x.T * removed @ y / 30)
    change = (ridge_at(without, x, y) - ridge_at(weights, x, y))[3]
    assert scores.values[0, 5] == pytest.approx(float(change), rel=0.3)


def ridge_at(weights, x, y):
    return (x @ weights - y).square() / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_products_leave_less_of_the_gradient(dtype):
    def typed(dataset):
        return TensorDataset(dataset.tensors[0].to(dtype), dataset.tensors[1])

    states = [{n: v.to(dtype) if v.is_floating_point() else v for n, v in s.items()} for s in trained_states()]
    checkpoints = hg.Checkpoints(states, other_network().to(dtype), loss, typed(other_data(24, 0)))
    query = hg.mean_loss(typed(other_data(12, 1)))
    exact = hg.influence(
        checkpoints, query, damping=0.01, iterations=200, tolerance=1e-10 if dtype.is_floating_point else 0
    )
    errors = []
    for iterations in (1, 3, 20):
        values = hg.influence(checkpoints, query, damping=0.01, iterations=iterations).values
        errors.append(float((values - exact.values).norm() / exact.values.norm()))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-3


def test_conjugate_gradients_are_given_numbers_that_make_sense():
    checkpoints = hg.Checkpoints(trained_states(), other_network(), loss, other_data(24, 0))
    for options in ({"iterations": -1}, {"tolerance": 1.0}, {"tolerance": -1e-3}):
        with pytest.raises(QueryError, match="iterations of 1 or more and a tolerance from 0 to below 1"):
            hg.influence(checkpoints, hg.mean_loss(other_data(12, 1)), **options)


def test_candidates_are_scored_as_if_they_had_been_trained_on(tmp_path):
    run, query = trained(tmp_path / "run", network()), hg.mean_loss(data(12, 1))
    trained_on = hg.influence(run, query, damping=0.05)
    again = hg.influence(run, query, damping=0.05, candidates=run.train_set)
    torch.testing.assert_close(again.values, trained_on.values, rtol=1e-12, atol=0)
    new = data(9, 5)
    scores = hg.influence(run, query, damping=0.05, candidates=ConcatDataset([new, run.train_set]))
    assert scores.values.shape == (1, 33) and scores.sample_ids.tolist() == list(range(33))
    torch.testing.assert_close(scores.values[:, 9:], trained_on.values, rtol=1e-10, atol=1e-14)
    some = hg.influence(run, query, damping=0.05, candidates=new, samples=[7, 2])
    torch.testing.assert_close(some.values, scores.values[:, [7, 2]])
    assert [note.kind for note in some.evidence.notes] == ["influence", "candidates"]
    assert some.evidence.about_candidates and "9 candidates that were not trained on" in some.evidence.notes[1].text
    assert not trained_on.evidence.about_candidates
    with pytest.raises(DataError, match="data set of candidates is empty"):
        hg.influence(run, query, candidates=TensorDataset(torch.zeros(0, 4)))
    with pytest.raises(QueryError, match="samples 0 to 8"):
        hg.influence(run, query, candidates=new, samples=[9])


def test_adding_a_candidate_does_to_a_linear_model_what_its_score_says():
    x, y = data(24, 0).tensors
    decay, held_out, new = 0.1, data(12, 1), data(3, 7)

    def solved(weight):
        weights = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=500, tolerance_grad=1e-13, tolerance_change=0)

        def closure():
            optimizer.zero_grad()
            own = F.cross_entropy(x @ weights, y, reduction="sum")
            added = weight * F.cross_entropy(new.tensors[0][:1] @ weights, new.tensors[1][:1])
            total = (own + added) / 24 + decay / 2 * weights.square().sum()
            total.backward()
            return total

        optimizer.step(closure)
        return weights.detach()

    def value(weights):
        return float(F.cross_entropy(held_out.tensors[0] @ weights, held_out.tensors[1]))

    model = nn.Linear(4, 3, bias=False).double()
    checkpoints = hg.Checkpoints({"weight": solved(0.0).T.contiguous()}, model, cross_entropy, data(24, 0))
    query = hg.mean_loss(held_out)
    score = hg.influence(checkpoints, query, damping=decay, candidates=new, tolerance=1e-12).values[0, 0]
    step = 1e-4
    slope = (value(solved(step)) - value(solved(-step))) / (2 * step)
    assert float(score) == pytest.approx(-slope, rel=1e-5)  # positive: adding it lowers the loss


@pytest.mark.parametrize("sample", [5, 20])
def test_samples_that_are_not_finite_are_named(sample):
    x, y = other_data(24, 0).tensors
    x = x.clone()
    x[sample, 2] = torch.nan
    broken, query = TensorDataset(x, y), hg.mean_loss(other_data(12, 1))
    for damping in (None, 0.1):
        with pytest.raises(NonFinite, match=rf"training samples must be finite; those of \[{sample}\] are not"):
            hg.influence(hg.Checkpoints(trained_states(), other_network(), loss, broken), query, damping=damping)
    whole = hg.Checkpoints(trained_states(), other_network(), loss, other_data(24, 0))
    with pytest.raises(NonFinite, match=rf"finite derivatives; those of \[{sample}\] have not"):
        hg.influence(whole, query, candidates=broken)
    with pytest.raises(NonFinite, match=rf"finite derivatives; those of \[{sample}\] have not"):
        hg.tracin(hg.Checkpoints(trained_states(), other_network(), loss, broken), query, rates=0.1)
