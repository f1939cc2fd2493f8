"""Contributions of a store's samples: gradients of queries times rows, in blocks that fit into memory."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydragrad.derivatives import Projector
from hydragrad.disk import make_folder, writing
from hydragrad.errors import QueryError
from hydragrad.progress import bar
from hydragrad.scores import Query, Scores, numbered
from hydragrad.tracking.query_gradients import QueryChunk
from hydragrad.tracking.top_contributions import Extremes
from hydragrad.tracking.top_contributions import TopContributions as TopContributions

Block = Callable[[int, int], Tensor]
"""Rows [start, stop), to compute with."""

Answer = Scores | TopContributions | NDArray[Any]
"""Scores; the extremes where `top` is given; the memory-mapped matrix where `out` is."""


class Differentiator(Protocol):
    """Differentiates queries in the columns of rows, as `QueryDifferentiator` does."""

    projector: Projector | None
    width: int
    precision: torch.dtype

    def chunks(self, queries: Sequence[Query], memory: int) -> Iterator[QueryChunk]:
        """Differentiate queries, in chunks whose gradients fit into a quarter of `memory` bytes."""
        ...


def require_answerable(out: str | Path | None, top: int | None, samples: int) -> None:
    """Refuse what can't be returned.

    Raises:
        QueryError: Both `out` and `top`, or a `top` out of range.
    """
    if out is not None and top is not None:
        raise QueryError("Give out= (the whole matrix on disk) or top= (the extremes), not both.")
    if top is not None and not 1 <= top <= samples:
        raise QueryError(f"top must be 1 to {samples:,}, the number of tracked samples, got {top}.")


class Answerer:
    """Multiplies gradients of queries with rows."""

    def __init__(self, gradients: Differentiator) -> None:
        self._gradients = gradients

    def matrix(
        self, queries: Sequence[Query], block: Block, count: int, memory: int
    ) -> tuple[tuple[str, ...], Tensor, Tensor, Tensor | None]:
        """Names, values, contributions (queries, samples), float64, and their standard errors by the projection."""
        names, values, parts, lengths = [], [], [], []
        for chunk in self._gradients.chunks(queries, memory):
            names += chunk.names
            values += chunk.values
            lengths += self._lengths(chunk.gradients)
            parts.append(torch.cat(list(self._products(chunk.gradients, block, count, memory)), 1).double())
        matrix, noise = torch.cat(parts), None
        if lengths:
            noise = self._noise(matrix.cpu(), torch.cat(lengths), self._row_norms(block, count, memory))
        return numbered(names), torch.tensor(values, dtype=torch.float64), matrix, noise

    def write(self, queries: Sequence[Query], block: Block, count: int, path: Path, memory: int) -> NDArray[Any]:
        """Contributions (queries, samples) as a memory-mapped file."""
        total = sum(len(query.names()) for query in queries)
        number = np.float64 if self._gradients.precision == torch.float64 else np.float32
        make_folder(path.parent)
        with writing(path):
            matrix = np.lib.format.open_memmap(path, mode="w+", dtype=number, shape=(total, count))
        done = 0
        with bar("all pairs", total, unit="queries") as progress:
            for chunk in self._gradients.chunks(queries, memory):
                start = 0
                for product in self._products(chunk.gradients, block, count, memory):
                    stop = start + product.shape[1]
                    matrix[done : done + len(chunk.names), start:stop] = product.cpu().numpy()
                    start = stop
                done += len(chunk.names)
                progress.advance(len(chunk.names))
        matrix.flush()
        return matrix

    def extremes(
        self, queries: Sequence[Query], block: Block, sample_ids: Tensor, top: int, memory: int
    ) -> TopContributions:
        """The k largest and smallest of every query, without the whole matrix."""
        names, values, lengths = [], [], []
        extremes: list[tuple[Tensor, Tensor]] = []
        with bar("differentiating queries", sum(len(query.names()) for query in queries), unit="queries") as progress:
            for chunk in self._gradients.chunks(queries, memory):
                names += chunk.names
                values += chunk.values
                lengths += self._lengths(chunk.gradients)
                best = Extremes(top)
                for product in self._products(chunk.gradients, block, len(sample_ids), memory):
                    best.add(product.double().cpu())
                extremes.append(best.values_and_places())
                progress.advance(len(chunk.names))
        best_values = torch.cat([values for values, _ in extremes])
        places = torch.cat([places for _, places in extremes])
        ids, half, noise = sample_ids[places], best_values.shape[1] // 2, None
        if lengths:
            noise = self._noise(
                best_values, torch.cat(lengths), self._row_norms(block, len(sample_ids), memory)[places]
            )
        return TopContributions(
            query_names=numbered(names),
            query_values=torch.tensor(values, dtype=torch.float64),
            helpful=best_values[:, :half],
            helpful_ids=ids[:, :half],
            harmful=best_values[:, half:],
            harmful_ids=ids[:, half:],
            helpful_noise=None if noise is None else noise[:, :half],
            harmful_noise=None if noise is None else noise[:, half:],
        )

    def _lengths(self, gradients: Tensor) -> list[Tensor]:
        """Norms of query gradients; none of whole rows, whose contributions have no noise."""
        return [] if self._gradients.projector is None else [gradients.double().norm(dim=1).cpu()]

    def _noise(self, values: Tensor, lengths: Tensor, norms: Tensor) -> Tensor:
        """Standard errors of projected products, from the norms of query gradients and of rows, (queries, k) or (k,).

        Source: the variance in `derivatives.projection`, all coordinates in different chunks.
        """
        assert self._gradients.projector is not None
        return ((norms.square() * lengths.square()[:, None] + values.square()) / self._gradients.projector.width).sqrt()

    def _row_norms(self, block: Block, count: int, memory: int) -> Tensor:
        size = max(1, memory // (16 * self._gradients.width))
        parts = [block(start, min(count, start + size)).double().norm(dim=1) for start in range(0, count, size)]
        return torch.cat(parts).cpu()

    def _products(self, gradients: Tensor, block: Block, count: int, memory: int) -> Iterator[Tensor]:
        queries, width = gradients.shape
        size = max(1, memory // (4 * (width + queries) * gradients.element_size()))
        for start in range(0, count, size):
            rows = block(start, min(count, start + size)).to(gradients)
            yield -(gradients @ rows.T)
