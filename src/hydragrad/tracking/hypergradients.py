"""`hypergradients`: the store of a recorded run, by replay."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hydragrad.derivatives import Batch, BatchStatistics, Layout
from hydragrad.derivatives.curvature.tangents import ExactTangents
from hydragrad.progress import Bar, bar
from hydragrad.replay import Recording, Replay
from hydragrad.replay.histories import has_closed_form, run_histories, state_names, trained_layout
from hydragrad.replay.statistics import moved_statistics
from hydragrad.replay.trajectory import StepHooks
from hydragrad.runs import StepRecord
from hydragrad.runs.log import MicroBatch
from hydragrad.scores import checked_samples
from hydragrad.tracking.facts import DTYPES, GROWING, StoreFacts
from hydragrad.tracking.growing_store import unfolding
from hydragrad.tracking.new_store import make_projector, new_table, storage
from hydragrad.tracking.options import notes, require_sound, smoothing_share
from hydragrad.tracking.rows.columns import Columns
from hydragrad.tracking.rows.growing_rows import GrowingRows
from hydragrad.tracking.rows.recurrence import Planned, Recurrence, TakenAt
from hydragrad.tracking.rows.table import Table
from hydragrad.tracking.step_gradients import StepGradients
from hydragrad.tracking.store import Store
from hydragrad.tracking.unfinished import finish, require_same_store


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
    smoothing: float | None = None,
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
        smoothing: As `hg.attribute` takes it, for runs of Adam and AdamW.

    Raises:
        QueryError: Samples that do not exist; projection or frozen statistics with "hessian".
        DiskFull: The store would not fit, before any work.
        RunExists: `store` holds a finished store.
        RecordingMismatch: `store` holds an unfinished store of something else.

    Cost: without curvature, one replay with per-sample gradients, and samples x columns numbers.

    Source: Chen et al. 2021, section 3 and eqs. 35-36.
    """
    require_sound(curvature, projection, batch_statistics, run.rule)
    sample_ids = checked_samples(samples, run.manifest.data["length"])
    building = _Building(
        run, sample_ids, curvature, projection, store, dtype, projection_seed, batch_statistics, smoothing
    )
    if curvature == "hessian":
        building.sweep_exact()
    else:
        building.sum_segments()
    return building.finish()


class _Noting(StepHooks):
    """Notes where the optimizer steps, where rows need it."""

    def __init__(self, building: "_Building", replay: Replay) -> None:
        self._building, self._trajectory = building, replay.trajectory
        self._gradients: list[Tensor] = []
        self.at: TakenAt | None = None

    def before_transform(self) -> None:
        self._gradients.append(self._trajectory.gradient(self._building.weights))

    def before_update(self) -> None:
        if self._building.every_row:
            point = self._trajectory.point(self._building.weights, self._building.states)
            self.at = TakenAt(point, self._gradients)


class _SampleGradients(_Noting):
    """Gradients of the tracked samples of every micro-batch."""

    def __init__(
        self,
        building: "_Building",
        replay: Replay,
        gradients: StepGradients,
        record: StepRecord,
        batches: Sequence[Batch],
    ) -> None:
        super().__init__(building, replay)
        self._sample_gradients, self._record, self._batches = gradients, record, batches
        self.rows: list[Tensor] = []

    def before_forward(self, number: int) -> None:
        part, batch = self._record.micro_batches[number], self._batches[number]
        positions = self._building.positions(part)
        self._sample_gradients.before(positions, lambda: batch, part)

    def after_backward(self, number: int) -> None:
        self.rows.append(self._sample_gradients.after())


