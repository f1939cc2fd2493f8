"""Both rules of every parameter of every layer against autograd, sample by sample."""

import pytest
import torch

from derivatives.layers.layer_cases import BATCH, LAYERS, LayerCase, PerSample, gradients_by_autograd
from hydragrad.derivatives.layers import convolution
from hydragrad.derivatives.layers.rules import RULES

DIRECTIONS = 3


def evaluated(case: LayerCase):
    """The layer, what its rules take, and the gradients that they must give, (batch, *shape) a parameter."""
    torch.manual_seed(0)
    layer = case.build().double()
    outputs = []
    layer.register_forward_hook(lambda _layer, _inputs, output: outputs.append(output))
    losses = PerSample(layer)(case.x)
    (delta,) = torch.autograd.grad(losses.sum(), outputs, retain_graph=True)
    expected = gradients_by_autograd(losses, dict(layer.named_parameters()))
    return layer, RULES[type(layer)].rule_input(layer, case.x), delta, expected


@pytest.mark.parametrize("name", LAYERS)
def test_gradient_rules_are_the_gradients_of_single_samples(name):
    layer, x, delta, expected = evaluated(LAYERS[name])
    rule = RULES[type(layer)]
    assert rule.applies(layer) and expected
    for own, gradients in expected.items():
        assert gradients.abs().max() > 1e-3
        with torch.no_grad():
            actual = rule.parameters[own].gradients(layer, x, delta)
        torch.testing.assert_close(actual, gradients, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("count", [DIRECTIONS, convolution.QUERIES_THAT_PAY_FOR_GRADIENTS])
@pytest.mark.parametrize("name", LAYERS)
def test_dot_product_rules_are_products_with_these_gradients(name, count, monkeypatch):
    monkeypatch.setattr(convolution, "GRADIENT_NUMBERS_AT_ONCE", 50)  # a few samples at once
    layer, x, delta, expected = evaluated(LAYERS[name])
    for own, gradients in expected.items():
        direction = torch.randn(count, *gradients.shape[1:], dtype=torch.float64)
        with torch.no_grad():
            actual = RULES[type(layer)].parameters[own].dots(layer, x, delta, direction)
        assert actual.shape == (count, BATCH)
        torch.testing.assert_close(actual, direction.flatten(1) @ gradients.flatten(1).T, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", LAYERS)
def test_factors_multiply_to_the_gradients(name):
    layer, x, delta, expected = evaluated(LAYERS[name])
    for own, gradients in expected.items():
        factors = RULES[type(layer)].parameters[own].factors
        if factors is not None:
            torch.testing.assert_close(torch.einsum("nsi,nso->noi", *factors(x, delta)), gradients)


def test_every_rule_is_tested():
    layers = [case.build() for case in LAYERS.values()]
    assert {type(layer) for layer in layers} == set(RULES)
    for kind, rule in RULES.items():
        tested = {own for layer in layers if type(layer) is kind for own, _ in layer.named_parameters()}
        assert tested == set(rule.parameters)
