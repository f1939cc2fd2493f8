"""Influence functions against a dense solve, on a model whose Gauss-Newton matrix and Hessian are one, and another."""

import pytest
import torch
import torch.nn.functional as F

import hydragrad as hg
from attribution.dense import data, dense_matrix, flat, linear, network, penalised, trained
from hydragrad.attribution.gauss_newton_matrix import DAMPING_SHARE
from hydragrad.attribution.influence import influence_at, influence_functions, query_gradients
from hydragrad.errors import LossError, QueryError, Unsupported
from hydragrad.replay.checkpoint_spread import spread_steps
from hydragrad.replay.histories import trained_layout

DAMPING = 0.05


@pytest.mark.parametrize(("model", "curvature"), [(linear, "hessian"), (network, "ggn")])
def test_equal_a_dense_solve(tmp_path, model, curvature):
    run = trained(tmp_path / "run", model())
    held_out, layout = data(12, 1), trained_layout(run)
    final = run.trained_model()
    weights = [dict(final.named_parameters())[name].requires_grad_() for name in layout.names]

    def gradient(x, y):
        return flat(torch.autograd.grad(F.cross_entropy(final(x), y), weights))

    matrix = dense_matrix(run, curvature)
    direction = torch.linalg.solve(matrix + DAMPING * torch.eye(layout.size), gradient(*held_out.tensors))
    expected = torch.stack([gradient(x[None], y[None]) for x, y in run.train_set]) @ direction / 24
    found = influence_functions(run, hg.mean_loss(held_out), damping=DAMPING, iterations=200)
    torch.testing.assert_close(found[0], expected, rtol=2e-3, atol=1e-6)


def test_checkpoints_are_averaged(tmp_path):
    run, query = trained(tmp_path / "run", network()), hg.mean_loss(data(12, 1))
    ends = [step for step, _ in run.segments if step > 0]
    assert spread_steps(run, 1) == [12]
    assert spread_steps(run, 100) == [*ends, 12]
    assert spread_steps(run, 2) == [min(ends, key=lambda step: abs(step - 6)), 12]
    layout, options = trained_layout(run), {"damping": DAMPING, "iterations": 200}
    each = []
    for step in spread_steps(run, 2):
        at = run.final if step == 12 else run.checkpoint(step)
        each.append(influence_at(run, layout, at, query_gradients(run, layout, at, query), **options).values)
    assert not torch.allclose(each[0], each[1])
    torch.testing.assert_close(influence_functions(run, query, checkpoints=2, **options), (each[0] + each[1]) / 2)
    torch.testing.assert_close(influence_functions(run, query, **options), each[1])
    with pytest.raises(ValueError, match="one checkpoint or more"):
        influence_functions(run, query, checkpoints=0)


def test_a_penalty_in_the_loss_is_refused(tmp_path):
    run = trained(tmp_path / "run", linear(), penalised)
    with pytest.raises(LossError, match="through the model's output alone"):
        influence_functions(run, hg.mean_loss(data(12, 1)))


