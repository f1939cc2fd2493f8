"""DenseNet-BC-40: its depth and widths."""

import torch
from torch import nn

from hydragrad.models import DenseNet40


def test_densenet40_has_forty_layers_with_weights() -> None:
    layers = [module for module in DenseNet40().modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == 40


def test_blocks_add_channels_and_transitions_halve_them() -> None:
    features = torch.zeros(2, 3, 32, 32)
    shapes = []
    for stage in DenseNet40().features:
        features = stage(features)
        shapes.append(tuple(features.shape[1:3]))
    assert shapes == [(24, 32), (96, 32), (48, 16), (120, 16), (60, 8), (132, 8)]
