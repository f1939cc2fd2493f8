"""The data sets known by name, as 32×32 images.

load       a data set by name, found in a folder or downloaded, its checksums verified
published  the same in its authors' order, as integer pixels
Splits     its training, validation and test parts
DATASETS   name → where it comes from and how it is split
"""

from hydragrad.datasets.loading import DATASETS as DATASETS
from hydragrad.datasets.loading import load as load
from hydragrad.datasets.loading import published as published
from hydragrad.datasets.splits import Splits as Splits
