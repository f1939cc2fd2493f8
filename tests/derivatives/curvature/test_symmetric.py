"""A gradient that is stopped on its way is told from one that stands at a kink."""

import pytest
import torch

from case_models import MODELS
from hydragrad.derivatives import Batch, Layout, LossModule
from hydragrad.derivatives.curvature import symmetric
from hydragrad.errors import Unsupported
from hydragrad.randomness import seeded


def where(name):
    """Problem, layout, values and a batch of a case."""
    case = MODELS[name]
    with seeded(3):
        model = case.build().double()
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    data = [
        torch.stack([item[0] for item in case.draw(6, 1)]),
        torch.tensor([int(item[1]) for item in case.draw(6, 1)]),
    ]
    layout = Layout({name: value.shape for name, value in parameters.items()})
    return LossModule(model, case.loss), layout, parameters, {}, Batch(data, 6, 0)


def test_a_stopped_gradient_is_refused():
    with pytest.raises(Unsupported, match="The gradient is stopped inside the model or the loss"):
        symmetric.require_symmetric(*where("stopped"))


@pytest.mark.parametrize("turned", [1, 2])
def test_a_sample_that_another_kernel_turns_at_a_kink_is_no_stopped_gradient(monkeypatch, turned):
    evaluate, calls = symmetric.one_direction, []

    def at_a_kink(*arguments, **options):
        calls.append(options)
        found = evaluate(*arguments, **options)
        if "evaluating" in options and len(calls) <= 2 * turned:
            found.losses_dot[0, 0] += 0.01
        return found

    monkeypatch.setattr(symmetric, "one_direction", at_a_kink)
    symmetric.require_symmetric(*where("mlp"))
    assert len(calls) == 2 * turned + 2


def test_without_a_stop_one_point_is_looked_at(monkeypatch):
    evaluate, calls = symmetric.one_direction, []
    monkeypatch.setattr(symmetric, "one_direction", lambda *a, **o: calls.append(a) or evaluate(*a, **o))
    symmetric.require_symmetric(*where("mlp"))
    assert len(calls) == 2
