"""The data sets that the command line and the studies know by name, as 32×32 images.

load            a data set by name, found in a folder or downloaded, its checksums verified
published       the same in its authors' order, as integer pixels
Splits          its training, validation and test parts
DATASETS        name → where it comes from and how it is split
human_labels    labels that people gave to CIFAR-10
checked_labels  test labels that people checked
"""

from hydragrad.datasets.cifar10n import HUMAN as HUMAN
from hydragrad.datasets.cifar10n import human_labels as human_labels
from hydragrad.datasets.label_errors import CheckedLabel as CheckedLabel
from hydragrad.datasets.label_errors import checked_labels as checked_labels
from hydragrad.datasets.loading import DATASETS as DATASETS
from hydragrad.datasets.loading import load as load
from hydragrad.datasets.loading import published as published
from hydragrad.datasets.splits import Splits as Splits
