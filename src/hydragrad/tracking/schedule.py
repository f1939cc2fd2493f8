"""A schedule told ahead: every step's options before training, so that a row needs one accumulator and no velocity.

The coefficients are those of the whole schedule. Rows are right at its end and nowhere before: the coefficients of a
shorter run are other numbers, and one accumulator can't be turned from one into the other.
"""

import copy
import warnings
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hydragrad.errors import QueryError, StepError
from hydragrad.runs import StepRecord
from hydragrad.steps import Lane, SGDOptions, lanes, read_group, require_supported, sgd_options
from hydragrad.tracking.rows.columns import Columns
from hydragrad.tracking.rows.recurrence import Planned

Schedule = Sequence[tuple[SGDOptions, ...]]
"""The options of every parameter group, at every step."""


def planned(optimizer: Optimizer, scheduler: Any = None, *, steps: int, every: int = 1) -> list[tuple[SGDOptions, ...]]:
    """Say ahead which options a run will have, for `hg.Tracker(..., schedule=...)`.

    Args:
        optimizer: A torch.optim.SGD as it is before the first step; it is not touched.
        scheduler: Its scheduler, not touched either; constant options if None.
        steps: Steps of the whole run.
        every: Steps after which the loop calls `scheduler.step()`: 1, or the steps of an epoch.

    Raises:
        QueryError: A scheduler that looks at a metric, so that nobody knows ahead what it will do.
    """
    require_supported(optimizer)
    if isinstance(scheduler, ReduceLROnPlateau):
        raise QueryError("ReduceLROnPlateau follows a metric, which is not known ahead: track without schedule=.")
    groups = [{**group, "params": [torch.zeros(0)]} for group in optimizer.param_groups]
    # The scheduler's copy drives an optimizer without weights.
    stand_in = SGD(groups, lr=0.0)
    driver = copy.deepcopy(scheduler, {id(optimizer): stand_in})
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the stand-in made no steps
        for step in range(1, steps + 1):
            found.append(tuple(sgd_options(read_group(group)) for group in stand_in.param_groups))
            if driver is not None and step % every == 0:
                driver.step()
    return found


def fingerprint(schedule: Schedule | None) -> dict[str, int] | None:
    """Steps and checksum, by which a store knows its schedule."""
    return None if schedule is None else {"steps": len(schedule), "crc32": zlib.crc32(repr(list(schedule)).encode())}


class Told(Planned):
    """Known coefficients of a schedule told ahead, checked at every step against what is really in force.

    Args:
        columns: The columns of a row.
        schedule: The options of every group at every step.
        groups: Parameter names of every group.
        warm: Parameters with a momentum buffer before the first step.

    Raises:
        QueryError: Another number of groups; or projected groups of warm and cold parameters under dampening.
    """

    def __init__(
        self, columns: Columns, schedule: Schedule, groups: Sequence[Sequence[str]], warm: Iterable[str]
    ) -> None:
        born = frozenset(warm)
        if any(len(options) != len(groups) for options in schedule) or not schedule:
            raise QueryError(
                f"A schedule has one entry a step, and one set of options for each of {len(groups)} groups."
            )
        self._schedule, self._groups = schedule, tuple(tuple(names) for names in groups)
        self._moved: set[str] = set()
        histories: dict[str, Sequence[SGDOptions | None]] = {
            name: options
            for options, names in zip(zip(*schedule, strict=True), self._groups, strict=True)
            for name in names
        }
        if columns.projected:
            found = []
            for names in filter(None, self._groups):
                parts = lanes({name: histories[name] for name in names}, born)
                if len(parts) > 1 and any(options is not None and options.dampening for options in histories[names[0]]):
                    raise QueryError("A projected group holds parameters with and without momentum buffer: split it.")
                found.append(Lane(names, parts[0].options, parts[0].first))
        else:
            found = lanes(histories, born)
        super().__init__(columns, found)

    def take(self, record: StepRecord) -> None:
        """Take in what the next step did.

        Raises:
            StepError: It is not what was told.
        """
        remedy = "Tell the schedule that the loop follows (hg.planned), or track without schedule="
        if record.step >= len(self._schedule):
            raise StepError(f"The schedule told ahead ends after {len(self._schedule):,} steps. {remedy}.")
        if record.structure.groups != self._groups:
            raise StepError(f"Step {record.step} had other parameter groups than the schedule told ahead. {remedy}.")
        told = self._schedule[record.step]
        for number, (values, expected) in enumerate(zip(record.options, told, strict=True)):
            if sgd_options(values) != expected:
                raise StepError(
                    f"Step {record.step} ran with {sgd_options(values)} in group {number}; told ahead were "
                    f"{expected}. {remedy}."
                )
        idle = set(record.structure.idle)
        for options, names in zip(told, self._groups, strict=True):
            for name in names:
                # A part of a row that is zero may wait, where the first step is like all others.
                late = name not in idle and record.step > 0 and options.momentum and options.dampening
                if (name in idle and name in self._moved) or (late and name not in self._moved):
                    raise StepError(
                        f"{name} was frozen or unfrozen at step {record.step}, which was not told. {remedy}."
                    )
            self._moved |= set(names) - idle
        super().take(record)
