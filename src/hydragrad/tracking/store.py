"""The hypergradient store: rows dw_T/dalpha_i of tracked samples, for queries thought of later.

A store on disk is a folder that NumPy alone can read:

    store.json         what it is: model, run, projection, number format
    rows.npy           one row a tracked sample (bfloat16 as uint16: the upper half of a float32)
    samples.npy        which training sample each row belongs to
    checksums.npy      CRC-32 of each row
    final.safetensors  the trained model's weights and buffers
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hydragrad.derivatives import BatchStatistics, Layout, PerSampleLoss, Projector
from hydragrad.errors import QueryError, RecordingMismatch, RunDamaged, RunExists, RunNotFound
from hydragrad.replay.data import Collate
from hydragrad.runs.lines import replace_file, save_file
from hydragrad.runs.manifest import require_same_model
from hydragrad.scores import Curvature, Evidence, Method, Note, Query, Scores, queries_of
from hydragrad.scores.notes import CURVATURE_DROPPED, interrupted
from hydragrad.steps import sgd
from hydragrad.tracking.answers import Answer, Answerer
from hydragrad.tracking.rows.table import from_numpy

SCHEMA = 2
READABLE = (1, SCHEMA)
FILE = "store.json"
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class StoreFacts:
    """What a store holds.

    Attributes:
        model: Names, shapes and dtypes of the model's parameters and buffers.
        data: Length and digest of the training set.
        parameters: Shapes of the parameters that a row speaks of, in their order.
        statistics: Shapes of the running statistics that follow them in a row.
        groups: Parameters whose columns belong together.
        dtype: Number format of the rows.
        projection: Dimensions and seed of the random projection, or None.
        curvature: What of the loss's curvature the rows hold.
        batch_statistics: Whether they follow the statistics of a BatchNorm's batch ("exact") or take them as
            constants ("frozen").
        schedule: Steps and checksum of the schedule that was told ahead, or None.
        steps: Steps of training that they take into account.
        completed: Whether training had ended.
        optimizer: Class of the optimizer.
        ages: How far parameters were when tracking began, where that was not at their start.
        smoothing: Share of the mean second moment that was added under its root in the derivative.
        notes: What a reader must know about the statistics of BatchNorm.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    parameters: dict[str, list[int]]
    statistics: dict[str, list[int]] = field(default_factory=dict)
    groups: list[list[str]]
    dtype: str
    projection: dict[str, int] | None = None
    curvature: Curvature = "none"
    batch_statistics: BatchStatistics = "exact"
    schedule: dict[str, int] | None = None
    steps: int
    completed: bool
    optimizer: str = field(default_factory=lambda: sgd.RULE.name)
    ages: dict[str, Any] = field(default_factory=dict)
    smoothing: float = 0.0
    notes: list[str] = field(default_factory=list)
    schema: int = SCHEMA

    def layouts(self) -> tuple[Layout, Layout]:
        """Of parameters and of statistics."""
        return Layout(self.parameters), Layout(self.statistics)

    def projector(self, like: Tensor) -> Projector | None:
        """The projection of the rows, computing as `like` does."""
        if self.projection is None:
            return None
        dims, seed = self.projection["dims"], self.projection["seed"]
        kind = torch.float64 if self.dtype == "float64" else torch.float32
        return Projector(self.layouts()[0], self.groups, dims, seed=seed, dtype=kind, device=like.device)


