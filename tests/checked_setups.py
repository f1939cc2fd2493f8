"""Setups of the cases, checked without timing."""

import torch
from torch.optim import SGD
from torch.utils.data import TensorDataset

import hydragrad as hg
from case_models import MODELS
from hydragrad.randomness import seeded

SIZE = 5


def built(name, dtype=torch.float64):
    with seeded(7):
        return MODELS[name].build().to(dtype).train()


def checked(name="mlp", optimizer=SGD, *, dtype=torch.float64, length=18, **options):
    """A model of the cases, checked without timing."""
    case, model = MODELS[name], built(name, dtype)
    data = case.draw(length, 1)
    if dtype == torch.float32 and isinstance(data, TensorDataset):
        data = TensorDataset(*(t.float() if t.is_floating_point() else t for t in data.tensors))
    steps = optimizer([p for p in model.parameters() if p.requires_grad], lr=0.02)
    return hg.check(model, steps, case.loss, data, **{"batch_size": SIZE, "timed": False} | options)


def works(result):
    return {mode.name: mode.works for mode in result.modes}


def routes(result):
    return {mode.name: mode.route for mode in result.modes if mode.works}
