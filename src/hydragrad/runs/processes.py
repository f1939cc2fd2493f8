"""Runs that several processes made together: each wrote its own part, and here they become one.

    RUN/            rank 0: its step log, the checkpoints, the manifest
    RUN/ranks/1/    rank 1: its step log, and where its loader and generators stood
    ...

A step of the run is the micro-batches of all ranks. Data parallel training averages the ranks' gradients, so every
coefficient is divided by the number of processes. All ranks make the same step of the optimizer, which the number over
weights and optimizer states shows: it must be the same in all logs. The buffers after a step are those of rank 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydragrad.errors import HydragradError, RecordingMismatch, RunDamaged
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.runs.lines import locked
from hydragrad.runs.log import LOG, MicroBatch, StepRecord
from hydragrad.runs.manifest import FILE, Manifest, read_manifest
from hydragrad.runs.steps import read_steps

RANKS = "ranks"
SAME_IN_ALL = ("model", "data", "reduction", "store_batches", "optimizers", "processes")
"""Entries of the manifest."""


def part_of(run: Path, rank: int) -> Path:
    """The folder of a rank's part of a run."""
    return run if rank == 0 else run / RANKS / str(rank)


def parts_of(run: Path, manifest: Manifest) -> list[Path]:
    """The folders of all parts, rank 0 first.

    Raises:
        RunDamaged: One is missing.
    """
    folders = [part_of(run, rank) for rank in range(manifest.processes)]
    for folder in folders:
        if not (folder / FILE).exists():
            raise RunDamaged(
                f"{run} was recorded by {manifest.processes} processes, each into a folder of its own; {folder} is "
                f"missing. Where nodes have disks of their own, copy {RANKS}/ of every node into rank 0's run."
            )
    return folders


def read_whole_manifest(run: Path) -> Manifest:
    """The manifest of a run, whoever made it: completed where all ranks were, as long as the shortest part.

    Raises:
        RunNotFound, RunDamaged: None, or an altered or a missing part.
        RecordingMismatch: A single rank's part, or parts of different runs.
    """
    manifest = read_manifest(run)
    if manifest.rank:
        raise RecordingMismatch(
            f"{run} is the part of rank {manifest.rank} of a run of {manifest.processes} processes. Open the run "
            f"itself, {run.parent.parent}."
        )
    if manifest.processes == 1:
        return manifest
    every = [manifest, *map(read_manifest, parts_of(run, manifest)[1:])]
    for rank, other in enumerate(every):
        require_same_part(run, manifest, other, rank)
    counts = [one.steps for one in every]
    if all(one.status == "completed" for one in every):
        if len(set(counts)) > 1:
            raise RecordingMismatch(
                f"All ranks must make the same steps; those of {run} ended after {counts}. Give every rank as many "
                f"batches (DistributedSampler does, or drop_last=True), and train again."
            )
        return manifest
    running = any(one.status == "running" for one in every)
    return replace(manifest, status="running" if running else "interrupted", steps=None)


def position_only(checkpoint: Checkpoint) -> Checkpoint:
    """What a rank other than 0 writes of a checkpoint: where its generators and its loader stand."""
    return Checkpoint(checkpoint.step, {}, {}, {}, generators=checkpoint.generators, sampler=checkpoint.sampler)


def never_common(folder: Path) -> bool:
    """Whether a folder is the part of a rank that may have made the first step, which rank 0 never completed."""
    try:
        rank = read_manifest(folder).rank
    except HydragradError:
        return False
    if rank == 0 or locked(folder / LOG, otherwise=False):
        return False
    return _lines(folder / LOG) <= 1 and _lines(folder.parent.parent / LOG) == 0


