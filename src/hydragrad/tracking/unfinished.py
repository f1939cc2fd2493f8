"""Finishing a store of growing rows, opening it as an interruption left it, and refusing to resume another one."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from hydragrad.derivatives import PerSampleLoss
from hydragrad.errors import RecordingMismatch
from hydragrad.replay.data import Collate
from hydragrad.tracking.facts import GROWING, StoreFacts
from hydragrad.tracking.growing_store import after_last_step, read_growing
from hydragrad.tracking.rows.growing_rows import GrowingRows
from hydragrad.tracking.store import Store


def require_same_store(folder: Path, facts: StoreFacts, sample_ids: Tensor, store: Store | None = None) -> None:
    """Refuse to resume another store than was begun.

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
    present, before = asdict(facts), asdict(begun)
    differing = sorted(name for name in present if json.dumps(present[name]) != json.dumps(before[name]))
    if not torch.equal(samples, sample_ids):
        differing.append("samples")
    if differing:
        raise RecordingMismatch(
            f"The store in {folder} was begun with other {', '.join(differing)}. Resume it with what it was begun "
            f"with, or choose another folder."
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
        (table.folder / GROWING).unlink(missing_ok=True)
        table.remove()
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
    held = after_last_step(growing, facts, sample_ids, model)
    return Store(model, loss, *held, path=growing.table.folder, collate=collate)
