"""`hypergradients`: the store of a recorded run, by replay."""

from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hydragrad.derivatives import BatchStatistics, Layout, Projector
from hydragrad.derivatives.curvature.tangents import ExactTangents
from hydragrad.errors import QueryError, Unsupported
from hydragrad.execution import HERE, Execution, ExecutorOption, PartOption, execution_of
from hydragrad.replay import Recording, Replay
from hydragrad.replay.averages import refuse_average
from hydragrad.replay.histories import has_closed_form, run_histories, state_names, trained_layout
from hydragrad.replay.resumable import Folded, Segment, check_end, fold_segments
from hydragrad.replay.statistics import moved_statistics
from hydragrad.replay.trajectory import StateNames
from hydragrad.runs import StepRecord
from hydragrad.runs.buffers import require_dense
from hydragrad.scores import checked_samples
from hydragrad.steps import StepRule
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.tracking.facts import DTYPES, StoreFacts, is_growing
from hydragrad.tracking.growing_store import unfolding
from hydragrad.tracking.new_store import make_projector, new_table, storage
from hydragrad.tracking.options import clipped_rows_are_whole, notes, require_sound, smoothing_share
from hydragrad.tracking.replayed_step import ExactStep, SampleGradients
from hydragrad.tracking.rows.columns import Columns
from hydragrad.tracking.rows.growing_rows import GrowingRows
from hydragrad.tracking.rows.recurrence import Planned, Recurrence
from hydragrad.tracking.rows.table import Table
from hydragrad.tracking.shards import sharded
from hydragrad.tracking.step_gradients import StepGradients
from hydragrad.tracking.store import Store
from hydragrad.tracking.unfinished import finish, require_same_store
from hydragrad.trained_elsewhere import require_recorded


@in_clean_surroundings
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
    shards: int = 1,
    executor: ExecutorOption = None,
    workers: int | None = None,
    part: PartOption = None,
) -> Store:
    """Rows dw_T/dalpha_i of training samples, for queries that come later.

    Args:
        run: The recorded run.
        samples: Training samples to track; all if None.
        curvature: "none" drops the curvature of the loss (HYDRA). "hessian" is exact, costs about two gradient
            evaluations a sample and step, and is for a modest number of samples.
        projection: Store random projections to about this many columns; contributions then carry noise of about
            1/sqrt(projection), relative to the norms of row and query gradient.
        store: Folder of the rows; in memory if None. Called again after an interruption it resumes where it stopped.
        dtype: float64, float32 or bfloat16; the run's if None.
        batch_statistics: "exact" differentiates through the statistics of BatchNorm's batches, at one backward pass
            a sample and step; "frozen" takes them as constants, at about a training step for the whole batch. The
            store says so.
        projection_seed: Seed of the projection.
        smoothing: As `hg.attribute` takes it.
        shards: Fill the store in so many shards of the samples, each by a replay of its own; needs `store`. The shards
            are what an executor divides.
        executor: Where shards are filled, as `hg.counterfactual` takes it; the workers must see `store`.
        workers: Processes that fill shards at the same time; of other executors, jobs that wait or run.
        part: As "3/16": fill this slice of the shards, then those that are missing and that no other process fills.

    Raises:
        QueryError: Samples that do not exist; projection or frozen statistics with "hessian"; shards without `store`,
            or more than samples; an executor without shards.
        DiskFull, NotEnoughMemory: The store would not fit, before any work.
        RunExists: `store` holds a finished store.
        RecordingMismatch: `store` holds an unfinished store of something else.
        Unfinished: `part`, and shards of other slices are missing.

    Cost: without curvature, one replay with per-sample gradients, and samples x columns numbers.

    Source: Chen et al. 2021, section 3 and eqs. 35-36.
    """
    require_recorded(run, "hypergradients")
    refuse_average(run, "hypergradients", "Ask hg.attribute(run.averaged(...), query), which needs no rows.")
    execution = execution_of(executor, workers, part)
    sample_ids = checked_samples(samples, run.manifest.data["length"])
    folder = None if store is None else Path(store).absolute()
    _require_shards(shards, sample_ids, folder, execution)
    fill = partial(
        _filled,
        curvature=curvature,
        projection=projection,
        dtype=dtype,
        batch_statistics=batch_statistics,
        projection_seed=projection_seed,
        smoothing=smoothing,
    )
    if folder is None or shards == 1:
        return fill(run, sample_ids, folder)
    return sharded(run, sample_ids, folder, shards, fill, execution)