@pytest.mark.parametrize("model", [linear, network])
def test_the_public_function_is_the_mean_of_dense_solves(tmp_path, model):
    run, held_out = trained(tmp_path / "run", model()), data(12, 1)
    layout, query = trained_layout(run), hg.mean_loss(held_out, "held out")
    scores = hg.influence(run, [query, hg.sample_losses(held_out, [4, 5])], checkpoints=2, damping=DAMPING)
    expected = []
    for step in spread_steps(run, 2):
        at = run.final if step == 12 else run.checkpoint(step)
        model_at = run.trained_model()
        model_at.load_state_dict({**at.parameters, **at.buffers})
        matrix = dense_matrix(run, "ggn", model_at) + DAMPING * torch.eye(layout.size)
        weights = [dict(model_at.named_parameters())[name].requires_grad_() for name in layout.names]

        def gradient(x, y, model_at=model_at, weights=weights):
            return flat(torch.autograd.grad(F.cross_entropy(model_at(x), y), weights))

        parts = [held_out.tensors, *((held_out.tensors[0][i : i + 1], held_out.tensors[1][i : i + 1]) for i in (4, 5))]
        queries = torch.stack([gradient(*part) for part in parts])
        samples = torch.stack([gradient(x[None], y[None]) for x, y in run.train_set])
        expected.append(torch.linalg.solve(matrix, queries.T).T @ samples.T / 24)
    assert not torch.allclose(expected[0], expected[1], rtol=0.01)
    mean = (expected[0] + expected[1]) / 2
    assert torch.linalg.norm(scores.values - mean) < 1e-3 * torch.linalg.norm(mean)
    assert scores.query_names == ("held out", "loss of sample 4", "loss of sample 5")
    torch.testing.assert_close(scores.query_values, hg.attribute(run, scores.queries).query_values)
    assert scores.evidence.from_checkpoints and not scores.evidence.scale_is_measured
    assert "averaged over 2 checkpoints (after steps 6, 12); damping 0.05." in scores.evidence.notes[0].text


def test_damping_is_chosen_relative_to_the_largest_eigenvalue_at_each_checkpoint(tmp_path):
    run, query = trained(tmp_path / "run", network()), hg.mean_loss(data(12, 1))
    layout, parts = trained_layout(run), []
    for step in spread_steps(run, 2):
        at = run.final if step == 12 else run.checkpoint(step)
        model_at = run.trained_model()
        model_at.load_state_dict({**at.parameters, **at.buffers})
        damping = DAMPING_SHARE * float(torch.linalg.eigvalsh(dense_matrix(run, "ggn", model_at)).max())
        one = influence_at(run, layout, at, query_gradients(run, layout, at, query), damping=None)
        assert one.damping == pytest.approx(damping, rel=0.1)
        parts.append(one)
    assert parts[0].damping != parts[1].damping
    scores = hg.influence(run, query, checkpoints=2)
    torch.testing.assert_close(scores.values, (parts[0].values + parts[1].values) / 2)
    assert "of the largest eigenvalue at each" in scores.evidence.notes[0].text
    assert torch.equal(scores.values, hg.influence(run, query, checkpoints=2).values)


def test_samples_are_columns_of_the_whole(tmp_path):
    run, query = trained(tmp_path / "run", network()), hg.mean_loss(data(12, 1))
    whole, part = hg.influence(run, query), hg.influence(run, query, samples=[7, 2, 23])
    assert whole.values.shape == (1, 24) and whole.values.dtype == torch.float64
    assert part.sample_ids.tolist() == [7, 2, 23]
    torch.testing.assert_close(part.values, whole.values[:, [7, 2, 23]])
    part.save(tmp_path / "influence.safetensors")
    assert hg.Scores.load(tmp_path / "influence.safetensors").evidence == part.evidence


def test_what_the_public_function_refuses(tmp_path):
    run, query = trained(tmp_path / "run", linear()), hg.mean_loss(data(12, 1))
    with pytest.raises(Unsupported, match=r"takes a recorded run or hg.Checkpoints, got Linear"):
        hg.influence(run.trained_model(), query)
    with pytest.raises(QueryError, match="one checkpoint or more, got checkpoints=0"):
        hg.influence(run, query, checkpoints=0)
    for damping in (-0.1, float("inf")):
        with pytest.raises(QueryError, match="damping must be finite and not negative"):
            hg.influence(run, query, damping=damping)
    with pytest.raises(QueryError, match="samples 0 to 23"):
        hg.influence(run, query, samples=[24])


def test_an_interrupted_run_is_noted(tmp_path, monkeypatch):
    run, query = trained(tmp_path / "run", linear()), hg.mean_loss(data(12, 1))
    monkeypatch.setattr(hg.Recording, "completed", False)
    scores = hg.influence(run, query)
    assert [note.kind for note in scores.evidence.notes] == ["influence", "interrupted"]
