"""A schedule known in advance: every step's options before training, so that a row needs one accumulator and no state.

The coefficients are those of the whole schedule. Rows are right at its end and nowhere before: the coefficients of a
shorter run are other numbers, and one accumulator can't be turned from one into the other.
"""

import copy
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hydragrad.errors import QueryError, StepError
from hydragrad.runs import StepRecord
from hydragrad.steps import History, StepRule, first_is_like_later, histories, read_group, rule_of
from hydragrad.steps.rule import Age
from hydragrad.tracking.rows.columns import Columns
from hydragrad.tracking.rows.recurrence import Planned, TakenAt

Schedule = Sequence[tuple[Any, ...]]
"""The options of every parameter group, at every step, as the optimizer's rule reads them."""


def planned(optimizer: Optimizer, scheduler: Any = None, *, steps: int, every: int = 1) -> list[tuple[Any, ...]]:
    """List before training which options a run will have at every step, for `hg.Tracker(..., schedule=...)`.

    Args:
        optimizer: As it is before the first step; it is not touched.
        scheduler: Its scheduler, not touched either; constant options if None.
        steps: Steps of the whole run.
        every: Steps after which the loop calls `scheduler.step()`: 1, or the steps of an epoch.

    Raises:
        QueryError: A scheduler that looks at a metric, so what it will do is not known in advance.
        Unsupported: An optimizer whose step is not known.
    """
    rule = rule_of(optimizer)
    if isinstance(scheduler, ReduceLROnPlateau):
        raise QueryError("ReduceLROnPlateau follows a metric, which is not known in advance: track without schedule=.")
    # The scheduler's copy drives an optimizer without weights.
    stand_in = rule.bare({})
    stand_in.param_groups = [{**group, "params": []} for group in optimizer.param_groups]
    driver = copy.deepcopy(scheduler, {id(optimizer): stand_in})
    schedule = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the stand-in made no steps
        for step in range(1, steps + 1):
            schedule.append(tuple(rule.read(read_group(rule, group)) for group in stand_in.param_groups))
            if driver is not None and step % every == 0:
                driver.step()
    return schedule


def fingerprint(schedule: Schedule | None) -> dict[str, int] | None:
    """Steps and checksum, by which a store knows its schedule."""
    return None if schedule is None else {"steps": len(schedule), "crc32": zlib.crc32(repr(list(schedule)).encode())}


class PlannedSchedule(Planned):
    """Known coefficients of a planned schedule, checked at every step against what is really in force.

    Args:
        columns: The columns of a row.
        rule: Of the optimizer; it has a closed form.
        schedule: The options of every group at every step.
        groups: Parameter names of every group.
        ages: Of the parameters before the first step.

    Raises:
        QueryError: Another number of groups; or projected groups whose parameters do not start alike.
    """

    def __init__(
        self,
        columns: Columns,
        rule: StepRule,
        schedule: Schedule,
        groups: Sequence[Sequence[str]],
        ages: Mapping[str, Age],
    ) -> None:
        if any(len(options) != len(groups) for options in schedule) or not schedule:
            raise QueryError(
                f"A schedule has one entry a step, and one set of options for each of {len(groups)} groups."
            )
        self._rule, self._schedule, self._groups = rule, schedule, tuple(tuple(names) for names in groups)
        self._moved: set[str] = set()
        options: dict[str, Sequence[Any | None]] = {
            name: sequence
            for sequence, names in zip(zip(*schedule, strict=True), self._groups, strict=True)
            for name in names
        }
        at_start = {name: ages.get(name, rule.age({})) for name in options}
        if columns.projected:
            known = [self._projected(names, options, at_start) for names in filter(None, self._groups)]
        else:
            known = histories(rule, options, at_start)
        super().__init__(columns, known)

    def _projected(
        self, names: Sequence[str], options: Mapping[str, Sequence[Any | None]], ages: Mapping[str, Age]
    ) -> History:
        """The one history of a group whose parameters share their columns."""
        parts = histories(self._rule, {name: options[name] for name in names}, ages)
        in_force = [values for values in options[names[0]] if values is not None]
        if len(parts) > 1 and not all(first_is_like_later(self._rule, values) for values in in_force):
            raise QueryError(
                "A projected group holds parameters that made steps before and others that did not: split it."
            )
        return History(tuple(names), self._rule, parts[0].moves)

    def take(self, record: StepRecord, at: TakenAt | None = None) -> None:
        """Take in what the next step did.

        Raises:
            StepError: It is not what was planned.
        """
        remedy = "Plan the schedule that the loop follows (hg.planned), or track without schedule="
        if record.step >= len(self._schedule):
            raise StepError(f"The planned schedule ends after {len(self._schedule):,} steps. {remedy}.")
        if record.structure.groups != self._groups:
            raise StepError(f"Step {record.step} had other parameter groups than the planned schedule. {remedy}.")
        expected = self._schedule[record.step]
        for number, (values, options) in enumerate(zip(record.options, expected, strict=True)):
            if self._rule.read(values) != options:
                raise StepError(
                    f"Step {record.step} ran with {self._rule.read(values)} in group {number}; planned were "
                    f"{options}. {remedy}."
                )
        idle = set(record.structure.idle)
        for options, names in zip(expected, self._groups, strict=True):
            for name in names:
                # A part of a row that is zero may wait, where the first step is like all others.
                late = name not in idle and record.step > 0 and not first_is_like_later(self._rule, options)
                if (name in idle and name in self._moved) or (late and name not in self._moved):
                    raise StepError(
                        f"{name} was frozen or unfrozen at step {record.step}, which was not planned. {remedy}."
                    )
            self._moved |= set(names) - idle
        super().take(record)
