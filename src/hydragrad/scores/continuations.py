"""Queries about language models: the loss of a continuation, of chosen tokens, the log-probability of a completion."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hydragrad.errors import QueryError
from hydragrad.scores.queries import Query, QueryPoint, QueryRow, query

Tokens = Sequence[int] | Tensor
"""Tokens of one text, in order."""

Logits = Callable[[Any, Tensor], Tensor]
"""`logits(model, tokens)`: of tokens (1, length), those of the token after each of them, (1, length, vocabulary)."""


def continuation_loss(
    prompt: Tokens, continuation: Tokens, *, name: str | None = None, logits: Logits | None = None
) -> Query:
    """The mean cross-entropy of a continuation's tokens, each given all before it, in nats a token.

    Args:
        prompt: Tokens that are given; at least one.
        continuation: Tokens that are predicted; at least one.
        name: What the query is called in tables.
        logits: How the model is called; if None, model(tokens), whose result is the logits or has them as `.logits`.

    Returns:
        A query of one scalar; positive contributions help.

    Raises:
        QueryError: No prompt or no continuation; when it is evaluated, tokens that the model does not know.
    """
    text = _Text.of(prompt, continuation, logits)
    return query(name or f"loss of a continuation of {text.predicted} tokens", partial(_mean_loss, text))


def log_probability(
    prompt: Tokens, completion: Tokens, *, name: str | None = None, logits: Logits | None = None
) -> Query:
    """The log-probability of a completion given a prompt, in nats: the sum over its tokens.

    High is good, so a sample that makes the completion likelier has a *negative* contribution (without it the
    log-probability would fall).

    Args:
        prompt, completion, name, logits: As for `continuation_loss`.

    Returns:
        A query of one scalar.

    Raises:
        QueryError: No prompt or no completion; when it is evaluated, tokens that the model does not know.
    """
    text = _Text.of(prompt, completion, logits)
    return query(name or f"log-probability of {text.predicted} tokens", partial(_log_probability, text))


def token_losses(
    tokens: Tokens, positions: Sequence[int], *, name: str | None = None, logits: Logits | None = None
) -> Query:
    """The cross-entropy of chosen tokens of a text, each given all tokens before it, in nats: one row a token.

    Args:
        tokens: The text.
        positions: Places of the tokens in it, in the order of the rows: 1 or more, since the first has none before it.
        name: What the rows are called; the position follows.
        logits: As for `continuation_loss`.

    Returns:
        One query of as many scalars as there are positions; positive contributions help.

    Raises:
        QueryError: Positions that the text does not have; when it is evaluated, tokens that the model does not know.
    """
    every = _checked(tokens, "text")
    places = [int(place) for place in positions]
    wrong = [place for place in places if not 1 <= place < len(every)]
    if wrong or not places:
        raise QueryError(
            f"Tokens of a text of {len(every):,} that others come before are at 1 to {len(every) - 1:,}, got "
            f"{wrong[:5] if wrong else 'none'}."
        )
    title = name or "loss of token"
    texts = [_Text(every[: place + 1], 1, logits) for place in places]
    return _Several(
        [query(f"{title} {place}", partial(_mean_loss, text)) for place, text in zip(places, texts, strict=True)]
    )


def difference(first: Query, second: Query, *, name: str | None = None) -> Query:
    """The difference of two queries, scalar by scalar: first less second.

    Args:
        first, second: Queries of as many scalars.
        name: What it is called; where there are several scalars, their number follows.

    Returns:
        A query of as many scalars. With losses of two continuations: what made the model prefer the second.

    Raises:
        QueryError: Different numbers of scalars.
    """
    names, others = first.names(), second.names()
    if len(names) != len(others):
        raise QueryError(
            f"A difference is taken scalar by scalar; the first query has {len(names):,} and the second "
            f"{len(others):,}. Give queries of as many."
        )
    if name is not None:
        titles = [name] if len(names) == 1 else [f"{name} {number}" for number in range(len(names))]
    else:
        titles = [f"{one} less {other}" for one, other in zip(names, others, strict=True)]
    return _Difference(first, second, titles)


@dataclass(frozen=True)
class _Text:
    """Tokens of a text, of which the last ones are predicted; and how a model is called."""

    tokens: list[int]
    predicted: int
    logits: Logits | None

    @classmethod
    def of(cls, prompt: Tokens, continuation: Tokens, logits: Logits | None) -> "_Text":
        given, predicted = _checked(prompt, "prompt"), _checked(continuation, "continuation")
        return cls([*given, *predicted], len(predicted), logits)

    def log_probabilities(self, model: nn.Module) -> Tensor:
        """Of the predicted tokens, (predicted,)."""
        tokens = torch.tensor(self.tokens, dtype=torch.int64, device=next(model.parameters()).device)
        try:
            result = _call(model, tokens[None, :-1]) if self.logits is None else self.logits(model, tokens[None, :-1])
        except IndexError as error:
            raise QueryError(
                f"The model must know the tokens of a query, and it does not take {self.tokens[:8]}... ({error}). "
                f"Encode the text with the tokenizer that the model was trained with."
            ) from error
        if not isinstance(result, Tensor) or result.dim() != 3 or result.shape[:2] != (1, len(tokens) - 1):
            shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise QueryError(
                f"Of tokens (1, {len(tokens) - 1}) the model must give logits (1, {len(tokens) - 1}, vocabulary); it "
                f"gave {shape}. Say how it is called: logits=lambda model, tokens: ..."
            )
        if int(tokens.max()) >= result.shape[2]:
            raise QueryError(f"The model has logits of {result.shape[2]:,} tokens, got token {int(tokens.max()):,}.")
        every = result[0].log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
        return every[-self.predicted :]


class _Several(Query):
    """The scalars of several queries in one."""

    def __init__(self, queries: Sequence[Query]) -> None:
        self._queries = list(queries)

    def names(self) -> list[str]:
        return [name for each in self._queries for name in each.names()]

    def rows(self, point: QueryPoint) -> Iterator[QueryRow]:
        return (row for each in self._queries for row in each.rows(point))

    def values(self, model: nn.Module, point: QueryPoint) -> list[float]:
        return [value for each in self._queries for value in each.values(model, point)]


class _Difference(Query):
    """First less second, scalar by scalar."""

    def __init__(self, first: Query, second: Query, names: Sequence[str]) -> None:
        self._first, self._second, self._names = first, second, list(names)

    def names(self) -> list[str]:
        return self._names

    def rows(self, point: QueryPoint) -> Iterator[QueryRow]:
        pairs = zip(self._names, self._first.rows(point), self._second.rows(point), strict=True)
        for name, one, other in pairs:
            yield QueryRow(
                name,
                one.value - other.value,
                one.w_bar - other.w_bar,
                one.r_bar - other.r_bar,
                one.compared + other.compared,
                max(one.gap, other.gap),
            )

    def values(self, model: nn.Module, point: QueryPoint) -> list[float]:
        pairs = zip(self._first.values(model, point), self._second.values(model, point), strict=True)
        return [one - other for one, other in pairs]


def _mean_loss(text: _Text, model: nn.Module) -> Tensor:
    return -text.log_probabilities(model).mean()


def _log_probability(text: _Text, model: nn.Module) -> Tensor:
    return text.log_probabilities(model).sum()


def _call(model: nn.Module, tokens: Tensor) -> Any:
    output = model(tokens)
    return getattr(output, "logits", output)


def _checked(tokens: Tokens, what: str) -> list[int]:
    listed = [int(token) for token in (tokens.reshape(-1).tolist() if isinstance(tokens, Tensor) else tokens)]
    if not listed or min(listed) < 0:
        raise QueryError(
            f"A {what} has tokens, numbers from 0, at least one (a mark of the beginning will do); got "
            f"{listed[:8] if listed else 'none'}."
        )
    return listed
