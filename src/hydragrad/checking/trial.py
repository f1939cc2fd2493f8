"""The two steps, recorded: what modes are tried on, and how the cost of one more step is measured."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from hydragrad.checking.refused import Refusal, Result, attempt
from hydragrad.checking.setup import Copies, Setup, some_of
from hydragrad.checking.sizes import Sizes
from hydragrad.checking.steps import SEED, fastest_step, make_steps, now, timed
from hydragrad.recording import Recorder
from hydragrad.replay import Recording
from hydragrad.replay.histories import run_histories
from hydragrad.scores import Query, mean_loss

MOST_REPEATS, ENOUGH_SECONDS, LONG_SECONDS = 5, 1.0, 5.0
"""A mode is timed at most so often, and at least twice, until it took so long in all; once where that takes long."""

HIDDEN = 0.3
"""What of a plain step a mode's step costs at least, if its time is to be believed."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The two steps, recorded.

    Attributes:
        setup: What was recorded.
        run: The recording of both steps.
        longer: A recording that makes them twice: what it costs more is the cost of its further steps; None where
            nothing is timed. (A run of one step would be no measure: more of it is done once.)
        plain: Seconds of work of a plain step; None where nothing is timed.
        waits: Seconds by the clock for each of them.
        sizes: Of states and checkpoints.
        steps: Of the whole training.
        samples: Of the whole training set.
        folder: For what is written.
    """

    setup: Setup
    run: Recording
    longer: Recording | None
    plain: float | None
    waits: float
    sizes: Sizes
    steps: int
    samples: int
    folder: Path

    def attempted(self, job: Callable[[], Result]) -> tuple[tuple[Result | None, Refusal | None], float]:
        """What a job gave, or why it gave nothing, and the seconds that it took."""
        begin = now(self.setup.device)
        outcome = attempt(job)
        return outcome, now(self.setup.device) - begin

    @property
    def uneven(self) -> str:
        """Classes of optimizers that move every coordinate in its own way, so that rows move at every step."""
        rules = [history.rule for history in run_histories(self.run) if history.rule.closed_form is None]
        return ", ".join(dict.fromkeys(rule.torch_class.__name__ for rule in rules))

    @property
    def query(self) -> Query:
        """A mean loss of some of the samples, in eval mode."""
        batch = self.setup.batch
        return mean_loss(some_of(self.setup.data, batch[: max(1, len(batch) // 2)]), collate=self.setup.collate)

    def a_step(self, job: Callable[[Recording], object], took: float) -> "Step":
        """Seconds that one more step costs a job: the longer run less the two steps, each the shortest of some times.

        Args:
            job: Does its work on a recording.
            took: Seconds that it took on both steps; where that is long, it is not repeated.
        """
        if self.plain is None or self.longer is None:
            return Step(None)
        runs, times, begin = (self.longer, self.run), [math.inf, took], time.perf_counter()
        for number in range(MOST_REPEATS):
            for which, run in enumerate(runs):
                if which == 0 or took < LONG_SECONDS:
                    times[which] = min(times[which], timed(self.setup.device, partial(job, run)))
            if took >= LONG_SECONDS or (number and time.perf_counter() - begin > ENOUGH_SECONDS):
                break
        both, count = len(self.run.steps), len(self.longer.steps)
        step = (times[0] - times[1]) / (count - both)
        # A step that is repeated can't cost much less than a plain one: then noise hides it behind what is done once.
        return Step(step) if step > HIDDEN * self.plain else Step(times[0] / count, at_most=True)


class Step(NamedTuple):
    """Seconds of a step, or a bound on them; None where nothing is timed."""

    seconds: float | None
    at_most: bool = False


def recorder_of(setup: Setup, copies: Copies, path: Path) -> Recorder:
    """A Recorder that writes all steps as one segment."""
    return Recorder(
        path,
        copies.model,
        one_or_all(copies),
        setup.loss,
        setup.data,
        scheduler=copies.scheduler,
        checkpoint_every=1000,
        collate=setup.collate,
        seed=SEED,
    )


def recorded(setup: Setup, path: Path, count: int | None = None) -> None:
    """Record the first steps, all if `count` is None."""
    copies = setup.copies()
    with recorder_of(setup, copies, path) as recorder:
        make_steps(setup, copies, recorder, count)


def again(setup: Setup) -> Setup:
    """The same steps twice."""
    return replace(setup, groups=[*setup.groups, *setup.groups])


def opened(setup: Setup, path: Path) -> Recording:
    """Open what was recorded, with a model of its own."""
    return Recording(path, setup.copies().model, setup.loss, setup.data, collate=setup.collate)


def one_or_all(copies: Copies) -> Any:
    """One, or the list of them."""
    return copies.optimizers if len(copies.optimizers) > 1 else copies.optimizers[0]


def plain_seconds(setup: Setup) -> tuple[float, float]:
    """Seconds of a plain step: of work, and by the clock."""
    copies, walls = setup.copies(), list[float]()
    work = fastest_step(setup, copies)
    for _ in range(len(setup.groups)):
        now(setup.device)  # waits for the device
        begin = time.perf_counter()
        make_steps(setup, copies, count=1)
        now(setup.device)
        walls.append(time.perf_counter() - begin)
    return work, min(walls)