class Store:
    """Hypergradients of tracked samples, and the trained model that they belong to.

    Made by `hypergradients` and `Tracker`, or opened from disk with `Store.open`; not by hand.

    Attributes:
        facts: What it holds.
        rows: dw_T/dalpha_i, (samples, columns), as it lies: float64, float32, or bfloat16's bits as uint16.
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
    ) -> None:
        self.facts, self.rows, self.sample_ids, self.final = facts, rows, sample_ids, dict(final)
        self._model, self._loss, self._collate = model, loss, collate
        self._checksums, self._path = checksums, path

    @classmethod
    def open(cls, path: str | Path, model: nn.Module, loss: PerSampleLoss, *, collate: Collate | None = None) -> Self:
        """Open a store on disk; rows stay on disk until they are needed.

        Args:
            path: Its folder.
            model: The model it was built with; its weights may be anything.
            loss: The run's per-sample loss.
            collate: Makes a batch of a list of items, where torch's default won't do.

        Raises:
            RunNotFound: There is none.
            RecordingMismatch: It was built with another model, or by another version.
            RunDamaged: Files are missing or damaged.
        """
        folder = Path(path)
        if not (folder / FILE).exists() and (folder / "growing.json").exists():
            from hydragrad.tracking.unfinished import reopened  # which makes stores

            return cast(Self, reopened(folder, model, loss, collate))
        facts = read_facts(folder)
        require_same_model(facts.model, model, folder)
        try:
            rows = np.load(folder / "rows.npy", mmap_mode="r", allow_pickle=False)
            samples = np.load(folder / "samples.npy", allow_pickle=False)
            checksums = np.load(folder / "checksums.npy", allow_pickle=False)
            final = load_file(folder / "final.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise RunDamaged(f"The store in {folder} can't be read ({error}). Build it again.") from error
        if not len(rows) == len(samples) == len(checksums):
            raise RunDamaged(f"The store in {folder} has {len(rows)} rows for {len(samples)} samples. Build it again.")
        ids = torch.from_numpy(samples)
        return cls(model, loss, facts, rows, ids, final, checksums=checksums, path=folder, collate=collate)

    def save(self, path: str | Path) -> Path:
        """Write the store into a folder of its own.

        Raises:
            RunExists: There is a store already.
        """
        folder = Path(path)
        if (folder / FILE).exists():
            raise RunExists(f"{folder} already holds a store. Choose another folder, or delete it.")
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "rows.npy", self.rows)
        self._write_rest(folder)
        return folder

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
            QueryError: Nothing asked, or both `out` and `top`.
            RunDamaged: A row does not have the checksum it was written with.
        """
        if out is not None and top is not None:
            raise QueryError("Ask for out= (the whole matrix on disk) or top= (the extremes), not both.")
        if top is not None and not 1 <= top <= len(self.rows):
            raise QueryError(f"top must be 1 to {len(self.rows):,}, the number of tracked samples; {top} came.")
        answerer = Answerer(self._model, self._loss, self.facts, self.final, self._collate)
        asked = queries_of(queries)
        if top is not None:
            return answerer.extremes(asked, self.block, self.sample_ids, top, memory)
        if out is not None:
            return answerer.write(asked, self.block, len(self.rows), Path(out), memory)
        names, values, matrix, noise = answerer.matrix(asked, self.block, len(self.rows), memory)
        return Scores(
            values=matrix,
            standard_errors=noise,
            sample_ids=self.sample_ids,
            query_names=names,
            query_values=values,
            evidence=self.evidence(),
        )

    def block(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop) to compute with, checked: float64, or float32.

        Raises:
            RunDamaged: A row does not have the checksum it was written with.
        """
        block = self.rows[start:stop]
        if self._checksums is not None:
            for row, expected in enumerate(self._checksums[start:stop], start=start):
                if zlib.crc32(np.ascontiguousarray(block[row - start]).data) != int(expected):
                    raise RunDamaged(
                        f"Row {row} (training sample {int(self.sample_ids[row])}) of {self._path}/rows.npy does not "
                        f"have the checksum it was written with. Restore the file, or build the store again."
                    )
        writable = block if block.flags.writeable else block.copy()
        return from_numpy(writable, DTYPES[self.facts.dtype])

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
        np.save(folder / "samples.npy", self.sample_ids.numpy())
        np.save(folder / "checksums.npy", self._checksums)
        final = {name: value.detach().cpu().contiguous() for name, value in self.final.items()}
        replace_file(folder / "final.safetensors", lambda to: save_file(final, to, {}))
        body = asdict(self.facts)
        body["crc32"] = zlib.crc32(json.dumps(body, sort_keys=True).encode())
        # The last file: a folder without it is no store yet.
        replace_file(folder / FILE, lambda to: to.write_text(json.dumps(body, indent=1) + "\n"))


def read_facts(folder: Path) -> StoreFacts:
    """Read what a store holds.

    Raises:
        RunNotFound: There is none.
        RecordingMismatch: It was built by another version.
        RunDamaged: The file is altered.
    """
    file = folder / FILE
    if not file.exists():
        raise RunNotFound(
            f"{folder} holds no finished store (no {FILE}). Build one: hg.hypergradients(run, store=...), or a Tracker."
        )
    try:
        body = json.loads(file.read_text())
        schema, checksum = body["schema"], body.pop("crc32")
    except (ValueError, KeyError, TypeError) as error:
        raise RunDamaged(f"{file} can't be read ({error}). Build the store again.") from error
    if schema not in READABLE:
        raise RecordingMismatch(
            f"{folder} is a store of schema {schema}; this version reads schemas up to {SCHEMA}. Build it again."
        )
    if checksum != zlib.crc32(json.dumps(body, sort_keys=True).encode()):
        raise RunDamaged(f"{file} does not have the checksum it was written with. Build the store again.")
    return known_facts(folder, body)


def known_facts(folder: Path, body: dict[str, Any]) -> StoreFacts:
    """Take facts as they lie.

    Raises:
        RecordingMismatch: They say something that this version does not know.
    """
    if body.get("schema") == 1:  # which knew one optimizer, and named the parameters that had a momentum buffer
        body = {name: value for name, value in body.items() if name not in ("schema", "warm")}
    named = {each.name for each in fields(StoreFacts)}
    statistics = body.get("batch_statistics", "exact")
    if not set(body) <= named or statistics not in get_args(BatchStatistics):
        what = sorted(set(body) - named) or f"batch_statistics={statistics!r}"
        raise RecordingMismatch(f"{folder} holds a store with {what}, unknown to this version. Build it again.")
    return StoreFacts(**body)
