"""`hypergradients`: the store of a recorded run, by replay."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hydragrad.derivatives import BatchStatistics, Layout
from hydragrad.derivatives.curvature.tangents import ExactTangents
from hydragrad.progress import Bar, bar
from hydragrad.replay import Recording, Replay
from hydragrad.replay.histories import run_lanes, trained_layout
from hydragrad.replay.statistics import moved_statistics
from hydragrad.runs import StepRecord
from hydragrad.scores import checked_samples
from hydragrad.tracking.options import notes, require_sound
from hydragrad.tracking.rows.columns import Columns
from hydragrad.tracking.rows.growing_rows import GrowingRows
from hydragrad.tracking.rows.histories import GrowingLanes
from hydragrad.tracking.rows.recurrence import Lazy, Planned, Recurrence
from hydragrad.tracking.rows.table import Table
from hydragrad.tracking.step_gradients import StepGradients
from hydragrad.tracking.store import DTYPES, Store, StoreFacts
from hydragrad.tracking.unfinished import (
    GROWING,
    finish,
    make_projector,
    new_table,
    require_same_store,
    storage,
)


def hypergradients(
    run: Recording,
    *,
    samples: Sequence[int] | Tensor | None = None,
    curvature: Literal["none", "hessian"] = "none",
    projection: int | None = None,
    store: str | Path | None = None,
    dtype: torch.dtype | None = None,
    batch_statistics: BatchStatistics = "exact",
    projection_seed: int = 0,
) -> Store:
    """Rows dw_T/dalpha_i of training samples, for any query thought of later.

    Args:
        run: The recorded run.
        samples: Training samples to track; all if None.
        curvature: "none" drops the curvature of the loss (HYDRA). "hessian" is exact, costs about two gradient
            evaluations a sample and step, and is for a modest number of samples.
        projection: Keep random projections to about this many columns; contributions then carry noise of about
            1/sqrt(projection), relative to the norms of row and query gradient.
        store: Folder to keep the rows in; in memory if None. An interrupted one goes on when called again.
        dtype: float64, float32 or bfloat16; the run's if None.
        batch_statistics: "exact" differentiates through the statistics of BatchNorm's batches, at one backward pass
            a sample and step; "frozen" takes them as constants, at about a training step for the whole batch. The
            store says so.
        projection_seed: Seed of the projection.

    Raises:
        QueryError: Samples that do not exist; projection or frozen statistics with "hessian".
        DiskFull: The store would not fit, before any work.
        RunExists: `store` holds a finished store.
        RecordingMismatch: `store` holds an unfinished store of something else.

    Cost: without curvature, one replay with per-sample gradients, and samples x columns numbers.

    Source: Chen et al. 2021, section 3 and eqs. 35-36.
    """
    require_sound(curvature, projection, batch_statistics)
    sample_ids = checked_samples(samples, run.manifest.data["length"])
    building = _Building(run, sample_ids, curvature, projection, store, dtype, projection_seed, batch_statistics)
    if curvature == "hessian":
        building.sweep_exact()
    else:
        building.sum_segments()
    return building.finish()


class _Building:
    def __init__(
        self,
        run: Recording,
        sample_ids: Tensor,
        curvature: Literal["none", "hessian"],
        projection: int | None,
        store: str | Path | None,
        dtype: torch.dtype | None,
        seed: int,
        batch_statistics: BatchStatistics,
    ) -> None:
        self._run, self._sample_ids = run, sample_ids
        lanes = run_lanes(run)
        self._weights = trained_layout(run, lanes)
        self._statistics = Layout(moved_statistics(run) if curvature == "hessian" else {})
        like = next(iter(run.final.parameters.values())).to(run.device)
        kind = storage(dtype, like.dtype)
        groups = [list(lane.names) for lane in lanes]
        self._projector = make_projector(self._weights, groups, projection, seed, like, kind)
        self._facts = StoreFacts(
            model=run.manifest.model,
            data=run.manifest.data,
            parameters={name: list(shape) for name, shape in self._weights.shapes.items()},
            statistics={name: list(shape) for name, shape in self._statistics.shapes.items()},
            groups=groups,
            dtype=str(kind).removeprefix("torch."),
            projection=None if projection is None else {"dims": projection, "seed": seed},
            curvature=curvature,
            batch_statistics=batch_statistics,
            steps=len(run.steps),
            completed=run.completed,
            notes=notes(run.model, curvature, batch_statistics),
        )
        columns = Columns(self._weights, self._projector)
        recurrence: Recurrence
        if curvature == "none":
            recurrence = Planned(columns, lanes)
        else:
            growing = GrowingLanes([lane.names for lane in lanes], run.initial.momentum, fixed=False)
            recurrence = Lazy(columns, growing, momentum=any(o["momentum"] for r in run.steps for o in r.options))
        width = columns.width + self._statistics.size
        table = self._table(None if store is None else Path(store), width, recurrence.accumulators)
        self._growing = GrowingRows(
            table, recurrence, sample_ids, run.manifest.data["length"], statistics=self._statistics.size
        )
        for record in run.steps[: table.steps]:
            self._growing.pass_over(record)

    def sum_segments(self) -> None:
        """Replay and add every step's gradients."""
        with self._run.replay() as replay, self._bar() as progress:
            gradients = StepGradients(
                replay.trajectory.model, self._run.loss, self._weights, self._projector, self._facts.batch_statistics
            )
            try:
                for start, stop in self._run.segments:
                    if stop <= self._growing.table.steps:
                        continue
                    records = self._run.steps[start:stop]
                    if not any(self._growing.positions(record.indices) for record in records):
                        for record in records[self._growing.table.steps - start :]:
                            self._growing.add(record, torch.zeros(0, self._growing.table.shape[1]), {})
                            progress.advance()
                        continue
                    replay.trajectory.restore(self._run.checkpoint(start))
                    for record in records:
                        self._one_step(replay, gradients, record)
                        progress.advance()
                    self._check(replay, stop)
            finally:
                gradients.close()

    def sweep_exact(self) -> None:
        """Replay and carry every row through every step."""
        run, table = self._run, self._growing.table
        row = torch.full((run.manifest.data["length"],), -1, dtype=torch.int64)
        rows = torch.arange(len(self._sample_ids))
        row[self._sample_ids] = rows
        with run.replay() as replay, self._bar() as progress:
            tangents = ExactTangents(replay.trajectory.model, run.loss, self._weights, self._statistics)
            for start, stop in run.segments:
                if stop <= table.steps:
                    continue
                replay.trajectory.restore(run.checkpoint(start))
                for record in run.steps[start:stop]:
                    batch = run.batch(record)
                    if record.step >= table.steps:
                        replay.trajectory.arrange(record)
                        everything = table.read(np.arange(table.shape[0]))[0].to(run.device)
                        w_dot, r_dot = everything.split([self._weights.size, self._statistics.size], 1)
                        alpha_dot = (row[record.indices] == rows[:, None]).to(w_dot)
                        found = tangents(
                            replay.trajectory.parameters,
                            replay.trajectory.buffers,
                            batch,
                            run.divisor(record),
                            w_dot,
                            r_dot,
                            alpha_dot,
                        )
                        replay.advance(record, batch)
                        self._growing.add_to_all(record, found.g_dot, found.r_dot, {})
                    else:
                        replay.advance(record, batch)
                    progress.advance()
                self._check(replay, stop)

    def finish(self) -> Store:
        """Seal the store."""
        run = self._run
        final = dict(run.final.parameters) | dict(run.final.buffers)
        return finish(
            self._growing,
            self._facts,
            self._sample_ids,
            run.model,
            run.loss,
            final,
            run.collate_fn,
            completed=run.completed,
        )

    def _one_step(self, replay: Replay, gradients: StepGradients, record: StepRecord) -> None:
        run, batch = self._run, self._run.batch(record)
        if record.step < self._growing.table.steps:
            replay.advance(record, batch)
            return
        positions = self._growing.positions(record.indices)
        replay.trajectory.arrange(record)
        gradients.before(len(record.indices), positions, lambda: batch, run.divisor(record))
        replay.advance(record, batch)
        self._growing.add(record, gradients.after(), {})

    def _check(self, replay: Replay, stop: int) -> None:
        if self._run.has_checkpoint(stop):
            replay.check_against(self._run.checkpoint(stop))

    def _bar(self) -> AbstractContextManager[Bar]:
        return bar("hypergradients", len(self._run.steps), self._growing.table.steps)

    def _table(self, folder: Path | None, width: int, accumulators: int) -> Table:
        if folder is not None and (folder / GROWING).exists():
            require_same_store(folder, self._facts, self._sample_ids)
            return Table.open(folder, DTYPES[self._facts.dtype])
        exact = self._facts.curvature == "hessian"
        return new_table(
            folder,
            self._facts,
            self._sample_ids,
            width=width,
            accumulators=accumulators,
            room=len(self._sample_ids) if exact else max(256, max(len(r.indices) for r in self._run.steps)),
            state={},
        )
