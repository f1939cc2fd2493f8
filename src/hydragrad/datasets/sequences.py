"""Texts as sequences of tokens, each with the token that follows every one of them.

A sample of names is a name: the end mark and its characters are read, its characters and the end mark predicted. A
sample of shakespeare is a block of characters; blocks follow each other in the text and do not overlap.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from hydragrad.datasets.files import data_folder
from hydragrad.datasets.texts import NAMES, SHAKESPEARE, TextFile, read_text
from hydragrad.datasets.tokenizer import CharacterTokenizer
from hydragrad.errors import DataError, UnknownName

SPLIT_SEED = 2021

PADDING = -100
"""The token to predict where a sequence has ended; torch's cross-entropy leaves it out by default."""

END = "."
"""Stands before and after a name."""

BLOCK_SIZE = 64
"""Characters of a block of Shakespeare, by default."""

TRAIN, VALIDATION = 0.9, 0.05
"""Shares of Shakespeare's text; the rest is the test part. Of nanoGPT and dattri the first 90 % train as well."""

NAMES_TRAIN, NAMES_VALIDATION = 0.8, 0.1
"""Shares of the names, as in makemore."""


@dataclass(frozen=True, kw_only=True)
class TextSplits:
    """A text in three parts.

    Each part is a TensorDataset of the tokens that are read, int64 (N, length), and of the tokens that follow each of
    them, int64 (N, length), which are `PADDING` after a sequence's end.

    Attributes:
        name: Its name on the command line.
        train, validation, test: The parts.
        positions: Line of each training name, or the first character of each training block, int64 (N,).
        tokenizer: Encodes and decodes characters.
        end: Mark that ends a sequence, not a part of its text; empty where there is none.
    """

    name: str
    train: TensorDataset
    validation: TensorDataset
    test: TensorDataset
    positions: Tensor
    tokenizer: CharacterTokenizer
    end: str

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.train.tensors[0].shape[1])

    def text(self, item: Any) -> str:
        """Return the text of a sample: the characters that are predicted in it."""
        _, following = item
        return self.tokenizer.decode(following[following != PADDING]).removesuffix(self.end)

    def pieces(self, item: Any) -> list[str]:
        """Return what is predicted at every place of a sample, "" where that is nothing: with the mark of the end."""
        _, following = item
        return ["" if token == PADDING else self.tokenizer.decode([token]) for token in following.tolist()]


@dataclass(frozen=True)
class _Part:
    """Sequences of one part, and where they stand in the published file."""

    sequences: TensorDataset
    positions: Tensor

    def first(self, count: int | None) -> "_Part":
        """The first of them; all if None."""
        return _Part(TensorDataset(*(tensor[:count] for tensor in self.sequences.tensors)), self.positions[:count])


_Parts = tuple[_Part, _Part, _Part]


@dataclass(frozen=True)
class TextSource:
    """A text and how it is cut: (text, tokenizer, block size, seed) → training, validation and test part."""

    file: TextFile
    end: str
    cut: Callable[[str, CharacterTokenizer, int | None, int], _Parts]


