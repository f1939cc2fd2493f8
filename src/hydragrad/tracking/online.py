"""The rows of a run that is under way: begun at its first step, gone on with after a kill, advanced step by step."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hydragrad.derivatives import Layout, PerSampleLoss, Projector
from hydragrad.derivatives.curvature.tangents import ExactTangents, Tangents
from hydragrad.errors import StepError
from hydragrad.randomness import preserved
from hydragrad.replay.trajectory import step_point
from hydragrad.runs import StepRecord
from hydragrad.runs.lines import AppendOnlyLines
from hydragrad.runs.log import MicroBatch, to_line
from hydragrad.steps import StepPoint, rule_named, states_of, tangent_transforms
from hydragrad.tracking.facts import DTYPES, LOG, StoreFacts
from hydragrad.tracking.growing_store import model_state, read_log, unfolding
from hydragrad.tracking.new_store import new_table
from hydragrad.tracking.options import clipped_rows_are_whole
from hydragrad.tracking.rows.columns import Columns
from hydragrad.tracking.rows.growing_rows import GrowingRows
from hydragrad.tracking.rows.recurrence import Recurrence, TakenAt
from hydragrad.tracking.rows.table import Table
from hydragrad.tracking.schedule import PlannedSchedule, Schedule
from hydragrad.tracking.step_batch import StepBatch
from hydragrad.tracking.step_gradients import StepGradients

LEAST_ROOM = 256
"""Rows that one step may change, at least."""


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """What is tracked of a model in training.

    Attributes:
        model: The live model.
        loss: Per-sample loss.
        facts: What the store is to hold.
        sample_ids: The tracked samples.
        length: Samples of the training set.
        weights: Lays out the parameters of a row.
        statistics: Lays out the running statistics that follow them.
        projector: Projects rows, or None.
        schedule: The options of every step, where they were known in advance.
        groups: The optimizer's parameters by group, empty groups included.
        optimizer: The live optimizer.
        folder: Where rows are kept; in memory if None.
    """

    model: nn.Module
    loss: PerSampleLoss
    facts: StoreFacts
    sample_ids: Tensor
    length: int
    weights: Layout
    statistics: Layout
    projector: Projector | None
    schedule: Schedule | None
    groups: Sequence[Sequence[str]]
    optimizer: Optimizer
    folder: Path | None

    def recurrence(self, *, states: int) -> Recurrence:
        """How rows advance that have tangents of so many optimizer states.

        Raises:
            QueryError: A schedule that does not fit.
        """
        if self.schedule is not None:
            return PlannedSchedule(
                Columns(self.weights, self.projector),
                rule_named(self.facts.optimizer),
                self.schedule,
                self.groups,
                self.facts.ages,
            )
        return unfolding(self.facts, self.weights, self.projector, states=states)

    @property
    def exact(self) -> bool:
        """Whether every step moves every row."""
        return self.facts.curvature == "hessian"


class OnlineRows:
    """Advances the rows by one step at a time, in two halves: before and after the loop's own step.

    Attributes:
        growing: The rows; None before the first step.
    """

    def __init__(self, tracked: Tracked) -> None:
        self._tracked = tracked
        self.growing: GrowingRows | None = None
        self._gradients: StepGradients | None = None
        self._exact: ExactTangents | None = None
        self._state: tuple[dict[str, Tensor], ...] = ()
        self._tangents: Tangents | None = None  # of the micro-batches so far
        self._terms: list[Tensor] = []  # likewise, gradients of their tracked samples
        self._before_transforms: list[Tensor] = []
        self._at: StepPoint | None = None
        self._log: AppendOnlyLines | None = None

    @property
    def route(self) -> str:
        """How gradients of samples are made."""
        if self._tracked.exact:
            return "exact"
        return "none" if self._gradients is None or self._gradients.route is None else self._gradients.route

    def begin(self, size: int) -> None:
        """Lay out the rows before the first step, where steps have `size` samples at most.

        Raises:
            DiskFull, NotEnoughMemory: They would not fit.
        """
        tracked = self._tracked
        recurrence = tracked.recurrence(states=len(states_of(tracked.optimizer)))
        table = new_table(
            tracked.folder,
            tracked.facts,
            tracked.sample_ids,
            width=Columns(tracked.weights, tracked.projector).width + tracked.statistics.size,
            accumulators=recurrence.accumulators,
            every_row=recurrence.every_row,
            room=len(tracked.sample_ids) if tracked.exact or recurrence.every_row else max(LEAST_ROOM, size),
            state=model_state(tracked.model),
        )
        self.growing = self._rows(table, recurrence)
        if tracked.folder is not None:
            self._log = AppendOnlyLines(tracked.folder / LOG)

    def go_on(self, folder: Path) -> list[StepRecord]:
        """Open what an earlier run has left; returns the steps that the rows take into account."""
        table = Table.open(folder, DTYPES[self._tracked.facts.dtype])
        known = read_log(folder, table.steps)
        self._log = AppendOnlyLines(folder / LOG, keep=table.steps)
        self.growing = self._rows(table, self._tracked.recurrence(states=table.accumulators - 1))
        for record in known:
            self.growing.pass_over(record)
        return known

    def before(self, step_batch: StepBatch, part: MicroBatch) -> None:
        """Everything that needs the state before a micro-batch."""
        tracked, growing = self._tracked, self._there()
        with preserved():
            if tracked.exact:
                self._state = tuple(
                    {name: value.detach().clone() for name, value in named}
                    for named in (tracked.model.named_parameters(), tracked.model.named_buffers())
                )
                return
            if self._gradients is None:
                self._gradients = StepGradients(
                    tracked.model, tracked.loss, tracked.weights, tracked.projector, tracked.facts.batch_statistics
                )
            self._gradients.before(growing.positions(step_batch.indices), step_batch, part)

    def at_transform(self) -> None:
        """Gradients are about to be clipped: note them."""
        like = next(self._tracked.model.parameters()).detach()
        named = dict(self._tracked.model.named_parameters())
        gradients = {name: named[name].grad for name in self._tracked.weights.names}
        self._before_transforms.append(self._tracked.weights.flatten(gradients, like))

    def at_update(self) -> None:
        """The optimizer is about to step: note where, if rows need it."""
        tracked, growing = self._tracked, self.growing
        if growing is not None and growing.recurrence.every_row:
            named = dict(tracked.model.named_parameters())
            states = [dict.fromkeys(tracked.weights.names, state) for state in states_of(tracked.optimizer)]
            self._at = step_point(named, tracked.optimizer, tracked.weights, states)

    def take(self, step_batch: StepBatch, part: MicroBatch) -> None:
        """A micro-batch had its forward and backward pass, which showed its coefficients: take its terms."""
        if self._tracked.exact:
            step_batch.require_constant_buffers(self._tracked.model)
            with preserved():
                self._add_tangents(step_batch, part)
        else:
            assert self._gradients is not None
            self._terms.append(self._gradients.after(part))

    def drop(self) -> None:
        """The loop cleared the gradients of the micro-batches so far."""
        if self._tangents is not None:
            self._tangents = self._tangents._replace(g_dot=torch.zeros_like(self._tangents.g_dot))
        self._terms = [torch.zeros_like(term) for term in self._terms]

    def after(self, record: StepRecord, last: StepRecord | None) -> None:
        """Complete the step; `last` is the one before it."""
        tracked, growing = self._tracked, self._there()
        self._require_room(record)
        if self._log is not None:
            self._log.append(to_line(record, last))
        state = model_state(tracked.model) if tracked.folder is not None else {}
        noted = self._before_transforms
        at = None if self._at is None else TakenAt(self._at, noted)
        if tracked.exact:
            assert self._tangents is not None
            g_dot = self._transformed(record, self._tangents.g_dot, noted)
            growing.add_to_all(record, g_dot, self._tangents.r_dot, state, at)
        else:
            growing.add(record, self._transformed(record, torch.cat(self._terms), noted), state, at)
        self.forget()

    def _require_room(self, record: StepRecord) -> None:
        growing = self._there()
        needed = growing.distinct(record.indices)
        if not growing.recurrence.every_row and needed > growing.table.room:
            raise StepError(
                f"Step {record.step} accumulated {needed:,} tracked samples, and rows have room for "
                f"{growing.table.room:,} a step. Say how many a step has at most: samples_per_step={needed}."
            )

    def forget(self) -> None:
        """Start the next step afresh."""
        self._terms, self._tangents, self._before_transforms, self._at = [], None, [], None

    def _transformed(self, record: StepRecord, g_dot: Tensor, noted: list[Tensor]) -> Tensor:
        """Tangents of the gradients as the optimizer got them; rules that move every row do this themselves."""
        if not record.transformed or self._there().recurrence.every_row:
            return g_dot
        if self._tracked.projector is not None:
            raise clipped_rows_are_whole(record.step)
        return tangent_transforms(record.transforms, self._tracked.weights.spans, g_dot, noted)

    def close(self) -> None:
        """Take the hooks off the model and close the log."""
        if self._gradients is not None:
            self._gradients.close()
        if self._log is not None:
            self._log.close()

    def _there(self) -> GrowingRows:
        assert self.growing is not None
        return self.growing

    def _rows(self, table: Table, recurrence: Recurrence) -> GrowingRows:
        tracked = self._tracked
        return GrowingRows(table, recurrence, tracked.sample_ids, tracked.length, statistics=tracked.statistics.size)

    def _add_tangents(self, step_batch: StepBatch, part: MicroBatch) -> None:
        tracked, growing = self._tracked, self._there()
        if self._exact is None:
            self._exact = ExactTangents(tracked.model, tracked.loss, tracked.weights, tracked.statistics)
        like = next(tracked.model.parameters()).detach()
        rows = growing.table.read(np.arange(growing.table.shape[0]))[0].to(like)
        w_dot, r_dot = rows.split([tracked.weights.size, tracked.statistics.size], 1)
        before = self._tangents
        alpha_dot = (torch.tensor(step_batch.indices) == tracked.sample_ids[:, None]).to(w_dot)
        parameters, buffers = self._state
        added = self._exact(
            parameters,
            buffers,
            step_batch(),
            part.divisor,
            w_dot,
            r_dot if before is None else before.r_dot,
            alpha_dot,
            part.loss_weights(like),
        )
        self._tangents = added if before is None else added._replace(g_dot=before.g_dot + added.g_dot)