def _require_shards(shards: int, sample_ids: Tensor, folder: Path | None, execution: Execution) -> None:
    if not 1 <= shards <= len(sample_ids):
        raise QueryError(f"shards must be 1 to {len(sample_ids):,}, the number of samples, got {shards}.")
    if shards > 1 and folder is None:
        raise QueryError(f"shards={shards} are folders of a store; give store=, a folder.")
    if shards == 1 and execution != HERE:
        raise QueryError("An executor, or part=, divides the shards of a store: give shards=, as in shards=16.")


def _filled(
    run: Recording,
    sample_ids: Tensor,
    folder: Path | None,
    *,
    curvature: Literal["none", "hessian"],
    projection: int | None,
    dtype: torch.dtype | None,
    batch_statistics: BatchStatistics,
    projection_seed: int,
    smoothing: float | None,
) -> Store:
    """The store of some samples, in a folder or in memory."""
    rule = _one_rule(run)
    require_sound(curvature, projection, batch_statistics, rule)
    clipped = next((record.step for record in run.steps if record.transformed), None)
    if projection is not None and clipped is not None:
        raise clipped_rows_are_whole(clipped)
    histories = run_histories(run)
    weights = trained_layout(run, histories)
    statistics = Layout(moved_statistics(run) if curvature == "hessian" else {})
    state = run.initial.optimizer
    like = next(iter(run.final.parameters.values())).to(run.device)
    number_format = storage(dtype, like.dtype)
    groups = [list(history.names) for history in histories]
    projector = make_projector(weights, groups, projection, projection_seed, like, number_format)
    facts = StoreFacts(
        model=run.manifest.model,
        data=run.manifest.data,
        parameters={name: list(shape) for name, shape in weights.shapes.items()},
        statistics={name: list(shape) for name, shape in statistics.shapes.items()},
        groups=groups,
        dtype=str(number_format).removeprefix("torch."),
        projection=None if projection is None else {"dims": projection, "seed": projection_seed},
        curvature=curvature,
        batch_statistics=batch_statistics,
        steps=len(run.steps),
        completed=run.completed,
        optimizer=rule.name,
        ages={name: rule.age(state[name]) for name in weights.names if name in state},
        smoothing=smoothing_share(rule, smoothing),
        notes=notes(run.model, curvature, batch_statistics),
    )
    columns, states = Columns(weights, projector), state_names(histories)
    recurrence: Recurrence
    closed_form = has_closed_form(run, histories)
    if curvature == "none" and closed_form:
        recurrence = Planned(columns, histories)
    else:
        recurrence = unfolding(facts, weights, projector, states=len(states), closed_form=closed_form)
    require_dense(run.final.buffers, folder)
    table = _table(run, folder, facts, sample_ids, columns.width + statistics.size, recurrence)
    growing = GrowingRows(table, recurrence, sample_ids, run.manifest.data["length"], statistics=statistics.size)
    for record in run.steps[: table.steps]:
        growing.pass_over(record)
    filling = _Filling(run, growing, facts, states if recurrence.every_row else None)
    if curvature == "hessian":
        filling.sweep_exact(sample_ids)
    else:
        filling.sum_segments(projector)
    final = dict(run.final.parameters) | dict(run.final.buffers)
    return finish(growing, facts, sample_ids, run.model, run.loss, final, run.collate_fn, completed=run.completed)


def _one_rule(run: Recording) -> StepRule:
    if len(run.rules) > 1:
        raise Unsupported(f"Rows are kept under one optimizer, and the run had {len(run.rules)}. Use hg.attribute.")
    return run.rules[0]