def load_text(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    block_size: int | None = None,
    train_size: int | None = None,
    validation_size: int | None = None,
    test_size: int | None = None,
) -> TextSplits:
    """Load a text, its file verified against the published checksum, as sequences of characters.

    The division into training, validation and test part is fixed: it depends on no argument but the block size.

    Args:
        name: A key of `TEXTS`.
        data_dir: A folder that holds the published file, or has it in `text/`. None: the folder in the environment
            variable HYDRAGRAD_DATA; without one, the file is downloaded into the user's cache folder.
        seed: Orders the training names; blocks of shakespeare keep the order of the text.
        block_size: Characters of a block of shakespeare, 64 if None; names have no blocks.
        train_size: Number of training sequences, the first ones; None takes all.
        validation_size: Likewise, of the validation part.
        test_size: Likewise, of the test part.

    Raises:
        UnknownName: No text has this name.
        DataError: A size is not between 1 and that of the part, or a block size for names.
        DataNotFound: The file is not in the folder, or cannot be downloaded.
        ChecksumMismatch: The file is not the published one.
    """
    if name not in TEXTS:
        raise UnknownName(f"The text must be one of {', '.join(TEXTS)}, got {name!r}.")
    source = TEXTS[name]
    text = read_text(source.file, data_folder(data_dir))
    tokenizer = CharacterTokenizer(tuple(sorted({*text, *source.end} - ({"\n"} if source.end else set()))))
    train, validation, test = source.cut(text, tokenizer, block_size, seed)
    for option, size, part in (
        ("train_size", train_size, train),
        ("validation_size", validation_size, validation),
        ("test_size", test_size, test),
    ):
        most = len(part.positions)
        if size is not None and not 1 <= size <= most:
            raise DataError(f"{option} of {name} must be between 1 and {most:,}, got {size:,}.")
    return TextSplits(
        name=name,
        train=train.first(train_size).sequences,
        validation=validation.first(validation_size).sequences,
        test=test.first(test_size).sequences,
        positions=train.first(train_size).positions,
        tokenizer=tokenizer,
        end=source.end,
    )


def names_as_sequences(names: Sequence[str], tokenizer: CharacterTokenizer, length: int) -> TensorDataset:
    """Encode names between two end marks; all have the length of the longest with its mark, padded.

    Args:
        names: Without marks.
        tokenizer: Has the end mark among its characters.
        length: Tokens of a sequence: at least one more than any name.
    """
    read = torch.full((len(names), length), tokenizer(END)[0])
    following = torch.full((len(names), length), PADDING)
    for row, name in enumerate(names):
        tokens = torch.tensor(tokenizer(f"{END}{name}{END}"))
        read[row, : len(name) + 1] = tokens[:-1]
        following[row, : len(name) + 1] = tokens[1:]
    return TensorDataset(read, following)


def _cut_names(text: str, tokenizer: CharacterTokenizer, block_size: int | None, seed: int) -> _Parts:
    if block_size is not None:
        raise DataError(f"A sample of names is one name, so there is no block size, got {block_size}. Leave it out.")
    names = text.split()
    # RandomState, not Generator: numpy guarantees the same permutations in later versions.
    order = np.random.RandomState(SPLIT_SEED).permutation(len(names))
    ends = (int(NAMES_TRAIN * len(names)), int((NAMES_TRAIN + NAMES_VALIDATION) * len(names)))
    train, validation, test = np.split(order, ends)
    train = np.random.RandomState(seed).permutation(train)
    length = 1 + max(map(len, names))

    def part(lines: np.ndarray) -> _Part:
        chosen = names_as_sequences([names[line] for line in lines], tokenizer, length)
        return _Part(chosen, torch.from_numpy(lines))

    return part(train), part(validation), part(test)


def _cut_blocks(text: str, tokenizer: CharacterTokenizer, block_size: int | None, _seed: int) -> _Parts:
    size = BLOCK_SIZE if block_size is None else block_size
    tokens = torch.tensor(tokenizer(text))
    ends = [0, int(TRAIN * len(tokens)), int((TRAIN + VALIDATION) * len(tokens)), len(tokens)]
    if not 1 <= size < ends[2] - ends[1]:
        raise DataError(f"block_size must be between 1 and {ends[2] - ends[1] - 1:,}, got {size:,}.")

    def part(begin: int, end: int) -> _Part:
        count = (end - begin - 1) // size  # the last character of a block is followed by one more
        stretch = tokens[begin : begin + count * size + 1]
        sequences = TensorDataset(stretch[:-1].view(count, size), stretch[1:].view(count, size))
        return _Part(sequences, begin + size * torch.arange(count))

    train, validation, test = (part(begin, end) for begin, end in pairwise(ends))
    return train, validation, test


TEXTS: dict[str, TextSource] = {
    "names": TextSource(NAMES, END, _cut_names),
    "shakespeare": TextSource(SHAKESPEARE, "", _cut_blocks),
}
