"""Losses of samples made of losses of parts."""

import pytest
import torch

import hydragrad as hg
from hydragrad.derivatives import Batch, LossModule, one_number_a_part, terms_of
from hydragrad.errors import LossError

EVERY = torch.tensor([[1.0, 2.0, 4.0], [8.0, torch.nan, torch.inf], [9.0, 9.0, 9.0]], dtype=torch.float64)
IS_PART = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])


def masked(model, batch):
    return EVERY, IS_PART


@pytest.mark.parametrize(("reduce", "expected"), [("sum", [7.0, 8.0, 0.0]), ("mean", [7 / 3, 8.0, 0.0])])
def test_a_sample_has_the_sum_or_the_mean_of_its_own_parts(reduce, expected):
    loss = hg.loss_of_parts(masked, reduce=reduce)
    losses = loss(None, None)
    assert torch.equal(losses, torch.tensor(expected, dtype=torch.float64))
    terms = terms_of(losses)
    assert torch.equal(terms.is_part, IS_PART)
    assert torch.allclose(terms.values.sum(1), losses, rtol=1e-15)
    assert torch.equal(one_number_a_part(loss)(None, None), terms.values.flatten())


def test_without_a_mask_everything_is_a_part():
    losses = hg.loss_of_parts(lambda model, batch: EVERY[:1])(None, None)
    assert terms_of(losses).is_part.all()


def test_what_is_no_part_has_no_gradient():
    every = torch.ones(2, 2, requires_grad=True)
    loss = hg.loss_of_parts(lambda model, batch: (every, torch.tensor([[True, False], [True, True]])), reduce="sum")
    loss(None, None).sum().backward()
    assert every.grad.tolist() == [[1.0, 0.0], [1.0, 1.0]]


def test_terms_are_known_of_losses_that_were_evaluated_as_in_training():
    model = torch.nn.Linear(2, 2)
    problem = LossModule(model, hg.loss_of_parts(lambda model, x: model(x).square()))
    losses, _ = problem(Batch(torch.ones(3, 2), 3, seed=0))
    assert terms_of(losses).values.shape == (3, 2)
    assert not terms_of(losses).values.requires_grad


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (torch.ones(3), r"of shape \(batch, parts\); it returned a torch.float32 tensor of shape \(3,\)"),
        (torch.ones(3, 2, dtype=torch.int64), "it returned a torch.int64 tensor"),
        (torch.ones(3, 0), r"of shape \(3, 0\)"),
        (None, "it returned None"),
        ((torch.ones(3, 2), torch.ones(3, 2)), r"must be a bool tensor of the shape of the losses, \(3, 2\)"),
        ((torch.ones(3, 2), torch.ones(3, dtype=torch.bool)), r"it is a torch.bool tensor of shape \(3,\)"),
    ],
)
def test_what_is_not_one_number_a_part_is_refused(result, message):
    with pytest.raises(LossError, match=message):
        hg.loss_of_parts(lambda model, batch: result)(None, None)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(LossError, match="reduce must be one of mean, sum, got 'max'"):
        hg.loss_of_parts(masked, reduce="max")