def _table(
    run: Recording, folder: Path | None, facts: StoreFacts, sample_ids: Tensor, width: int, recurrence: Recurrence
) -> Table:
    """The table in the folder, or an empty one."""
    if folder is not None and is_growing(folder):
        require_same_store(folder, facts, sample_ids)
        return Table.open(folder, DTYPES[facts.dtype])
    every_row = facts.curvature == "hessian" or recurrence.every_row
    return new_table(
        folder,
        facts,
        sample_ids,
        width=width,
        accumulators=recurrence.accumulators,
        every_row=recurrence.every_row,
        room=len(sample_ids) if every_row else max(256, max(len(record.indices) for record in run.steps)),
        state={},
    )


class _Filling:
    """Replays a run and takes its steps into the rows. The table saves every step, so there is nothing else to save.

    Args:
        run: The recorded run.
        growing: The rows; they may hold the first steps already.
        facts: What the store is to hold.
        states: Optimizer states that rows need at every step; None where they need none.
    """

    def __init__(
        self, run: Recording, growing: GrowingRows, facts: StoreFacts, states: Sequence[StateNames] | None
    ) -> None:
        self._run, self._growing, self._facts, self._states = run, growing, facts, states
        self._weights, self._statistics = facts.layouts()

    def sum_segments(self, projector: Projector | None) -> None:
        """Add the gradients of every step's samples."""
        run, growing, table = self._run, self._growing, self._growing.table
        with run.replay() as replay:
            gradients = StepGradients(
                replay.trajectory.model, run.loss, self._weights, projector, self._facts.batch_statistics
            )

            def one_step(record: StepRecord) -> None:
                batches = run.batches(record)
                if record.step < table.steps:
                    replay.advance(record, batches)
                    return
                hooks = SampleGradients(
                    replay.trajectory, self._weights, self._states, growing, gradients, record, batches
                )
                replay.advance(record, batches, hooks=hooks)
                growing.add(record, torch.cat(hooks.rows), {}, hooks.at)

            try:
                self._fold(replay, one_step)
            finally:
                gradients.close()

    def sweep_exact(self, sample_ids: Tensor) -> None:
        """Carry every row through every step."""
        run, growing, table = self._run, self._growing, self._growing.table
        rows = torch.arange(len(sample_ids))
        row_of = torch.full((run.manifest.data["length"],), -1, dtype=torch.int64)
        row_of[sample_ids] = rows
        with run.replay() as replay:
            tangents = ExactTangents(replay.trajectory.model, run.loss, self._weights, self._statistics)

            def one_step(record: StepRecord) -> None:
                batches = run.batches(record)
                if record.step < table.steps:
                    replay.advance(record, batches)
                    return
                before = table.read(np.arange(table.shape[0]))[0].to(run.device)
                w_dot, r_dot = before.split([self._weights.size, self._statistics.size], 1)
                selected = [row_of[part.indices] == rows[:, None] for part in record.micro_batches]
                hooks = ExactStep(
                    replay.trajectory, self._weights, self._states, tangents, record, batches, w_dot, r_dot, selected
                )
                replay.advance(record, batches, hooks=hooks)
                growing.add_to_all(record, hooks.g_dot, hooks.r_dot, {}, hooks.at)

            self._fold(replay, one_step)

    def _fold(self, replay: Replay, one_step: Callable[[StepRecord], None]) -> None:
        run, growing, table = self._run, self._growing, self._growing.table

        def through(segment: Segment, state: None) -> Generator[None, None, None]:
            start, stop = segment
            records = run.steps[start:stop]
            sampled = any(growing.positions(record.indices) for record in records)
            if not (sampled or growing.recurrence.every_row or self._facts.curvature == "hessian"):
                for record in records:
                    if record.step >= table.steps:
                        growing.add(record, torch.zeros(0, table.shape[1]), {})
                    yield
                return
            replay.trajectory.restore(run.checkpoint(start))
            for record in records:
                one_step(record)
                yield
            check_end(run, replay, stop)

        done = tuple(start for start, stop in run.segments if stop <= table.steps)
        fold_segments("hypergradients", run.segments, through, Folded(None, done), replay=replay)
