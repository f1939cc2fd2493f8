"""The recorded run with a change: other loss weights or labels of some samples, or another start.

Order, batch sizes and randomness stay as they were.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from hydragrad.derivatives import Batch, Label
from hydragrad.errors import LossError
from hydragrad.replay.averages import Following
from hydragrad.replay.labels import label_of
from hydragrad.replay.recording import Recording
from hydragrad.replay.replay import Replay
from hydragrad.replay.run_means import run_means
from hydragrad.replay.trajectory import Trajectory
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.runs.kept import Key, key_digest
from hydragrad.runs.log import StepRecord


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is changed about a run; everything else is as it was.

    Attributes:
        weights: Loss weight by sample, where it is not 1.
        labels: Label by sample, where it is another one.
        noise: Relative size of a random change of the initial weights.
        seed: Of that change.
        renormalised: Batch means are taken over what the weights leave of the batch, rather than over all of it.
    """

    weights: Mapping[int, float] = field(default_factory=dict)
    labels: Mapping[int, int] = field(default_factory=dict)
    noise: float = 0.0
    seed: int = 0
    renormalised: bool = False

    def key(self, run: Recording) -> Key:
        """What the changed run depends on: equal for equal changes of the same run only."""
        key = [run.digest, sorted(self.weights.items()), sorted(self.labels.items()), self.noise, self.seed]
        return [*key, "renormalised"] if self.renormalised else key


def one_rounding(run: Recording) -> float:
    """The relative size of one rounding of the run's weights: the smallest change of its start that means anything."""
    return float(torch.finfo(next(iter(run.initial.parameters.values())).dtype).eps)


class ChangedRun(Recording):
    """A recorded run as it would have been with a change, ready to be replayed and differentiated.

    Args:
        run: The recorded run.
        change: What is changed.
        memory: Bytes for checkpoints, evenly spaced, which are held in memory; the start and the end always are.

    Raises:
        Unsupported: Means that are to be renormalised, and coefficients that are not those of means.
        LossError: Other labels, and no tensor of the batch is the label, or several are, when a step is made.

    Cost: one training, when its end or a checkpoint is first read.
    """

    def __init__(self, run: Recording, change: Change, *, memory: int = 0) -> None:
        computed_later = ("initial", "last")
        vars(self).update({name: value for name, value in vars(run).items() if name not in computed_later})
        self._run, self._change, self._memory = run, change, memory
        like = next(iter(run.initial.parameters.values()))  # a weight near 1 needs the digits of the run
        length = run.manifest.data["length"]
        self.loss_weights = _by_sample(change.weights, torch.ones(length, dtype=like.dtype)).to(run.device)
        self.means = run_means(run) if change.renormalised else None
        self._following: Following | None = None
        self._labels = _by_sample(change.labels, torch.full((length,), -1))

    def repeat(self, replay: Replay) -> Iterator[int]:
        """Repeat the run from its start on a replay of it; yields the number of steps done: 0, 1, ..., all."""
        trajectory, start = replay.trajectory, self._run.initial
        trajectory.restore(start)
        if self._change.noise:
            _perturb(trajectory.parameters, self._change.noise, self._change.seed)
        self._following = None if self.average is None else Following(self.average, start, trajectory.parameters)
        self._follow(0, trajectory)
        yield 0
        for done, record in enumerate(self.steps, start=1):
            replay.advance(record, self.batches(record))
            self._follow(done, trajectory)
            yield done

    def reached(self, replay: Replay, step: int) -> Checkpoint:
        """Where `repeat` has got to, with the average that is asked about."""
        checkpoint = replay.trajectory.checkpoint(step)
        return checkpoint if self._following is None else self._following.within(checkpoint)

    def _follow(self, step: int, trajectory: Trajectory) -> None:
        if self._following is not None:
            self._following.after(step, trajectory.parameters, trajectory.buffers)

    @contextmanager
    def replay(self) -> Iterator[Replay]:
        """Replay steps with the loss weights; up to the first that the change touches they are held to the record."""
        with super().replay() as replay:
            replay.loss_weights, replay.means = self.loss_weights, self.means
            replay.held_until = self._first_touched
            yield replay

    @property
    def _recorded(self) -> Recording:
        return self._run

    def _origin_of(self, restored: int) -> int:
        return 0  # every checkpoint of it was reached from the start

    @cached_property
    def _first_touched(self) -> int:
        """The first step that the change can change; the number of steps where there is none."""
        if self._change.noise:
            return 0
        touched = {i for i, weight in self._change.weights.items() if weight != 1} | set(self._change.labels)
        return next((one.step for one in self.steps if not touched.isdisjoint(one.indices)), len(self.steps))

    def batches(self, record: StepRecord) -> list[Batch]:
        """A step's micro-batches, with the changed labels."""
        batches = super().batches(record)
        if self._change.labels:
            relabelled = []
            for part, batch in zip(record.micro_batches, batches, strict=True):
                wanted = self._labels[part.indices]
                relabelled.append(batch._replace(data=self._label.replaced(batch.data, wanted)))
            return relabelled
        return batches

    @cached_property
    def _label(self) -> Label:
        try:
            return label_of(self._run)
        except LossError as error:
            raise LossError(f"Other labels need integer labels in the batch. {error}") from error

    @property
    def digest(self) -> str:
        """Names this run with this change."""
        return f"{self._run.digest}-{key_digest(self._change.key(self._run))}"

    @property
    def segments(self) -> list[tuple[int, int]]:
        """Stretches of steps [start, stop), each starting at a checkpoint in memory."""
        steps = sorted(self._checkpoints)
        return list(pairwise(steps))

    def checkpoint(self, step: int) -> Checkpoint:
        """The checkpoint before `step`: one of the segments' starts, or the run's end."""
        return self._checkpoints[step]

    def has_checkpoint(self, step: int) -> bool:
        """Whether there is a checkpoint before `step`."""
        return step in self._checkpoints

    @cached_property
    def initial(self) -> Checkpoint:
        """The state before the first step."""
        return self.checkpoint(0)

    @cached_property
    def last(self) -> Checkpoint:
        """The state after the last step."""
        return self.checkpoint(len(self.steps))

    @cached_property
    def _checkpoints(self) -> dict[int, Checkpoint]:
        recorded = [start for start, _ in self._run.segments]
        thinning = -(-len(recorded) * 2 * self._run.initial.bytes // max(1, self._memory))
        steps = {*recorded[:: max(1, thinning)], len(self.steps)}
        with self.replay() as replay:
            return {done: self.reached(replay, done) for done in self.repeat(replay) if done in steps}


def _by_sample(changed: Mapping[int, float], values: Tensor) -> Tensor:
    for sample, value in changed.items():
        values[sample] = value
    return values


def _perturb(parameters: Mapping[str, Tensor], size: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for value in parameters.values():
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        value.add_(noise, alpha=size * float(value.norm()) / max(1e-30, float(noise.norm())))
