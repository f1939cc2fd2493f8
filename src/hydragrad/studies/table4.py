"""The paper's Table 4: label noise, found by several rankings; the network trained again without what they name.

One setting is a data set, a kind of noise, a size and a seed. A run is recorded on the noisy labels; every method ranks
the training samples from it; the network is trained from a fresh initialisation on what each method leaves. Rankings and
every single training are kept, so that an interrupted study goes on after the last of them.

Source: Chen et al. 2021, section 4.3 and Table 4.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import TensorDataset

from hydragrad.attribution import attribute
from hydragrad.cleaning import (
    Labels,
    area_under_roc,
    flip_labels,
    found_in_first,
    save_labels,
    swap_labels,
    training_signals,
)
from hydragrad.datasets import HUMAN, Splits, human_labels, load
from hydragrad.errors import DataError
from hydragrad.progress import bar
from hydragrad.recording import Recording
from hydragrad.recording.files import AppendOnlyLines, read_lines
from hydragrad.scores import mean_loss
from hydragrad.studies.recipes import RECIPES, Start, fresh, recipe_loss
from hydragrad.training import Plan, fit, mean_loss_and_accuracy, train

ROWS_FILE = "table4.jsonl"
SIMILAR: dict[str, tuple[tuple[int, int], ...]] = {
    "mnist": ((4, 9), (3, 5), (1, 7), (2, 6), (0, 8)),
    "fashion": ((0, 6), (2, 4), (5, 7), (1, 3), (8, 9)),
    "cifar10": ((3, 5), (1, 9), (0, 8), (4, 7), (2, 6)),
    "digits": ((4, 9), (3, 5), (1, 7), (2, 6), (0, 8)),
}
"""Classes that are taken for each other."""
