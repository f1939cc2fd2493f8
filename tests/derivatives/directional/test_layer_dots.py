"""Every rule against per-sample gradients by autograd: several directions, several lanes."""

import re

import pytest
import torch
from torch import Tensor, nn

from hydragrad.derivatives import HooksInapplicable, LayerDots, why_not_hooks
from hydragrad.derivatives.directional import layer_dots
from hydragrad.derivatives.directional.layer_dots import RULES

BATCH, DIRECTIONS = 4, 3


def real(*shape: int) -> Tensor:
    return torch.randn(BATCH, *shape, dtype=torch.float64)


def integers(*shape: int) -> Tensor:
    return torch.randint(7, (BATCH, *shape))


LAYERS = {
    "linear": (lambda: nn.Linear(3, 5), real(3)),
    "linear over positions": (lambda: nn.Linear(3, 5), real(2, 3)),
    "linear over a grid": (lambda: nn.Linear(3, 5), real(2, 4, 3)),
    "linear without bias": (lambda: nn.Linear(3, 5, bias=False), real(2, 3)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3), real(3, 7)),
    "conv1d, a channel a group": (lambda: nn.Conv1d(4, 8, 3, groups=4, padding="same"), real(4, 7)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3), real(3, 6, 5)),
    "conv2d, groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), real(4, 6, 5)),
    "conv2d, stride and padding": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=(1, 2)), real(3, 6, 5)),
    "conv2d, dilation": (lambda: nn.Conv2d(3, 4, (2, 3), dilation=(2, 1)), real(3, 6, 5)),
    "conv2d, same": (lambda: nn.Conv2d(3, 4, (3, 5), padding="same"), real(3, 6, 5)),
    "conv2d, reflect": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), real(3, 6, 5)),
    "conv2d, circular": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), real(3, 6, 5)),
    "conv2d, replicate": (lambda: nn.Conv2d(3, 4, 3, padding=(1, 0), padding_mode="replicate"), real(3, 6, 5)),
    "conv2d, everything": (
        lambda: nn.Conv2d(4, 6, 2, stride=2, padding=1, dilation=2, groups=2, padding_mode="circular", bias=False),
        real(4, 7, 6),
    ),
    "conv3d": (lambda: nn.Conv3d(2, 4, 2, groups=2, stride=(1, 2, 1), padding=1), real(2, 3, 4, 3)),
    "embedding": (lambda: nn.Embedding(7, 3), integers(5)),
    "embedding of one": (lambda: nn.Embedding(7, 3), integers()),
    "embedding of a grid": (lambda: nn.Embedding(7, 3), integers(2, 3)),
    "embedding with padding": (lambda: nn.Embedding(7, 3, padding_idx=2), torch.tensor([[2, 2, 1], [2, 0, 2]] * 2)),
    "embedding with padding from the end": (
        lambda: nn.Embedding(7, 3, padding_idx=-1),
        torch.tensor([[6, 6, 1], [6, 0, 6]] * 2),
    ),
    "layer norm": (lambda: scaled(nn.LayerNorm(5)), real(5)),
    "layer norm over positions": (lambda: scaled(nn.LayerNorm(5, eps=0.1)), real(3, 5)),
    "layer norm of planes": (lambda: scaled(nn.LayerNorm((3, 5))), real(2, 3, 5)),
    "layer norm without bias": (lambda: scaled(nn.LayerNorm(5, bias=False)), real(3, 5)),
    "batch norm in eval mode": (lambda: evaluating(nn.BatchNorm1d(5)), real(5)),
    "batch norm over positions": (lambda: evaluating(nn.BatchNorm1d(5, eps=0.1)), real(5, 3)),
    "batch norm of images": (lambda: evaluating(nn.BatchNorm2d(3)), real(3, 4, 2)),
    "batch norm of volumes": (lambda: evaluating(nn.BatchNorm3d(2)), real(2, 3, 4, 2)),
}


def scaled(layer: nn.Module) -> nn.Module:
    """Away from its initial ones and zeros."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def evaluating(layer: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) -> nn.Module:
    """Normalises by statistics of its own."""
    assert layer.running_mean is not None and layer.running_var is not None
    layer.running_mean += 0.3
    layer.running_var *= 1.7
    return scaled(layer).eval()


class PerSample(nn.Module):
    """A layer with something nonlinear behind it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).tanh().square().flatten(1).sum(1)


def expected(losses: Tensor, named: dict[str, Tensor], directions: dict[str, Tensor]) -> dict[str, Tensor]:
    """<direction, gradient of loss i>, parameter by parameter, (directions, batch)."""
    rows = [torch.autograd.grad(loss, list(named.values()), retain_graph=True) for loss in losses]
    gradients = {name: torch.stack([row[at] for row in rows]) for at, name in enumerate(named)}
    return {name: torch.einsum("q...,b...->qb", directions[name], gradients[name]) for name in named}


def gathered(model: nn.Module, x: Tensor, directions: dict[str, Tensor], lanes: dict[str, int]) -> Tensor:
    dots = LayerDots(model, directions, lanes)
    try:
        dots.begin(len(x), next(model.parameters()))
        model(x).sum().backward()
    finally:
        dots.remove()
    return dots.totals


def random_directions(named: dict[str, Tensor], count: int = DIRECTIONS) -> dict[str, Tensor]:
    return {name: torch.randn(count, *p.shape, dtype=p.dtype) for name, p in named.items()}


