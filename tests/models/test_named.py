"""Every reference model: parameter counts, shapes, and both directions of differentiation."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp

from hydragrad.errors import UnknownName
from hydragrad.models import MODELS, build

PARAMETERS = {
    ("lenet5", 1): 61_706,
    ("lenet5", 3): 62_006,
    ("densenet40", 1): 175_690,
    ("densenet40", 3): 176_122,
    ("mobilenetv2", 1): 2_236_106,
    ("mobilenetv2", 3): 2_236_682,
}
Weights = dict[str, Tensor]


@pytest.mark.parametrize(("name", "channels"), PARAMETERS)
def test_a_model_has_the_published_number_of_parameters(name: str, channels: int) -> None:
    model = build(name, channels=channels, classes=10)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name, channels]


@pytest.mark.parametrize(("name", "channels"), PARAMETERS)
def test_a_model_maps_images_to_logits(name: str, channels: int) -> None:
    model = build(name, channels=channels, classes=7)
    assert model(torch.zeros(2, channels, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_no_randomness_in_training_mode(name: str) -> None:
    model = build(name, channels=1, classes=10).train()
    images = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    first, second = model(images), model(images)
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    def weights() -> Weights:
        torch.manual_seed(3)
        return build(name, channels=1, classes=10).state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_no_in_place_module(name: str) -> None:
    modules = build(name, channels=1, classes=10).modules()
    assert not any(getattr(module, "inplace", False) for module in modules)


# torch itself scripts its decompositions when forward mode is first used.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", MODELS)
def test_forward_mode_equals_reverse_mode_in_training_mode(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    model = build(name, channels=1, classes=10).double().train()
    images = torch.randn(4, 1, 32, 32, generator=generator, dtype=torch.float64)
    labels = torch.arange(4)
    weights = {key: value.detach() for key, value in model.named_parameters()}
    w_dot = {key: torch.randn(value.shape, generator=generator, dtype=value.dtype) for key, value in weights.items()}

    def loss(w: Weights) -> Tensor:
        buffers = {key: value.clone() for key, value in model.named_buffers()}
        return nn.functional.cross_entropy(functional_call(model, {**w, **buffers}, (images,)), labels)

    _, forward = jvp(loss, (weights,), (w_dot,))
    gradient = grad(loss)(weights)
    reverse = sum((gradient[key] * w_dot[key]).sum() for key in weights)
    assert abs(forward) > 1e-3
    torch.testing.assert_close(forward, reverse, rtol=1e-8, atol=0)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="must be one of lenet5, densenet40, mobilenetv2, got 'resnet'"):
        build("resnet", channels=3, classes=10)
