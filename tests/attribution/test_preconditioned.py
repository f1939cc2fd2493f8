"""Preconditioned conjugate gradients: solutions of a dense solve in fewer steps, and evidence of how far they came."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from attribution.dense import cross_entropy, data
from hydragrad.attribution.conjugate_gradients import conjugate_gradients
from hydragrad.attribution.gauss_newton_matrix import DampedGaussNewton
from hydragrad.attribution.nystrom import low_rank
from hydragrad.errors import QueryError
from trained_elsewhere.states import data as other_data
from trained_elsewhere.states import loss, network, trained_states

KINDS = ["nystrom", "ekfac", "none"]


def opened(count=1, dtype=torch.float64):
    states = [{n: v.to(dtype) if v.is_floating_point() else v for n, v in s.items()} for s in trained_states()]
    x, y = other_data(24, 0).tensors
    return hg.Checkpoints(states[-count:], network().to(dtype), loss, TensorDataset(x.to(dtype), y))


def held_out(dtype=torch.float64):
    x, y = other_data(12, 1).tensors
    return TensorDataset(x.to(dtype), y)


def dense_influence(checkpoints, queries, damping):
    """By the dense matrix and gradients by autograd."""
    model = checkpoints.trained_model()
    weights = [p.requires_grad_() for p in model.parameters()]

    def gradient(x, y):
        return torch.cat([g.flatten() for g in torch.autograd.grad(F.cross_entropy(model(x), y), weights)])

    x, y = checkpoints.train_set.tensors
    samples = torch.stack([gradient(x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    rows = [torch.autograd.grad(o, weights, retain_graph=True) for o in model(x).flatten()]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]).view(len(x), -1, samples.shape[1])
    p = model(x).softmax(1).detach()
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    matrix = torch.einsum("bcp,bcd,bdq->pq", jacobian, inner, jacobian) / len(x)
    damped = matrix + damping * torch.eye(len(matrix), dtype=x.dtype)
    directions = torch.stack([gradient(*query) for query in queries])
    return torch.linalg.solve(damped, directions.T).T @ samples.T / len(x)


@pytest.mark.parametrize("kind", KINDS)
def test_the_solution_is_that_of_a_dense_solve_whatever_the_preconditioner(kind):
    checkpoints, (x, y) = opened(), held_out().tensors
    queries = [hg.mean_loss(held_out()), hg.sample_losses(held_out(), [3])]
    expected = dense_influence(checkpoints, [(x, y), (x[3:4], y[3:4])], 0.02)
    scores = hg.influence(checkpoints, queries, damping=0.02, iterations=200, tolerance=1e-11, preconditioner=kind)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(scores.values, expected, rtol=1e-6, atol=1e-10)
    (solved,) = scores.evidence.solved
    assert solved.converged and solved.preconditioner == kind and solved.damping == 0.02 and solved.share is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_solution_is_the_closed_form_of_logistic_regression(kind):
    x, y = data(24, 0).tensors
    decay, model = 0.05, nn.Linear(4, 3, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    checkpoints = hg.Checkpoints(model.state_dict(), model, cross_entropy, data(24, 0))
    p = (x @ model.weight.detach().T).softmax(1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    hessian = torch.einsum("nab,ni,nj->aibj", inner, x, x).reshape(12, 12) / 24 + decay * torch.eye(12)
    gradients = ((p - F.one_hot(y, 3))[:, :, None] * x[:, None]).reshape(24, 12)
    expected = gradients[[2, 7]] @ torch.linalg.solve(hessian, gradients.T) / 24
    query = hg.sample_losses(data(24, 0), [2, 7])
    scores = hg.influence(checkpoints, query, damping=decay, iterations=100, tolerance=1e-12, preconditioner=kind)
    torch.testing.assert_close(scores.values, expected, rtol=1e-6, atol=1e-10)


def badly_scaled():
    """A linear model whose inputs differ in size by three orders of magnitude."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 40, generator=generator, dtype=torch.float64) * torch.logspace(0, -3, 40, dtype=torch.float64)
    train_set = TensorDataset(x, torch.arange(200) % 3)
    torch.manual_seed(0)
    model = nn.Linear(40, 3).double()
    return hg.Checkpoints(model.state_dict(), model, cross_entropy, train_set)


