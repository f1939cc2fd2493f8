"""Questions to a store: gradients of queries against rows, in blocks that fit into memory."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hydragrad.derivatives import HooksInapplicable, LayerGradients, PerSampleLoss, compare_with_safe, tolerance_of
from hydragrad.progress import bar
from hydragrad.randomness import preserved
from hydragrad.replay import fetch
from hydragrad.replay.data import Collate
from hydragrad.scores import Query, QueryPoint, Scores, numbered, sample_losses
from hydragrad.tracking.facts import StoreFacts

Block = Callable[[int, int], Tensor]
"""Rows [start, stop), to compute with."""


@dataclass(frozen=True, kw_only=True)
class TopContributions:
    """The samples that matter most to each query; contributions as in Scores: positive helps, unit of the query.

    Attributes:
        query_names: One name a query.
        query_values: phi of the trained model, float64, (queries,).
        helpful_ids: Most helpful training samples, the best first, (queries, k).
        helpful: Their contributions, (queries, k).
        harmful_ids: Most harmful training samples, the worst first, (queries, k).
        harmful: Their contributions, (queries, k).
        helpful_noise: Standard errors of `helpful` by the rows' projection, (queries, k); None of whole rows.
        harmful_noise: The same of `harmful`.
    """

    query_names: tuple[str, ...]
    query_values: Tensor
    helpful_ids: Tensor
    helpful: Tensor
    harmful_ids: Tensor
    harmful: Tensor
    helpful_noise: Tensor | None = None
    harmful_noise: Tensor | None = None

    def to_frame(self) -> pd.DataFrame:
        """One row a query and sample: query, sample, contribution; the most helpful first."""
        ids = torch.cat([self.helpful_ids, self.harmful_ids.flip(1)], 1)
        values = torch.cat([self.helpful, self.harmful.flip(1)], 1)
        names = np.repeat(np.array(self.query_names, dtype=object), ids.shape[1])
        frame = pd.DataFrame({"query": names, "sample": ids.flatten().numpy(), "contribution": values.flatten()})
        return frame.drop_duplicates(["query", "sample"], ignore_index=True)


Asked = tuple[list[str], list[float], Tensor]
"""Names and values of some scalars, and their gradients, (scalars, columns)."""

CHUNK = 250
"""Samples in one backward pass of single losses."""

BATCH_FROM = 8
"""Below so many single losses one gradient a sample is quicker than setting up."""

Answer = Scores | TopContributions | NDArray[Any]
"""Scores; the extremes where `top` was asked for; the memory-mapped matrix where `out` was."""


class Answerer:
    """Differentiates queries at the trained model and multiplies them with rows."""

    def __init__(
        self,
        model: nn.Module,
        loss: PerSampleLoss,
        facts: StoreFacts,
        final: Mapping[str, Tensor],
        collate: Collate | None,
    ) -> None:
        device = next(model.parameters()).device
        weights, statistics = facts.layouts()
        on_device = {name: value.to(device) for name, value in final.items()}
        self._point = QueryPoint(
            model=model,
            loss=loss,
            parameters={name: on_device[name] for name, _ in model.named_parameters()},
            buffers={name: on_device[name] for name, _ in model.named_buffers()},
            weights=weights,
            statistics=statistics,
            fetch=lambda dataset, indices: fetch(dataset, indices, seed=0, collate=collate, device=device),
        )
        self._projector = facts.projector(next(iter(on_device.values())))
        self._width = weights.size + statistics.size
        self._kind = torch.float64 if facts.dtype == "float64" else torch.float32

    def matrix(
        self, queries: Sequence[Query], block: Block, count: int, memory: int
    ) -> tuple[tuple[str, ...], Tensor, Tensor, Tensor | None]:
        """Names, values, contributions (queries, samples), float64, and their standard errors by the projection."""
        names, values, parts, lengths = [], [], [], []
        for asked, phi, gradients in self._gradients(queries, memory):
            names += asked
            values += phi
            lengths += self._lengths(gradients)
            parts.append(torch.cat(list(self._products(gradients, block, count, memory)), 1).double())
        matrix, noise = torch.cat(parts), None
        if lengths:
            noise = self._noise(matrix.cpu(), torch.cat(lengths), self._row_norms(block, count, memory))
        return numbered(names), torch.tensor(values, dtype=torch.float64), matrix, noise

    def write(self, queries: Sequence[Query], block: Block, count: int, path: Path, memory: int) -> NDArray[Any]:
        """Contributions (queries, samples) as a memory-mapped file."""
        total = sum(len(query.names()) for query in queries)
        kind = np.float64 if self._kind == torch.float64 else np.float32
        path.parent.mkdir(parents=True, exist_ok=True)
        matrix = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=(total, count))
        done = 0
        with bar("all pairs", total, unit="queries") as progress:
            for asked, _, gradients in self._gradients(queries, memory):
                start = 0
                for product in self._products(gradients, block, count, memory):
                    stop = start + product.shape[1]
                    matrix[done : done + len(asked), start:stop] = product.cpu().numpy()
                    start = stop
                done += len(asked)
                progress.advance(len(asked))
        matrix.flush()
        return matrix

    def extremes(
        self, queries: Sequence[Query], block: Block, sample_ids: Tensor, top: int, memory: int
    ) -> TopContributions:
        """The k largest and smallest of every query, without the whole matrix."""
        names, values, lengths = [], [], []
        found: list[tuple[Tensor, Tensor]] = []
        with bar("asking", sum(len(query.names()) for query in queries), unit="queries") as progress:
            for asked, phi, gradients in self._gradients(queries, memory):
                names += asked
                values += phi
                lengths += self._lengths(gradients)
                best = _Extremes(top)
                for product in self._products(gradients, block, len(sample_ids), memory):
                    best.add(product.double().cpu())
                found.append(best.found())
                progress.advance(len(asked))
        harm = torch.cat([values for values, _ in found])
        places = torch.cat([places for _, places in found])
        at, half, noise = sample_ids[places], harm.shape[1] // 2, None
        if lengths:
            noise = self._noise(harm, torch.cat(lengths), self._row_norms(block, len(sample_ids), memory)[places])
        return TopContributions(
            query_names=numbered(names),
            query_values=torch.tensor(values, dtype=torch.float64),
            helpful=harm[:, :half],
            helpful_ids=at[:, :half],
            harmful=harm[:, half:],
            harmful_ids=at[:, half:],
            helpful_noise=None if noise is None else noise[:, :half],
            harmful_noise=None if noise is None else noise[:, half:],
        )

    def _lengths(self, gradients: Tensor) -> list[Tensor]:
        """Norms of query gradients; none of whole rows, whose answers have no noise."""
        return [] if self._projector is None else [gradients.double().norm(dim=1).cpu()]

    def _noise(self, values: Tensor, lengths: Tensor, norms: Tensor) -> Tensor:
        """Standard errors of projected products, from the norms of query gradients and of rows, (queries, k) or (k,).

        Source: the variance in `derivatives.projection`, all coordinates in different chunks.
        """
        assert self._projector is not None
        return ((norms.square() * lengths.square()[:, None] + values.square()) / self._projector.width).sqrt()

    def _row_norms(self, block: Block, count: int, memory: int) -> Tensor:
        size = max(1, memory // (16 * self._width))
        parts = [block(start, min(count, start + size)).double().norm(dim=1) for start in range(0, count, size)]
        return torch.cat(parts).cpu()

    def _gradients(self, queries: Sequence[Query], memory: int) -> Iterator[Asked]:
        item = torch.empty((), dtype=self._kind).element_size()
        size = max(1, memory // (4 * self._width * item))
        with preserved():
            for query in queries:
                yield from self._in_batches(query, size) or self._one_by_one(query, size)

    def _one_by_one(self, query: Query, size: int) -> Iterator[Asked]:
        rows = query.rows(self._point)
        while chunk := list(islice(rows, size)):
            w_bar = torch.stack([row.w_bar for row in chunk]).to(self._kind)
            if self._projector is not None:
                gradients = self._projector.flat(w_bar)
            else:
                gradients = torch.cat([w_bar, torch.stack([row.r_bar for row in chunk]).to(self._kind)], 1)
            yield [row.name for row in chunk], [row.value for row in chunk], gradients

    def _in_batches(self, query: Query, size: int) -> Iterator[Asked] | None:
        """Losses of single samples, many in one backward pass; None where layers have no rule for that."""
        asked = query.single_samples()
        if asked is None or query.training or self._point.statistics.size or len(asked[1]) < BATCH_FROM:
            return None
        dataset, indices = asked
        model = copy.deepcopy(self._point.model).eval().requires_grad_(True)
        with torch.no_grad():
            for name, value in (*model.named_parameters(), *model.named_buffers()):
                value.copy_((self._point.parameters | self._point.buffers)[name])
        try:
            layers = LayerGradients(model, self._point.weights, self._projector)
        except HooksInapplicable:
            return None

        def batch(chosen: Sequence[int]) -> tuple[list[float], Tensor]:
            layers.begin(len(chosen))
            with torch.enable_grad():
                losses = self._point.loss(model, self._point.fetch(dataset, chosen))
                losses.sum().backward()
            return losses.detach().double().tolist(), layers.rows(range(len(chosen))).to(self._kind)

        # The rules are trusted only where the first samples agree with one gradient a sample.
        first = sample_losses(dataset, indices[:2])
        _, _, expected = next(self._one_by_one(first, 2))
        tolerance = tolerance_of(self._kind, next(model.parameters()).dtype)
        if not compare_with_safe(lambda: [batch(indices[:2])[1]], [expected], tolerance=tolerance).trusted:
            return None
        return self._batches(query.names(), indices, min(size, CHUNK), batch)

    def _batches(
        self,
        names: Sequence[str],
        indices: Sequence[int],
        size: int,
        batch: Callable[[Sequence[int]], tuple[list[float], Tensor]],
    ) -> Iterator[Asked]:
        for start in range(0, len(indices), size):
            values, gradients = batch(indices[start : start + size])
            yield list(names[start : start + size]), values, gradients

    def _products(self, gradients: Tensor, block: Block, count: int, memory: int) -> Iterator[Tensor]:
        queries, width = gradients.shape
        size = max(1, memory // (4 * (width + queries) * gradients.element_size()))
        for start in range(0, count, size):
            rows = block(start, min(count, start + size)).to(gradients)
            yield -(gradients @ rows.T)


class _Extremes:
    """The k largest and the k smallest of a stream of columns."""

    def __init__(self, top: int) -> None:
        self._top, self._seen = top, 0
        self._best: list[tuple[Tensor, Tensor] | None] = [None, None]

    def add(self, product: Tensor) -> None:
        """Take in the next columns, (queries, columns)."""
        places = torch.arange(self._seen, self._seen + product.shape[1]).expand_as(product)
        self._seen += product.shape[1]
        for side, largest in enumerate((True, False)):
            values, at, before = product, places, self._best[side]
            if before is not None:
                values, at = torch.cat([before[0], values], 1), torch.cat([before[1], at], 1)
            kept, chosen = values.topk(min(self._top, values.shape[1]), largest=largest)
            self._best[side] = kept, at.gather(1, chosen)

    def found(self) -> tuple[Tensor, Tensor]:
        """Values and places: the largest, then the smallest."""
        sides = [side for side in self._best if side is not None]
        return torch.cat([values for values, _ in sides], 1), torch.cat([places for _, places in sides], 1)
