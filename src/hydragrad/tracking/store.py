"""The hypergradient store: rows dw_T/dalpha_i of tracked samples, for queries that come later.

A store on disk is a folder that NumPy alone can read:

    store.json         what it is: model, run, projection, number format
    rows.npy           one row a tracked sample (bfloat16 as uint16: the upper half of a float32)
    samples.npy        which training sample each row belongs to
    checksums.npy      CRC-32 of each row
    final.safetensors  the trained model's weights and buffers
"""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hydragrad.derivatives import PerSampleLoss
from hydragrad.disk import make_folder, writing
from hydragrad.errors import RunDamaged, RunExists
from hydragrad.replay.data import Collate
from hydragrad.runs.buffers import require_dense
from hydragrad.runs.lines import replace_file, save_file
from hydragrad.runs.manifest import require_same_model
from hydragrad.scores import Evidence, Method, Note, Query, Scores, queries_of
from hydragrad.scores.notes import CURVATURE_DROPPED, UNSEALED, interrupted
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.tracking.answers import Answer, Answerer, require_answerable
from hydragrad.tracking.facts import DTYPES, FILE, StoreFacts, is_growing, read_facts, write_facts
from hydragrad.tracking.growing_store import read_interrupted
from hydragrad.tracking.query_gradients import QueryDifferentiator
from hydragrad.tracking.rows.table import from_numpy
from hydragrad.tracking.store_files import (
    CHECKSUMS,
    FINAL,
    ROWS,
    SAMPLES,
    file_checksums,
    read_array,
    read_final,
    read_rows,
    require_fitting,
)


