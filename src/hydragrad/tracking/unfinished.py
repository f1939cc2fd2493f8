"""Beginning, going on with and finishing a store, for whoever fills it."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from hydragrad.derivatives import Layout, PerSampleLoss, Projector
from hydragrad.errors import NotEnoughMemory, RecordingMismatch, RunDamaged, RunExists, StepError
from hydragrad.replay.data import Collate
from hydragrad.runs.lines import read_lines, replace_file
from hydragrad.runs.log import from_lines
from hydragrad.runs.manifest import require_same_model
from hydragrad.steps import rule_named
from hydragrad.tracking.rows.columns import Columns
from hydragrad.tracking.rows.growing_rows import GrowingRows
from hydragrad.tracking.rows.histories import GrowingHistories
from hydragrad.tracking.rows.recurrence import Eager, Lazy, Recurrence
from hydragrad.tracking.rows.table import NUMPY_TYPES, Table, require_disk, to_numpy
from hydragrad.tracking.store import DTYPES, FILE, SCHEMA, Store, StoreFacts, known_facts

GROWING, LOG = "growing.json", "steps.jsonl"

EXACT_COPIES = 4
"""Copies of all rows that a step that moves them all holds: rows, tangents, and accumulators after it."""


def storage(dtype: torch.dtype | None, run: torch.dtype) -> torch.dtype:
    """The number format of the rows: the run's unless told otherwise.

    Raises:
        ValueError: A format that rows are not kept in.
    """
    chosen = run if dtype is None else dtype
    if chosen not in NUMPY_TYPES:
        known = ", ".join(str(each) for each in NUMPY_TYPES)
        raise ValueError(f"Rows are kept as {known}; {chosen} came.")
    return chosen


def make_projector(
    layout: Layout, groups: Sequence[Sequence[str]], dims: int | None, seed: int, like: Tensor, dtype: torch.dtype
) -> Projector | None:
    """The projection of rows, computing in float64 where rows are kept so."""
    if dims is None:
        return None
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    return Projector(layout, groups, dims, seed=seed, dtype=kind, device=like.device)


def require_no_store(folder: Path) -> None:
    """Refuse to write over a store.

    Raises:
        RunExists: The folder holds one, finished or not.
    """
    if (folder / FILE).exists() or (folder / GROWING).exists():
        raise RunExists(
            f"{folder} already holds a store. Choose another folder, delete it, or go on with it: resume=True."
        )


def new_table(
    folder: Path | None,
    facts: StoreFacts,
    sample_ids: Tensor,
    *,
    width: int,
    accumulators: int,
    every_row: bool,
    room: int,
    state: Mapping[str, Tensor],
) -> Table:
    """Lay out an empty table; with `every_row`, a step moves all rows.

    Raises:
        RunExists: The folder holds a store, finished or not.
        DiskFull: It would not fit.
        NotEnoughMemory: Rows kept in memory, or the copies that exact tangents need, would not fit.
    """
    if folder is not None:
        require_no_store(folder)
    _require_memory(folder, facts, len(sample_ids), width, accumulators, every_row=every_row)
    table = Table.create(
        folder,
        rows=len(sample_ids),
        width=width,
        accumulators=accumulators,
        dtype=DTYPES[facts.dtype],
        room=min(room, len(sample_ids)),
        state_bytes=sum(value.nbytes for value in state.values()),
    )
    if folder is not None:
        np.save(folder / "samples.npy", sample_ids.numpy())
        replace_file(folder / GROWING, lambda to: to.write_text(json.dumps(asdict(facts), indent=1) + "\n"))
    return table


def _require_memory(
    folder: Path | None, facts: StoreFacts, rows: int, width: int, accumulators: int, *, every_row: bool
) -> None:
    itemsize = np.dtype(NUMPY_TYPES[DTYPES[facts.dtype]]).itemsize
    exact = facts.curvature == "hessian"
    # Exact tangents compute with every row at every step, wherever the rows lie.
    copies = 2 * accumulators + 2 if every_row else EXACT_COPIES * exact
    each = width * (copies * max(4, itemsize) + accumulators * itemsize * (folder is None))
    available = psutil.virtual_memory().available
    if rows * each > available:
        remedy = "fewer samples" if exact else "store=, a folder, or projection=, or fewer samples"
        if every_row:
            remedy = "fewer samples; or record the run, and ask it for contributions: hg.attribute(run, query)"
        raise NotEnoughMemory(
            f"{rows:,} rows of {width:,} numbers need {rows * each / 2**30:,.1f} GiB of memory and "
            f"{available / 2**30:,.1f} GiB are free: {available // each:,} samples fit. Give {remedy}."
        )


def read_growing(folder: Path) -> tuple[StoreFacts, Tensor]:
    """What an unfinished store is to hold, and its samples.

    Raises:
        RunDamaged: The file is damaged.
    """
    try:
        body = json.loads((folder / GROWING).read_text())
        if body.get("schema") != SCHEMA:
            raise RecordingMismatch(
                f"{folder} holds an unfinished store of schema {body.get('schema')}; this version goes on with schema "
                f"{SCHEMA} only. Finish it with the version that began it, or delete the folder and build it again."
            )
        facts = known_facts(folder, body)
        return facts, torch.from_numpy(np.load(folder / "samples.npy", allow_pickle=False))
    except RecordingMismatch:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise RunDamaged(
            f"{folder / GROWING} can't be read ({error}). Delete the folder and build it again."
        ) from error


def require_same_store(folder: Path, facts: StoreFacts, sample_ids: Tensor, store: Store | None = None) -> None:
    """Refuse to go on with another store than was begun.

    Args:
        folder: Where it lies.
        facts: What the store is to hold.
        sample_ids: The samples to track.
        store: The store, where it is finished.

    Raises:
        RecordingMismatch: Names what differs.
    """
    begun, samples = read_growing(folder) if store is None else (store.facts, store.sample_ids)
    if store is not None:
        facts = replace(facts, steps=begun.steps, completed=begun.completed)
    given, kept = asdict(facts), asdict(begun)
    differing = sorted(name for name in given if json.dumps(given[name]) != json.dumps(kept[name]))
    if not torch.equal(samples, sample_ids):
        differing.append("samples")
    if differing:
        raise RecordingMismatch(
            f"The store in {folder} was begun with other {', '.join(differing)}. Go on with what it was begun with, or "
            f"choose another folder."
        )


def finish(
    growing: GrowingRows,
    facts: StoreFacts,
    sample_ids: Tensor,
    model: nn.Module,
    loss: PerSampleLoss,
    final: Mapping[str, Tensor],
    collate: Collate | None,
    *,
    completed: bool,
) -> Store:
    """Bring all rows up to the last step and seal the store."""
    growing.settle()
    table = growing.table
    facts = replace(facts, steps=table.steps, completed=completed)
    store = Store(model, loss, facts, table.rows(), sample_ids, final, path=table.folder, collate=collate)
    if table.folder is not None:
        store.finish(table.folder)
        table.remove()
        (table.folder / GROWING).unlink(missing_ok=True)
    return store


def opened_unfinished(
    growing: GrowingRows,
    facts: StoreFacts,
    sample_ids: Tensor,
    model: nn.Module,
    loss: PerSampleLoss,
    collate: Collate | None,
) -> Store:
    """A store as it was after its last complete step; the growing table is left as it is."""
    table, folder = growing.table, growing.table.folder
    assert folder is not None
    dtype = DTYPES[facts.dtype]
    rows, width = table.shape
    require_disk(folder, rows * width * np.dtype(NUMPY_TYPES[dtype]).itemsize)
    caught_up = np.lib.format.open_memmap(
        folder / "caught-up.npy", mode="w+", dtype=NUMPY_TYPES[dtype], shape=(rows, width)
    )
    for start in range(0, rows, 256):
        ids = np.arange(start, min(rows, start + 256))
        caught_up[ids] = to_numpy(growing.caught_up(ids), dtype)
    like = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    final = table.state(like)
    facts = replace(facts, steps=table.steps, completed=False)
    return Store(model, loss, facts, caught_up, sample_ids, final, path=folder, collate=collate)


def reopened(folder: Path, model: nn.Module, loss: PerSampleLoss, collate: Collate | None) -> Store:
    """A store whose training was killed or interrupted, as it was after its last complete step.

    Raises:
        RunDamaged: Files are damaged, or the store comes of a replay that has to be finished first.
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
    for record in islice(from_lines(read_lines(folder / LOG, "steps")), table.steps):
        growing.pass_over(record)
    warnings.warn(
        f"Training that fills {folder} was interrupted; the store is opened after its last complete step, "
        f"{table.steps:,}. Train on with resume=True.",
        stacklevel=3,
    )
    return opened_unfinished(growing, facts, sample_ids, model, loss, collate)