@pytest.mark.parametrize("count", [DIRECTIONS, layer_dots.MANY])
@pytest.mark.parametrize("name", LAYERS)
def test_each_rule_is_the_per_sample_gradient(name, count, monkeypatch):
    monkeypatch.setattr(layer_dots, "NUMBERS", 50)  # a few samples at once
    torch.manual_seed(0)
    build, x = LAYERS[name]
    model = PerSample(build()).double()
    named = dict(model.named_parameters())
    assert why_not_hooks(model) is None
    directions = random_directions(named, count)
    wanted = expected(model(x), named, directions)
    lanes = {parameter: number for number, parameter in enumerate(named)}
    totals = gathered(model, x, directions, lanes)
    assert totals.shape == (len(named), count, BATCH)
    for parameter, number in lanes.items():
        assert wanted[parameter].abs().max() > 1e-3
        torch.testing.assert_close(totals[number], wanted[parameter], rtol=1e-11, atol=1e-13)
    together = gathered(model, x, directions, dict.fromkeys(named, 0))
    torch.testing.assert_close(together[0], totals.sum(0), rtol=1e-12, atol=1e-13)


def test_every_rule_is_tested():
    tested = {type(build()) for build, _ in LAYERS.values()}
    assert tested == set(RULES)


class Reused(nn.Module):
    """A layer called twice, a weight shared by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix, self.out = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.mix(torch.tanh(self.mix(self.embedding(x))))
        return self.out(torch.sigmoid(hidden)).square().flatten(1).sum(1)


def test_layers_and_weights_used_twice():
    torch.manual_seed(0)
    model = Reused().double()
    named = dict(model.named_parameters())
    assert set(named) == {"embedding.weight", "mix.weight", "mix.bias"}
    x, directions = integers(3), random_directions(named)
    wanted = expected(model(x), named, directions)
    totals = gathered(model, x, directions, {"embedding.weight": 0, "mix.weight": 1, "mix.bias": 0})
    first = wanted["embedding.weight"] + wanted["mix.bias"]
    torch.testing.assert_close(totals, torch.stack([first, wanted["mix.weight"]]), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("layer", "shape"), [(nn.Linear(3, 5), (3,)), (nn.Conv2d(3, 4, 2), (3, 4, 4))])
def test_what_changes_an_output_in_place_comes_after_the_layer(layer, shape):
    torch.manual_seed(0)
    model = PerSample(nn.Sequential(layer, nn.ELU(inplace=True))).double()
    named = dict(model.named_parameters())
    x, directions = real(*shape), random_directions(named)
    wanted = sum(expected(model(x), named, directions).values())
    torch.testing.assert_close(gathered(model, x, directions, dict.fromkeys(named, 0))[0], wanted)


def test_parameters_left_out_count_as_zero():
    torch.manual_seed(0)
    model = PerSample(nn.Linear(3, 5)).double()
    named = {"layer.bias": model.layer.bias}
    x, directions = real(3), random_directions(named)
    wanted = expected(model(x), named, directions)
    torch.testing.assert_close(gathered(model, x, directions, {"layer.bias": 0})[0], wanted["layer.bias"])


def test_frozen_parameters_do_not_disturb():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), PerSample(nn.Linear(3, 5))).double()
    model[0].requires_grad_(False)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    x, directions = real(3), random_directions(named)
    wanted = sum(expected(model(x), named, directions).values())
    torch.testing.assert_close(gathered(model, x, directions, dict.fromkeys(named, 0))[0], wanted)


def test_the_gradients_are_those_of_the_run():
    """Hooks look on: gradients and later passes are the same to the bit."""
    torch.manual_seed(0)
    model = Reused().double()
    x = integers(3)
    plain = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    named = dict(model.named_parameters())
    gathered(model, x, random_directions(named), dict.fromkeys(named, 0))
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), plain, strict=True))
    assert all(not module._forward_hooks for module in model.modules())


class Rotated(nn.Module):
    """Mixes the batch dimension into another one before its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(0, 1)).tanh().view(len(x), -1).sum(1)


def test_layers_that_do_not_see_one_row_a_sample_are_refused():
    model = Rotated().double()
    named = dict(model.named_parameters())
    with pytest.raises(HooksInapplicable, match="Linear does not see one row a sample"):
        gathered(model, real(2, 3), random_directions(named), dict.fromkeys(named, 0))


class MyLinear(nn.Linear):
    """A subclass may compute something else."""


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Linear(3, 3), MyLinear(3, 3)), r"no rule for the parameters of 1 \(MyLinear\)"),
        (nn.Sequential(nn.Linear(3, 3), nn.PReLU()), r"no rule for the parameters of 1 \(PReLU\)"),
        (nn.GRU(3, 3), r"no rule for the parameters of the model \(GRU\)"),
        (nn.ConvTranspose2d(1, 1, 2), r"the model \(ConvTranspose2d\)"),
        (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), "couples the samples of a batch"),
        (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False)), "couples the samples of a batch"),
    ],
)
def test_models_without_rules_are_named(model, reason):
    assert re.search(reason, why_not_hooks(model))


def test_batch_norm_without_parameters_in_eval_mode_is_no_obstacle():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False))
    model.eval()
    assert why_not_hooks(model) is None
