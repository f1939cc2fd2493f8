"""Influence functions against a dense solve, on a model whose Gauss-Newton matrix and Hessian are one, and another."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, hessian, jacrev
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.attribution.influence import (
    DampedGaussNewton,
    influence_at,
    influence_functions,
    query_gradients,
)
from hydragrad.errors import LossError
from hydragrad.replay.checkpoint_spread import spread_steps
from hydragrad.replay.histories import trained_layout

DAMPING = 0.05


def data(size: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % 3
    return TensorDataset(torch.randn(size, 4, generator=generator, dtype=torch.float64) + labels[:, None], labels)


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def penalised(model, batch):
    return cross_entropy(model, batch) + next(model.parameters()).square().sum()


def trained(path, model, loss=cross_entropy):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    return hg.train(model, loss, data(24, 0), optimizer, epochs=4, batch_size=8, out=path)


def linear():
    torch.manual_seed(0)
    return nn.Linear(4, 3).double()


def network():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 3)).double()
    layers[0].bias.requires_grad_(False)
    return layers


def flat(parts):
    return torch.cat([part.flatten() for part in parts])


def dense_matrix(run, curvature):
    """Hessian or Gauss-Newton matrix of the mean loss in the trained parameters of the trained model."""
    model, layout = run.trained_model(), trained_layout(run)
    x, y = run.train_set.tensors
    start = layout.flatten(dict(model.named_parameters()), next(model.parameters()))

    def logits(vector):
        return functional_call(model, layout.views(vector), x)

    if curvature == "hessian":
        return hessian(lambda vector: F.cross_entropy(logits(vector), y))(start)
    jacobian = jacrev(logits)(start)
    p = logits(start).softmax(1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("bcp,bcd,bdq->pq", jacobian, inner, jacobian) / len(y)


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
        each.append(influence_at(run, layout, at, query_gradients(run, layout, at, query), **options))
    assert not torch.allclose(each[0], each[1])
    torch.testing.assert_close(influence_functions(run, query, checkpoints=2, **options), (each[0] + each[1]) / 2)
    torch.testing.assert_close(influence_functions(run, query, **options), each[1])
    with pytest.raises(ValueError, match="one checkpoint or more"):
        influence_functions(run, query, checkpoints=0)


def test_a_part_of_the_samples_gives_their_matrix(tmp_path):
    run = trained(tmp_path / "run", linear())
    layout = trained_layout(run)
    whole, part = (DampedGaussNewton(run, layout, run.final, 0.0, samples) for samples in (None, 12))
    vector = torch.arange(layout.size, dtype=torch.float64)
    torch.testing.assert_close(whole @ vector, dense_matrix(run, "hessian") @ vector)
    assert not torch.allclose(part @ vector, whole @ vector, rtol=1e-3)
    again = DampedGaussNewton(run, layout, run.final, 0.0, 12)
    assert torch.equal(part @ vector, again @ vector)


def test_a_penalty_in_the_loss_is_refused(tmp_path):
    run = trained(tmp_path / "run", linear(), penalised)
    with pytest.raises(LossError, match="through the model's output alone"):
        influence_functions(run, hg.mean_loss(data(12, 1)))
