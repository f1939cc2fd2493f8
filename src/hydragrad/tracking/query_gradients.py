"""Gradients of queries at a store's trained model, in the columns of its rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hydragrad.derivatives import (
    Evaluator,
    HooksInapplicable,
    LayerGradients,
    PerSampleLoss,
    agrees,
    copy_of,
    tolerance_of,
)
from hydragrad.derivatives.coupling import CouplingWatch
from hydragrad.derivatives.trusted import FAST_PATH_ERRORS
from hydragrad.errors import HydragradError
from hydragrad.randomness import preserved
from hydragrad.replay.data import Collate
from hydragrad.replay.held_out import HeldOutBatches
from hydragrad.runs.buffers import put_state
from hydragrad.scores import Query, QueryPoint, sample_losses
from hydragrad.tracking.facts import StoreFacts

CHUNK = 250
"""Samples in one backward pass of single losses."""

BATCH_FROM = 8
"""Below so many single losses one gradient a sample is quicker than setting up."""


class QueryChunk(NamedTuple):
    """Some scalars of queries.

    Attributes:
        names: Their names.
        values: Their values.
        gradients: (scalars, columns).
    """

    names: list[str]
    values: list[float]
    gradients: Tensor


class QueryDifferentiator:
    """Differentiates queries at a trained model.

    Args:
        model: The model; its weights may be anything.
        loss: Per-sample loss.
        facts: What the store holds.
        final: The trained model's parameters and buffers.
        collate: What training made batches with.

    Attributes:
        projector: Projects gradients as the rows, or None.
        width: Columns of a gradient, before projection.
        precision: Type of the gradients.
    """

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
        parameters = [name for name, _ in model.named_parameters()]
        on_device = {name: value.to(device) for name, value in final.items()}
        self._point = QueryPoint(
            model=model,
            loss=loss,
            parameters={name: on_device[name] for name in parameters},
            buffers={name: value for name, value in on_device.items() if name not in parameters},
            weights=weights,
            statistics=statistics,
            fetch=HeldOutBatches(model, loss, collate, device),
        )
        self.projector = facts.projector(next(iter(on_device.values())))
        self.width = weights.size + statistics.size
        self.precision = torch.float64 if facts.dtype == "float64" else torch.float32

    def chunks(self, queries: Sequence[Query], memory: int) -> Iterator[QueryChunk]:
        """Differentiate queries, in chunks whose gradients fit into a quarter of `memory` bytes."""
        item = torch.empty((), dtype=self.precision).element_size()
        size = max(1, memory // (4 * self.width * item))
        with preserved():
            for query in queries:
                yield from self._in_batches(query, size) or self._one_by_one(query, size)

    def _one_by_one(self, query: Query, size: int) -> Iterator[QueryChunk]:
        rows = query.rows(self._point)
        while chunk := list(islice(rows, size)):
            w_bar = torch.stack([row.w_bar for row in chunk]).to(self.precision)
            if self.projector is not None:
                gradients = self.projector.flat(w_bar)
            else:
                gradients = torch.cat([w_bar, torch.stack([row.r_bar for row in chunk]).to(self.precision)], 1)
            yield QueryChunk([row.name for row in chunk], [row.value for row in chunk], gradients)

    def _in_batches(self, query: Query, size: int) -> Iterator[QueryChunk] | None:
        """Losses of single samples, many in one backward pass; None where layers have no rule for that."""
        single = query.single_samples()
        if single is None or query.training or self._point.statistics.size or len(single[1]) < BATCH_FROM:
            return None
        dataset, indices = single
        model = copy_of(self._point.model).eval().requires_grad_(True)
        put_state(model, self._point.parameters | self._point.buffers)
        try:
            layers = LayerGradients(model, self._point.weights, self.projector)
        except HooksInapplicable:
            return None

        coupling, evaluate = CouplingWatch(), Evaluator(self._point.loss)

        def batch(samples: Sequence[int]) -> tuple[list[float], Tensor] | None:
            """Values and gradients; None where the layers' do not agree with one gradient a sample."""
            layers.begin(len(samples))
            with torch.enable_grad():
                losses = evaluate(
                    model, self._point.fetch(dataset, samples, *([] if query.collate is None else [query.collate]))
                )
                wanted = coupling.wants(samples[0], losses)
                losses.sum().backward()
            gradients = layers.rows(range(len(samples))).to(self.precision)
            if wanted and not self._agree(sample_losses(dataset, samples[:2], collate=query.collate), gradients[:2]):
                return None
            return losses.detach().double().tolist(), gradients

        # The rules are trusted only where samples agree with one gradient a sample.
        try:
            first = batch(indices[:2])
        except HydragradError:
            raise
        except FAST_PATH_ERRORS:
            first = None
        return None if first is None else self._batches(query, indices, min(size, CHUNK), batch)

    def _agree(self, query: Query, gradients: Tensor) -> bool:
        expected = next(self._one_by_one(query, len(gradients))).gradients
        tolerance = tolerance_of(self.precision, next(iter(self._point.parameters.values())).dtype)
        return agrees(gradients, expected, tolerance=tolerance)

    def _batches(
        self,
        query: Query,
        indices: Sequence[int],
        size: int,
        batch: Callable[[Sequence[int]], tuple[list[float], Tensor] | None],
    ) -> Iterator[QueryChunk]:
        names, dataset = query.names(), query.dataset
        assert dataset is not None
        for start in range(0, len(indices), size):
            chunk = indices[start : start + size]
            quick = batch(chunk)
            if quick is None:
                for single in self._one_by_one(sample_losses(dataset, chunk, collate=query.collate), size):
                    yield single._replace(names=names[start : start + size])
            else:
                yield QueryChunk(names[start : start + size], *quick)
