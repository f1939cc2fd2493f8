"""Models whose layers have no rules, or do not split into samples, are named with the reason."""

import re

import pytest
import torch
from torch import nn

from hydragrad.derivatives import why_not_hooks
from hydragrad.derivatives.layers.applicable import why_not_one_row_a_sample


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
        (nn.Embedding(3, 2, scale_grad_by_freq=True), "rule of Embedding does not hold for the options of the model"),
        (nn.Sequential(nn.Embedding(3, 2, max_norm=1.0)), "rule of Embedding does not hold for the options of 0"),
    ],
)
def test_models_without_rules_are_named(model, reason):
    assert re.search(reason, why_not_hooks(model))


def test_batch_norm_without_parameters_in_eval_mode_is_no_obstacle():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False))
    model.eval()
    assert why_not_hooks(model) is None


@pytest.mark.parametrize(
    ("inputs", "output"),
    [
        ((), torch.zeros(4)),
        ((torch.zeros(4), torch.zeros(4)), torch.zeros(4)),
        ((torch.zeros(8),), torch.zeros(4)),
        ((torch.zeros(4),), torch.zeros(8)),
        ((torch.zeros(()),), torch.zeros(4)),
        ((torch.zeros(4),), (torch.zeros(4),)),
    ],
)
def test_calls_that_do_not_have_one_row_a_sample_are_named(inputs, output):
    assert why_not_one_row_a_sample(nn.ReLU(), inputs, output, 4) == "ReLU does not see one row a sample"
    assert why_not_one_row_a_sample(nn.ReLU(), (torch.zeros(4, 2),), torch.zeros(4, 3), 4) is None
