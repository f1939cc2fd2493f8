"""An average of a run's weights (EMA, SWA) as what is asked about: what it is made of, and what it would have been.

Its updates are e <- (1 - c) e + c w_t, so at the end it is a constant plus the sum of a_t w_t over the steps, with
a_t the product of a step's share and of what later updates left. A derivative of it is the same sum of derivatives.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydragrad.errors import QueryError, RunDamaged, Unsupported
from hydragrad.runs.averages import ABOUT, AVERAGES, Update, read_updates
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.runs.manifest import Manifest


class Ends(NamedTuple):
    """What the final model is made of.

    Attributes:
        weights: Share of the weights after each step, float64 (steps,).
        statistics: The same of the running statistics; None where they became something else.
    """

    weights: NDArray[np.float64]
    statistics: NDArray[np.float64] | None


def trained_ends(steps: int) -> Ends:
    """Of the trained model: all of the last step."""
    last = np.zeros(steps)
    last[-1] = 1.0
    return Ends(last, last)


class _Recorded(Protocol):
    """What is needed of a recorded run."""

    path: Path
    manifest: Manifest

    @property
    def completed(self) -> bool: ...

    @property
    def steps(self) -> Sequence[Any]: ...


@dataclass(frozen=True)
class RunAverage:
    """An average of a run's weights.

    Attributes:
        name: As in the Recorder's `averages`.
        updates: Its updates, in order.
        steps: How many steps the run made.
    """

    name: str
    updates: tuple[Update, ...]
    steps: int

    @cached_property
    def ends(self) -> Ends:
        """Shares of the states after the steps, at the run's end."""
        weights, statistics = np.zeros(self.steps), np.zeros(self.steps)
        left, left_of_statistics, known = 1.0, 1.0, True
        for update in reversed(self.updates):
            if update.step:
                weights[update.step - 1] += left * update.weights
            left *= 1 - update.weights
            if update.buffers is None:
                known = known and left_of_statistics == 0
            else:
                if update.step:
                    statistics[update.step - 1] += left_of_statistics * update.buffers
                left_of_statistics *= 1 - update.buffers
        return Ends(weights, statistics if known else None)

    @cached_property
    def error(self) -> float:
        """Error of the shares, over their own size: they are read off rounded numbers, and off alike if at all."""
        left, errors, sizes = 1.0, 0.0, 0.0
        for update in reversed(self.updates):
            errors += abs(left * update.error)
            sizes += abs(left * update.weights)
            left *= 1 - update.weights
        return errors / sizes if sizes else math.inf

    def at(self, checkpoint: Checkpoint) -> Checkpoint:
        """A checkpoint with the averaged weights and buffers in place of the model's."""
        own = self.entries(checkpoint.averages)

        def averaged(part: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: own.get(f"{part}/{name}", value).to(value) for name, value in values.items()}

        return replace(
            checkpoint,
            parameters=averaged("parameters", checkpoint.parameters),
            buffers=averaged("buffers", checkpoint.buffers),
        )

    def entries(self, averages: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of this average among those of all."""
        prefix = f"{self.name}/"
        return {name.removeprefix(prefix): value for name, value in averages.items() if name.startswith(prefix)}


class Following:
    """An average that follows a repeated run.

    Args:
        average: Its updates.
        start: Where the run starts.
        weights: The weights where the repeated run starts: an average that started as a copy of the weights does again.

    Raises:
        Unsupported: Its running statistics are no average, so what they would be is not known.
    """

    def __init__(self, average: RunAverage, start: Checkpoint, weights: Mapping[str, Tensor]) -> None:
        if average.ends.statistics is None:
            raise statistics_unknown(average.name)
        self._average = average
        self._values = {name: value.clone() for name, value in average.entries(start.averages).items()}
        for name, value in weights.items():
            held, recorded = self._values.get(f"parameters/{name}"), start.parameters[name]
            if held is not None and torch.equal(held.to(recorded), recorded):
                held.copy_(value)
        self._at: dict[int, list[Update]] = {}
        for update in average.updates:
            self._at.setdefault(update.step, []).append(update)

    def after(self, step: int, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
        """Make the updates that were made when the run had made so many steps."""
        for update in self._at.get(step, []):
            for part, values, share in (
                ("parameters", parameters, update.weights),
                ("buffers", buffers, update.buffers),
            ):
                for name, value in values.items():
                    held = self._values.get(f"{part}/{name}")
                    if held is not None and share is not None:
                        _move(held, value, share)

    def within(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with the average's tensors."""
        return replace(checkpoint, averages={f"{self._average.name}/{n}": v.clone() for n, v in self._values.items()})


def read_average(run: _Recorded, name: str | None) -> RunAverage:
    """Read an average of a run.

    Raises:
        QueryError: There is none of this name, it was never updated, or the run was not completed.
        RunDamaged: Updates are missing.
    """
    counts: dict[str, int] = run.manifest.about.get(ABOUT, {})
    known = ", ".join(counts) or "none"
    if not run.completed:
        raise QueryError(
            f"{run.path} was not completed, so its averages of the weights are not known to the end. Train on with "
            f"resume=True."
        )
    if name is None and len(counts) == 1:
        name = next(iter(counts))
    if name is None or name not in counts:
        raise QueryError(
            f"{run.path} was recorded with the averages {known}; got {name!r}. Record with averages={{'ema': ema}} to "
            f"ask about run.averaged('ema')."
        )
    updates = tuple(update for update in read_updates(run.path) if update.name == name)
    if len(updates) != counts[name]:
        raise RunDamaged(
            f"{run.path / AVERAGES} has {len(updates):,} updates of {name!r}; the run made {counts[name]:,}. It was "
            f"truncated: restore it from a copy, or train again."
        )
    average = RunAverage(name, updates, len(run.steps))
    if not average.ends.weights.any():
        raise QueryError(
            f"The average {name!r} was not updated after any step of {run.path}, so nothing of the training is in it. "
            f"Update it inside of the Recorder's with statement, after optimizer.step()."
        )
    return average


def statistics_unknown(name: str) -> Unsupported:
    """The error where the running statistics of an average are no average."""
    return Unsupported(
        f"The running statistics of the average {name!r} are no average of the model's: they were made otherwise, by "
        f"update_bn or a forward pass in train mode, in a way that is not differentiated. Average or copy them with "
        f"the weights, ask hg.attribute with curvature='none', which takes them as constants, or about the trained "
        f"model."
    )


def refuse_average(run: Any, function: str, remedy: str) -> None:
    """Refuse a run that is asked about an average where only the trained weights have an answer.

    Raises:
        Unsupported: With what to do in its place.
    """
    average: RunAverage | None = getattr(run, "average", None)
    if average is not None:
        raise Unsupported(
            f"hg.{function} is about the trained weights, not about the average {average.name!r}. {remedy}"
        )


def _move(held: Tensor, value: Tensor, share: float) -> None:
    target = value.to(held)
    if share == 1 or not held.is_floating_point():
        held.copy_(target)
    else:
        held.lerp_(target, share)