def _lines(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def require_same_part(run: Path, first: Manifest, other: Manifest, rank: int) -> None:
    """Refuse a part of another run.

    Args:
        run: Run directory.
        first: The manifest of rank 0.
        other: That of another rank.
        rank: Which it should be.

    Raises:
        RecordingMismatch: Names what differs.
    """
    if other.rank != rank:
        raise RecordingMismatch(
            f"{part_of(run, rank)} must be the part of rank {rank}; it is that of rank {other.rank}. Put the folders "
            f"back as they were recorded."
        )
    for name in SAME_IN_ALL:
        ours, theirs = getattr(first, name), getattr(other, name)
        if ours != theirs:
            told = f"{ours!r} and {theirs!r}" if name not in ("model", "data") else "not the same"
            remedy = (
                "Give every rank the whole training set, and let a DistributedSampler divide the indices."
                if name == "data"
                else "Give every rank the same script and arguments."
            )
            raise RecordingMismatch(
                f"All ranks must train the same model alike; {name} of ranks 0 and {rank} of {run}: {told}. {remedy}"
            )


def read_whole_steps(run: Path, manifest: Manifest) -> list[StepRecord]:
    """Read all steps that every rank has.

    Args:
        run: Run directory.
        manifest: As `read_whole_manifest` gives it.

    Raises:
        RunDamaged: A step log is missing or altered.
        RecordingMismatch: The ranks did not make the same step.
    """
    if manifest.processes == 1:
        return read_steps(run, manifest)
    logs = [read_steps(folder, read_manifest(folder)) for folder in parts_of(run, manifest)]
    return [merged(records) for records in zip(*logs, strict=False)]


def merged(records: Sequence[StepRecord]) -> StepRecord:
    """One step of all ranks.

    Args:
        records: What each rank did.

    Raises:
        RecordingMismatch: Not the same step.
    """
    first = records[0]
    for rank, other in enumerate(records[1:], start=1):
        require_same_step(first, other, rank)
    count = len(records)
    parts = [part for record in records for part in record.micro_batches]
    losses = [record.loss for record in records]
    reported = [loss for loss in losses if loss is not None]
    return replace(
        first,
        micro_batches=tuple(_averaged(part, count) for part in parts),
        loss=sum(reported) / count if len(reported) == count else None,
        buffers_from=tuple(_sources(first.step, records)),
    )


def require_same_step(first: StepRecord, other: StepRecord, rank: int) -> None:
    """Refuse a step that rank 0 and another made differently.

    Raises:
        RecordingMismatch: Names what differs.
    """
    if other.shared != first.shared:
        raise RecordingMismatch(
            f"All ranks must have the same weights; after step {first.step} those of rank {rank} differ from those of "
            f"rank 0. Its gradients were not averaged (a last micro-batch under no_sync(), a forward pass that did not "
            f"go through DistributedDataParallel), or the log is of another run. Correct the loop, and train again."
        )
    for name in ("options", "structure", "transforms", "transformed"):
        if getattr(first, name) != getattr(other, name):
            raise RecordingMismatch(
                f"All ranks must make the same step; {name} of ranks 0 and {rank} differ at step {first.step}: "
                f"{_first_difference(getattr(first, name), getattr(other, name))}. Train with the same options, modes "
                f"and clipping on every rank."
            )


def _averaged(part: MicroBatch, count: int) -> MicroBatch:
    coefficients = part.coefficients
    if isinstance(coefficients, tuple):
        return replace(part, coefficients=tuple(value / count for value in coefficients))
    return replace(part, coefficients=coefficients / count)


def _sources(step: int, records: Sequence[StepRecord]) -> Iterator[int]:
    """The micro-batch that left the buffers which each one began with; -1 stands for those before the step.

    Rank 0 keeps its own. Every other rank has those that rank 0 begins the same micro-batch with, where they
    are sent before the forward pass, and else keeps its own, which happens under no_sync().
    """
    of_rank_0, number = records[0].micro_batches, 0
    for rank, record in enumerate(records):
        for place, part in enumerate(record.micro_batches):
            sent = min(place, len(of_rank_0) - 1)
            if part.buffers == of_rank_0[sent].buffers:
                yield sent - 1
            elif place:
                yield number - 1
            else:
                raise RecordingMismatch(
                    f"Every rank must begin a step with the buffers of rank 0; at step {step} rank {rank} had others. "
                    f"Leave broadcast_buffers=True, call the DistributedDataParallel itself, and evaluate with its "
                    f".module."
                )
            number += 1


def _first_difference(ours: Any, theirs: Any) -> str:
    return f"{ours!r}"[:200] + " and " + f"{theirs!r}"[:200]
