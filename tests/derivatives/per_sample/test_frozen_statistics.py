"""With the batch's statistics as constants: one pass of our own against autograd, sample by sample."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hydragrad.derivatives import Batch, FrozenGradients, Layout, Projector, why_not_hooks

SIZE = 5


class Detached(nn.Module):
    """BatchNorm written out by hand, its statistics detached: the dense reference."""

    def __init__(self, layer):
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
        self.frozen = None if layer.training else (layer.running_mean, layer.running_var)

    def forward(self, x):
        over = [0, *range(2, x.dim())]
        mean, variance = self.frozen or (x.detach().mean(over), x.detach().var(over, correction=0))
        shape = [1, -1] + [1] * (x.dim() - 2)
        x = (x - mean.view(shape)) / (variance.view(shape) + self.eps).sqrt()
        return x if self.weight is None else x * self.weight.view(shape) + self.bias.view(shape)


class Own(nn.Module):
    """A parameter without a rule between two BatchNorms."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.scale = nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Parameter(torch.randn(3))

    def forward(self, x):
        return self.norm(self.first(x)) * self.scale


def dense():
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6, momentum=None), nn.ReLU(inplace=True), nn.Dropout(0.4), nn.Linear(6, 3)
    )


def images():
    return nn.Sequential(
        nn.Conv2d(2, 8, 1, bias=False),  # one position of the kernel
        nn.BatchNorm2d(8, eps=0.1),
        nn.ReLU6(inplace=True),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False),  # depthwise
        nn.BatchNorm2d(8, affine=False),
        nn.GELU(),
        nn.Conv2d(8, 4, 3, padding=1, groups=2),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.GELU(),
        nn.Conv2d(4, 2, (3, 2), padding=(0, 1), dilation=(1, 2)),  # fewer channels out than in
        nn.BatchNorm2d(2).eval(),
        nn.Flatten(),
    )


def sequences():
    return nn.Sequential(nn.Embedding(5, 3), nn.BatchNorm1d(4), nn.Conv1d(4, 2, 2), nn.BatchNorm1d(2), nn.Flatten())


def volumes():
    return nn.Sequential(nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2), nn.Flatten())


def partly_frozen():
    model = dense()
    model[0].requires_grad_(False)
    return model


def real(*shape):
    return torch.randn(SIZE, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def tokens():
    return torch.randint(5, (SIZE, 4), generator=torch.Generator().manual_seed(1))


MODELS = {
    "dense": (dense, real(4), True),
    "images": (images, real(2, 7, 6), True),
    "sequences": (sequences, tokens(), True),
    "volumes": (volumes, real(1, 3, 4, 3), True),
    "partly frozen": (partly_frozen, real(4), True),
    "own parameter": (Own, real(4), False),
}


def loss(model, x):
    return model(x).square().flatten(1).sum(1).sin()


def built(name):
    build, x, by_layers = MODELS[name]
    torch.manual_seed(0)
    model = build().double()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model, x, by_layers, Layout({key: value.shape for key, value in model.named_parameters()})


def detached(model, x, seed=3):
    """Rows of the dense reference; parameters that are frozen or unused have zeros."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, Detached(module))
    torch.manual_seed(seed)
    losses, rows = loss(model, x), []
    for value in losses:
        trained = [p for p in model.parameters() if p.requires_grad]
        gradients = iter(torch.autograd.grad(value, trained, retain_graph=True))
        flat = [(next(gradients) if p.requires_grad else torch.zeros_like(p)).flatten() for p in model.parameters()]
        rows.append(torch.cat(flat))
    return torch.stack(rows)


@pytest.mark.parametrize("name", MODELS)
def test_rows_are_gradients_with_statistics_detached(name):
    model, x, by_layers, layout = built(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    frozen = FrozenGradients(model, loss, layout, None)
    found = [frozen(model, Batch(x, SIZE, 3), positions) for positions in (range(SIZE), [3, 0])]
    assert frozen.by_layers is by_layers
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    expected = detached(model, x)
    assert expected.norm(dim=1).min() > 0
    torch.testing.assert_close(found[0], expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found[1], expected[[3, 0]], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", MODELS)
def test_projected(name):
    model, x, _, layout = built(name)
    projector = Projector(layout, [layout.names], 7, dtype=torch.float64)
    found = FrozenGradients(model, loss, layout, projector)(model, Batch(x, SIZE, 3), range(SIZE))
    torch.testing.assert_close(found, projector.flat(detached(model, x)), rtol=1e-9, atol=1e-11)


def test_it_is_another_function_than_the_exact_one():
    """And the layers say that they are coupled unless told otherwise."""
    model, x, _, _ = built("dense")
    torch.manual_seed(3)
    exact = torch.autograd.grad(loss(model, x)[0], list(model.parameters()))
    expected = detached(model, x)[0]
    flat = torch.cat([gradient.flatten() for gradient in exact])
    assert torch.dist(flat, expected) > 0.05 * expected.norm()
    assert "couples the samples" in str(why_not_hooks(built("dense")[0]))


def test_models_follow_their_weights_and_modes():
    model, x, _, layout = built("dense")
    frozen = FrozenGradients(model, loss, layout, None)
    frozen(model, Batch(x, SIZE, 3), range(SIZE))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    model[1].eval()
    model[0].weight.requires_grad_(False)
    found = frozen(model, Batch(x, SIZE, 3), range(SIZE))
    torch.testing.assert_close(found, detached(model, x), rtol=1e-9, atol=1e-11)


def test_samples_that_are_coupled_otherwise_are_found():
    """Centred over the batch by hand: no layer tells, the comparison at the first batch does."""

    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)

        def forward(self, x):
            hidden = torch.tanh(self.norm(self.first(x)))
            return self.last(F.softplus(hidden - hidden.mean(0)))

    torch.manual_seed(0)
    model, x = Centred().double(), real(4)
    layout = Layout({key: value.shape for key, value in model.named_parameters()})
    frozen = FrozenGradients(model, loss, layout, None)
    found = frozen(model, Batch(x, SIZE, 3), range(SIZE))
    assert frozen.by_layers is False
    torch.testing.assert_close(found, detached(model, x), rtol=1e-9, atol=1e-11)