class _ExactStep(_Noting):
    """Tangents of the summed gradient along every row, one micro-batch after the other."""

    def __init__(
        self,
        building: "_Building",
        replay: Replay,
        tangents: ExactTangents,
        record: StepRecord,
        batches: Sequence[Batch],
        w_dot: Tensor,
        r_dot: Tensor,
        row: Tensor,
        rows: Tensor,
    ) -> None:
        super().__init__(building, replay)
        self._tangents, self._record, self._batches = tangents, record, batches
        self._w_dot, self.r_dot, self._row, self._rows = w_dot, r_dot, row, rows
        self.g_dot: Tensor

    def before_forward(self, number: int) -> None:
        part, trajectory = self._record.micro_batches[number], self._trajectory
        alpha_dot = (self._row[part.indices] == self._rows[:, None]).to(self._w_dot)
        tangents = self._tangents(
            trajectory.parameters,
            trajectory.buffers,
            self._batches[number],
            part.divisor,
            self._w_dot,
            self.r_dot,
            alpha_dot,
            part.loss_weights(self._w_dot),
        )
        self.g_dot = tangents.g_dot if number == 0 else self.g_dot + tangents.g_dot
        self.r_dot = tangents.r_dot


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
        smoothing: float | None,
    ) -> None:
        self._run, self._sample_ids = run, sample_ids
        known = run_histories(run)
        self._weights = trained_layout(run, known)
        self._statistics = Layout(moved_statistics(run) if curvature == "hessian" else {})
        like = next(iter(run.final.parameters.values())).to(run.device)
        kind = storage(dtype, like.dtype)
        groups = [list(history.names) for history in known]
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
            optimizer=run.rule.name,
            ages={
                name: run.rule.age(run.initial.optimizer[name])
                for name in self._weights.names
                if name in run.initial.optimizer
            },
            smoothing=smoothing_share(run.rule, smoothing),
            notes=notes(run.model, curvature, batch_statistics),
        )
        self.states, self.weights = state_names(known), self._weights
        columns = Columns(self._weights, self._projector)
        recurrence: Recurrence
        closed_form = has_closed_form(run, known)
        if curvature == "none" and closed_form:
            recurrence = Planned(columns, known)
        else:
            recurrence = unfolding(
                self._facts, self._weights, self._projector, states=len(self.states), closed_form=closed_form
            )
        self.every_row = recurrence.every_row
        width = columns.width + self._statistics.size
        table = self._table(None if store is None else Path(store), width, recurrence)
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
                    unsampled = not any(self._growing.positions(record.indices) for record in records)
                    if unsampled and not self._growing.recurrence.every_row:
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
                    batches = run.batches(record)
                    if record.step >= table.steps:
                        everything = table.read(np.arange(table.shape[0]))[0].to(run.device)
                        w_dot, r_dot = everything.split([self._weights.size, self._statistics.size], 1)
                        hooks = _ExactStep(self, replay, tangents, record, batches, w_dot, r_dot, row, rows)
                        replay.advance(record, batches, hooks=hooks)
                        self._growing.add_to_all(record, hooks.g_dot, hooks.r_dot, {}, hooks.at)
                    else:
                        replay.advance(record, batches)
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
        batches = self._run.batches(record)
        if record.step < self._growing.table.steps:
            replay.advance(record, batches)
            return
        hooks = _SampleGradients(self, replay, gradients, record, batches)
        replay.advance(record, batches, hooks=hooks)
        self._growing.add(record, torch.cat(hooks.rows), {}, hooks.at)

    def positions(self, part: MicroBatch) -> list[int]:
        """Places in a micro-batch that hold tracked samples."""
        return self._growing.positions(part.indices)

    def _check(self, replay: Replay, stop: int) -> None:
        if self._run.has_checkpoint(stop):
            replay.check_against(self._run.checkpoint(stop))

    def _bar(self) -> AbstractContextManager[Bar]:
        return bar("hypergradients", len(self._run.steps), self._growing.table.steps)

    def _table(self, folder: Path | None, width: int, recurrence: Recurrence) -> Table:
        if folder is not None and (folder / GROWING).exists():
            require_same_store(folder, self._facts, self._sample_ids)
            return Table.open(folder, DTYPES[self._facts.dtype])
        every_row = self._facts.curvature == "hessian" or recurrence.every_row
        return new_table(
            folder,
            self._facts,
            self._sample_ids,
            width=width,
            accumulators=recurrence.accumulators,
            every_row=recurrence.every_row,
            room=len(self._sample_ids) if every_row else max(256, max(len(r.indices) for r in self._run.steps)),
            state={},
        )
