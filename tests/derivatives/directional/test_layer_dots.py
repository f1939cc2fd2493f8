"""Dot products out of a backward pass against per-sample gradients by autograd, with several histories."""

import pytest
import torch
from torch import Tensor, nn

from derivatives.layers.layer_cases import BATCH, LAYERS, PerSample, gradients_by_autograd, integers, real
from hydragrad.derivatives import HooksInapplicable, LayerDots, why_not_hooks
from hydragrad.derivatives.layers import convolution

DIRECTIONS = 3


def expected(losses: Tensor, named: dict[str, Tensor], directions: dict[str, Tensor]) -> dict[str, Tensor]:
    """<direction, gradient of loss i>, parameter by parameter, (directions, batch)."""
    gradients = gradients_by_autograd(losses, named)
    return {name: torch.einsum("q...,b...->qb", directions[name], gradients[name]) for name in named}


def gathered(model: nn.Module, x: Tensor, directions: dict[str, Tensor], histories: dict[str, int]) -> Tensor:
    dots = LayerDots(model, directions, histories)
    try:
        dots.begin(len(x), next(model.parameters()))
        model(x).sum().backward()
    finally:
        dots.remove()
    return dots.totals


def random_directions(named: dict[str, Tensor], count: int = DIRECTIONS) -> dict[str, Tensor]:
    return {name: torch.randn(count, *p.shape, dtype=p.dtype) for name, p in named.items()}


@pytest.mark.parametrize("count", [DIRECTIONS, convolution.QUERIES_THAT_PAY_FOR_GRADIENTS])
@pytest.mark.parametrize("name", LAYERS)
def test_totals_are_products_with_the_gradients_of_single_samples(name, count, monkeypatch):
    monkeypatch.setattr(convolution, "GRADIENT_NUMBERS_AT_ONCE", 50)  # a few samples at once
    torch.manual_seed(0)
    x = LAYERS[name].x
    model = PerSample(LAYERS[name].build()).double()
    named = dict(model.named_parameters())
    assert why_not_hooks(model) is None
    directions = random_directions(named, count)
    wanted = expected(model(x), named, directions)
    histories = {parameter: number for number, parameter in enumerate(named)}
    totals = gathered(model, x, directions, histories)
    assert totals.shape == (len(named), count, BATCH)
    for parameter, number in histories.items():
        assert wanted[parameter].abs().max() > 1e-3
        torch.testing.assert_close(totals[number], wanted[parameter], rtol=1e-11, atol=1e-13)
    together = gathered(model, x, directions, dict.fromkeys(named, 0))
    torch.testing.assert_close(together[0], totals.sum(0), rtol=1e-12, atol=1e-13)


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
