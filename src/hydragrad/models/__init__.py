"""The reference models known by name.

Convolutional networks for 32×32 images, without dropout and without in-place operations, so that reverse-mode
and forward-mode differentiation both work on them; and a transformer for texts.

lenet5       LeNet5: 61,706 parameters (1 channel, 10 classes)
densenet40   DenseNet40: 176,122 parameters (3 channels, 10 classes)
mobilenetv2  MobileNetV2: 2,236,682 parameters (3 channels, 10 classes)
gpt          GPT: 106,880 parameters (65 characters in blocks of 64), and up to many millions
named        MODELS, TEXT_MODELS: name on the command line → class; build: a model for images by that name
"""

from hydragrad.models.densenet40 import DenseNet40 as DenseNet40
from hydragrad.models.gpt import GPT as GPT
from hydragrad.models.lenet5 import LeNet5 as LeNet5
from hydragrad.models.mobilenetv2 import MobileNetV2 as MobileNetV2
from hydragrad.models.named import MODELS as MODELS
from hydragrad.models.named import TEXT_MODELS as TEXT_MODELS
from hydragrad.models.named import build as build