class Store:
    """Hypergradients of tracked samples, and the trained model that they belong to.

    Made by `hypergradients` and `Tracker`, or opened from disk with `Store.open`; not by hand.

    Attributes:
        facts: What it holds.
        rows: dw_T/dalpha_i, (samples, columns), as it is stored: float64, float32, or bfloat16's bits as uint16.
        sample_ids: Which training sample each row belongs to, int64, (samples,).
        final: The trained model's parameters and buffers, by name.

    Source: Chen et al. 2021, section 3.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: PerSampleLoss,
        facts: StoreFacts,
        rows: NDArray[Any],
        sample_ids: Tensor,
        final: Mapping[str, Tensor],
        *,
        checksums: NDArray[np.uint32] | None = None,
        path: Path | None = None,
        collate: Collate | None = None,
        sealed: bool = True,
    ) -> None:
        self.facts, self.rows, self.sample_ids, self.final = facts, rows, sample_ids, dict(final)
        self._model, self._loss, self._collate = model, loss, collate
        self._checksums, self._path, self._sealed = checksums, path, sealed

    @classmethod
    @in_clean_surroundings
    def open(cls, path: str | Path, model: nn.Module, loss: PerSampleLoss, *, collate: Collate | None = None) -> Self:
        """Open a store on disk; rows stay on disk until they are needed.

        Args:
            path: Its folder.
            model: The model it was built with; its weights may be anything.
            loss: The run's per-sample loss.
            collate: What training made batches with, for queries that torch's default won't do for.

        Raises:
            RunNotFound: There is none.
            RecordingMismatch: It was built with another model, or by another version.
            RunDamaged: Files are missing or damaged, or the replay that fills it was interrupted.
            StepError: Training under a planned schedule was interrupted.
        """
        folder = Path(path).absolute()
        if not (folder / FILE).exists() and is_growing(folder):
            held = read_interrupted(folder, model)
            return cls(model, loss, held.facts, held.rows, held.sample_ids, held.final, path=folder, collate=collate)
        facts, checksums = read_facts(folder)
        require_same_model(facts.model, model, folder)
        rows, samples = read_rows(folder, checksums), read_array(folder, SAMPLES, checksums)
        row_checksums, final = read_array(folder, CHECKSUMS, checksums), read_final(folder, checksums)
        require_fitting(folder, facts, rows, samples, row_checksums, final)
        ids = torch.from_numpy(samples)
        sealed = bool(checksums)
        return cls(
            model, loss, facts, rows, ids, final, checksums=row_checksums, path=folder, collate=collate, sealed=sealed
        )

    @in_clean_surroundings
    def save(self, path: str | Path) -> Path:
        """Write the store into a folder of its own.

        Raises:
            RunExists: There is a store already.
        """
        folder = Path(path).absolute()
        if (folder / FILE).exists():
            raise RunExists(f"{folder} already holds a store. Choose another folder, or delete it.")
        require_dense(self.final, folder)
        make_folder(folder)
        with writing(folder):
            np.save(folder / ROWS, self.rows)
        self._write_rest(folder)
        return folder

    @in_clean_surroundings
    def contributions(
        self,
        queries: Query | Sequence[Query],
        *,
        out: str | Path | None = None,
        top: int | None = None,
        memory: int = 1 << 30,
    ) -> Answer:
        """Contributions of the tracked samples to any queries: -(row . query's gradient), in blocks.

        Args:
            queries: One or several.
            out: Write the matrix (queries, samples) to this .npy file, float32 (float64 where the rows are), for
                matrices larger than memory.
            top: Return only the k most helpful and the k most harmful samples of every query.
            memory: Bytes that gradients and products may take at a time.

        Returns:
            Scores; the memory-mapped matrix where `out` is given; TopContributions where `top` is.

        Raises:
            QueryError: No query, both `out` and `top`, or a `top` out of range.
            RunDamaged: A row does not have the checksum it was written with.
        """
        require_answerable(out, top, len(self.rows))
        answerer = Answerer(self.differentiator())
        queries = queries_of(queries)
        if top is not None:
            return answerer.extremes(queries, self.block, self.sample_ids, top, memory)
        if out is not None:
            return answerer.write(queries, self.block, len(self.rows), Path(out), memory)
        names, values, matrix, noise = answerer.matrix(queries, self.block, len(self.rows), memory)
        return Scores(
            values=matrix,
            standard_errors=noise,
            sample_ids=self.sample_ids,
            query_names=names,
            query_values=values,
            evidence=self.evidence(),
        )

    def differentiator(self) -> QueryDifferentiator:
        """What differentiates queries at the trained model, in the columns of the rows."""
        return QueryDifferentiator(self._model, self._loss, self.facts, self.final, self._collate)

    def block(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop) to compute with, checked: float64, or float32.

        Raises:
            RunDamaged: A row does not have the checksum it was written with.
        """
        block = self.checked(start, stop)
        writable = block if block.flags.writeable else block.copy()
        return from_numpy(writable, DTYPES[self.facts.dtype])

    def checked(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop) as they are stored.

        Raises:
            RunDamaged: A row does not have the checksum it was written with.
        """
        block: NDArray[Any] = self.rows[start:stop]
        if self._checksums is not None:
            for row, expected in enumerate(self._checksums[start:stop], start=start):
                if zlib.crc32(np.ascontiguousarray(block[row - start]).data) != int(expected):
                    raise RunDamaged(
                        f"Row {row} (training sample {int(self.sample_ids[row])}) of {self._path}/rows.npy does not "
                        f"have the checksum it was written with. Restore the file, or build the store again."
                    )
        return block

    def evidence(self) -> Evidence:
        """How the rows were computed."""
        notes = [Note("statistics constant", text) for text in self.facts.notes]
        if self.facts.curvature == "none":
            notes.append(CURVATURE_DROPPED)
        if self.facts.projection:
            text = (
                f"Rows were projected to {self.rows.shape[1]:,} dimensions: contributions are estimates that carry its "
                f"noise."
            )
            notes.append(Note("projection", text))
        if not self.facts.completed:
            notes.append(interrupted(self.facts.steps))
        if not self._sealed:
            notes.append(UNSEALED)
        return Evidence(
            method=Method(curvature=self.facts.curvature),
            route="store",
            steps=self.facts.steps,
            completed=self.facts.completed,
            notes=tuple(notes),
        )

    def finish(self, folder: Path) -> None:
        """Write everything but the rows, which lie in `folder` already."""
        self._path = folder
        self._write_rest(folder)

    def _write_rest(self, folder: Path) -> None:
        sums = [zlib.crc32(np.ascontiguousarray(row).data) for row in self.rows]
        self._checksums = np.array(sums, dtype=np.uint32)
        np.save(folder / SAMPLES, self.sample_ids.numpy())
        np.save(folder / CHECKSUMS, self._checksums)
        final = {name: value.detach().cpu().contiguous() for name, value in self.final.items()}
        replace_file(folder / FINAL, lambda to: save_file(final, to, {}))
        write_facts(folder, self.facts, file_checksums(folder))
