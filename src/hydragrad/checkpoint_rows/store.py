"""The rows of all samples at checkpoints, and what they say about queries."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from hydragrad.checkpoint_rows.checkpoints import AtEveryCheckpoint
from hydragrad.checkpoint_rows.plan import ROWS, RowsPlan
from hydragrad.derivatives import PerSampleLoss
from hydragrad.errors import RunDamaged
from hydragrad.randomness import preserved
from hydragrad.replay.data import Collate
from hydragrad.scores import Evidence, Query, Scores, queries_of
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.tracking import Store
from hydragrad.tracking.answers import Answer, Answerer, require_answerable
from hydragrad.tracking.query_gradients import QueryDifferentiator


class InfluenceStore:
    """Rows of samples at several checkpoints: what leaving a sample out is estimated to do to the weights of each.

    Made by `influence_rows`, or opened from disk with `InfluenceStore.open`; not by hand.

    Attributes:
        plan: What it holds.
        stores: One store a checkpoint, in order of training.
        sample_ids: Which training sample each row belongs to, int64, (samples,).
        evidence: How the rows were computed, and how near approximate inverses are.
    """

    def __init__(self, plan: RowsPlan, stores: Sequence[Store], evidence: Evidence) -> None:
        self.plan, self.stores, self.evidence = plan, tuple(stores), evidence
        self.sample_ids = self.stores[-1].sample_ids

    @classmethod
    @in_clean_surroundings
    def open(cls, path: str | Path, model: nn.Module, loss: PerSampleLoss, *, collate: Collate | None = None) -> Self:
        """Open rows on disk; they stay there until they are needed.

        Args:
            path: Their folder.
            model: The model; its weights may be anything.
            loss: Per-sample losses of a batch, as in training.
            collate: What training made batches with, for queries that torch's default won't do for.

        Raises:
            RunNotFound: There are none, or they are unfinished.
            RecordingMismatch: They belong to another model, or were written by another version.
            RunDamaged: Files are missing or damaged.
        """
        root = Path(path).absolute()
        plan, evidence = RowsPlan.read(root / ROWS)
        if evidence is None:
            raise RunDamaged(f"{root / ROWS} lacks its evidence. Make the rows again.")
        folders = [plan.folder(root, number) for number in range(len(plan.checkpoints))]
        stores = [Store.open(folder, model, loss, collate=collate) for folder in folders]
        for folder, store in zip(folders, stores, strict=True):
            if not torch.equal(store.sample_ids, stores[0].sample_ids):
                raise RunDamaged(f"{folder} holds other samples than {folders[0]}. Make the rows again.")
        return cls(plan, stores, evidence)

    @in_clean_surroundings
    def contributions(
        self,
        queries: Query | Sequence[Query],
        *,
        out: str | Path | None = None,
        top: int | None = None,
        memory: int = 1 << 30,
    ) -> Answer:
        """Contributions of the samples to any queries: sums over checkpoints of -(row . query's gradient), in blocks.

        Args:
            queries: One or several.
            out: Write the matrix (queries, samples) to this .npy file, float32 (float64 where the rows are), for
                matrices larger than memory.
            top: Return only the k most helpful and the k most harmful samples of every query.
            memory: Bytes that gradients and products may take at a time.

        Returns:
            Scores; the memory-mapped matrix where `out` is given; TopContributions where `top` is. Standard errors of
            projected rows are those of the projection.

        Raises:
            QueryError: No query, both `out` and `top`, or a `top` out of range.
            RunDamaged: A row does not have the checksum it was written with.

        Cost: a gradient of every query at every checkpoint; no pass over the training set.
        """
        require_answerable(out, top, len(self.sample_ids))
        queries, count = queries_of(queries), len(self.sample_ids)
        with preserved():
            answerer = Answerer(AtEveryCheckpoint([self._differentiator(store) for store in self.stores]))
            if top is not None:
                return answerer.extremes(queries, self.block, self.sample_ids, top, memory)
            if out is not None:
                return answerer.write(queries, self.block, count, Path(out), memory)
            names, values, matrix, noise = answerer.matrix(queries, self.block, count, memory)
        return Scores(
            values=matrix,
            standard_errors=noise,
            sample_ids=self.sample_ids,
            query_names=names,
            query_values=values,
            evidence=self.evidence,
            queries=tuple(queries),
        )

    def block(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop) at all checkpoints, next to each other, checked: float64, or float32.

        Raises:
            RunDamaged: A row does not have the checksum it was written with.
        """
        return torch.cat([store.block(start, stop) for store in self.stores], 1)

    @staticmethod
    def _differentiator(store: Store) -> QueryDifferentiator:
        return store.differentiator()