def unfolding(
    facts: StoreFacts, weights: Layout, projector: Projector | None, *, states: int, closed_form: bool | None = None
) -> Recurrence:
    """How rows advance under a schedule that is not known in advance.

    Args:
        facts: What the store is to hold.
        weights: Lays out the tracked parameters.
        projector: Projects them, or None.
        states: How many optimizer states rows have tangents of at the start.
        closed_form: Whether the run has a closed form; None where its optimizer's rule decides.
    """
    rule = rule_named(facts.optimizer)
    if not (rule.closed_form is not None if closed_form is None else closed_form):
        return Eager(weights, rule, facts.ages, states, facts.smoothing)
    growing = GrowingHistories(rule, facts.groups, facts.ages, fixed=projector is not None)
    return Lazy(Columns(weights, projector), growing, states=states)


def unfinished_schedule(steps: int, facts: StoreFacts) -> str:
    """Why rows of a schedule told ahead can't be read yet."""
    assert facts.schedule is not None
    return (
        f"{steps:,} of the {facts.schedule['steps']:,} steps told ahead were made, and such rows are right at the end "
        f"only. Train on (resume=True, where they lie in a folder); to stop early, track without schedule=."
    )


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, live."""
    named = {name: value.detach() for name, value in model.named_parameters()}
    return named | {name: value.detach() for name, value in model.named_buffers()}
