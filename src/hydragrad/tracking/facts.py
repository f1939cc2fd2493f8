"""What a hypergradient store holds, as its file says it."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from hydragrad.derivatives import BatchStatistics, Layout, Projector
from hydragrad.errors import RecordingMismatch, RunDamaged, RunNotFound
from hydragrad.runs.lines import replace_file
from hydragrad.scores import Curvature
from hydragrad.steps import RULE_OF_SCHEMA_1

SCHEMA = 2
READABLE = (1, SCHEMA)
FILE, GROWING, LOG = "store.json", "growing.json", "steps.jsonl"
"""What a finished store holds; what an unfinished one is to hold; the steps that a Tracker's store has taken in."""
CRC, CHECKSUMS = "crc32", "files"
"""Entries of these files: their own checksum, and that of each other file of the store, by name."""
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class StoreFacts:
    """What a store holds.

    Attributes:
        model: Names, shapes and dtypes of the model's parameters and buffers.
        data: Length and digest of the training set.
        parameters: Shapes of the parameters whose tangents a row holds, in their order.
        statistics: Shapes of the running statistics that follow them in a row.
        groups: Parameters whose columns belong together.
        dtype: Number format of the rows.
        projection: Dimensions and seed of the random projection, or None.
        curvature: What of the loss's curvature the rows hold.
        batch_statistics: Whether they follow the statistics of a BatchNorm's batch ("exact") or take them as
            constants ("frozen").
        schedule: Steps and checksum of the planned schedule, or None.
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
    optimizer: str = field(default_factory=lambda: RULE_OF_SCHEMA_1.name)
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
        precision = torch.float64 if self.dtype == "float64" else torch.float32
        return Projector(self.layouts()[0], self.groups, dims, seed=seed, dtype=precision, device=like.device)


def is_growing(folder: Path) -> bool:
    """Whether a folder holds an unfinished store."""
    return (folder / GROWING).exists() and not (folder / FILE).exists()


def write_facts(folder: Path, facts: StoreFacts, checksums: Mapping[str, int]) -> None:
    """Write what a store holds, sealed: the last file, a folder without it is no store yet."""
    write_sealed(folder / FILE, asdict(facts) | {CHECKSUMS: dict(checksums)})


def write_sealed(path: Path, body: dict[str, Any]) -> None:
    """Write JSON that a person can read, and its checksum as the last entry."""
    sealed = body | {CRC: _checksum(body)}
    replace_file(path, lambda to: to.write_text(json.dumps(sealed, indent=1) + "\n"))


def opened_seal(path: Path, body: dict[str, Any]) -> dict[str, Any]:
    """The entries that `write_sealed` was given.

    Raises:
        RunDamaged: They are altered.
    """
    entries = dict(body)
    if entries.pop(CRC, None) != _checksum(entries):
        raise RunDamaged(f"{path} does not have the checksum it was written with. Build the store again.")
    return entries


def _checksum(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())


def read_facts(folder: Path) -> tuple[StoreFacts, dict[str, int]]:
    """Read what a store holds, and the checksums of its files; none of a store that an earlier version wrote.

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
        schema, _ = body["schema"], body[CRC]
    except (ValueError, KeyError, TypeError) as error:
        raise RunDamaged(f"{file} can't be read ({error}). Build the store again.") from error
    if schema not in READABLE:
        raise RecordingMismatch(
            f"{folder} is a store of schema {schema}; this version reads schemas up to {SCHEMA}. Build it again."
        )
    body = opened_seal(file, body)
    checksums = body.pop(CHECKSUMS, {})
    return known_facts(folder, body), checksums


def known_facts(folder: Path, body: dict[str, Any]) -> StoreFacts:
    """Facts from the entries of a file.

    Raises:
        RecordingMismatch: It has entries or values that this version does not know.
    """
    if body.get("schema") == 1:  # which knew one optimizer, and listed the parameters that had made steps before
        body = {name: value for name, value in body.items() if name not in ("schema", "warm")}
    names = {entry.name for entry in fields(StoreFacts)}
    statistics = body.get("batch_statistics", "exact")
    if not set(body) <= names or statistics not in get_args(BatchStatistics):
        what = sorted(set(body) - names) or f"batch_statistics={statistics!r}"
        raise RecordingMismatch(f"{folder} holds a store with {what}, unknown to this version. Build it again.")
    # JSON has lists for tuples.
    ages = {name: tuple(age) if isinstance(age, list) else age for name, age in body.get("ages", {}).items()}
    return StoreFacts(**{**body, "ages": ages})
