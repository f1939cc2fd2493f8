"""Sequences of tokens as texts, by the user's own tokenizer.

Where the tokens of an item stand is found in the batch that the run's collate function makes of it: those that are read
by their kind, those that the loss is made of from how the loss behaves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from hydragrad.derivatives import Target, head_calls, tensor_leaves
from hydragrad.errors import LossError, PresentationError
from hydragrad.randomness import preserved, reseed_everything
from hydragrad.replay import Trained, samples_in, target_of
from hydragrad.reports.tokens import Pieces

Decode = Callable[[Sequence[int]], str]
SEEN = 8
"""Samples by which labels are recognised."""

READ, MASK = "input_ids", "attention_mask"
"""What batches that are mappings call the tokens that are read, and which of them are no padding."""


@dataclass(frozen=True)
class Texts:
    """Items of a data set as texts.

    Attributes:
        text: Of an item: the tokens that are read, without padding.
        pieces: Of an item: the text of every token that the loss is made of, of tokens that are read only (a prompt)
            where it leaves one out, and "" where there is none; None where the loss is about whole sequences.
        why_no_pieces: Why, if so.
        lead: Of an item: the text of what is read before the first piece.
    """

    text: Callable[[Any], str]
    pieces: Pieces | None
    why_no_pieces: str = ""
    lead: Callable[[Any], str] | None = None


def texts_by(run: Trained, tokenizer: Any) -> Texts:
    """Show items of a run's data sets by a tokenizer.

    Args:
        run: The run, whose batches hold tokens.
        tokenizer: An object with `decode(tokens)`, or a function that does the same: a list of int to a str.

    Raises:
        PresentationError: No tokenizer. When an item is shown: a batch without tokens, or a `decode` that returns no
            text.

    Cost: a few evaluations of the loss, for which tokens it is made of.
    """
    decode = _decode(tokenizer)
    padding = getattr(tokenizer, "pad_token_id", None)

    def batch_of(item: Any) -> Any:
        with preserved():
            reseed_everything(0)  # a collate function that masks or crops shows the same text every time
            return (run.collate_fn or default_collate)([item])

    def text(item: Any) -> str:
        return decode(_read(batch_of(item), padding))

    try:
        target = _of_chunked_head(run) or target_of(run)
        why = "" if target.kind == "positions" else f"the loss compares the output with {target.kind}"
    except LossError as error:
        target, why = None, str(error)
    if target is None or why:
        return Texts(text, None, why)
    piece = _by_context(decode)

    def pieces(item: Any) -> list[str]:
        return _pieces(batch_of(item), target, piece)

    def lead(item: Any) -> str:
        batch = batch_of(item)
        first = tensor_leaves(batch)[target.leaf][0].flatten()[: target.shift]
        read = _read_at_labels(batch, tensor_leaves(batch)[target.leaf][0])[: target.shift]
        return decode([label if label >= 0 else other for label, other in zip(first.tolist(), read, strict=True)])

    return Texts(text, pieces, lead=lead if target.shift else None)


def _of_chunked_head(run: Trained) -> Target | None:
    """What the loss compares with, where it calls `chunked_cross_entropy`, which sees the labels; else None."""
    batch = run.collate(range(min(SEEN, samples_in(run))))
    with preserved(), torch.no_grad(), head_calls() as calls:
        run.loss(run.trained_model().eval(), batch)
    if len(calls) != 1:
        return None
    for number, leaf in enumerate(tensor_leaves(batch)):
        if leaf.dim() != 2 or not _is_integer(leaf) or len(calls[0].y) % len(leaf):
            continue
        seen = calls[0].y.reshape(len(leaf), -1)
        for shift in (0, 1):
            part = leaf[:, shift : shift + seen.shape[1]]
            if part.shape == seen.shape and bool((part == seen)[part >= 0].all()):
                return Target("positions", number, "", shift=shift)
    return None


def _decode(tokenizer: Any) -> Decode:
    decode = getattr(tokenizer, "decode", tokenizer)
    if not callable(decode):
        raise PresentationError(
            f"A tokenizer must have decode(tokens), or be a function that does the same, got a "
            f"{type(tokenizer).__name__}."
        )

    def decoded(tokens: Sequence[int]) -> str:
        words = decode(list(tokens))
        if not isinstance(words, str):
            raise PresentationError(
                f"A tokenizer's decode(tokens) must return a str for a list of int, got {type(words).__name__}."
            )
        return words

    return decoded


def _read(batch: Any, padding: int | None) -> list[int]:
    """The tokens that a batch of one item has the model read, without padding at its end."""
    named = batch.get(READ) if isinstance(batch, Mapping) else None
    leaves = [named] if isinstance(named, Tensor) else tensor_leaves(batch)
    tokens = next((leaf[0] for leaf in leaves if leaf.dim() == 2 and _is_integer(leaf)), None)
    if tokens is None:
        raise PresentationError(
            f"A tokenizer shows batches that hold tokens, integers of shape (batch, length); these hold "
            f"{[tuple(leaf.shape) for leaf in tensor_leaves(batch)]}. Pass render= instead."
        )
    mask = batch.get(MASK) if isinstance(batch, Mapping) else None
    if isinstance(mask, Tensor) and mask.shape == (1, *tokens.shape):
        tokens = tokens[mask[0].bool()]
    numbers: list[int] = tokens[tokens >= 0].tolist()
    while padding is not None and len(numbers) > 1 and numbers[-1] == padding:
        numbers.pop()
    return numbers


def _is_integer(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.bool


def _pieces(batch: Any, target: Target, piece: Callable[[int | None, int], str]) -> list[str]:
    """The text of every predicted token; part n of the loss is about the token `shift` places later."""
    labels = tensor_leaves(batch)[target.leaf][0]
    pairs = zip(labels.flatten().tolist(), _read_at_labels(batch, labels), strict=True)
    tokens: list[int] = [label if label >= 0 else read for label, read in pairs]
    before = [None, *(token if token >= 0 else None for token in tokens)]
    every = ["" if token < 0 else piece(left, token) for left, token in zip(before, tokens, strict=False)]
    return every[target.shift :]


def _read_at_labels(batch: Any, labels: Tensor) -> list[int]:
    """The token that is read where each label stands, -1 for padding and where it is not known."""
    read = batch.get(READ) if isinstance(batch, Mapping) else None
    mask = batch.get(MASK) if isinstance(batch, Mapping) else None
    if (
        not isinstance(read, Tensor)
        or not isinstance(mask, Tensor)
        or not read.shape[1:] == labels.shape == mask[0].shape
    ):
        return [-1] * labels.numel()
    return torch.where(mask[0].bool(), read[0], -1).tolist()


def _by_context(decode: Decode) -> Callable[[int | None, int], str]:
    """The text that a token adds to the one before it: some tokenizers leave out a space where a text begins."""
    alone = lru_cache(maxsize=2**16)(lambda token: decode([token]))

    @lru_cache(maxsize=2**18)
    def piece(left: int | None, token: int) -> str:
        if left is None:
            return alone(token)
        both, begin = decode([left, token]), alone(left)
        return both[len(begin) :] if both.startswith(begin) and len(both) > len(begin) else alone(token)

    return piece
