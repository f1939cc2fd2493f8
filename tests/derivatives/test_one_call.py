"""The model's one call inside the loss."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from case_models import cross_entropy_loss
from cases import BATCH_SIZE, Case, collate
from hydragrad.derivatives import Batch, LossModule, Point, require_one_call, use_explicit_batch_norm
from hydragrad.derivatives.one_call import capture_output, losses_of_output
from hydragrad.errors import LossError
from hydragrad.randomness import preserved

X, Y = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0])


def batch(seed: int = 0) -> Batch:
    return Batch((X, Y), 4, seed)


def prepared(name: str) -> tuple[LossModule, Point]:
    case = Case(name, "plain")
    model = case.build()
    parameters = {key: p.detach() for key, p in model.named_parameters()}
    buffers = {key: b.detach().clone() for key, b in model.named_buffers()}
    data = Batch(collate(case.train_set, range(BATCH_SIZE)), BATCH_SIZE, 11)
    return LossModule(model, case.loss, use_explicit_batch_norm), Point(parameters, buffers, data, 7.0)


def test_the_model_may_be_replaced_by_its_output():
    problem = LossModule(nn.Linear(3, 2), cross_entropy_loss)
    output = torch.randn(4, 2)
    with preserved(), capture_output(problem, required=True) as captured:
        assert torch.equal(losses_of_output(problem, batch(), output), F.cross_entropy(output, Y, reduction="none"))
        assert captured.outputs == []
        expected, _ = problem(batch())
    assert torch.equal(F.cross_entropy(captured.tensor, Y, reduction="none"), expected)
    assert not problem.model._forward_hooks


def test_the_stand_in_has_the_models_attributes():
    def loss(model, batch):
        assert model.in_features == 3
        return cross_entropy_loss(model, batch)

    problem = LossModule(nn.Linear(3, 2), loss)
    with preserved():
        losses_of_output(problem, batch(), torch.randn(4, 2))


@pytest.mark.parametrize(
    ("loss", "came"),
    [
        (lambda m, b: cross_entropy_loss(m, b) + cross_entropy_loss(m, b), "was called 2 times"),
        (lambda m, b: X.sum(1), "was called 0 times"),
    ],
)
def test_one_call_is_needed(loss, came):
    problem = LossModule(nn.Linear(3, 2), loss)
    with preserved(), capture_output(problem, required=True) as captured:
        problem(batch())
    with pytest.raises(LossError, match=came):
        _ = captured.tensor


def test_gauss_newton_needs_the_one_call():
    for name, message in (("two_calls", "was called 2 times"), ("penalised", "uses them directly, too")):
        problem, point = prepared(name)
        with pytest.raises(LossError, match=message), preserved():
            require_one_call(problem, point.parameters, point)
    problem, point = prepared("mlp")
    with preserved():
        require_one_call(problem, point.parameters, point)
