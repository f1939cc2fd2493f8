"""The data sets that the command line and the studies know by name, as 32×32 images.

loading       load: a data set by its name; published: in its authors' order, as integer pixels; DATASETS
splits        Splits: its training, validation and test parts
published     a data set as its authors published it
idx           MNIST and Fashion-MNIST
cifar10       CIFAR-10
cifar10n      labels that people gave to CIFAR-10
digits        scikit-learn's digits
label_errors  published test labels that people checked
files         published files found in a folder, their checksums verified
download      published files fetched once
cache         the user's cache folder, with decoded arrays
"""

from hydragrad.datasets.cifar10n import HUMAN as HUMAN
from hydragrad.datasets.cifar10n import human_labels as human_labels
from hydragrad.datasets.label_errors import CheckedLabel as CheckedLabel
from hydragrad.datasets.label_errors import checked_labels as checked_labels
from hydragrad.datasets.loading import DATASETS as DATASETS
from hydragrad.datasets.loading import load as load
from hydragrad.datasets.loading import published as published
from hydragrad.datasets.splits import Splits as Splits
