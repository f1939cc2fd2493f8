"""How the data sets known by name are trained."""

import pytest
from torch.optim import SGD, AdamW

from hydragrad.datasets import load
from hydragrad.experiments.recipes import RECIPES, fresh


@pytest.fixture(scope="module")
def digits():
    return load("digits", train_size=40)


def test_sgd_is_that_of_the_recipe(digits):
    start = fresh(digits, "lenet5", seed=0)
    group, recipe = start.optimizer.param_groups[0], RECIPES["digits"]
    assert type(start.optimizer) is SGD
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (recipe.lr, recipe.momentum, recipe.weight_decay)


def test_adamw_has_a_rate_and_a_weight_decay_of_its_own(digits):
    start = fresh(digits, "lenet5", seed=0, optimizer="adamw")
    group = start.optimizer.param_groups[0]
    assert type(start.optimizer) is AdamW
    assert (group["lr"], group["weight_decay"]) == (1e-3, 1e-2)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_another_rate_replaces_the_one_of_the_recipe(digits, optimizer):
    start = fresh(digits, "lenet5", seed=0, optimizer=optimizer, lr=0.25)
    assert start.optimizer.param_groups[0]["lr"] == 0.25
