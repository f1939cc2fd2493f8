"""The data sets known by name: 32×32 images, and texts as sequences of characters.

loading    load: a data set of images by its name; published: in its authors' order, as integer pixels; DATASETS
splits     Splits: its training, validation and test parts
published  a data set as its authors published it
idx        MNIST and Fashion-MNIST
cifar10    CIFAR-10
digits     scikit-learn's digits
sequences  load_text: a text by its name, as sequences; TextSplits: its three parts; TEXTS
texts      names, and plays of Shakespeare
tokenizer  CharacterTokenizer: text as numbers, one a character
files      published files found in a folder, their checksums verified
download   published files fetched once
cache      the user's cache folder, with decoded arrays
"""

from hydragrad.datasets.loading import DATASETS as DATASETS
from hydragrad.datasets.loading import load as load
from hydragrad.datasets.loading import published as published
from hydragrad.datasets.sequences import TEXTS as TEXTS
from hydragrad.datasets.sequences import TextSplits as TextSplits
from hydragrad.datasets.sequences import load_text as load_text
from hydragrad.datasets.splits import Splits as Splits
from hydragrad.datasets.tokenizer import CharacterTokenizer as CharacterTokenizer