@pytest.mark.parametrize("kind", ["nystrom", "ekfac"])
def test_an_ill_conditioned_problem_takes_fewer_iterations(kind):
    checkpoints = badly_scaled()
    query, options = hg.mean_loss(checkpoints.train_set), {"damping": 1e-5, "iterations": 300, "tolerance": 1e-6}
    plain = hg.influence(checkpoints, query, preconditioner="none", **options)
    helped = hg.influence(checkpoints, query, preconditioner=kind, **options)
    assert plain.evidence.solved[0].converged and helped.evidence.solved[0].converged
    assert plain.evidence.solved[0].iterations > 30
    assert helped.evidence.solved[0].iterations < plain.evidence.solved[0].iterations / 2
    torch.testing.assert_close(helped.values, plain.values, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_comes_as_far_as_it_can(kind):
    exact = hg.influence(
        opened(), hg.mean_loss(held_out()), damping=0.02, tolerance=1e-11, iterations=200, preconditioner="none"
    )
    single = torch.float32
    scores = hg.influence(
        opened(dtype=single), hg.mean_loss(held_out(single)), damping=0.02, tolerance=1e-5, preconditioner=kind
    )
    assert scores.evidence.solved[0].converged
    assert (scores.values - exact.values).norm() < 1e-4 * exact.values.norm()


def test_queries_that_do_not_fit_at_once_are_solved_in_blocks(monkeypatch):
    queries = [hg.mean_loss(held_out()), hg.sample_losses(held_out(), [3, 4, 5, 6])]
    options = {"tolerance": 1e-10, "iterations": 100, "preconditioner": "none"}
    whole = hg.influence(opened(2), queries, **options)
    monkeypatch.setattr("hydragrad.attribution.gauss_newton_matrix.ROWS", 2)
    blocks = hg.influence(opened(2), queries, **options)
    torch.testing.assert_close(blocks.values, whole.values, rtol=1e-7, atol=1e-12)
    assert blocks.query_names == whole.query_names and len(blocks.values) == 5
    torch.testing.assert_close(blocks.query_values, whole.query_values)
    monkeypatch.setattr("hydragrad.attribution.gauss_newton_matrix.ROW_BYTES", 1)
    matrix = DampedGaussNewton(opened(), opened().layout, opened().final, 0.1)
    assert matrix.rows_at_once == 1


def test_what_did_not_converge_says_so_with_a_remedy(tmp_path):
    query = hg.mean_loss(held_out())
    scores = hg.influence(opened(2), query, damping=1e-4, iterations=2, preconditioner="none")
    (note,) = [note for note in scores.evidence.notes if note.kind == "convergence"]
    assert "did not converge at 2 of 2 checkpoints" in note.text and "iterations=4 or more" in note.text
    assert "preconditioner='nystrom'" in note.text
    assert [one.at for one in scores.evidence.solved] == ["state 1", "state 2"]
    assert not any(one.converged for one in scores.evidence.solved)
    scores.save(tmp_path / "scores.safetensors")
    assert hg.Scores.load(tmp_path / "scores.safetensors").evidence == scores.evidence
    fine = hg.influence(opened(2), query, damping=0.1)
    assert [note.kind for note in fine.evidence.notes] == ["influence"]
    assert all(one.converged for one in fine.evidence.solved)


def test_the_chosen_damping_is_typed_evidence():
    scores = hg.influence(opened(), hg.mean_loss(held_out()))
    assert scores.evidence.solved[0].share == 0.01
    assert "0.01 of the largest eigenvalue at each, estimated by 8 power iterations" in scores.evidence.notes[0].text


@pytest.mark.parametrize("kind", ["nystrom", "ekfac"])
def test_without_iterations_the_preconditioner_is_the_inverse_and_what_it_leaves_is_measured(kind):
    query = hg.mean_loss(held_out())
    exact = hg.influence(opened(), query, damping=0.1, tolerance=1e-10, iterations=100)
    rough = hg.influence(opened(), query, damping=0.1, iterations=0, preconditioner=kind)
    (solved,) = rough.evidence.solved
    assert solved.iterations == 0 and solved.preconditioner == kind
    assert torch.corrcoef(torch.cat([rough.values, exact.values]))[0, 1] > 0.9
    if kind == "ekfac":
        assert 1e-3 < solved.residual < 1
        assert "An approximate inverse (ekfac) alone: at the checkpoint it leaves" in rough.evidence.notes[1].text


def test_several_scalars_take_nystrom_and_few_take_none():
    few = hg.influence(opened(), hg.sample_losses(held_out(), [1, 2]))
    several = hg.influence(opened(), hg.sample_losses(held_out(), [1, 2, 3, 4]))
    assert few.evidence.solved[0].preconditioner == "none"
    assert several.evidence.solved[0].preconditioner == "nystrom"
    assert "(preconditioner: nystrom)" in several.evidence.notes[0].text


def test_an_unknown_preconditioner_or_no_way_to_solve_is_refused():
    with pytest.raises(QueryError, match="one of nystrom, ekfac, none, got 'lu'"):
        hg.influence(opened(), hg.mean_loss(held_out()), preconditioner="lu")
    with pytest.raises(QueryError, match="Iterations may be 0 with a preconditioner"):
        hg.influence(opened(), hg.mean_loss(held_out()), preconditioner="none", iterations=0)


def test_a_matrix_of_low_rank_is_found_whole():
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    matrix, rows = wide @ wide.T, torch.randn(3, 30, generator=generator, dtype=torch.float64)
    found = low_rank(lambda v: v @ matrix, 30, 8, matrix)
    assert len(found.values) == 5
    torch.testing.assert_close(found.vectors.T * found.values @ found.vectors, matrix)
    # Outside of the range it counts the rest of the spectrum as the smallest eigenvalue; one step corrects that.
    damped = matrix + 0.1 * torch.eye(30, dtype=torch.float64)
    solution = conjugate_gradients(
        lambda v: v @ damped, rows, iterations=3, tolerance=1e-10, precondition=lambda v: found.inverse(v, 0.1)
    )
    torch.testing.assert_close(solution.x, torch.linalg.solve(damped, rows.T).T, rtol=1e-8, atol=1e-8)
    assert solution.products == 2
    nothing = low_rank(lambda v: 0 * v, 30, 8, matrix)
    torch.testing.assert_close(nothing.inverse(rows, 0.5), rows / 0.5)


def test_conjugate_gradients_leave_the_right_hand_side_as_it_is():
    b = torch.ones(1, 3, dtype=torch.float64)
    conjugate_gradients(lambda v: 2 * v, b, iterations=3, tolerance=1e-6)
    assert torch.equal(b, torch.ones(1, 3, dtype=torch.float64))
