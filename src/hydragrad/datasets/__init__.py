"""The data sets known by name, as 32×32 images.

loading    load: a data set by its name; published: in its authors' order, as integer pixels; DATASETS
splits     Splits: its training, validation and test parts
published  a data set as its authors published it
idx        MNIST and Fashion-MNIST
cifar10    CIFAR-10
digits     scikit-learn's digits
files      published files found in a folder, their checksums verified
download   published files fetched once
cache      the user's cache folder, with decoded arrays
"""

from hydragrad.datasets.loading import DATASETS as DATASETS
from hydragrad.datasets.loading import load as load
from hydragrad.datasets.loading import published as published
from hydragrad.datasets.splits import Splits as Splits
