"""Small runs whose Gauss-Newton matrix is dense."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, hessian, jacrev
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.replay.histories import trained_layout


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


def dense_matrix(run, curvature, model=None):
    """Hessian or Gauss-Newton matrix of the mean loss in the trained parameters of a model, the trained one if None."""
    model, layout = model or run.trained_model(), trained_layout(run)
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
