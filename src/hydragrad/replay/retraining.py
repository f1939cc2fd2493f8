"""The recorded run once more, with other weights or labels of some samples."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from hydragrad.derivatives import Batch, tensor_leaves
from hydragrad.disk import load_sealed, save_sealed
from hydragrad.errors import LossError
from hydragrad.execution import run_jobs
from hydragrad.progress import bar
from hydragrad.replay import Recording

FOLDER = "retrained"

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is changed about a run; everything else is as it was.

    Attributes:
        weights: Loss weight by sample, where it is not 1.
        labels: Label by sample, where it is another one.
        noise: Relative size of a random change of the initial weights.
        seed: Of that change.
    """

    weights: Mapping[int, float] = field(default_factory=dict)
    labels: Mapping[int, int] = field(default_factory=dict)
    noise: float = 0.0
    seed: int = 0

    def digest(self, run: Recording) -> str:
        """Names the retraining: equal for equal changes of the same run only."""
        said = [run.digest, sorted(self.weights.items()), sorted(self.labels.items()), self.noise, self.seed]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:24]


def retrain(run: Recording, changes: Sequence[Change], *, workers: int, keep: bool) -> Iterator[tuple[int, State]]:
    """Yield (number of the change, final parameters and buffers), as retrainings end.

    Args:
        run: A completed run.
        changes: One retraining each.
        workers: Processes.
        keep: Keep final states in RUN/retrained, and read those that are there.
    """
    files = [run.path / FOLDER / f"{change.digest(run)}.safetensors" for change in changes]
    kept = [_kept(file) if keep else None for file in files]
    waiting = [number for number, state in enumerate(kept) if state is None]
    steps = len(run.steps)
    with bar(
        f"retraining {len(changes)} times" if len(changes) > 1 else "retraining",
        len(changes) * steps,
        (len(changes) - len(waiting)) * steps,
    ) as progress:
        for number, state in enumerate(kept):
            if state is not None:
                yield number, state
        here = workers == 1 or len(waiting) < 2
        work = _Retraining(run, progress.advance if here else None)
        for place, state in run_jobs(work, [changes[number] for number in waiting], workers=workers):
            if not here:
                progress.advance(steps)
            if keep:
                save_sealed(state, files[waiting[place]])
            yield waiting[place], state


class _Retraining:
    """Makes one changed run; a class, so that it can be sent to workers."""

    def __init__(self, run: Recording, advance: Callable[[], None] | None) -> None:
        self._run, self._advance = run, advance

    def __call__(self, change: Change) -> State:
        run = self._run
        like = next(iter(run.initial.parameters.values()))  # a weight near 1 needs the digits of the run
        weights = torch.ones(run.manifest.data["length"], dtype=like.dtype, device=run.device)
        for sample, weight in change.weights.items():
            weights[sample] = weight
        labels = torch.full((len(weights),), -1, dtype=torch.int64)
        for sample, label in change.labels.items():
            labels[sample] = label
        with run.replay() as replay:
            replay.trajectory.restore(run.initial)
            if change.noise:
                _perturb(replay.trajectory.parameters, change.noise, change.seed)
            for record in run.steps:
                batches = run.batches(record)
                if change.labels:
                    for part, batch in zip(record.micro_batches, batches, strict=True):
                        _relabel(batch, labels[part.indices])
                replay.advance(record, batches, weights[record.indices])
                if self._advance is not None:
                    self._advance()
            state = replay.trajectory.parameters | replay.trajectory.buffers
            return {name: value.cpu().clone() for name, value in state.items()}


def _perturb(parameters: State, size: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for value in parameters.values():
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        value.add_(noise, alpha=size * float(value.norm()) / max(1e-30, float(noise.norm())))


def _relabel(batch: Batch, labels: Tensor) -> None:
    """Put new labels into the batch where they are not negative; batches are fetched afresh, so in place."""
    found = [leaf for leaf in tensor_leaves(batch.data) if not leaf.is_floating_point() and leaf.shape == labels.shape]
    if not found:
        raise LossError("Other labels need integer labels of shape (batch,) in the batch; there are none.")
    given = found[-1]
    given.copy_(torch.where(labels.to(given.device) < 0, given, labels.to(given)))


def _kept(file: Path) -> State | None:
    if not file.exists():
        return None
    try:
        return load_sealed(file)[0]
    except (OSError, ValueError):
        return None  # damaged: made again
