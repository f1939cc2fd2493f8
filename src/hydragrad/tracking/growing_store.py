"""A store on disk whose rows grow: what it is to hold, how they advance, and how an interruption left them."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hydragrad.derivatives import Layout, Projector
from hydragrad.errors import HydragradError, RecordingMismatch, RunDamaged, StepError
from hydragrad.runs import StepRecord
from hydragrad.runs.lines import read_lines
from hydragrad.runs.log import ENTRIES, from_lines
from hydragrad.runs.manifest import require_same_model
from hydragrad.steps import rule_named
from hydragrad.tracking.facts import CHECKSUMS, CRC, DTYPES, GROWING, LOG, SCHEMA, StoreFacts, known_facts, opened_seal
from hydragrad.tracking.rows.columns import Columns
from hydragrad.tracking.rows.growing_rows import GrowingRows
from hydragrad.tracking.rows.histories import GrowingHistories
from hydragrad.tracking.rows.recurrence import Eager, Lazy, Recurrence
from hydragrad.tracking.rows.table import NUMPY_TYPES, Table, require_disk, to_numpy
from hydragrad.tracking.store_files import SAMPLES, read_array


class Held(NamedTuple):
    """What a store holds after the last complete step.

    Attributes:
        facts: What it is.
        rows: (samples, columns), as they are stored.
        sample_ids: The sample of each row.
        final: The model's parameters and buffers.
    """

    facts: StoreFacts
    rows: NDArray[Any]
    sample_ids: Tensor
    final: dict[str, Tensor]


def read_growing(folder: Path) -> tuple[StoreFacts, Tensor]:
    """What an unfinished store is to hold, and its samples.

    Raises:
        RecordingMismatch: It was begun by another version.
        RunDamaged: The file is damaged.
    """
    try:
        body = json.loads((folder / GROWING).read_text())
        if body.get("schema") != SCHEMA:
            raise RecordingMismatch(
                f"{folder} holds an unfinished store of schema {body.get('schema')}; this version resumes schema "
                f"{SCHEMA} only. Finish it with the version that began it, or delete the folder and build it again."
            )
        if CRC not in body:
            raise RecordingMismatch(
                f"{folder} holds an unfinished store of an earlier version, without checksums. Finish it with the "
                f"version that began it, or delete the folder and build it again."
            )
        body = opened_seal(folder / GROWING, body)
        checksums = body.pop(CHECKSUMS)
        return known_facts(folder, body), torch.from_numpy(read_array(folder, SAMPLES, checksums))
    except HydragradError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunDamaged(
            f"{folder / GROWING} can't be read ({error}). Delete the folder and build it again."
        ) from error


def read_log(folder: Path, steps: int) -> list[StepRecord]:
    """The steps that the rows of a Tracker's store take into account.

    Raises:
        RunDamaged: Lines are missing or altered.
    """
    if not steps and not (folder / LOG).exists():  # killed between laying out the rows and the log
        return []
    known = list(from_lines(read_lines(folder / LOG, "steps", ENTRIES)))
    if len(known) < steps:
        raise RunDamaged(
            f"{folder / LOG} must hold the {steps:,} steps that the rows take into account, and holds {len(known):,}. "
            f"Restore it from a copy, or delete the folder and build the store again."
        )
    return known[:steps]


def unfolding(
    facts: StoreFacts, weights: Layout, projector: Projector | None, *, states: int, closed_form: bool | None = None
) -> Recurrence:
    """How rows advance under a schedule that is not known in advance.

    Args:
        facts: What the store is to hold.
        weights: Lays out the tracked parameters.
        projector: Projects them, or None.
        states: How many optimizer states rows have tangents of at the start.
        closed_form: Whether the run has a closed form; if None, its optimizer's rule decides.
    """
    rule = rule_named(facts.optimizer)
    if not (rule.closed_form is not None if closed_form is None else closed_form):
        return Eager(weights, rule, facts.ages, states, facts.smoothing)
    growing = GrowingHistories(rule, facts.groups, facts.ages, fixed=projector is not None)
    return Lazy(Columns(weights, projector), growing, states=states)


def read_interrupted(folder: Path, model: nn.Module) -> Held:
    """A store whose training was killed or interrupted, as it was after its last complete step; with a warning.

    Args:
        folder: Where it lies.
        model: A model like the tracked one.

    Raises:
        RecordingMismatch: Another model or version.
        RunDamaged: Files are damaged, or the store is filled by a replay, which has to be finished first.
        StepError: Its schedule was planned, and has not come to its end.
    """
    facts, sample_ids = read_growing(folder)
    require_same_model(facts.model, model, folder)
    if not (folder / LOG).exists():
        raise RunDamaged(f"The replay that fills {folder} was interrupted. Finish it: call hg.hypergradients again.")
    table = Table.open(folder, DTYPES[facts.dtype])
    if facts.schedule is not None:
        raise StepError(f"{folder}: {unfinished_schedule(table.steps, facts)}")
    weights, statistics = facts.layouts()
    projector = facts.projector(next(model.parameters()))
    recurrence = unfolding(facts, weights, projector, states=table.accumulators - 1)
    growing = GrowingRows(table, recurrence, sample_ids, facts.data["length"], statistics=statistics.size)
    for record in read_log(folder, table.steps):
        growing.pass_over(record)
    warnings.warn(
        f"Training that fills {folder} was interrupted; the store is opened after its last complete step, "
        f"{table.steps:,}. Train on with resume=True.",
        stacklevel=4,
    )
    return after_last_step(growing, facts, sample_ids, model)


def after_last_step(growing: GrowingRows, facts: StoreFacts, sample_ids: Tensor, model: nn.Module) -> Held:
    """What a growing store on disk holds after its last complete step; the growing table is left as it is.

    Raises:
        DiskFull: The rows of that step would not fit next to the table.
    """
    table, folder = growing.table, growing.table.folder
    assert folder is not None
    dtype = DTYPES[facts.dtype]
    shape, number = table.shape, NUMPY_TYPES[dtype]
    require_disk(folder, int(np.prod(shape)) * np.dtype(number).itemsize)
    rows = np.lib.format.open_memmap(folder / "caught-up.npy", mode="w+", dtype=number, shape=shape)
    for start in range(0, len(rows), 256):
        ids = np.arange(start, min(len(rows), start + 256))
        rows[ids] = to_numpy(growing.caught_up(ids), dtype)
    final = table.state(model_state(model))
    return Held(replace(facts, steps=table.steps, completed=False), rows, sample_ids, final)


def unfinished_schedule(steps: int, facts: StoreFacts) -> str:
    """Why rows of a planned schedule can't be read yet."""
    assert facts.schedule is not None
    return (
        f"{steps:,} of the {facts.schedule['steps']:,} planned steps were made, and rows of a planned schedule are "
        f"right at its end only. Train on (resume=True, where they lie in a folder), or track without schedule=."
    )


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, live."""
    named = {name: value.detach() for name, value in model.named_parameters()}
    return named | {name: value.detach() for name, value in model.named_buffers()}
