"""A forward-mode evaluation that takes over the outputs of a forward pass is the same evaluation."""

import pytest
import torch
from torch import nn

import case_models
from hydragrad.derivatives import Batch, Layout, LossModule, SharedForward, directional_derivatives


def small(*, inplace: bool = False) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, padding_mode="circular"),
        nn.ReLU(inplace=inplace),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 2, bias=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16, case_models.CLASSES),
    )


def evaluated(model, names=None, before=None, loss=case_models.cross_entropy_loss, draw=None):
    """Losses and derivatives without and with a forward pass beside, and how many layer calls were taken over."""
    torch.manual_seed(0)
    model = model.double()
    hooks = [len(module._forward_hooks) for module in model.modules()]
    x, y = (draw or case_models.vectors(1, 6, 6))(5, 0).tensors
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    layout = Layout({name: value.shape for name, value in parameters.items() if names is None or name in names})
    direction = torch.randn(1, layout.size, dtype=torch.float64)
    batch = Batch([x, y], 5, seed=3)
    given = (layout, parameters, dict(model.named_buffers()), batch, direction)
    plain = directional_derivatives(LossModule(model, loss), *given)
    problem = LossModule(model, loss)
    shared = SharedForward(model, problem.model)
    shared.begin()
    torch.manual_seed(batch.seed)
    losses = loss(model, batch.data)
    if before is not None:
        before(model)
    beside = directional_derivatives(problem, *given)
    if before is None:
        losses.mean().backward()  # the graph of the source is left intact
    assert float(plain.losses_dot.norm()) > 1e-3
    torch.testing.assert_close(beside.losses, plain.losses, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(beside.losses_dot, plain.losses_dot, rtol=1e-11, atol=1e-12)
    shared.remove()
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    return shared.saved


def test_every_layer_is_evaluated_once():
    assert evaluated(small()) == 4


def test_outputs_that_were_written_into_are_evaluated_again():
    assert evaluated(small(inplace=True)) == 3


@pytest.mark.parametrize(
    ("names", "saved"),
    [
        (["6.weight"], 1),
        (["6.bias"], 0),  # no tangent of the layer's own weight
        (["3.weight"], 2),
        (["0.bias", "6.weight"], 3),
    ],
)
def test_directions_of_some_parameters(names, saved):
    assert evaluated(small(), names) == saved


def test_other_weights_are_seen():
    def moved(model):
        with torch.no_grad():
            model[0].weight += 0.0  # to the same values, but who knows

    assert evaluated(small(), before=moved) == 3


def test_layers_that_the_user_hooked_are_left_alone():
    model = small()
    model[6].register_forward_hook(lambda _module, _inputs, output: 2 * output)
    assert evaluated(model) == 3


def test_frozen_layers_are_left_alone():
    model = small()
    model[0].requires_grad_(False)
    assert evaluated(model, ["3.weight", "6.weight", "6.bias"]) == 2


def test_a_layer_that_is_called_twice():
    assert evaluated(case_models.mlp(), loss=case_models.two_calls_loss, draw=case_models.vectors(4)) == 4


def test_dropout_sees_the_same_draws():
    assert evaluated(case_models.dropout(), draw=case_models.vectors(4)) == 2


def test_an_input_that_differs_is_evaluated_again():
    calls = []

    def changing(model, batch):
        calls.append(batch)  # evaluated without a pass beside, then by the source, then beside it
        return case_models.cross_entropy_loss(model, [batch[0] + (1e-12 if len(calls) == 2 else 0.0), batch[1]])

    assert evaluated(case_models.mlp(), loss=changing, draw=case_models.vectors(4)) == 0
