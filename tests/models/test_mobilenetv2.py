"""MobileNetV2: its blocks and strides."""

import torch

from hydragrad.models import MobileNetV2
from hydragrad.models.mobilenetv2 import STAGES


def test_mobilenetv2_has_seventeen_blocks_between_two_convolutions() -> None:
    assert sum(stage.repeats for stage in STAGES) == 17
    assert len(MobileNetV2().features) == 19


def test_32x32_images_become_4x4_features() -> None:
    assert MobileNetV2().features(torch.zeros(2, 3, 32, 32)).shape == (2, 1280, 4, 4)
